"""Offset sweeps: an invalidation moved one clock at a time across whatever it may race with.

Each offset starts from a fresh reset. The scoreboard insists on zero stale uses, zero wrong addresses and no early
*drained*; the bench on zero hangs.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import cocotb
from cocotb import parametrize

from secmmu.layouts import CommandKind
from shootdown.agents.control import Command, Dropin
from shootdown.agents.device import Access
from shootdown.agents.pins import Sink, Sometimes, always
from shootdown.agents.translation import PAGE, USER_RW, leaf
from shootdown.cases.mmu_bench import Bench, reached

__all__ = [
    "ASID",
    "CHANNELS",
    "RACES",
    "STRIDE_VARIABLE",
    "Race",
    "late_write",
    "one_offset",
    "one_read",
    "press",
    "pressed_sweep",
    "sweep",
]

STRIDE_VARIABLE = "SHOOTDOWN_SWEEP_STRIDE"
"""Environment variable: only about every n-th offset is tried; 1, the default, is the full sweep.

That is with a memory of 20 cycles; with others it is as many offsets, in proportion.
"""

ASID = 3
BASE = 0x10_0000_0000
MIDDLE = BASE + (1 << 34)
OLD, NEW = 0x5000, 0x6000
OLD_MIDDLE, NEW_MIDDLE = 0x20_0000, 0x30_0000
LEAD = 6
"""Clocks by which the sweep begins before the access."""

KINDS = (CommandKind.PAGE, CommandKind.RANGE, CommandKind.ASID, CommandKind.ALL)


class Race:
    """One access pattern of the device that an invalidation races with.

    Parameters
    ----------
    warm : bool
        The translation is in the TLB beforehand.
    va, commanded : int
        Page that is accessed, page that is commanded.
    bits : int
        Permissions of the leaf.
    start : callable
        Issues the accesses.
    """

    def __init__(
        self,
        warm: bool,
        start: Callable[[Bench, int], list[Access]],
        va: int = BASE,
        commanded: int = BASE,
        bits: int = USER_RW,
    ) -> None:
        self.warm = warm
        self.bits = bits
        self.start = start
        self.va = va
        self.commanded = commanded


def one_read(bench: Bench, va: int) -> list[Access]:
    """Issue one read."""
    return [bench.device.read(ASID, va)]


def _many_reads(bench: Bench, va: int) -> list[Access]:
    return [bench.device.read(ASID, va + 8 * at, id=at % 3) for at in range(6)]


def _one_burst(bench: Bench, va: int) -> list[Access]:
    return [bench.device.read(ASID, va, beats=8)]


def late_write(bench: Bench, va: int) -> list[Access]:
    """Issue a write whose data comes five cycles after its address."""
    access = bench.device.write(ASID, va, [1, 2, 3])
    access.data_after = bench.passed(5)
    return [access]


def _mixed(bench: Bench, va: int) -> list[Access]:
    return [
        bench.device.write(ASID, va, at, id=1) if at % 2 else bench.device.read(ASID, va, id=at)
        for at in range(3)
    ]


def _dropin(bench: Bench, va: int) -> list[Access]:
    """Fill the translation by hand, as it was before any command; the read may or may not find it."""
    bench.control.drop_in(Dropin(ASID, va >> 12, leaf(OLD), epoch=0))
    access = bench.device.read(ASID, va)
    access.address_after = bench.passed(8)
    return [access]


RACES = {
    "walk": Race(False, one_read),
    "walks": Race(False, _many_reads),
    "hit": Race(True, _many_reads),
    "burst": Race(True, _one_burst),
    "late_write": Race(True, late_write),
    "cold_write": Race(False, late_write),
    "super_walk": Race(False, _mixed, MIDDLE + 7 * PAGE, MIDDLE + 300 * PAGE),
    "super_hit": Race(True, _mixed, MIDDLE + 7 * PAGE, MIDDLE),
    "drop_in": Race(False, _dropin),
}


async def begin(bench: Bench, race: Race, latency: int) -> int:
    """Reset and set up; returns the address of the PTE."""
    await bench.reset()
    bench.data.latency = bench.walk.latency = 1
    root = await bench.context(ASID)
    small = race.va < MIDDLE
    old, level = (OLD, 0) if small else (OLD_MIDDLE, 1)
    slot = bench.map(root, race.va, old, race.bits, level)
    if race.warm:
        await bench.load(ASID, race.va)
    bench.data.latency = bench.walk.latency = latency
    return slot


def unmaps(offset: int) -> bool:
    """Say whether the host unmaps the page at this offset; otherwise it remaps it."""
    return offset % 5 in (1, 4)


def change(bench: Bench, race: Race, slot: int, offset: int, hold: bool, turn: int) -> Command:
    """Do the host's step: the PTE, then the command; its kind goes round with the offset, from ``turn`` on."""
    bits = 0 if unmaps(offset) else race.bits
    bench.write_word(slot, leaf(NEW if race.va < MIDDLE else NEW_MIDDLE, bits))
    kind = KINDS[(offset * 5 // 3 + turn) % (3 if hold else 4)]
    page = race.commanded >> 12
    extra = 2 if kind is CommandKind.RANGE else 0
    return bench.send(kind, ASID, page, page + extra, hold=hold)


async def one_offset(
    bench: Bench, race: Race, latency: int, offset: int, *, hold: bool = False, turn: int = 0
) -> int:
    """Run one offset; returns how many cycles the accesses took."""
    slot = await begin(bench, race, latency)
    sent: list[Command] = []
    issued: list[Access] = []
    bench.after(offset, lambda: sent.append(change(bench, race, slot, offset, hold, turn)))
    bench.after(LEAD, lambda: issued.extend(race.start(bench, race.va)))
    await bench.until(lambda: sent and issued, "the script", offset + LEAD + 5)
    begun = bench.cycle
    await bench.until(lambda: sent[0].done, f"{sent[0]} at offset {offset}")
    old = OLD if race.va < MIDDLE else OLD_MIDDLE
    if hold:
        await bench.tick(3)
        bench.write_word(slot, leaf(NEW if race.va < MIDDLE else NEW_MIDDLE, race.bits))
        bench.release(sent[0])
    await bench.done(*issued)
    taken = bench.cycle - begun
    uses = [
        burst
        for burst in bench.memory_port.bursts
        if burst.addr >> 12 == old + (race.va >> 12) % 512
    ]
    drained = reached(sent[0].drained)
    late = [burst for burst in uses if burst.end is None or burst.end > drained]
    assert not late, f"drained early: {sent[0]} at offset {offset} before {late[0]}"
    after = await bench.load(ASID, race.va)
    assert after.refused == (unmaps(offset) and not hold), (
        f"{after} answered {after.responses} at offset {offset}"
    )
    await bench.finish()
    frame = NEW if race.va < MIDDLE else NEW_MIDDLE
    left = bench.memory.read(slot) or 0
    assert left >> 10 == frame, f"lost: the host's PTE became {left:#x} at offset {offset}"
    return taken


def stride_asked() -> int:
    """Return what :data:`STRIDE_VARIABLE` says; 1 is the whole sweep."""
    return int(os.environ.get(STRIDE_VARIABLE, "1"))


async def sweep(
    bench: Bench, race: Race, latency: int, *, hold: bool = False, turns: int = len(KINDS)
) -> None:
    """Try every offset from before the access to after its end, in the whole sweep ``turns`` times.

    The kinds of command take turns with the offsets: after ``len(KINDS)`` turns each has met each offset.
    """
    asked = stride_asked()
    # Not a multiple of 5, with which the host would only remap.
    stride = 1 if asked == 1 else max(3, asked * latency // 20 - 1)
    for turn in range(turns if asked == 1 else 1):
        length = LEAD + await one_offset(bench, race, latency, 0, hold=hold, turn=turn) + 6
        offset, tried = 0, 0
        while offset < length:
            try:
                taken = await one_offset(bench, race, latency, offset, hold=hold, turn=turn)
            except AssertionError as error:
                where = f"offset {offset}, latency {latency}, turn {turn}"
                raise AssertionError(f"{error} [{where}]") from error
            # Accesses that the command makes walk again take longer than the first try told.
            length = max(length, min(LEAD + taken + 6, 12 * latency + 60))
            tried += 1
            offset += stride
        assert tried * stride >= length
        cocotb.log.info("%d offsets tried", tried)


CHANNELS: dict[str, Callable[[Bench], list[Sink]]] = {
    "memory AR": lambda bench: [bench.data.ar],
    "memory AW": lambda bench: [bench.data.aw],
    "memory W": lambda bench: [bench.data.w],
    "walk AR": lambda bench: [bench.walk.ar],
    "walk AW and W": lambda bench: [bench.walk.aw, bench.walk.w] if bench.config.svadu else [],
    "device R": lambda bench: [bench.device.r],
    "device B": lambda bench: [bench.device.b],
    "completions": lambda bench: bench.control.completions,
}
"""Channels whose receiver is outside the MMU."""


def press(bench: Bench, channels: Iterable[str], share: float) -> None:
    """Let the receivers of ``channels`` be ready in ``share`` of the clocks, the others in all."""
    for name, sinks in CHANNELS.items():
        for sink in sinks(bench):
            sink.pace = Sometimes(bench.rng, share) if name in channels else always


async def pressed_sweep(bench: Bench, race: Race, latency: int) -> None:
    """Sweep with every channel pressed, each ready in two clocks of five; in the whole sweep also with each one alone."""
    press(bench, CHANNELS, 0.4)
    await sweep(bench, race, latency)
    there = [name for name, sinks in CHANNELS.items() if sinks(bench)]
    for name in there if stride_asked() == 1 else ():
        press(bench, [name], 0.4)
        try:
            await sweep(bench, race, latency, turns=1)
        except AssertionError as error:
            raise AssertionError(f"{error} [{name} pressed alone]") from error


@cocotb.test(timeout_time=500, timeout_unit="ms")
@parametrize(latency=[1, 20, 100], race=list(RACES))
async def invalidation_moved_across(dut: Any, latency: int, race: str) -> None:
    """PAGE, RANGE, ASID and ALL in turn, remapping and unmapping, port always ready."""
    bench = await Bench(dut, f"sweep {race} {latency}").start()
    await sweep(bench, RACES[race], latency)


@cocotb.test(timeout_time=500, timeout_unit="ms")
@parametrize(latency=[1, 20, 100], race=list(RACES))
async def invalidation_moved_across_under_pressure(dut: Any, latency: int, race: str) -> None:
    """The same under back-pressure."""
    bench = await Bench(dut, f"pressed {race} {latency}").start()
    await pressed_sweep(bench, RACES[race], latency)


@cocotb.test(timeout_time=500, timeout_unit="ms")
@parametrize(latency=[1, 20], race=["walk", "hit", "cold_write", "drop_in"])
async def hold_moved_across(dut: Any, latency: int, race: str) -> None:
    """The same with a hold, whose release comes after *drained* and after another change of the PTE."""
    bench = await Bench(dut, f"hold {race} {latency}").start()
    await sweep(bench, RACES[race], latency, hold=True)
