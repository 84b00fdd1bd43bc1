"""Random traffic, random table changes and random commands of all kinds together; the scoreboard judges everything."""

from collections.abc import Callable
from typing import Any

import cocotb
from cocotb import parametrize

from secmmu.layouts import CommandKind
from shootdown.agents.control import Command
from shootdown.agents.pins import Sometimes, always
from shootdown.agents.translation import PAGE, USER_RO, USER_RW, G, leaf
from shootdown.cases.mmu_bench import Bench

BASE = 0x10_0000_0000
MIDDLE = BASE + (1 << 34)
PAGES = 4
INVALIDATIONS = (
    (CommandKind.PAGE,) * 5 + (CommandKind.RANGE,) * 3 + (CommandKind.ASID, CommandKind.ALL)
)


class Soak:
    """A host that changes leaves and always commands afterwards, against a device that never rests.

    A leaf is changed again only when its last command has drained, as the kernel's lock order has it; a hold is
    released some time after it drained. Frames are never used twice, so that each use names its version.
    """

    def __init__(self, bench: Bench, *, holds: bool) -> None:
        self.bench = bench
        self.rng = bench.rng
        self.holds = holds
        self.slots: dict[tuple[int, int], tuple[int, int]] = {}
        self.open: list[tuple[Command, int, bool]] = []
        self._frame = 0x10_0000

    async def prepare(self) -> None:
        """Fill the tables."""
        bench = self.bench
        for asid in range(min(3, bench.config.contexts)):
            root = await bench.context(asid)
            for page in range(PAGES):
                va = BASE + page * PAGE
                self.slots[asid, va] = bench.map(root, va, self.frame(0)), 0
            for page in range(2):
                va = MIDDLE + (page << 21)
                self.slots[asid, va] = bench.map(root, va, self.frame(1), level=1), 1

    def frame(self, level: int) -> int:
        """Take a frame, or an aligned run of them, that was never used."""
        step = 512**level
        self._frame = (self._frame + 2 * step - 1) // step * step
        return self._frame

    def access(self) -> None:
        """Issue one burst."""
        rng, device = self.rng, self.bench.device
        asid, va = rng.choice(list(self.slots))
        va += rng.randrange(512) * PAGE if va >= MIDDLE else 0
        beats = rng.choice((1, 1, 4, 8))
        va += rng.randrange(0, PAGE - beats * 8, 8)
        name = rng.randrange(1 << self.bench.config.id_bits)
        if rng.random() < 0.4:
            access = device.write(asid, va, [rng.getrandbits(64) for _ in range(beats)], id=name)
            if rng.random() < 0.3:
                access.data_after = self.bench.passed(rng.randrange(40))
        else:
            device.read(asid, va, beats=beats, id=name)

    def shoot(self) -> None:
        """Change a leaf, or a run of them, and send a command that covers it."""
        rng, bench = self.rng, self.bench
        asid, va = rng.choice(list(self.slots))
        slot, level = self.slots[asid, va]
        kind = rng.choice(INVALIDATIONS)
        first = (va >> 12) + (rng.randrange(512) if level else 0)
        last = first + rng.randrange(3) if kind is CommandKind.RANGE else first
        first -= rng.randrange(2) if kind is CommandKind.RANGE else 0
        if any(
            command.covers(asid, va >> 12, (va >> 12) + 512**level - 1)
            for command, _, _ in self.open
        ):
            return
        bits = rng.choice((USER_RW, USER_RW, USER_RO, USER_RW | G, 0))
        bench.write_word(slot, leaf(self.frame(level), bits))
        hold = self.holds and kind not in (CommandKind.ALL,) and rng.random() < 0.4
        command = bench.send(kind, asid, first, last, hold=hold, leaf_only=rng.random() < 0.5)
        self.open.append((command, rng.randrange(60), False))

    def retire(self) -> None:
        """Release holds that have drained for their time; forget what is over."""
        kept = []
        for command, wait, released in self.open:
            if command.done and command.hold and not released and wait <= 0:
                self.bench.release(command)
                released = True
            if not command.done or (
                command.hold and (command.released is None or not command.released.done)
            ):
                kept.append((command, wait - bool(command.done), released))
        self.open = kept

    async def run(self, cycles: int, traffic: float, commands: float) -> None:
        """Keep everything busy, then let it end."""
        rng, bench = self.rng, self.bench
        for _ in range(cycles):
            await bench.tick()
            if rng.random() < traffic and bench.device.issued - bench.device.answered < 12:
                self.access()
            if self.open:
                self.retire()
            if rng.random() < commands:
                self.shoot()
        while self.open:
            await bench.tick()
            self.retire()
        await bench.finish()


def _fast(bench: Bench) -> None:
    bench.data.latency = bench.walk.latency = 1


def _slow(bench: Bench) -> None:
    bench.data.latency, bench.walk.latency, bench.data.jitter = 20, 20, 15
    bench.data.write_latency, bench.walk.sample_late = 45, True


def _pressed(bench: Bench) -> None:
    bench.data.latency, bench.data.jitter, bench.walk.jitter, bench.data.reorder = 4, 6, 3, True
    sinks = (
        bench.data.ar,
        bench.data.aw,
        bench.data.w,
        bench.walk.ar,
        bench.device.r,
        bench.device.b,
    )
    for sink in sinks:
        sink.pace = Sometimes(bench.rng, 0.6)
    for sink in bench.control.completions:
        sink.pace = Sometimes(bench.rng, 0.5)
    bench.data.answers = Sometimes(bench.rng, 0.8)


MEMORIES: dict[str, Callable[[Bench], None]] = {"fast": _fast, "slow": _slow, "pressed": _pressed}


@cocotb.test(timeout_time=40, timeout_unit="ms")
@parametrize(memory=list(MEMORIES), holds=[False, True])
async def nothing_stale_under_random_load(dut: Any, memory: str, holds: bool) -> None:
    """Thousands of accesses and hundreds of shootdowns at random distances."""
    bench = await Bench(dut, f"soak {memory} {holds}").start()
    MEMORIES[memory](bench)
    soak = Soak(bench, holds=holds)
    await soak.prepare()
    await soak.run(3000, 0.5, 0.03)
    drained = sum(command.drained is not None for command in bench.control.commands)
    assert drained > 40, f"only {drained} commands"
    assert bench.device.answered > 40, f"only {bench.device.answered} accesses"


@cocotb.test(timeout_time=40, timeout_unit="ms")
async def bursts_of_commands_under_load(dut: Any) -> None:
    """Commands as fast as they are taken, most of them for what is in use."""
    bench = await Bench(dut, "storm").start()
    bench.data.latency, bench.walk.latency = 6, 4
    bench.data.ar.pace = always
    soak = Soak(bench, holds=False)
    await soak.prepare()
    await soak.run(1500, 0.6, 0.9)
