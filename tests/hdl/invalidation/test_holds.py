"""The hold filters by themselves: nesting, running out, releasing."""

from typing import Any

from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.invalidation.holds import Holds

CONFIG = SecmmuConfig(filters=2)


def run(testbench: Any) -> None:
    """Simulate ``testbench(ctx, holds)``."""
    holds = Holds(CONFIG)

    async def bench(ctx: SimulatorContext) -> None:
        await testbench(ctx, holds)

    simulator = Simulator(holds)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


async def apply(
    ctx: SimulatorContext, holds: Holds, what: str, first: int, last: int, asid: int = 1
) -> bool:
    """Place or release a hold; return whether it took its whole asid."""
    ctx.set(holds.hold, {what: 1, "asid": asid, "group": 5, "first": first, "last": last})
    await ctx.tick()
    ctx.set(holds.hold, {})
    _, _, overflowed = await ctx.tick().sample(holds.overflowed)
    return bool(overflowed)


def held(
    ctx: SimulatorContext,
    holds: Holds,
    first: int,
    last: int | None = None,
    *,
    asid: int = 1,
    shared: int = 0,
) -> bool:
    """Return whether the span is held for this asid, whose group is 5."""
    ctx.set(holds.span.asid, asid)
    ctx.set(holds.span.group, 5)
    ctx.set(holds.span.shared, shared)
    ctx.set(holds.span.first, first)
    ctx.set(holds.span.last, first if last is None else last)
    return bool(ctx.get(holds.span.held))


def test_a_hold_covers_its_range_for_its_asid_until_released() -> None:
    """Both ends are inclusive; a global leaf is held for the whole group."""

    async def bench(ctx: SimulatorContext, holds: Holds) -> None:
        await apply(ctx, holds, "place", 10, 12)
        assert [held(ctx, holds, vpn) for vpn in (9, 10, 12, 13)] == [False, True, True, False]
        assert held(ctx, holds, 0, 511)
        assert not held(ctx, holds, 11, asid=2)
        assert held(ctx, holds, 11, asid=2, shared=1)
        await apply(ctx, holds, "release", 10, 11)
        assert held(ctx, holds, 11)
        await apply(ctx, holds, "release", 10, 12)
        assert not held(ctx, holds, 11)

    run(bench)


def test_identical_holds_nest() -> None:
    """As many releases as holds, and one filter for all."""

    async def bench(ctx: SimulatorContext, holds: Holds) -> None:
        for _ in range(3):
            assert not await apply(ctx, holds, "place", 10, 12)
        assert not await apply(ctx, holds, "place", 20, 20)
        for _ in range(2):
            await apply(ctx, holds, "release", 10, 12)
        assert held(ctx, holds, 11)
        await apply(ctx, holds, "release", 10, 12)
        assert not held(ctx, holds, 11)
        assert held(ctx, holds, 20)

    run(bench)


def test_the_whole_asid_is_held_when_filters_run_out() -> None:
    """Two filters, four holds: the asid is free again after the two releases without a filter."""

    async def bench(ctx: SimulatorContext, holds: Holds) -> None:
        overflowed = [await apply(ctx, holds, "place", vpn, vpn) for vpn in (1, 2, 3, 4)]
        assert overflowed == [False, False, True, True]
        assert held(ctx, holds, 99)
        assert not held(ctx, holds, 99, asid=2)
        assert held(ctx, holds, 99, asid=2, shared=1)
        await apply(ctx, holds, "release", 3, 3)
        assert held(ctx, holds, 99)
        await apply(ctx, holds, "release", 4, 4)
        # What is told of the release comes when the counters have followed.
        assert held(ctx, holds, 99)
        assert ctx.get(holds.released)
        await ctx.tick()
        assert not held(ctx, holds, 99)
        assert held(ctx, holds, 2)

    run(bench)


def test_clearing_forgets_filters_and_overflows() -> None:
    """Also the count of an overflow, which starts again from one."""

    async def bench(ctx: SimulatorContext, holds: Holds) -> None:
        for vpn in (1, 2, 3, 4):
            await apply(ctx, holds, "place", vpn, vpn)
        ctx.set(holds.clear, 1)
        await ctx.tick()
        ctx.set(holds.clear, 0)
        assert not held(ctx, holds, 0, 1 << 20)
        for vpn in (1, 2, 3):
            await apply(ctx, holds, "place", vpn, vpn)
        await apply(ctx, holds, "release", 3, 3)
        await ctx.tick()
        assert not held(ctx, holds, 99)

    run(bench)
