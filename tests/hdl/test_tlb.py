"""The TLB by itself: lookups, replacement, overlapping fills and kills."""

from typing import Any

import pytest
from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.tlb import Tlb

CONFIG = SecmmuConfig(tlb_sets=4, tlb_ways=2)
HUGE = 1 << 9


def run(testbench: Any, config: SecmmuConfig = CONFIG) -> None:
    """Simulate ``testbench(ctx, tlb)``."""
    tlb = Tlb(config)

    async def bench(ctx: SimulatorContext) -> None:
        await testbench(ctx, tlb)

    simulator = Simulator(tlb)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def entry(vpn: int, ppn: int, *, level: int = 0, asid: int = 1, shared: int = 0) -> dict[str, Any]:
    """Return an entry of group 5."""
    translation = {"vpn": vpn, "level": level, "shared": shared, "asid": asid, "group": 5}
    return {"ppn": ppn, "writable": 0, "translation": translation}


async def fill(ctx: SimulatorContext, tlb: Tlb, value: dict[str, Any]) -> tuple[int, int]:
    """Fill one entry; return its index and the set of entries that died for it."""
    ctx.set(tlb.fill.entry, value)
    ctx.set(tlb.fill.en, 1)
    _, _, index, died = await ctx.tick().sample(tlb.fill.index, tlb.died)
    ctx.set(tlb.fill.en, 0)
    return index, died


async def kill(ctx: SimulatorContext, tlb: Tlb, first: int, last: int, **fields: int) -> int:
    """Apply an invalidation for one cycle; return the set of entries that died."""
    fields = {"asid": 1, "group": 5} | fields
    ctx.set(tlb.kill, {"valid": 1, "first": first, "last": last, **fields})
    _, _, died = await ctx.tick().sample(tlb.died)
    ctx.set(tlb.kill, {"valid": 0})
    return died


async def look_up(
    ctx: SimulatorContext, tlb: Tlb, vpn: int, *, asid: int = 1, group: int = 5
) -> int | None:
    """Return the frame of the entry that translates the page, or None."""
    ctx.set(tlb.read.asid, asid)
    ctx.set(tlb.read.vpn, vpn)
    ctx.set(tlb.read.group, group)
    ctx.set(tlb.read.en, 1)
    await ctx.tick()
    ctx.set(tlb.read.en, 0)
    return ctx.get(tlb.read.entry.ppn) if ctx.get(tlb.read.hit) else None


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_leaf_size_is_found_by_each_of_its_pages(level: int) -> None:
    """An entry translates exactly the pages of its span."""
    pages = 1 << (9 * level)

    async def bench(ctx: SimulatorContext, tlb: Tlb) -> None:
        await fill(ctx, tlb, entry(4 * pages, 77, level=level))
        for vpn in (4 * pages, 5 * pages - 1):
            assert await look_up(ctx, tlb, vpn) == 77
        for vpn in (4 * pages - 1, 5 * pages):
            assert await look_up(ctx, tlb, vpn) is None
        assert await look_up(ctx, tlb, 4 * pages, asid=2) is None

    run(bench)


def test_a_global_entry_serves_its_group_alone() -> None:
    """Another asid hits a global entry when its group is the same."""

    async def bench(ctx: SimulatorContext, tlb: Tlb) -> None:
        await fill(ctx, tlb, entry(9, 77, shared=1))
        assert await look_up(ctx, tlb, 9, asid=2, group=5) == 77
        assert await look_up(ctx, tlb, 9, asid=2, group=2) is None

    run(bench)


def test_a_fill_kills_what_would_match_the_same_access() -> None:
    """A 2 MiB entry takes the place of the 4 KiB entries in it, whatever their sets."""

    async def bench(ctx: SimulatorContext, tlb: Tlb) -> None:
        small, _ = await fill(ctx, tlb, entry(3, 1))
        other, _ = await fill(ctx, tlb, entry(HUGE + 3, 2))
        index, died = await fill(ctx, tlb, entry(0, 1000, level=1))
        assert index not in (small, other)
        assert died == 1 << small
        assert await look_up(ctx, tlb, 3) == 1000
        assert await look_up(ctx, tlb, HUGE + 3) == 2
        again, died = await fill(ctx, tlb, entry(0, 2000, level=1))
        assert (again, died) == (index, 0)
        assert await look_up(ctx, tlb, 3) == 2000

    run(bench)


