"""The TLB by itself, with and without a page array: lookups, kills, fills, used bits."""

import random

import pytest

from secmmu.config import SecmmuConfig
from secmmu.layouts import GRAIN_SHIFTS
from tests.hdl.tlb.tlb_model import Entry, Kill, TlbBench, random_entry, random_kill, run

ASSOCIATIVE = SecmmuConfig(tlb_sets=0, large_entries=4)
PAGES = SecmmuConfig(tlb_sets=4, tlb_ways=2, large_entries=4, filters=2)
LANES = SecmmuConfig(tlb_sets=128, tlb_ways=2, large_entries=2, filters=2, levels=5)
EACH = pytest.mark.parametrize("config", [ASSOCIATIVE, PAGES], ids=["associative", "pages"])
HUGE = 1 << 9
TOP = (1 << 27) - 1


@EACH
@pytest.mark.parametrize("seed", range(2))
def test_no_access_ever_gets_what_is_dead_or_not_its_own(config: SecmmuConfig, seed: int) -> None:
    """Random traffic, fills and invalidations, checked in each cycle against the reference."""
    rng = random.Random(seed)
    vpns = [0, 1, 4, 5, 8, HUGE, HUGE + 4, HUGE + 8, TOP - 3]

    async def bench(it: TlbBench) -> None:
        fill = None
        for _ in range(1200):
            quiet = rng.random() < 0.6
            if fill is None and rng.random() < 0.3:
                fill = random_entry(rng, vpns, large=True)
            kill = None if quiet or rng.random() < 0.6 else random_kill(rng, vpns, TOP)
            ask = None
            if kill is None and rng.random() < 0.05:
                ask = (rng.choice([1, 2, 3]), rng.choice(vpns))
            _, taken = await it.cycle(
                access=(rng.choice([1, 2, 3]), rng.choice(vpns)) if rng.random() < 0.9 else None,
                advance=rng.random() < 0.8,
                kill=kill,
                ask=ask,
                fill=fill,
            )
            if taken or rng.random() < 0.05:
                fill = None
        assert it.hits > 50

    run(bench, config)


@EACH
@pytest.mark.parametrize("grain", [0, 1, 2, 3])
def test_every_leaf_size_is_found_by_each_of_its_pages(config: SecmmuConfig, grain: int) -> None:
    """An entry translates exactly the pages of its span, for its asid."""
    pages = 1 << GRAIN_SHIFTS[grain]

    async def bench(it: TlbBench) -> None:
        await it.put(Entry(4 * pages, 77 * pages, grain))
        found = [await it.look_up(1, vpn) for vpn in (4 * pages, 5 * pages - 1)]
        assert found == [77 * pages] * 2
        for vpn in (4 * pages - 1, 5 * pages):
            assert await it.look_up(1, vpn) is None
        assert await it.look_up(2, 4 * pages) is None

    run(bench, config)


@EACH
def test_a_global_entry_serves_its_group_alone(config: SecmmuConfig) -> None:
    """Another asid hits it when its group is the same; its own entry comes before one of the group."""

    async def bench(it: TlbBench) -> None:
        await it.put(Entry(9, 77, shared=1))
        assert await it.look_up(2, 9) == 77
        assert await it.look_up(3, 9) is None
        await it.put(Entry(9, 78, asid=2))
        assert await it.look_up(2, 9) == 78

    run(bench, config)


@EACH
@pytest.mark.parametrize("behind", range(8))
def test_an_entry_dies_wherever_the_access_to_it_stands(config: SecmmuConfig, behind: int) -> None:
    """The kill comes ``behind`` cycles after the lookup began, or before it; the access waits at every stage."""
    latency = config.lookup_latency

    async def bench(it: TlbBench) -> None:
        for stall in range(latency + 1):
            await it.put(Entry(9, 77))
            for cycle in range(12):
                kill = Kill(9, 9, page=1) if cycle == behind else None
                await it.cycle(access=(1, 9), kill=kill, advance=not stall <= cycle < stall + 4)
            assert await it.look_up(1, 9) is None

    run(bench, config)


