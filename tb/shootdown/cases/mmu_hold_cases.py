"""Holds and releases of the secondary MMU: nothing is filled or answered inside a bracket."""

from typing import Any

import cocotb
from cocotb import parametrize

from secmmu.layouts import CommandKind
from shootdown.agents.translation import PAGE
from shootdown.cases.mmu_mapped import BASE, MIDDLE, Mapped


@cocotb.test(timeout_time=2, timeout_unit="ms")
@parametrize(kind=("PAGE", "RANGE", "ASID"))
async def a_hold_keeps_walks_out(dut: Any, kind: str) -> None:
    """An access inside the span waits until the release and then sees the PTE of the release, not of the hold."""
    mapped = await Mapped.start(dut, f"hold {kind}")
    bench = mapped.bench
    await bench.load(1, BASE + PAGE)
    for early in (False, True):
        held = mapped.command(kind, 1, BASE + PAGE, hold=True)
        if early:
            access = bench.device.read(1, BASE + PAGE, id=1)
        await bench.drained(held)
        if not early:
            access = bench.device.read(1, BASE + PAGE, id=1)
        await bench.tick(50)
        mapped.change(1, BASE + PAGE, 0x6000 + early)
        await bench.tick(50)
        assert not access.done, f"held: {access} was answered inside a hold"
        mapped.change(1, BASE + PAGE, 0x6100 + early)
        released = bench.release(held)
        await bench.done(access)
        bench.expect_word(access, 0x6100 + early)
        await bench.drained(released)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_hold_of_one_span_leaves_the_others_alone(dut: Any) -> None:
    """Other pages and other address spaces go on; commands go on, too."""
    mapped = await Mapped.start(dut, "hold one")
    bench = mapped.bench
    held = mapped.command("RANGE", 1, BASE + PAGE, hold=True)
    await bench.drained(held)
    for asid, va in ((1, BASE + 4 * PAGE), (2, BASE + PAGE), (1, MIDDLE), (2, BASE)):
        await bench.load(asid, va)
    await bench.drained(
        mapped.command("PAGE", 1, BASE + 4 * PAGE), mapped.command("PAGE", 1, BASE + PAGE)
    )
    await bench.drained(bench.send(CommandKind.FENCE), mapped.command("ALL", 0, 0))
    access = bench.device.read(1, BASE + PAGE)
    await bench.tick(60)
    assert not access.done, "held: ALL or a PAGE command lifted the hold"
    await bench.drained(bench.release(held))
    await bench.done(access)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def holds_nest_by_counting(dut: Any) -> None:
    """Twice held, twice released; overlapping holds each count; a release of another span lifts nothing."""
    mapped = await Mapped.start(dut, "nest")
    bench = mapped.bench
    twice = [mapped.command("PAGE", 1, BASE, hold=True) for _ in range(2)]
    await bench.drained(*twice)
    access = bench.device.read(1, BASE)
    await bench.drained(bench.release(twice[0]))
    await bench.tick(50)
    assert not access.done, "held: one of two releases lifted the hold"
    await bench.drained(bench.release(twice[1]))
    await bench.done(access)
    one = mapped.command("PAGE", 1, BASE, hold=True)
    wide = bench.send(CommandKind.RANGE, 1, BASE >> 12, (BASE >> 12) + 3, hold=True)
    await bench.drained(one, wide)
    access = bench.device.read(1, BASE)
    await bench.drained(bench.release(wide))
    await bench.tick(50)
    assert not access.done, "held: releasing the wide hold lifted the narrow one"
    await bench.drained(bench.release(one))
    await bench.done(access)
    await bench.finish()


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def holds_beyond_the_filters_hold_the_asid(dut: Any) -> None:
    """More holds than filters: the asid waits as a whole, the overflow is counted, each release is honoured."""
    mapped = await Mapped.start(dut, "overflow")
    bench = mapped.bench
    filters = bench.config.filters
    where = [BASE + 2 * page * PAGE for page in range(filters + 2)]
    holds = [mapped.command("PAGE", 1, va, hold=True) for va in where]
    await bench.drained(*holds)
    assert await bench.counter("mmu.filters.overflows") == 2
    await bench.load(2, BASE)
    held = bench.device.read(1, where[-1] if filters + 2 <= 4 else BASE + 4 * PAGE)
    for hold in holds[:filters]:
        await bench.drained(bench.release(hold))
    await bench.tick(50)
    assert not held.done, "held: the whole-asid hold was lifted by releases of the others"
    await bench.drained(bench.release(holds[filters]))
    await bench.tick(50)
    assert not held.done, "held: one of two whole-asid holds was enough"
    await bench.drained(bench.release(holds[filters + 1]))
    await bench.done(held)
    # The filters are free again.
    again = mapped.command("PAGE", 1, BASE, hold=True)
    await bench.drained(again)
    await bench.load(1, BASE + PAGE)
    await bench.drained(bench.release(again))
    assert await bench.counter("mmu.filters.overflows") == 2
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_hold_covers_superpages_that_overlap_it(dut: Any) -> None:
    """An access to another page of a 2 MiB leaf must not fill an entry that overlaps a held page."""
    mapped = await Mapped.start(dut, "hold span")
    bench = mapped.bench
    held = mapped.command("PAGE", 1, MIDDLE + 5 * PAGE, hold=True)
    await bench.drained(held)
    access = bench.device.read(1, MIDDLE + 300 * PAGE)
    await bench.tick(80)
    if bench.lanes:
        overlapping = [
            e for e in bench.lanes.shadow.values() if held.covers(e.asid, e.first, e.last)
        ]
        assert not overlapping, f"held: entry {overlapping[0]} overlaps the held page"
    mapped.change(1, MIDDLE, 0x60_0000)
    await bench.drained(bench.release(held))
    await bench.done(access)
    bench.expect_word(await bench.load(1, MIDDLE + 5 * PAGE), 0x60_0005)
    await bench.finish()
