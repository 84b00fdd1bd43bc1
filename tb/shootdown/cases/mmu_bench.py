"""The bench of the secondary MMU alone: agents, monitors and scoreboard around it, stepped by one clock loop."""

import json
import os
import random
from collections.abc import Callable
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.simtime import get_sim_time
from cocotb.triggers import First, RisingEdge, Timer

from secmmu.config import SecmmuConfig
from secmmu.csr import REGISTERS, context_register
from secmmu.layouts import CommandKind
from shootdown.agents.control import Command, Control
from shootdown.agents.device import Access, Device
from shootdown.agents.lanes import Lanes
from shootdown.agents.memory import PhysicalMemory, Responder, pattern
from shootdown.agents.monitors import ChannelMonitor, PortMonitor
from shootdown.agents.pins import Pins, Stepped, Timed
from shootdown.agents.scoreboard import CONTEXT_ROWS, Scoreboard
from shootdown.agents.translation import PAGE, USER_RW, Tables

__all__ = ["CONFIG_VARIABLE", "TABLE_FRAMES", "Bench", "reached"]

CONFIG_VARIABLE = "SHOOTDOWN_SECMMU"
"""Environment variable with the fields of the :class:`SecmmuConfig` under test, as JSON."""

TABLE_FRAMES = range(0x100, 0x1000)
"""Frames that hold zeros until written: page tables. All others hold a pattern."""

_PERIOD_NS = 10


def _initial(address: int) -> int:
    # Context rows start out as mode 0, tables as invalid entries.
    return 0 if address >= CONTEXT_ROWS or address >> 12 in TABLE_FRAMES else pattern(address)


def reached(cycle: int | None) -> int:
    """Insist that an event has happened, and give its cycle."""
    assert cycle is not None, "an event that the case relies on has not happened"
    return cycle


