"""The in-flight table by itself: counts per translation, closing, order per id."""

from typing import Any

import pytest
from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.uses import Uses

CONFIG = SecmmuConfig(use_slots=4, id_bits=2)


def run(testbench: Any, config: SecmmuConfig = CONFIG) -> None:
    """Simulate ``testbench(ctx, uses)``."""
    uses = Uses(config)

    async def bench(ctx: SimulatorContext) -> None:
        await testbench(ctx, uses)

    simulator = Simulator(uses)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def use(vpn: int, burst_id: int = 0, *, level: int = 0, asid: int = 1) -> dict[str, Any]:
    """Return a burst through the translation of ``vpn``."""
    translation = {"vpn": vpn, "level": level, "shared": 0, "asid": asid, "group": asid}
    return {"translation": translation, "id": burst_id, "len": 3}


async def begin(ctx: SimulatorContext, port: Any, value: dict[str, Any]) -> bool:
    """Offer a burst for one cycle; return whether it was taken."""
    ctx.set(port.payload, value)
    ctx.set(port.valid, 1)
    _, _, taken = await ctx.tick().sample(port.ready)
    ctx.set(port.valid, 0)
    return bool(taken)


async def end(ctx: SimulatorContext, uses: Uses, port: Any, burst_id: int) -> int:
    """End the oldest burst of an id; return the slots still in use afterwards."""
    ctx.set(port.id, burst_id)
    ctx.set(port.valid, 1)
    _, _, busy = await ctx.tick().sample(uses.busy_next)
    ctx.set(port.valid, 0)
    return busy


async def close(ctx: SimulatorContext, uses: Uses, first: int, last: int) -> int:
    """Apply an invalidation for one cycle; return the slots it waits for."""
    ctx.set(uses.kill, {"valid": 1, "asid": 1, "group": 1, "first": first, "last": last})
    _, _, closing = await ctx.tick().sample(uses.closing)
    ctx.set(uses.kill, {"valid": 0})
    return closing


def test_bursts_of_one_translation_share_a_slot_until_it_is_closed() -> None:
    """After an invalidation the same page is counted in another slot."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        assert await begin(ctx, uses.read, use(5))
        assert await begin(ctx, uses.write, use(5, 1))
        assert await close(ctx, uses, 5, 5) == 0b0001
        assert await begin(ctx, uses.read, use(5, 2))
        assert await end(ctx, uses, uses.read_end, 0) == 0b0011
        assert await end(ctx, uses, uses.write_end, 1) == 0b0010
        assert await close(ctx, uses, 5, 5) == 0b0010
        assert await end(ctx, uses, uses.read_end, 2) == 0
        assert ctx.get(uses.none)

    run(bench)


def test_an_invalidation_waits_for_overlapping_spans_only() -> None:
    """A page inside a 2 MiB use closes it; the neighbour's use is left alone."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        await begin(ctx, uses.read, use(512, 0, level=1))
        await begin(ctx, uses.read, use(5, 1))
        await begin(ctx, uses.read, use(600, 2, asid=2))
        assert await close(ctx, uses, 600, 600) == 0b0001
        assert await close(ctx, uses, 4, 4) == 0
        assert await close(ctx, uses, 600, 600) == 0b0001

    run(bench)


def test_a_use_that_ends_beside_the_invalidation_is_not_waited_for() -> None:
    """The last end in the very cycle of the kill leaves nothing to wait for."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        await begin(ctx, uses.read, use(5, 3))
        ctx.set(uses.read_end.id, 3)
        ctx.set(uses.read_end.valid, 1)
        assert await close(ctx, uses, 5, 5) == 0

    run(bench)


def test_bursts_of_an_id_end_in_order() -> None:
    """The ends of one id free the slots in the order in which its bursts began."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        for vpn in (5, 6, 7):
            await begin(ctx, uses.read, use(vpn, 1))
        assert [await end(ctx, uses, uses.read_end, 1) for _ in range(3)] == [0b110, 0b100, 0]

    run(bench)


@pytest.mark.parametrize("vpns", [range(5), [7] * 9])
def test_a_burst_waits_when_slots_or_the_order_of_its_id_are_full(vpns: Any) -> None:
    """Four slots; eight bursts of an id."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        taken = [await begin(ctx, uses.read, use(vpn)) for vpn in vpns]
        assert taken == [True] * (len(vpns) - 1) + [False]
        await end(ctx, uses, uses.read_end, 0)
        assert await begin(ctx, uses.read, use(vpns[-1]))

    run(bench)


def test_directions_alternate_when_both_ask() -> None:
    """Neither direction starves the other."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        for port in (uses.read, uses.write):
            ctx.set(port.payload, use(5))
            ctx.set(port.valid, 1)
        grants = []
        for _ in range(4):
            _, _, read, write = await ctx.tick().sample(uses.read.ready, uses.write.ready)
            grants.append((read, write))
        assert grants == [(1, 0), (0, 1), (1, 0), (0, 1)]

    run(bench)
