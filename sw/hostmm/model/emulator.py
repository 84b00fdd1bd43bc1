"""The model's link endpoint, DMA engines, memory and frame sanitizer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hostmm.driver.pack import packer, unpacker
from hostmm.model.clock import Clock
from hostmm.model.mmu import VERDICT_OF_KIND, Access, Mmu
from secmmu.csr import EMULATOR_REGISTERS
from secmmu.layouts import (
    AccessArg,
    Cause,
    CommandKind,
    CommandLayout,
    DescriptorLayout,
    DropinLayout,
    Event,
    FrameKind,
    FrameTagLayout,
    HeaderLayout,
    LoadArg,
    Op,
    Response,
    ResumeLayout,
    Verdict,
)

__all__ = ["Model"]

_header = unpacker(HeaderLayout())
_command = unpacker(CommandLayout())
_descriptor = unpacker(DescriptorLayout())
_dropin = unpacker(DropinLayout())
_resume = unpacker(ResumeLayout())
_tag = unpacker(FrameTagLayout())
_LOAD = packer(LoadArg())
_ARG = packer(AccessArg())
_WORD = (1 << 64) - 1
_KINDS = {kind.value: kind for kind in CommandKind}
_FRAMES = {kind.value: kind for kind in FrameKind}

_Head = dict[str, int]
_Words = Sequence[int]
_Operation = Callable[[_Head, _Words], None]


def _joined(words: Sequence[int]) -> int:
    return sum(word << 64 * index for index, word in enumerate(words))


@dataclass
class _Engine:
    queue: list[dict[str, int]]
    free_ids: list[int]


class Model:
    """A carrier: give :meth:`exchange` the words of a batch, get the records.

    Parameters
    ----------
    memory_bytes : int
        Size of the emulated memory.
    asid_bits, id_bits, engines, tlb_entries : int
        As in the RTL's configuration.
    """

    def __init__(
        self,
        *,
        memory_bytes: int = 128 << 20,
        asid_bits: int = 4,
        id_bits: int = 4,
        engines: int = 2,
        tlb_entries: int = 64,
    ) -> None:
        self.memory = np.zeros(memory_bytes // 8, np.uint64)
        self.clock = Clock()
        self.registers = {register.address: 0 for register in EMULATOR_REGISTERS.values()}
        self._set("memory.read_latency", 20)
        self._set("memory.write_latency", 20)
        ids = (1 << id_bits) >> (engines - 1).bit_length()
        self._set("dma.outstanding", ids)
        self._tags: dict[int, int] = {}
        self._engines = [_Engine([], list(range(e * ids, (e + 1) * ids))) for e in range(engines)]
        self._ids = ids
        self._operations = self._by_code()
        self._mmu = Mmu(
            self.clock,
            self.memory,
            asids=1 << asid_bits,
            entries=tlb_entries,
            check=self._check,
            latency=lambda: self._get("memory.read_latency"),
        )

    def _get(self, name: str) -> int:
        return self.registers[EMULATOR_REGISTERS[name].address]

    def _set(self, name: str, value: int) -> None:
        self.registers[EMULATOR_REGISTERS[name].address] = value

    # --- messages ------------------------------------------------------------------------------------

    def exchange(self, words: Sequence[int] | np.ndarray) -> np.ndarray:
        """Perform a batch of messages; return the records, shape (n, 4) uint64."""
        taken: Sequence[int] = words.tolist() if isinstance(words, np.ndarray) else words
        position = 0
        while position < len(taken):
            head = _header(taken[position])
            end = position + 1 + head["count"]
            self._operations[head["op"]](head, taken[position + 1 : end])
            position = end
        records, self.clock.records = self.clock.records, []
        return np.array(records, np.uint64).reshape(-1, 4)

    def _by_code(self) -> dict[int, _Operation]:
        """Return what each operation does: called with its header and its payload."""
        operations: dict[Op, _Operation] = {
            Op.NOP: lambda head, payload: None,
            Op.MEM_WRITE: self._write,
            Op.MEM_READ: self._read,
            Op.MEM_COPY: self._copy,
            Op.MEM_FILL: self._fill,
            Op.MEM_SWAP: self._exchange_word,
            Op.MEM_CAS: self._exchange_word,
            Op.CSR_WRITE: self._csr,
            Op.CSR_READ: self._csr,
            Op.COMMAND: self._command,
            Op.DESCRIPTOR: self._queue,
            Op.DROPIN: self._drop_in,
            Op.RESUME: self._resume,
            Op.TAG: self._tag,
            Op.ADVANCE: self._advance,
        }
        return {op.value: operation for op, operation in operations.items()}

    def _write(self, head: _Head, payload: _Words) -> None:
        start = payload[0] >> 3
        if len(payload) == 2:
            self.memory[start] = payload[1]
        else:
            self.memory[start : start + len(payload) - 1] = payload[1:]

    def _copy(self, head: _Head, payload: _Words) -> None:
        destination, source = (address >> 3 for address in payload)
        memory, count = self.memory, head["arg"]
        memory[destination : destination + count] = memory[source : source + count].copy()

    def _fill(self, head: _Head, payload: _Words) -> None:
        start = payload[0] >> 3
        self.memory[start : start + head["arg"]] = payload[1]

    def _drop_in(self, head: _Head, payload: _Words) -> None:
        self._mmu.drop_in(**_dropin(_joined(payload)))
        self.clock.run(self.clock.cycle + 1)

    def _resume(self, head: _Head, payload: _Words) -> None:
        fields = _resume(payload[0])
        self._mmu.resume(fields["place"], retry=bool(fields["retry"]))
        self.clock.run(self.clock.cycle + 1)

    def _tag(self, head: _Head, payload: _Words) -> None:
        self._tags[payload[0]] = payload[1]

    def _advance(self, head: _Head, payload: _Words) -> None:
        stop = head["arg"]
        stopped = self.clock.run(payload[0], stop)
        if stop:
            self.clock.seen = 0
        self.clock.record(Event.ADVANCED, arg=int(stopped), a=self.clock.cycle)

    def _read(self, head: _Head, payload: _Words) -> None:
        start, count = payload[0] >> 3, head["arg"]
        words = self.memory[start : start + count].tolist()
        for index in range(0, count, 2):
            pair = words[index : index + 2]
            self.clock.record(
                Event.READ_DATA, arg=index, a=pair[0], b=pair[1] if len(pair) > 1 else 0
            )

    def _exchange_word(self, head: _Head, payload: _Words) -> None:
        index = payload[0] >> 3
        old = int(self.memory[index])
        if head["op"] == Op.MEM_SWAP.value or old == payload[1]:
            self.memory[index] = payload[-1]
        self.clock.record(Event.SWAPPED, a=payload[0], b=old)

    def _csr(self, head: _Head, payload: _Words) -> None:
        address, emulator = head["arg"], head["flags"] == 1
        if payload and emulator:
            self.registers[address] = payload[0]
        elif payload:
            self._mmu.write_register(address, payload[0])
        else:
            self._set("cycle", self.clock.cycle)
            self._set(
                "dma.pending",
                sum(len(e.queue) + self._ids - len(e.free_ids) for e in self._engines),
            )
            value = self.registers.get(address, 0) if emulator else self._mmu.read_register(address)
            self.clock.record(Event.CSR_DATA, arg=address, b=value)
        self.clock.run(self.clock.cycle + 2)

    def _command(self, head: _Head, payload: _Words) -> None:
        fields = _command(_joined(payload))
        first, last = fields["first"], fields["last"]
        if fields["whole_asid"]:
            first, last = 0, (1 << 52) - 1
        self._mmu.command(
            _KINDS[fields["kind"]],
            asid=fields["asid"],
            first=first,
            last=last,
            hold=bool(fields["hold"]),
            keep_global=bool(fields["keep_global"]),
            tag=fields["tag"],
        )
        self.clock.run(self.clock.cycle + 1)

    # --- DMA -----------------------------------------------------------------------------------------

    def _queue(self, head: _Head, payload: _Words) -> None:
        fields = _descriptor(_joined(payload))
        engine = self._engines[fields["engine"]]
        engine.queue.append(fields)
        self.clock.at(self.clock.cycle + 1, lambda: self._issue(engine))
        self.clock.run(self.clock.cycle + 1)

    def _issue(self, engine: _Engine) -> None:
        outstanding = self._ids - len(engine.free_ids)
        if not engine.queue or not engine.free_ids or outstanding >= self._get("dma.outstanding"):
            return
        descriptor, axi_id = engine.queue.pop(0), engine.free_ids.pop(0)
        issued = self.clock.cycle
        access = Access(
            asid=descriptor["asid"],
            id=axi_id,
            write=bool(descriptor["write"]),
            va=descriptor["va"],
            beats=descriptor["beats"],
            granted=lambda pa: self._granted(engine, descriptor, access, pa, issued),
            faulted=lambda cause: self._done(engine, descriptor, access, Response.SLVERR, issued),
        )
        if (access.va & 0xFFF) + 8 * access.beats > 4096:
            self._done(engine, descriptor, access, Response.SLVERR, issued)
            self.clock.record(Event.FAULT, arg=access.arg(Cause.LOAD_ACCESS.value), a=access.va)
        else:
            self._mmu.request(access)
        self.clock.at(self.clock.cycle + 1, lambda: self._issue(engine))

    def _granted(
        self, engine: _Engine, descriptor: dict[str, int], access: Access, pa: int, issued: int
    ) -> None:
        name = "memory.write_latency" if access.write else "memory.read_latency"
        end = self.clock.cycle + self._get(name) + access.beats
        self.clock.at(end, lambda: self._perform_burst(engine, descriptor, access, pa, issued))

    def _perform_burst(
        self, engine: _Engine, descriptor: dict[str, int], access: Access, pa: int, issued: int
    ) -> None:
        start, beats = pa // 8, access.beats
        inside = start + beats <= self.memory.size
        response = Response.OKAY if inside else Response.DECERR
        if inside:
            for beat in range(beats):
                self._check(pa + 8 * beat, access)
        if inside and access.write:
            self.memory[start : start + beats] = [
                descriptor["data"] + beat & _WORD for beat in range(beats)
            ]
        elif not access.write:
            words = self.memory[start : start + beats].tolist() if inside else [0] * beats
            self._loads(descriptor, access, words)
        self._mmu.end(access, response.value)
        self._done(engine, descriptor, access, response, issued)

    def _loads(self, descriptor: dict[str, int], access: Access, words: list[int]) -> None:
        for beat in range(0, len(words), 2):
            pair = words[beat : beat + 2]
            arg = _LOAD(asid=access.asid, id=access.id, beat=beat, count=len(pair))
            self.clock.record(
                Event.LOAD,
                source=descriptor["engine"],
                tag=descriptor["tag"],
                arg=arg,
                a=pair[0],
                b=pair[1] if len(pair) > 1 else 0,
            )

    def _done(
        self,
        engine: _Engine,
        descriptor: dict[str, int],
        access: Access,
        response: Response,
        issued: int,
    ) -> None:
        engine.free_ids.append(access.id)
        if response is Response.OKAY:
            self._set("dma.bytes", self._get("dma.bytes") + 8 * access.beats)
        self.clock.record(
            Event.DMA_DONE,
            source=descriptor["engine"],
            tag=descriptor["tag"],
            arg=access.arg(response.value),
            a=access.va,
            b=issued,
        )
        self.clock.at(self.clock.cycle + 1, lambda: self._issue(engine))

    # --- sanitizer -----------------------------------------------------------------------------------

    def _check(self, address: int, access: Access | None) -> None:
        word = self._tags.get(address >> 12, 0)
        tag = _tag(word)
        kind = _FRAMES[tag["kind"]]
        if access is None:
            if kind is not FrameKind.TABLE:
                self.clock.record(
                    Event.VIOLATION, source=1, arg=_ARG(code=Verdict.TABLE.value), a=address, b=word
                )
            return
        verdict = VERDICT_OF_KIND.get(kind)
        if kind is FrameKind.USER:
            rights = tag["write"] if access.write else tag["read"]
            verdict = None if rights >> access.asid & 1 else Verdict.RIGHTS
        if verdict is not None:
            self.clock.record(Event.VIOLATION, arg=access.arg(verdict.value), a=address, b=word)
