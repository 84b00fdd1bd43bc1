"""Block RAM: what is written is shown from the cycle after its reading on, until the next; not what is being written."""

from collections.abc import Awaitable, Callable

import pytest
from amaranth.lib import data
from amaranth.sim import Simulator, SimulatorContext

from secmmu.block_ram import BlockRam

NUMBER = data.StructLayout({"number": 8})


def simulate(ram: BlockRam, bench: Callable[[SimulatorContext], Awaitable[None]]) -> None:
    """Run a testbench."""
    simulator = Simulator(ram)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_an_item_is_shown_until_the_next_is_read() -> None:
    """Writes elsewhere, or to the same place afterwards, do not change what is shown."""
    ram = BlockRam(NUMBER, depth=5, observe=True)

    async def write(ctx: SimulatorContext, place: int, number: int) -> None:
        ctx.set(ram.write, 1)
        ctx.set(ram.write_place, place)
        ctx.set(ram.item, {"number": number})
        await ctx.tick()
        ctx.set(ram.write, 0)

    async def read(ctx: SimulatorContext, place: int) -> int:
        ctx.set(ram.read, 1)
        ctx.set(ram.read_place, place)
        await ctx.tick()
        ctx.set(ram.read, 0)
        return ctx.get(ram.shown.number)

    async def bench(ctx: SimulatorContext) -> None:
        for place in range(5):
            await write(ctx, place, 10 + place)
        assert [await read(ctx, place) for place in (4, 0, 2)] == [14, 10, 12]
        ctx.set(ram.read_place, 3)
        await write(ctx, 1, 99)
        await write(ctx, 2, 98)
        assert ctx.get(ram.shown.number) == 12
        assert [await read(ctx, place) for place in (1, 2)] == [99, 98]

    simulate(ram, bench)


@pytest.mark.parametrize("place", [1, 2])
def test_a_read_beside_a_write_of_the_same_place_shows_nothing_that_was_written(place: int) -> None:
    """So that a test sees whoever uses it; elsewhere the write is not felt."""
    ram = BlockRam(NUMBER, depth=5, observe=True)

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(ram.write, 1)
        ctx.set(ram.write_place, 1)
        ctx.set(ram.item, {"number": 0x12})
        await ctx.tick()
        ctx.set(ram.item, {"number": 0x34})
        ctx.set(ram.read, 1)
        ctx.set(ram.read_place, place)
        await ctx.tick()
        shown = ctx.get(ram.shown.number)
        assert shown == (0xFF ^ 0x12 if place == 1 else 0)

    simulate(ram, bench)
