"""The devices: DMA engines that issue bursts from descriptors and report what came back."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from secmmu.axi import Axi4Signature
from secmmu.config import EmulatorConfig
from secmmu.emulator.engine import Engine
from secmmu.emulator.observe import EventSignature
from secmmu.layouts import (
    CYCLE_BITS,
    VA_BITS,
    WORD_BITS,
    AccessArg,
    DescriptorLayout,
    Event,
    LoadArg,
    Response,
)

__all__ = ["Dma"]

_WORD_BYTES = WORD_BITS // 8
_AXSIZE = 3
_BURSTS_OF_DATA = 8


class _IssueLayout(data.StructLayout):
    """What is kept of an issued burst until it ends."""

    def __init__(self) -> None:
        super().__init__({"va": VA_BITS, "tag": 16, "asid": 8, "len": 4, "issued": CYCLE_BITS})


class _ProgressLayout(data.StructLayout):
    """How far a read burst is: beats received, worst response, the even beat that waits for its odd one."""

    def __init__(self) -> None:
        super().__init__({"beat": 4, "worst": 2, "word": WORD_BITS})


class _DataLayout(data.StructLayout):
    """W data that is owed to an issued write."""

    def __init__(self) -> None:
        super().__init__({"data": WORD_BITS, "len": 4})


class Dma(wiring.Component):
    """All engines, behind one AXI4 port.

    Engine ``e`` owns the ids whose top bits are ``e``. An engine issues its descriptors in order,
    one a cycle at the most; the engines take turns, separately on AR and on AW. W follows in the
    order of AW, beginning in the cycle in which AW is first valid: it never waits for AWREADY. R
    and B are taken in every cycle. A descriptor whose engine does not exist is dropped; ``beats``
    counts modulo 16, so that 0 is 16.

    ``LOAD`` records carry two beats each (the last one or two of the burst at its end) while every
    beat so far was OKAY: an error answer has no data. ``DMA_DONE`` comes in the cycle of the last R
    beat or of B.

    Parameters
    ----------
    config : EmulatorConfig
        Engines, descriptors, id and asid widths.

    Members
    -------
    descriptor : In(stream of DescriptorLayout)
        Ready when the queue of the named engine has room.
    device : Out(Axi4Signature)
        To the MMU.
    cycle : In(64)
        The emulated cycle counter.
    limit : In(16)
        Register ``dma.outstanding``.
    load, read_done, write_done : Out(EventSignature)
        Events of this cycle.
    bytes : Out(64), pending : Out(16)
        Registers ``dma.bytes`` and ``dma.pending``.
    idle : Out(1)
        1 when nothing is queued or outstanding.
    """

    descriptor: stream.Interface

    def __init__(self, config: EmulatorConfig) -> None:
        self._engines = config.engines
        self._id_bits = config.mmu.id_bits
        self._engine_bits = config.engine_bits
        self._descriptors = config.descriptors
        super().__init__(
            {
                "descriptor": In(stream.Signature(DescriptorLayout())),
                "device": Out(
                    Axi4Signature(
                        addr_bits=VA_BITS,
                        id_bits=config.mmu.id_bits,
                        user_bits=config.mmu.asid_bits,
                    )
                ),
                "cycle": In(CYCLE_BITS),
                "limit": In(16),
                "load": Out(EventSignature()),
                "read_done": Out(EventSignature()),
                "write_done": Out(EventSignature()),
                "bytes": Out(64),
                "pending": Out(16),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build the engines, their turns on the port, and what is kept of each burst."""
        m = Module()
        local_bits = self._id_bits - self._engine_bits
        engines = [
            Engine(descriptors=self._descriptors, id_bits=local_bits) for _ in range(self._engines)
        ]
        known = Signal()
        for number, engine in enumerate(engines):
            m.submodules[f"engine_{number}"] = engine
            m.d.comb += engine.limit.eq(self.limit)
            m.d.comb += engine.descriptor.payload.eq(self.descriptor.payload)
            with m.If(self.descriptor.payload.engine == number):
                m.d.comb += [
                    known.eq(1),
                    engine.descriptor.valid.eq(self.descriptor.valid),
                    self.descriptor.ready.eq(engine.descriptor.ready),
                ]
        with m.If(~known):
            m.d.comb += self.descriptor.ready.eq(1)
        m.submodules.owed = owed = SyncFIFO(width=_DataLayout().size, depth=_BURSTS_OF_DATA)
        self._issue(m, engines, "ar", owed)
        self._issue(m, engines, "aw", owed)
        self._write_data(m, owed)
        read_bytes = self._read_beats(m, engines)
        write_bytes = self._write_responses(m, engines)
        m.d.sync += self.bytes.eq(self.bytes + read_bytes + write_bytes)
        pending = sum(engine.pending for engine in engines)
        # An address phase that is still offered belongs to a burst that counts as outstanding.
        m.d.comb += [self.pending.eq(pending), self.idle.eq(self.pending == 0)]
        return m

    def _issue(self, m: Module, engines: list[Engine], channel: str, owed: SyncFIFO) -> None:
        """Move the next burst of ``channel`` from an engine to the port and into the table of issued bursts."""
        write = channel == "aw"
        port = {
            name: getattr(self.device, channel + name)
            for name in ("valid", "ready", "addr", "len", "id", "user")
        }
        requests = Signal(len(engines), name=f"{channel}_requests")
        chosen = Signal(range(len(engines)), name=f"{channel}_chosen")
        room = Signal(name=f"{channel}_room")
        issue = Signal(name=f"{channel}_issue")
        m.d.comb += [
            requests.eq(Cat(e.head.valid & (e.head.payload.write == write) for e in engines)),
            room.eq((~port["valid"] | port["ready"]) & (owed.w_rdy if write else 1)),
            issue.eq(room & requests.any()),
        ]
        self._take_turns(m, requests, chosen, issue)
        head = Signal(DescriptorLayout(), name=f"{channel}_head")
        full_id = Signal(self._id_bits, name=f"{channel}_full_id")
        for number, engine in enumerate(engines):
            with m.If(chosen == number):
                m.d.comb += [head.eq(engine.head.payload), full_id.eq(Cat(engine.id, chosen))]
                with m.If(issue):
                    m.d.comb += engine.head.ready.eq(1)
        length = (head.beats - 1)[:4]
        with m.If(issue):
            m.d.sync += [
                port["valid"].eq(1),
                port["addr"].eq(head.va),
                port["len"].eq(length),
                port["id"].eq(full_id),
                port["user"].eq(head.asid),
            ]
        with m.Elif(port["ready"]):
            m.d.sync += port["valid"].eq(0)
        m.d.comb += getattr(self.device, f"{channel}size").eq(_AXSIZE)
        entry = {
            "va": head.va,
            "tag": head.tag,
            "asid": head.asid,
            "len": length,
            "issued": self.cycle + 1,
        }
        self._remember(m, channel, issue, full_id, entry)
        if write:
            w_data = data.View(_DataLayout(), owed.w_data)
            m.d.comb += [owed.w_en.eq(issue), w_data.data.eq(head.data), w_data.len.eq(length)]

    @staticmethod
    def _take_turns(m: Module, requests: Signal, chosen: Signal, issue: Signal) -> None:
        """Choose the first request after the engine that issued last."""
        count = len(requests)
        last = Signal(range(count), init=count - 1, name="last")
        with m.Switch(last):
            for previous in range(count):
                with m.Case(previous):
                    for distance in reversed(range(1, count + 1)):
                        candidate = (previous + distance) % count
                        with m.If(requests[candidate]):
                            m.d.comb += chosen.eq(candidate)
        with m.If(issue):
            m.d.sync += last.eq(chosen)

    def _remember(
        self, m: Module, channel: str, issue: Signal, full_id: Any, entry: dict[str, Any]
    ) -> None:
        """Write the table of issued bursts; there is one for reads and one for writes, by id."""
        m.submodules[f"{channel}_issued"] = table = Memory(
            shape=_IssueLayout(), depth=1 << self._id_bits, init=[]
        )
        port = table.write_port()
        m.d.comb += [port.en.eq(issue), port.addr.eq(full_id)]
        m.d.comb += [port.data[name].eq(value) for name, value in entry.items()]
        lookup = table.read_port(domain="comb")
        m.d.comb += lookup.addr.eq(self.device.bid if channel == "aw" else self.device.rid)
        if channel == "aw":
            self._issued_write = lookup.data
        else:
            self._issued_read = lookup.data

    def _write_data(self, m: Module, owed: SyncFIFO) -> None:
        port = self.device
        beat = Signal(4)
        head = data.View(_DataLayout(), owed.r_data)
        m.d.comb += [
            port.wvalid.eq(owed.r_rdy),
            port.wdata.eq(head.data + beat),
            port.wstrb.eq((1 << _WORD_BYTES) - 1),
            port.wlast.eq(beat == head.len),
            owed.r_en.eq(port.wvalid & port.wready & port.wlast),
        ]
        with m.If(port.wvalid & port.wready):
            m.d.sync += beat.eq(Mux(port.wlast, 0, beat + 1))

    def _done(
        self, m: Module, lane: Any, issued: data.View, full_id: Any, write: bool, code: Any
    ) -> None:
        """Describe a burst that has ended."""
        arg = Signal(AccessArg(), name="arg")
        m.d.comb += [
            arg.asid.eq(issued.asid),
            arg.id.eq(full_id),
            arg.write.eq(write),
            arg.code.eq(code),
            arg.beats.eq(issued.len + 1),
            lane.payload.kind.eq(Event.DMA_DONE),
            lane.payload.source.eq(full_id[self._id_bits - self._engine_bits :]),
            lane.payload.tag.eq(issued.tag),
            lane.payload.arg.eq(arg),
            lane.payload.a.eq(issued.va),
            lane.payload.b.eq(issued.issued),
        ]

    def _read_beats(self, m: Module, engines: list[Engine]) -> Signal:
        """Take R; the result is the number of good bytes in this cycle."""
        port = self.device
        issued = self._issued_read
        m.submodules.progress = table = Memory(
            shape=_ProgressLayout(), depth=1 << self._id_bits, init=[]
        )
        lookup = table.read_port(domain="comb")
        update = table.write_port()
        now = lookup.data
        last = Signal()
        worst = Signal(2)
        good = Signal(range(_WORD_BYTES + 1), name="read_bytes")
        m.d.comb += [
            port.rready.eq(1),
            last.eq(port.rvalid & (now.beat == issued.len)),
            worst.eq(Mux(port.rresp > now.worst, port.rresp, now.worst)),
            good.eq(Mux(port.rvalid & (port.rresp == Response.OKAY.value), _WORD_BYTES, 0)),
            lookup.addr.eq(port.rid),
            update.addr.eq(port.rid),
            update.en.eq(port.rvalid),
        ]
        # The last beat leaves a clean row for the next burst of the id.
        with m.If(~last):
            m.d.comb += [
                update.data.beat.eq(now.beat + 1),
                update.data.worst.eq(worst),
                update.data.word.eq(port.rdata),
            ]
        self._load(m, now, last, worst)
        m.d.comb += self.read_done.valid.eq(last)
        self._done(m, self.read_done, issued, port.rid, False, worst)
        local_bits = self._id_bits - self._engine_bits
        for number, engine in enumerate(engines):
            m.d.comb += [
                engine.read_end.eq(last & (port.rid[local_bits:] == number)),
                engine.read_end_id.eq(port.rid[:local_bits]),
            ]
        return good

    def _load(self, m: Module, now: data.View, last: Signal, worst: Signal) -> None:
        """Show a LOAD at each odd beat and at the last one."""
        port = self.device
        issued = self._issued_read
        odd = now.beat[0]
        arg = Signal(LoadArg(), name="load_arg")
        m.d.comb += [
            arg.asid.eq(issued.asid),
            arg.id.eq(port.rid),
            arg.beat.eq(now.beat & 0xE),
            arg.count.eq(1 + odd),
            self.load.valid.eq(port.rvalid & (odd | last) & (worst == Response.OKAY.value)),
            self.load.payload.kind.eq(Event.LOAD),
            self.load.payload.source.eq(port.rid[self._id_bits - self._engine_bits :]),
            self.load.payload.tag.eq(issued.tag),
            self.load.payload.arg.eq(arg),
            self.load.payload.a.eq(Mux(odd, now.word, port.rdata)),
            self.load.payload.b.eq(Mux(odd, port.rdata, 0)),
        ]

    def _write_responses(self, m: Module, engines: list[Engine]) -> Signal:
        """Take B; the result is the number of good bytes in this cycle."""
        port = self.device
        good = Signal(range(16 * _WORD_BYTES + 1), name="write_bytes")
        m.d.comb += [port.bready.eq(1), self.write_done.valid.eq(port.bvalid)]
        with m.If(port.bvalid & (port.bresp == Response.OKAY.value)):
            m.d.comb += good.eq((self._issued_write.len + 1) << 3)
        self._done(m, self.write_done, self._issued_write, port.bid, True, port.bresp)
        local_bits = self._id_bits - self._engine_bits
        for number, engine in enumerate(engines):
            m.d.comb += [
                engine.write_end.eq(port.bvalid & (port.bid[local_bits:] == number)),
                engine.write_end_id.eq(port.bid[:local_bits]),
            ]
        return good
