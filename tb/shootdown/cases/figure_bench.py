"""What the figures are measured with: a device, two memories, commands, and a log of what the pins showed."""

import json
import os
import random
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from secmmu.config import SecmmuConfig
from secmmu.csr import REGISTERS, context_register
from secmmu.layouts import CommandKind, CommandLayout, CompletionLayout
from shootdown.agents.control import unpacker
from shootdown.agents.device import Access, Device
from shootdown.agents.memory import PhysicalMemory, Responder
from shootdown.agents.pins import Pins, Sink, Source
from shootdown.agents.translation import Tables

__all__ = ["CONFIG_ENV", "FIGURES_FILE", "LATENCY_ENV", "Meter", "save"]

CONFIG_ENV = "SHOOTDOWN_SECMMU"
"""Environment variable with the fields of the :class:`SecmmuConfig` measured, as JSON."""
LATENCY_ENV = "SHOOTDOWN_LATENCY"
"""Environment variable with the memory's latency in cycles."""
FIGURES_FILE = "figures.jsonl"

TABLES = 0x100
FRAMES = 0x4000
_COMPLETION = unpacker(CompletionLayout())
_COMMAND = CommandLayout()
_LIMIT = 20000


def save(name: str, value: float) -> None:
    """Add one measured figure to the results of this simulation."""
    with Path(FIGURES_FILE).open("a") as file:
        file.write(json.dumps({"name": name, "value": value}) + "\n")