def test_replacement_rotates_in_a_full_set() -> None:
    """Five pages of one set of two ways: the two latest survive."""

    async def bench(ctx: SimulatorContext, tlb: Tlb) -> None:
        for page in range(5):
            await fill(ctx, tlb, entry(4 * page, page))
        found = [await look_up(ctx, tlb, 4 * page) for page in range(5)]
        assert found == [None, None, None, 3, 4]

    run(bench)


def test_a_page_command_kills_the_superpage_over_it() -> None:
    """Spans are compared whole, and only those that overlap die."""

    async def bench(ctx: SimulatorContext, tlb: Tlb) -> None:
        huge, _ = await fill(ctx, tlb, entry(HUGE, 1, level=1))
        await fill(ctx, tlb, entry(5, 2))
        assert await kill(ctx, tlb, HUGE + 100, HUGE + 100) == 1 << huge
        assert await look_up(ctx, tlb, HUGE) is None
        assert await look_up(ctx, tlb, 5) == 2

    run(bench)


@pytest.mark.parametrize(
    ("fields", "dies"),
    [
        ({"asid": 1}, True),
        ({"asid": 2}, True),
        ({"asid": 2, "group": 2}, False),
        ({"asid": 2, "group": 2, "everything": 1}, True),
    ],
)
def test_whose_command_kills_a_global_entry(fields: dict[str, int], dies: bool) -> None:
    """A command of any asid of the group does, and one for everything."""

    async def bench(ctx: SimulatorContext, tlb: Tlb) -> None:
        await fill(ctx, tlb, entry(9, 77, shared=1))
        assert bool(await kill(ctx, tlb, 9, 9, **fields)) is dies
        assert (await look_up(ctx, tlb, 9) is None) is dies

    run(bench)


def test_an_entry_does_not_hit_in_the_cycle_of_its_kill() -> None:
    """The answer of a lookup is masked by the invalidation applied beside it."""

    async def bench(ctx: SimulatorContext, tlb: Tlb) -> None:
        await fill(ctx, tlb, entry(9, 77))
        assert await look_up(ctx, tlb, 9) == 77
        ctx.set(tlb.read.en, 1)
        await ctx.tick()
        ctx.set(tlb.kill, {"valid": 1, "asid": 1, "first": 9, "last": 9})
        assert ctx.get(tlb.read.hit) == 0
        assert ctx.get(tlb.fill.busy) == 1

    run(bench)


@pytest.mark.parametrize(("vpn", "found"), [(9, None), (13, 2)])
def test_a_lookup_beside_a_fill_finds_the_new_entry(vpn: int, found: int | None) -> None:
    """A killed entry never comes out under the valid bit of the one that takes its place."""

    async def bench(ctx: SimulatorContext, tlb: Tlb) -> None:
        killed, _ = await fill(ctx, tlb, entry(9, 1))
        await kill(ctx, tlb, 9, 9)
        ctx.set(tlb.fill.entry, entry(13, 2))
        ctx.set(tlb.fill.en, 1)
        assert ctx.get(tlb.fill.index) == killed
        ctx.set(tlb.read.en, 1)
        ctx.set(tlb.read.asid, 1)
        ctx.set(tlb.read.vpn, vpn)
        ctx.set(tlb.read.group, 5)
        await ctx.tick()
        ctx.set(tlb.fill.en, 0)
        assert ctx.get(tlb.read.hit) == (found is not None)
        assert ctx.get(tlb.read.entry.ppn) == (found or 0)

    run(bench)


def test_a_large_tlb_shows_its_kills_64_at_a_time() -> None:
    """Fills wait and nothing is drained until the last one is shown."""

    async def bench(ctx: SimulatorContext, tlb: Tlb) -> None:
        indices = [(await fill(ctx, tlb, entry(page, page)))[0] for page in range(128)]
        await kill(ctx, tlb, 0, 127)
        seen = set()
        while ctx.get(tlb.showing):
            assert ctx.get(tlb.fill.busy)
            base, died = ctx.get(tlb.died_base), ctx.get(tlb.died)
            seen |= {base + i for i in range(64) if died >> i & 1}
            await ctx.tick()
        assert seen == set(indices)

    run(bench, SecmmuConfig(tlb_sets=32, tlb_ways=4))