@EACH
@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize("grain", [0, 2])
def test_a_fill_beside_its_invalidation_is_dropped(
    config: SecmmuConfig, page: int, grain: int
) -> None:
    """In each cycle from the one in which it is taken until it is written."""

    async def bench(it: TlbBench) -> None:
        for delay in range(6):
            entry = Entry(0, 1 + delay, grain)
            taken = False
            for cycle in range(8):
                kill = Kill(0, 0, page=page) if cycle == delay else None
                _, now = await it.cycle(fill=None if taken else entry, kill=kill)
                taken = taken or now
            await it.settle()
            found = await it.look_up(1, 0)
            # What the page array takes behind a range may still be swept with it.
            swept = config.tlb_sets and not page and not grain
            if entry not in it.live:
                assert found is None
            elif not swept:
                assert found == entry.ppn
            await it.cycle(kill=Kill(0, TOP, everything=1))
            await it.settle()

    run(bench, config)


@pytest.mark.parametrize(
    ("kill", "survivors"),
    [
        (Kill(5, 5, page=1), {4, 132, 1 << 40}),
        (Kill(4, 5), {132, 1 << 40}),
        (Kill(5, 1 << 39), {4, 1 << 40}),
        (Kill(133, (1 << 45) - 1), {4, 5, 132}),
        (Kill(0, (1 << 45) - 1, asid=2), {4, 5, 132, 1 << 40}),
        (Kill(0, (1 << 45) - 1, asid=2, everything=1), set()),
    ],
)
def test_what_does_not_match_survives_the_sweep(kill: Kill, survivors: set[int]) -> None:
    """Pages 4, 5 and 132 share a row of two lanes, 132 the set of 4; the bounds of a range lie in it."""
    vpns = (4, 5, 132, 1 << 40)

    async def bench(it: TlbBench) -> None:
        for vpn in vpns:
            await it.put(Entry(vpn, vpn + 7))
        await it.cycle(kill=kill)
        await it.settle()
        found = {vpn for vpn in vpns if await it.look_up(1, vpn) == vpn + 7}
        assert found == survivors

    run(bench, LANES)


def test_when_filters_run_out_a_superset_dies_and_later_fills_live() -> None:
    """Three different ranges at once, two filters: the third one becomes everything."""

    async def bench(it: TlbBench) -> None:
        await it.put(Entry(9, 1))
        overflowed = []
        for first in (100, 200, 200, 300):
            await it.cycle(kill=Kill(first, first + 9))
            overflowed.append(it.ctx.get(it.tlb.overflowed))
        assert overflowed == [0, 0, 0, 1]
        assert await it.look_up(1, 9) is None
        await it.settle()
        await it.put(Entry(9, 2))
        assert await it.look_up(1, 9) == 2

    run(bench, PAGES)


@pytest.mark.parametrize("kill", [Kill(8, 8, page=1), Kill(16, 999), Kill(0, TOP, asid=3)])
def test_lookups_and_other_entries_do_not_feel_invalidations(kill: Kill) -> None:
    """One hit a cycle, with an invalidation of something else every ten cycles."""
    vpns = [0, 1, 2, 3, 4, 5, 6, 7]

    async def bench(it: TlbBench) -> None:
        for vpn in vpns:
            await it.put(Entry(vpn, vpn + 1))
        before = it.hits
        for cycle in range(203):
            await it.cycle(access=(1, vpns[cycle % 8]), kill=kill if cycle % 10 == 9 else None)
        assert it.hits - before == 200

    run(bench, PAGES)