class Meter:
    """The MMU between a device and memories of one latency, stepped by one clock loop.

    Attributes
    ----------
    shown : dict
        Cycles in which AxVALID was first high: by ``("device" or "memory", write)``, in order, with the address.
    ended : list
        Last R beats and Bs on the memory side: (cycle, write, id).
    accepted, invalidated, drained : dict
        Cycles of a command's handshake and of its answers' first VALID, by tag.
    """

    def __init__(self, dut: Any, name: str) -> None:
        self.config = SecmmuConfig(**json.loads(os.environ[CONFIG_ENV]))
        self.latency = int(os.environ[LATENCY_ENV])
        self.rng = random.Random(f"{cocotb.RANDOM_SEED}:{name}")
        self.cycle = 0
        self._dut = dut
        self.pins = pins = Pins(dut, self.config)
        self.words = PhysicalMemory(lambda _address: 0)
        self.device = Device(pins, self._now)
        self.data = Responder(pins, "memory__", self.words, self._now, self.rng)
        self.walk = Responder(
            pins, "walk__", self.words, self._now, self.rng, write=self.config.svadu
        )
        self._commands: deque[tuple[int, int]] = deque()
        self._addresses: deque[int] = deque()
        self._data: deque[int] = deque()
        self._asked: deque[int] = deque()
        self._written = 0
        self._values: deque[int] = deque()
        self._parts: list[Any] = [self.device, self.data, self.walk, *self._host()]
        self.shown: dict[tuple[str, bool], list[tuple[int, int]]] = defaultdict(list)
        self._standing: set[tuple[str, bool]] = set()
        self.ended: list[tuple[int, bool, int]] = []
        self.accepted: dict[int, int] = {}
        self.invalidated: dict[int, int] = {}
        self.drained: dict[int, int] = {}
        self._tag = 0

    def _now(self) -> int:
        return self.cycle

    def _host(self) -> list[Any]:
        """Make the ends of the streams and of the register bus."""
        pins = self.pins

        def next_command() -> tuple[dict[str, int], int] | None:
            if not self._commands:
                return None
            bits, tag = self._commands.popleft()
            return {"payload": bits}, tag

        def beats_of(queue: deque[int], name: str) -> Any:
            return lambda: ({name: queue.popleft()}, None) if queue else None

        address, word = beats_of(self._addresses, "addr"), beats_of(self._data, "data")
        asked = beats_of(self._asked, "addr")
        pins.drive("csr__wstrb", 0xFF)

        def answered(payload: dict[str, int]) -> None:
            assert payload["resp"] == 0
            self._written += 1

        return [
            Source(pins, "command__", ("payload",), next_command, self._command_taken),
            Source(pins, "csr__aw", ("addr",), address, lambda _context: None),
            Source(pins, "csr__w", ("data",), word, lambda _context: None),
            Source(pins, "csr__ar", ("addr",), asked, lambda _context: None),
            Sink(pins, "csr__b", ("resp",), answered),
            Sink(pins, "csr__r", ("data",), lambda beat: self._values.append(beat["data"])),
            *(
                Sink(pins, f"{name}__", ("payload",), lambda _payload: None)
                for name in ("invalidated", "drained", "dropped", "fault")
            ),
        ]

    def _command_taken(self, tag: int) -> None:
        self.accepted[tag] = self.cycle

    async def start(self) -> "Meter":
        """Start the clock, reset, and give asids 1 and 2 a root each."""
        Clock(self._dut.clk, 10, unit="ns").start()
        self._dut.rst.value = 1
        for part in self._parts:
            part.reset()
        for name in ("dropin__valid", "resume__valid"):
            self.pins.drive(name, 0)
        for _ in range(3):
            await RisingEdge(self._dut.clk)
        self._dut.rst.value = 0
        self.data.latency = self.walk.latency = self.latency
        self.tables = Tables(lambda address, word: self.words.write(address, word, 0), TABLES)
        self.roots = {}
        for asid in (1, 2):
            self.roots[asid] = self.tables.root()
            row = REGISTERS["context"].pack(root_ppn=self.roots[asid], global_group=asid, mode=8)
            await self.write_register(context_register(asid), row)
        # What the reset left to clear is done.
        await self.until(lambda: self.pins["idle"])
        return self

    async def tick(self, cycles: int = 1) -> None:
        """Let clock edges pass."""
        edge = RisingEdge(self._dut.clk)
        for _ in range(cycles):
            await edge
            self.cycle += 1
            self.pins.refresh()
            self._look()
            for part in self._parts:
                part.step()

    def _look(self) -> None:
        """Note what stands on the pins at this edge."""
        pins = self.pins
        for port in ("device", "memory"):
            for channel, write in (("ar", False), ("aw", True)):
                stem, key = f"{port}__{channel}", (port, write)
                if not pins[f"{stem}valid"]:
                    continue
                if key not in self._standing:
                    self.shown[key].append((self.cycle, pins[f"{stem}addr"]))
                    self._standing.add(key)
                if pins[f"{stem}ready"]:
                    self._standing.discard(key)
        if pins["memory__rvalid"] and pins["memory__rready"] and pins["memory__rlast"]:
            self.ended.append((self.cycle, False, pins["memory__rid"]))
        if pins["memory__bvalid"] and pins["memory__bready"]:
            self.ended.append((self.cycle, True, pins["memory__bid"]))
        for name, seen in (("invalidated", self.invalidated), ("drained", self.drained)):
            if pins[f"{name}__valid"]:
                seen.setdefault(_COMPLETION(pins[f"{name}__payload"])["tag"], self.cycle)

    async def until(self, condition: Any, limit: int = _LIMIT) -> None:
        """Let time pass until ``condition`` holds; a case that waits in vain fails."""
        end = self.cycle + limit
        while not condition():
            assert self.cycle < end, f"hang: waited {limit} cycles"
            await self.tick()

    async def settle(self) -> None:
        """Wait until the device is answered and the MMU idle."""
        await self.until(lambda: not self.device.busy)
        await self.until(lambda: self.pins["idle"])
        await self.tick(4)

    async def write_register(self, address: int, word: int) -> None:
        """Write a register and wait for the answer."""
        target = self._written + 1
        self._addresses.append(address)
        self._data.append(word)
        await self.until(lambda: self._written >= target)

    async def counter(self, name: str) -> int:
        """Read a counter."""
        self._asked.append(REGISTERS[name].address)
        await self.until(lambda: self._values)
        return self._values.popleft()

    def map(self, asid: int, page: int, frame: int | None = None) -> None:
        """Map a page, to a frame of its own unless given."""
        ppn = FRAMES + (asid << 16) + page if frame is None else frame
        self.tables.map(self.roots[asid], page << 12, ppn)

    def send(self, kind: CommandKind, asid: int = 0, first: int = 0, last: int = 0) -> int:
        """Queue a command; return its tag."""
        self._tag = (self._tag + 1) & ((1 << self.config.tag_bits) - 1)
        fields = {"kind": kind, "asid": asid, "tag": self._tag, "first": first}
        bits = _COMMAND.const(fields | {"last": max(first, last)}).as_bits()
        self._commands.append((int(bits), self._tag))
        return self._tag

    def access(self, write: bool, asid: int, page: int, **options: Any) -> Access:
        """Queue a burst."""
        va = (page << 12) + options.pop("offset", 0)
        if write:
            return self.device.write(asid, va, options.pop("words", [0]), **options)
        return self.device.read(asid, va, **options)

    async def warm(self, asid: int, pages: Any) -> None:
        """Map pages and bring their translations into the TLB."""
        for page in pages:
            self.map(asid, page)
        for at, page in enumerate(pages):
            self.access(False, asid, page, id=at % self.ids)
        await self.settle()

    @property
    def ids(self) -> int:
        """How many AXI ids there are."""
        return 1 << self.config.id_bits
