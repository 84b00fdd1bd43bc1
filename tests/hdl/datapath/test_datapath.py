"""The datapath by itself: latency, throughput, order, W data, refusals, liveness."""

from typing import Any

import pytest

from secmmu.config import SecmmuConfig
from tests.hdl.datapath.datapath_bench import PAGE, DatapathBench

FLAT = SecmmuConfig(
    asid_bits=2,
    contexts=4,
    id_bits=2,
    outstanding=64,
    tlb_sets=0,
    use_slots=4,
    walks=2,
    waiters=6,
    stalls=2,
    write_beats=8,
    commands=4,
    filters=2,
    observe=False,
)
DEEP = SecmmuConfig(
    asid_bits=2,
    contexts=4,
    id_bits=2,
    outstanding=64,
    use_slots=6,
    walks=4,
    waiters=12,
    stalls=2,
    write_beats=8,
    commands=4,
    filters=2,
    observe=False,
)
CONFIGS = {"flat": FLAT, "deep": DEEP}


def mapped(config: SecmmuConfig, pages: int = 4, **options: Any) -> DatapathBench:
    """Make a bench with some pages of asid 1, the last one read-only."""
    bench = DatapathBench(config, **options)
    for page in range(pages):
        bench.tables[1, page] = (0x100 + page, page != pages - 1)
    return bench


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hit_takes_the_lookup_and_one_cycle(name: str) -> None:
    """From ARVALID to the translated ARVALID."""
    config = CONFIGS[name]
    bench = mapped(config)
    bench.tlb = dict(bench.tables)

    async def run(bench: DatapathBench, ctx: Any) -> None:
        access = bench.issue(False, 8)
        await bench.until_done(ctx)
        assert access.taken is not None
        assert access.left == access.taken + config.lookup_latency + 1

    bench.run(run)
    bench.check()


@pytest.mark.parametrize("kind", ["reads", "writes", "mixed"])
@pytest.mark.parametrize("name", CONFIGS)
def test_hits_pass_one_a_cycle(name: str, kind: str) -> None:
    """Single-beat bursts to as many pages as there are slots, all ids."""
    config = CONFIGS[name]
    pages = config.use_slots
    bench = mapped(config, pages + 1, latency=2)
    bench.tlb = dict(bench.tables)

    async def run(bench: DatapathBench, ctx: Any) -> None:
        for number in range(150):
            write = kind == "writes" or (kind == "mixed" and number % 2 == 1)
            bench.issue(write, number % pages * PAGE + 8 * (number % 64), id=number // 2 % 4)
        await bench.until_done(ctx)
        taken = [access.taken for access in bench.accesses if access.taken is not None]
        assert max(taken) - min(taken) <= 152

    bench.run(run)
    bench.check()


@pytest.mark.parametrize("pressed", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_everything_at_random(name: str, pressed: bool) -> None:
    """Hits, misses, faults, crossing bursts, all ids, late data: each gets its answer, in order, with its data."""
    bench = mapped(CONFIGS[name], 9, seed=pressed)
    rng = bench.rng
    if pressed:
        channels = ("ar", "aw", "w", "r", "b", "memory arready", "memory awready")
        channels += ("memory wready", "device rready", "device bready")
        bench.pace = dict.fromkeys(channels, 0.4)

    async def run(bench: DatapathBench, ctx: Any) -> None:
        for _ in range(120):
            beats = rng.choice((1, 1, 2, 4, 12))
            page = rng.randrange(10)
            offset = rng.choice((0, 8, 64, PAGE - 8))
            write = rng.random() < 0.5
            bench.issue(write, page * PAGE + offset, id=rng.randrange(4), beats=beats)
        await bench.until_done(ctx, 20_000)
        for _ in range(10):
            await bench.step(ctx)
        assert ctx.get(bench.dut.none)

    bench.run(run)
    bench.check()