@EACH
@pytest.mark.parametrize("grain", [0, 2])
def test_used_bits_tell_of_hits_once(config: SecmmuConfig, grain: int) -> None:
    """A new entry is unused; a hit shows in the next answer, not in the one after; a refill forgets it."""

    async def bench(it: TlbBench) -> None:
        await it.put(Entry(0, 1, grain))
        answers = [await it.young(1, 0)]
        await it.look_up(1, 0)
        answers += [await it.young(2, 0), await it.young(1, 0), await it.young(1, 0)]
        await it.look_up(1, 0)
        await it.put(Entry(0, 2, grain))
        answers.append(await it.young(1, 0))
        assert answers == [0, 0, 1, 0, 0]

    run(bench, config)


@EACH
@pytest.mark.parametrize("behind", range(8))
def test_no_question_is_about_the_dead(config: SecmmuConfig, behind: int) -> None:
    """Asked in each cycle after an invalidation that is still swept; one that comes after the question changes nothing."""
    used, kill = (1, 3), Kill(2, 3)

    async def bench(it: TlbBench) -> None:
        await it.put(Entry(3, 1))
        assert await it.look_up(*used) == 1
        await it.cycle(kill=kill)
        await it.idle(behind)
        assert not await it.young(*used)
        await it.settle()
        await it.put(Entry(3, 2))
        assert await it.look_up(*used) == 2
        await it.cycle(ask=used)
        await it.idle(behind)
        await it.cycle(kill=kill)
        await it.idle(4)
        assert it.answers[1:] == [1]

    run(bench, config)


@EACH
@pytest.mark.parametrize("behind", range(4))
def test_the_dead_are_not_told_of_beside_another_invalidation(
    config: SecmmuConfig, behind: int
) -> None:
    """What the sweep has not yet reached is dead to a question, whatever comes right after the question."""

    async def bench(it: TlbBench) -> None:
        await it.put(Entry(3, 1))
        assert await it.look_up(1, 3) == 1
        await it.cycle(kill=Kill(2, 3))
        await it.cycle(ask=(1, 3))
        await it.idle(behind)
        await it.cycle(kill=Kill(0, TOP, asid=3))
        await it.idle(4)
        assert it.answers == [0]

    run(bench, config)


@EACH
def test_a_fill_takes_the_place_of_what_the_same_access_would_match(config: SecmmuConfig) -> None:
    """Also what another asid of the group filled, when either is global."""

    async def bench(it: TlbBench) -> None:
        await it.put(Entry(9, 1))
        await it.put(Entry(9, 2))
        assert await it.look_up(1, 9) == 2
        await it.put(Entry(9, 3, asid=2, shared=1))
        assert await it.look_up(1, 9) == 3
        await it.cycle(kill=Kill(9, 9, asid=2, page=1))
        await it.idle(3)
        assert await it.look_up(1, 9) is None

    run(bench, config)


@EACH
def test_the_observer_sees_every_entry_come_and_go(config: SecmmuConfig) -> None:
    """An index that is filled was free or is replaced; what was cleared was filled before."""
    rng = random.Random(5)
    vpns = [0, 1, 4, 5, 8, HUGE, HUGE + 4, HUGE + 8, TOP - 3]

    async def bench(it: TlbBench) -> None:
        ctx, tlb = it.ctx, it.tlb
        shown: dict[int, int] = {}

        def watch() -> None:
            died, base = ctx.get(tlb.died), ctx.get(tlb.died_base)
            for index in (base + i for i in range(64) if died >> i & 1):
                assert shown.pop(index, None) is not None
            if ctx.get(tlb.filled):
                index = ctx.get(tlb.fill_shown.index)
                assert index < tlb.config.tlb_entries
                shown[index] = ctx.get(tlb.fill_shown.entry.ppn)

        it.watch = watch
        for cycle in range(900):
            entry = random_entry(rng, vpns, large=True)
            kill = random_kill(rng, vpns, TOP) if rng.random() < 0.2 and cycle < 850 else None
            await it.cycle(fill=entry if cycle < 850 else None, kill=kill)
        for vpn in vpns:
            for asid in (1, 2, 3):
                found = await it.look_up(asid, vpn)
                assert found is None or found in shown.values()

    run(bench, config)