class Bench:
    """Everything around one MMU.

    Time stands still between two :meth:`tick` calls; what a case queues in between reaches the pins after the next
    edge. ``cycle`` counts edges and never starts again, so that histories stay comparable across resets.

    Parameters
    ----------
    dut : cocotb handle
        The MMU.
    name : str
        Names the random streams of the case, together with cocotb's seed.
    own_device, own_memory : bool
        False leaves that side to another AXI implementation; monitors and scoreboard stay.

    Attributes
    ----------
    worth_a_doze : int
        So many edges at which nothing happens are not served: it takes less time, and makes no difference.
    served : int
        Edges that were served.
    """

    def __init__(
        self, dut: Any, name: str, *, own_device: bool = True, own_memory: bool = True
    ) -> None:
        self.config = SecmmuConfig(**json.loads(os.environ.get(CONFIG_VARIABLE, "{}")))
        self.rng = random.Random(f"{cocotb.RANDOM_SEED}:{name}")
        self.cycle = self.served = 0
        self.worth_a_doze = 4
        self._dut = dut
        self._edge = RisingEdge(dut.clk)
        self.pins = Pins(dut, self.config)
        clock = self._now
        self.memory = PhysicalMemory(_initial)
        self.control = Control(self.pins, clock)
        self.device_port = PortMonitor(self.pins, "device__", clock, manager=False)
        self.memory_port = PortMonitor(self.pins, "memory__", clock)
        self.walk_port = PortMonitor(self.pins, "walk__", clock, write=self.config.svadu)
        self.scoreboard = Scoreboard(
            self.memory, self.device_port, self.memory_port, self.control, clock, self.config
        )
        self.streams = [
            ChannelMonitor(self.pins, stem, ("payload",), clock)
            for stem in ("command__", "invalidated__", "drained__", "dropped__", "fault__")
        ]
        self.lanes: Lanes | None = None
        if self.config.observe:
            self.lanes = Lanes(
                self.pins, self.config, self.memory_port, self.control, self.scoreboard, clock
            )
        self.walk = Responder(
            self.pins, "walk__", self.memory, clock, self.rng, write=self.config.svadu
        )
        self._data = (
            Responder(self.pins, "memory__", self.memory, clock, self.rng) if own_memory else None
        )
        self._device = Device(self.pins, clock) if own_device else None
        self._listeners: list[Stepped] = [
            self.device_port,
            self.memory_port,
            self.walk_port,
            *self.streams,
            self.control,
        ]
        self._listeners += [self.scoreboard, *([self.lanes] if self.lanes else [])]
        self._drivers: list[Timed] = [
            agent for agent in (self._device, self._data, self.walk) if agent is not None
        ]
        self._timed: list[Timed] = [
            *self._drivers,
            self.control,
            *([self.lanes] if self.lanes else []),
        ]
        self._scripts: list[tuple[int, Callable[[], object]]] = []
        self.tables = Tables(self.write_word, TABLE_FRAMES.start)
        self.tag = 0

    @property
    def device(self) -> Device:
        """The bench's own device."""
        assert self._device is not None, "another AXI implementation drives the device port"
        return self._device

    @property
    def data(self) -> Responder:
        """The bench's own memory."""
        assert self._data is not None, "another AXI implementation answers the memory port"
        return self._data

    def _now(self) -> int:
        return self.cycle

    # --- time ------------------------------------------------------------------------------------------

    async def start(self) -> "Bench":
        """Start the clock and reset."""
        Clock(self._dut.clk, _PERIOD_NS, unit="ns").start()
        await self.reset()
        return self

    async def reset(self) -> None:
        """Reset the device and forget everything: a fresh start but for the cycle number."""
        self._dut.rst.value = 1
        for part in [*self._listeners, *self._drivers]:
            part.reset()
        self._scripts.clear()
        self.memory.clear()
        self.tables = Tables(self.write_word, TABLE_FRAMES.start)
        for _ in range(2):
            await self._edge
        self._dut.rst.value = 0
        await self.tick()

    async def tick(self, cycles: int = 1) -> None:
        """Let clock edges pass."""
        end = self.cycle + cycles
        while self.cycle < end:
            await self._advance(end)

    async def _advance(self, limit: int) -> None:
        """Serve the next clock edge at which anything happens, that of cycle ``limit`` at the latest."""
        if limit > self.cycle + self.worth_a_doze and self.pins.still:
            scripts = (cycle for cycle, _ in self._scripts)
            due = min(limit, *(agent.due() for agent in self._timed), *scripts)
            if due > self.cycle + self.worth_a_doze:
                await self._doze(due)
        await self._edge
        self.cycle += 1
        self.served += 1
        self.pins.refresh()
        for listener in self._listeners:
            listener.step()
        assert not (self.memory_port.outstanding and self.pins["idle"]), (
            f"idle: high in cycle {self.cycle} with a burst on the memory port"
        )
        if self._scripts:
            self._play()
        for driver in self._drivers:
            driver.step()

    async def _doze(self, due: int) -> None:
        """Let the edges before that of cycle ``due`` pass without serving them, as long as no handshake changes."""
        since = get_sim_time("ns")
        alarm = Timer((due - self.cycle) * _PERIOD_NS - _PERIOD_NS // 2, "ns")
        await First(self.pins.change, alarm)
        self.cycle += int(get_sim_time("ns") - since) // _PERIOD_NS

    def _play(self) -> None:
        due = [script for script in self._scripts if script[0] <= self.cycle]
        self._scripts = [script for script in self._scripts if script[0] > self.cycle]
        for _, action in due:
            action()

    def after(self, cycles: int, action: Callable[[], object]) -> None:
        """Run ``action`` right after the edge ``cycles`` edges from now."""
        self._scripts.append((self.cycle + cycles, action))

    def passed(self, cycles: int) -> Callable[[], bool]:
        """Return what says whether so many cycles have passed from now on."""
        due = self.cycle + cycles
        return lambda: self.cycle >= due

    async def until(self, condition: Callable[[], object], what: str, cycles: int = 2000) -> None:
        """Let time pass until ``condition`` holds, which only what happens at the pins may change.

        Raises
        ------
        AssertionError
            ``hang:``, it does not within ``cycles`` edges.
        """
        limit = self.cycle + cycles
        while not condition():
            assert self.cycle < limit, (
                f"hang: {what} not within {cycles} cycles, in cycle {self.cycle}"
            )
            await self._advance(limit)

    async def finish(self, cycles: int = 5000) -> None:
        """Let everything end, and judge the whole."""
        if self._device is not None:
            await self.until(lambda: not self.device.busy, "the last answer to the device", cycles)
        await self.until(lambda: not self.control.busy, "the last completion", cycles)
        await self.until(lambda: not self._scripts, "the script", cycles)
        await self.until(lambda: self.pins["idle"], "idle", cycles)
        await self.tick(4)
        for port in (self.device_port, self.memory_port, self.walk_port):
            assert not port.outstanding, (
                f"left over: {port.outstanding} bursts on a port of an idle MMU"
            )
        assert self.pins["idle"], "idle: fell again though nothing came"
        self.scoreboard.check_end()
        if self.lanes:
            self.lanes.check_end()

    # --- the host --------------------------------------------------------------------------------------

    def write_word(self, address: int, value: int) -> None:
        """Store a word as the host does, now."""
        self.memory.write(address, value, self.cycle)

    async def try_register(self, address: int, value: int) -> int:
        """Write a register; returns the answer."""
        target = self.control.written + 1
        self.control.write_register(address, value)
        await self.until(lambda: self.control.written >= target, f"register write {address:#x}")
        return self.control.responses[-1]

    async def write_register(self, address: int, value: int) -> None:
        """Write a register and wait for the answer, which must be OKAY."""
        response = await self.try_register(address, value)
        assert response == 0, f"register write {address:#x} answered {response}"

    async def read_register(self, address: int) -> int:
        """Read a register."""
        self.control.read_register(address)
        await self.until(lambda: self.control.values, f"register read {address:#x}")
        return self.control.values.popleft()

    async def counter(self, name: str) -> int:
        """Read a register by its name."""
        return await self.read_register(REGISTERS[name].address)

    async def context(
        self,
        asid: int,
        root_ppn: int | None = None,
        *,
        group: int | None = None,
        mode: int = 8,
        stall: bool = False,
    ) -> int:
        """Set a context row; a new root and a group of its own unless given. Returns the root's frame."""
        root = self.tables.root() if root_ppn is None else root_ppn
        row = root | (asid if group is None else group) << 44 | stall << 52 | mode << 60
        self.write_word(CONTEXT_ROWS + 8 * asid, row)
        await self.write_register(context_register(asid), row)
        return root

    def map(self, root: int, va: int, ppn: int, bits: int = USER_RW, level: int = 0) -> int:
        """Write a leaf; returns the address of the PTE."""
        return self.tables.map(root, va, ppn, bits, level)

    def send(
        self,
        kind: CommandKind,
        asid: int = 0,
        first: int = 0,
        last: int | None = None,
        **flags: Any,
    ) -> Command:
        """Queue a command with a fresh tag (unless ``tag`` is given)."""
        self.tag = self.tag + 1 & (1 << self.config.tag_bits) - 1
        tag = flags.pop("tag", self.tag)
        return self.control.send(
            Command(kind, asid, first, first if last is None else last, tag, **flags)
        )

    def page(self, asid: int, va: int, **flags: Any) -> Command:
        """Queue a PAGE command for the page of ``va``."""
        return self.send(CommandKind.PAGE, asid, va >> 12, **flags)

    def release(self, held: Command) -> Command:
        """Queue the RELEASE of a hold."""
        whole = held.kind is CommandKind.ASID
        return self.send(CommandKind.RELEASE, held.asid, held.first, held.last, whole_asid=whole)

    async def drained(self, *commands: Command, cycles: int = 2000) -> None:
        """Wait until the commands have drained."""
        await self.until(
            lambda: all(command.done for command in commands),
            f"completion of {commands[0]}",
            cycles,
        )
        for command in commands:
            assert command.refused is None, f"refused: {command}"

    async def refusal(self, command: Command) -> None:
        """Wait for the end of a command and insist that it was refused and did nothing else."""
        await self.until(lambda: command.done, f"completion of {command}")
        assert command.refused is not None, f"{command} was not refused"
        assert command.invalidated is None, f"{command} was refused after INVALIDATED"

    async def done(self, *accesses: Access, cycles: int = 2000) -> None:
        """Wait until the accesses are answered."""
        await self.until(
            lambda: all(access.done for access in accesses), f"answer to {accesses[0]}", cycles
        )

    async def load(self, asid: int, va: int, **options: Any) -> Access:
        """Read and wait."""
        access = self.device.read(asid, va, **options)
        await self.done(access)
        return access

    async def store(self, asid: int, va: int, words: list[int] | int, **options: Any) -> Access:
        """Write and wait."""
        access = self.device.write(asid, va, words, **options)
        await self.done(access)
        return access

    def expect_word(self, access: Access, ppn: int) -> None:
        """Insist that a one-beat read came from frame ``ppn``."""
        address = ppn * PAGE + (access.va & 0xFFF)
        assert access.responses == [0], f"{access} was answered {access.responses}"
        expected = self.memory.read(address)
        assert access.words == [expected], (
            f"wrong data: {access} got {access.words[0]:#x} not frame {ppn:#x}"
        )
