"""Replacement: better than random on traces that loop and on skewed ones; a bit of arithmetic."""

import random
from collections.abc import Iterator

import pytest

from secmmu.config import SecmmuConfig
from tests.hdl.tlb.tlb_model import Entry, Kill, TlbBench, run

SETS, WAYS = 8, 4
PAGES = SecmmuConfig(tlb_sets=SETS, tlb_ways=WAYS, large_entries=1)
ASSOCIATIVE = SecmmuConfig(tlb_sets=0, large_entries=16)
DIRECT = SecmmuConfig(tlb_sets=2, tlb_ways=1, large_entries=1)


def loop(pages: int, length: int) -> list[int]:
    """Return a walk round an array of so many pages."""
    return [i % pages for i in range(length)]


def zipf(pages: int, length: int) -> list[int]:
    """Return a skewed choice of pages."""
    rng = random.Random(3)
    names = rng.sample(range(4096), pages)
    return rng.choices(names, [1 / (rank + 1) for rank in range(pages)], k=length)


def random_hits(trace: list[int], sets: int, ways: int) -> int:
    """Return how many accesses hit when a random way is replaced, on average over five runs."""
    total = 0
    for seed in range(5):
        rng = random.Random(seed)
        held: list[list[int]] = [[] for _ in range(sets)]
        for page in trace:
            entries = held[page % sets]
            if page in entries:
                total += 1
            elif len(entries) < ways:
                entries.append(page)
            else:
                entries[rng.randrange(ways)] = page
    return total // 5


def _traces(entries: int) -> Iterator[tuple[str, list[int]]]:
    yield "loop", loop(entries * 3 // 2, entries * 9)
    yield "zipf", zipf(entries * 6, entries * 12)


@pytest.mark.slow
@pytest.mark.parametrize("config", [PAGES, ASSOCIATIVE], ids=["pages", "associative"])
def test_it_keeps_more_than_random_replacement_does(config: SecmmuConfig) -> None:
    """A loop half as large again as the TLB, then a skewed trace over six times as many pages."""
    sets, ways = (SETS, WAYS) if config.tlb_sets else (1, config.large_entries)

    async def bench(it: TlbBench) -> None:
        for name, trace in _traces(sets * ways):
            await it.cycle(kill=Kill(0, (1 << 27) - 1, everything=1))
            await it.settle()
            hits = 0
            for page in trace:
                if await it.look_up(1, page) is not None:
                    hits += 1
                else:
                    await it.put(Entry(page, page + 1))
            assert hits > random_hits(trace, sets, ways), name

    run(bench, config)


def test_a_new_entry_comes_in_where_there_is_no_choice() -> None:
    """The only way of a set is replaced though it was hit."""

    async def bench(it: TlbBench) -> None:
        for page in (0, 2, 4):
            await it.put(Entry(page, page + 1))
            assert [await it.look_up(1, page) for _ in range(2)] == [page + 1] * 2

    run(bench, DIRECT)
