"""Walks a list of accesses, one after the other, for ``shootdown walk``."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cocotb
import msgspec
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from secmmu.config import PRESETS
from secmmu.csr import context_register
from secmmu.internals import ContextLayout
from secmmu.layouts import CommandKind, CommandLayout, FaultLayout, Response
from shootdown.agents.control import unpacker
from shootdown.agents.device import Device
from shootdown.agents.memory import PhysicalMemory, Responder
from shootdown.agents.pins import Pins, Sink, Source, Stepped
from shootdown.agents.translation import LEVELS

__all__ = [
    "ASIDS",
    "IMAGE_FILE",
    "JOB_FILE",
    "MMU",
    "RESULT_FILE",
    "Access",
    "Answer",
    "Job",
    "walk",
]

ASIDS = 256
MMU = replace(PRESETS["tiny"], levels=5, asid_bits=8, contexts=ASIDS)
"""Serves every mode, with the ``svadu`` of the job; the smallest is the fastest to build and to simulate."""

JOB_FILE = "job.json"
IMAGE_FILE = "image.bin"
"""What the case finds in its folder: the :class:`Job` and the image, which it leaves as it is in the end."""

RESULT_FILE = "answers.json"
"""What it adds: the :class:`Answer` to each access."""

_LIMIT = 2000
"""Cycles within which every access must have been answered."""

_FAULT = unpacker(FaultLayout())


class Access(msgspec.Struct, frozen=True):
    """One access of 8 bytes."""

    asid: int
    root_ppn: int
    va: int
    write: bool


class Job(msgspec.Struct, frozen=True):
    """What to walk: ``mode`` is a key of :data:`shootdown.agents.translation.LEVELS`, ``base`` where the image begins."""

    mode: str
    svadu: bool
    base: int
    accesses: list[Access]


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an access went, or the RISC-V cause for which it was refused."""

    pa: str | None = None
    cause: int | None = None


class _Mmu:
    """The MMU with a device, the image behind its walk port, and a memory without end behind its data port."""

    def __init__(self, dut: Any, job: Job) -> None:
        self._edge = RisingEdge(dut.clk)
        self._dut, self._job = dut, job
        self._cycle = 0
        self._image = Path(IMAGE_FILE).read_bytes()
        self._roots: dict[int, int] = {}
        self._written = self._drained = 0
        self._answers: list[Answer] = []
        self.tables = PhysicalMemory(self._word)
        self.tables.exists = lambda address: 0 <= address - job.base < len(self._image)
        pins = Pins(dut, replace(MMU, svadu=job.svadu))
        clock, rng = lambda: self._cycle, random.Random(0)
        self._pins = pins
        self._device = Device(pins, clock)
        data = Responder(pins, "memory__", PhysicalMemory(), clock, rng)
        data.response = self._arrived
        self._register = Queue(pins, "csr__aw", ("addr", "prot"))
        self._value = Queue(pins, "csr__w", ("data", "strb"))
        self._command = Queue(pins, "command__", ("payload",))
        self._agents: list[Stepped] = [
            self._device,
            data,
            Responder(pins, "walk__", self.tables, clock, rng, write=job.svadu),
            self._register.source,
            self._value.source,
            self._command.source,
            Sink(pins, "csr__b", ("resp",), self._count_written),
            Sink(pins, "invalidated__", ("payload",), lambda _payload: None),
            Sink(pins, "drained__", ("payload",), self._count_drained),
            Sink(pins, "fault__", ("payload",), self._refused),
        ]

    async def reset(self) -> None:
        """Start the clock and reset; what nobody drives later is low."""
        Clock(self._dut.clk, 10, unit="ns").start()
        idle = ("csr__arvalid", "csr__rready", "resume__valid", "dropin__valid", "dropped__ready")
        for name in idle:
            self._pins.drive(name, 0)
        for agent in self._agents:
            agent.reset()
        self._dut.rst.value = 1
        await self._edge
        await self._edge
        self._dut.rst.value = 0
        await self._tick()

    async def answer(self, access: Access) -> Answer:
        """Perform an access and say where it went."""
        if self._roots.get(access.asid) != access.root_ppn:
            await self._set_context(access)
        count = len(self._answers) + 1
        if access.write:
            # No strobes: a leaf may point into the image, which is not to change.
            self._device.write(access.asid, access.va, data=[(0, 0)])
        else:
            self._device.read(access.asid, access.va)
        await self._until(
            lambda: len(self._answers) >= count and not self._device.busy,
            f"answer to {access}",
        )
        assert len(self._answers) == count, f"{access} was answered twice: {self._answers[-2:]}"
        return self._answers[-1]

    def image(self) -> bytes:
        """Give the image as it stands now."""
        image = bytearray(self._image)
        for address, word in self.tables.written().items():
            at = address - self._job.base
            image[at : at + 8] = word.to_bytes(8, "little")
        return bytes(image)

    async def _set_context(self, access: Access) -> None:
        mode = LEVELS[self._job.mode] + 5
        row = {"root_ppn": access.root_ppn, "global_group": access.asid, "mode": mode}
        written, drained = self._written + 1, self._drained + 1
        self._register.put({"addr": context_register(access.asid), "prot": 0})
        self._value.put({"data": ContextLayout().const({**row}).as_bits(), "strb": 0xFF})
        await self._until(lambda: self._written >= written, "answer to a register write")
        command = CommandLayout().const({"kind": CommandKind.CONTEXT, "asid": access.asid})
        self._command.put({"payload": command.as_bits()})
        await self._until(lambda: self._drained >= drained, "end of a command")
        self._roots[access.asid] = access.root_ppn

    async def _tick(self) -> None:
        await self._edge
        self._cycle += 1
        self._pins.refresh()
        for agent in self._agents:
            agent.step()

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        limit = self._cycle + _LIMIT
        while not condition():
            assert self._cycle < limit, f"no {what} within {_LIMIT} cycles"
            await self._tick()

    def _word(self, address: int) -> int:
        at = address - self._job.base
        return int.from_bytes(self._image[at : at + 8], "little")

    def _arrived(self, address: int) -> int:
        self._answers.append(Answer(pa=hex(address)))
        return Response.OKAY.value

    def _refused(self, payload: dict[str, int]) -> None:
        self._answers.append(Answer(cause=_FAULT(payload["payload"])["cause"]))

    def _count_written(self, payload: dict[str, int]) -> None:
        assert payload["resp"] == Response.OKAY.value, "a register write was refused"
        self._written += 1

    def _count_drained(self, _payload: dict[str, int]) -> None:
        self._drained += 1


class Queue:
    """A channel of the MMU that is fed by hand."""

    def __init__(self, pins: Pins, stem: str, fields: Sequence[str]) -> None:
        self._waiting: deque[dict[str, int]] = deque()
        self.source = Source(pins, stem, fields, self._next, lambda _context: None)

    def put(self, payload: dict[str, int]) -> None:
        """Present a payload as soon as those before it are taken."""
        self._waiting.append(payload)

    def _next(self) -> tuple[dict[str, int], None] | None:
        return (self._waiting.popleft(), None) if self._waiting else None


@cocotb.test
async def walk(dut: Any) -> None:
    """Every access is answered."""
    job = msgspec.json.decode(Path(JOB_FILE).read_bytes(), type=Job)
    mmu = _Mmu(dut, job)
    await mmu.reset()
    answers = [await mmu.answer(access) for access in job.accesses]
    Path(IMAGE_FILE).write_bytes(mmu.image())
    Path(RESULT_FILE).write_bytes(msgspec.json.encode(answers))
