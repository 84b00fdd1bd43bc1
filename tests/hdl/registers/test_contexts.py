"""The context table: rows as written, defaults elsewhere."""

from typing import Any

from amaranth.lib import wiring
from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.internals import ContextLayout
from secmmu.registers.contexts import Contexts

CONFIG = SecmmuConfig(asid_bits=4, contexts=4)
ROW: dict[str, Any] = {"root_ppn": 0xABC_DEF0_1234, "global_group": 0x5A, "stall": 1, "mode": 9}
FULL = (1 << 8) - 1


async def write(
    ctx: SimulatorContext, contexts: Contexts, asid: int, row: int, strobes: int
) -> None:
    """Write bytes of a row."""
    ctx.set(contexts.bus.asid, asid)
    ctx.set(contexts.bus.word.as_value(), row)
    ctx.set(contexts.bus.strobes, strobes)
    await ctx.tick()
    ctx.set(contexts.bus.strobes, 0)


async def read(ctx: SimulatorContext, port: wiring.PureInterface, asid: int) -> dict[str, Any]:
    """Read a row; it stays after ``en``."""
    ctx.set(port.asid, asid)
    ctx.set(port.en, 1)
    await ctx.tick()
    ctx.set(port.en, 0)
    ctx.set(port.asid, asid ^ 1)
    await ctx.tick()
    return {name: ctx.get(getattr(port.row, name)) for name in ROW}


def default(asid: int) -> dict[str, int]:
    """Return a row that was never written, without its root, which the register bus alone shows as 0."""
    return {"global_group": asid, "stall": 0, "mode": 0}


def test_rows() -> None:
    """Every reader sees what was written, of the bytes written; beyond the table there is nothing."""
    contexts = Contexts(CONFIG)

    async def testbench(ctx: SimulatorContext) -> None:
        ports = (contexts.lookup, contexts.command, contexts.bus)
        for port in ports:
            assert (await read(ctx, port, 2)).items() >= default(2).items()
        assert (await read(ctx, contexts.bus, 2))["root_ppn"] == 0
        row = ContextLayout().const({**ROW}).as_bits()
        # The first write of a few bytes leaves the others as they are by default.
        await write(ctx, contexts, 3, row, 0b1000_0000)
        assert await read(ctx, contexts.lookup, 3) == default(3) | {
            "root_ppn": 0,
            "mode": 9,
        }
        await write(ctx, contexts, 1, row, FULL)
        for port in ports:
            assert await read(ctx, port, 1) == ROW
            assert (await read(ctx, port, 2)).items() >= default(2).items()
        for asid in (4, 5, 13):
            for port in (contexts.lookup, contexts.command):
                assert (await read(ctx, port, asid)).items() >= default(asid).items()

    simulate(contexts, testbench)


def test_a_read_beside_the_write_gets_what_was_there_before() -> None:
    """Also beside the first write of a row."""
    contexts = Contexts(CONFIG)

    async def testbench(ctx: SimulatorContext) -> None:
        ctx.set(contexts.lookup.asid, 2)
        ctx.set(contexts.lookup.en, 1)
        before = default(2)
        for mode in (8, 9):
            row = ROW | {"mode": mode}
            await write(ctx, contexts, 2, ContextLayout().const(row).as_bits(), FULL)
            assert {name: ctx.get(getattr(contexts.lookup.row, name)) for name in before} == before
            before = row

    simulate(contexts, testbench)


def simulate(contexts: Contexts, testbench: Any) -> None:
    """Run ``testbench``."""
    simulator = Simulator(contexts)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
