"""The invalidation unit by itself: order, timing, refusals, what a command waits for."""

from typing import Any

import pytest
from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.invalidation import Invalidation
from secmmu.layouts import CommandKind, Phase

CONFIG = SecmmuConfig(commands=3, use_slots=4)
TOP = (1 << 27) - 1


def run(testbench: Any, config: SecmmuConfig = CONFIG) -> None:
    """Simulate ``testbench(ctx, unit)``, nothing being in flight and completions taken at once."""
    unit = Invalidation(config)

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(unit.completion.ready, 1)
        await testbench(ctx, unit)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


async def send(ctx: SimulatorContext, unit: Invalidation, kind: CommandKind, **fields: int) -> None:
    """Present a command for one cycle, in which it must be taken."""
    ctx.set(unit.command.payload, {"kind": kind, "asid": 1, **fields})
    ctx.set(unit.command.valid, 1)
    _, _, ready = await ctx.tick().sample(unit.command.ready)
    assert ready
    ctx.set(unit.command.valid, 0)


async def completions(
    ctx: SimulatorContext, unit: Invalidation, cycles: int
) -> list[tuple[int, int, Phase]]:
    """Return (cycle from now, tag, phase) of what completes in the next cycles."""
    found = []
    for cycle in range(cycles):
        if ctx.get(unit.completion.valid):
            found.append(
                (
                    cycle,
                    ctx.get(unit.completion.payload.tag),
                    ctx.get(unit.completion.payload.phase),
                )
            )
        await ctx.tick()
    return found


@pytest.mark.parametrize(
    "kind", [CommandKind.PAGE, CommandKind.RANGE, CommandKind.ASID, CommandKind.ALL]
)
def test_a_command_that_waits_for_nothing_takes_constant_time(kind: CommandKind) -> None:
    """Killed one cycle after the handshake, invalidated after two, drained after three."""

    async def bench(ctx: SimulatorContext, unit: Invalidation) -> None:
        await send(ctx, unit, kind, first=5, last=9, tag=7)
        assert ctx.get(unit.kill.valid)
        assert ctx.get(unit.kill.everything) == (kind == CommandKind.ALL)
        span = {CommandKind.PAGE: (5, 5), CommandKind.RANGE: (5, 9)}.get(kind, (0, TOP))
        assert (ctx.get(unit.kill.first), ctx.get(unit.kill.last)) == span
        assert await completions(ctx, unit, 5) == [(1, 7, Phase.INVALIDATED), (2, 7, Phase.DRAINED)]
        assert ctx.get(unit.idle)

    run(bench)


@pytest.mark.parametrize(
    ("first", "last", "clipped"),
    [
        (0, (1 << 52) - 1, (0, TOP)),
        (5, 1 << 30, (5, (1 << 26) - 1)),
        (1 << 30, (1 << 52) - 4, (1 << 26, TOP - 3)),
        (1 << 30, 1 << 31, (1 << 26, (1 << 26) - 1)),
    ],
)
def test_a_range_is_clipped_to_canonical_pages(
    first: int, last: int, clipped: tuple[int, int]
) -> None:
    """A range that lies in the hole kills nothing."""

    async def bench(ctx: SimulatorContext, unit: Invalidation) -> None:
        await send(ctx, unit, CommandKind.RANGE, first=first, last=last)
        assert (ctx.get(unit.kill.first), ctx.get(unit.kill.last)) == clipped

    run(bench)


@pytest.mark.parametrize("kind", [CommandKind.RANGE, CommandKind.RELEASE])
def test_an_empty_range_is_refused_alone(kind: CommandKind) -> None:
    """It neither kills, holds nor releases."""

    async def bench(ctx: SimulatorContext, unit: Invalidation) -> None:
        await send(ctx, unit, kind, first=5, last=4, tag=7, hold=1)
        assert not ctx.get(unit.kill.valid)
        assert not ctx.get(unit.hold.place) | ctx.get(unit.hold.release)
        assert await completions(ctx, unit, 5) == [(1, 7, Phase.REFUSED)]

    run(bench)


def test_drained_waits_for_the_slots_that_were_closed() -> None:
    """A slot that is used again by a new translation is not waited for twice."""

    async def bench(ctx: SimulatorContext, unit: Invalidation) -> None:
        ctx.set(unit.busy_next, 0b0110)
        await send(ctx, unit, CommandKind.PAGE, first=5, tag=7)
        ctx.set(unit.closing, 0b0010)
        await ctx.tick()
        ctx.set(unit.closing, 0)
        assert await completions(ctx, unit, 9) == [(0, 7, Phase.INVALIDATED)]
        ctx.set(unit.busy_next, 0b0100)
        await ctx.tick()
        ctx.set(unit.busy_next, 0b0110)
        assert await completions(ctx, unit, 4) == [(1, 7, Phase.DRAINED)]

    run(bench)


def test_drained_waits_for_a_walk_that_still_owes_its_read() -> None:
    """I17: the table may be freed only when the walker has let go of it."""

    async def bench(ctx: SimulatorContext, unit: Invalidation) -> None:
        await send(ctx, unit, CommandKind.PAGE, first=5, tag=7)
        ctx.set(unit.walk_owed, 1)
        await ctx.tick()
        ctx.set(unit.walk_owed, 0)
        assert await completions(ctx, unit, 9) == [(0, 7, Phase.INVALIDATED)]
        ctx.set(unit.walk_retired, 1)
        await ctx.tick()
        ctx.set(unit.walk_retired, 0)
        assert await completions(ctx, unit, 4) == [(1, 7, Phase.DRAINED)]

    run(bench)


def test_commands_drain_out_of_order_and_a_fence_behind_them() -> None:
    """Equal tags complete separately; the third command is the last that fits."""

    async def bench(ctx: SimulatorContext, unit: Invalidation) -> None:
        ctx.set(unit.busy_next, 0b0001)
        await send(ctx, unit, CommandKind.PAGE, first=5, tag=7)
        ctx.set(unit.closing, 0b0001)
        await send(ctx, unit, CommandKind.PAGE, first=6, tag=7)
        ctx.set(unit.closing, 0)
        await send(ctx, unit, CommandKind.FENCE, tag=9)
        assert not ctx.get(unit.command.ready)
        phases = [item[1:] for item in await completions(ctx, unit, 9)]
        assert phases == [(7, Phase.INVALIDATED), (9, Phase.INVALIDATED), (7, Phase.DRAINED)]
        assert ctx.get(unit.command.ready)
        ctx.set(unit.busy_next, 0)
        phases = [item[1:] for item in await completions(ctx, unit, 9)]
        assert phases == [(7, Phase.DRAINED), (9, Phase.DRAINED)]

    run(bench)


def test_completions_wait_for_their_consumer() -> None:
    """What is offered stays, and nothing is lost."""

    async def bench(ctx: SimulatorContext, unit: Invalidation) -> None:
        ctx.set(unit.completion.ready, 0)
        for tag in (1, 2, 3):
            await send(ctx, unit, CommandKind.PAGE, first=5, tag=tag)
        for _ in range(5):
            await ctx.tick()
            assert ctx.get(unit.completion.payload.tag) == 1
            assert ctx.get(unit.completion.payload.phase) == Phase.INVALIDATED
        ctx.set(unit.completion.ready, 1)
        phases = [item[1:] for item in await completions(ctx, unit, 9)]
        assert phases == [
            (tag, phase) for phase in (Phase.INVALIDATED, Phase.DRAINED) for tag in (1, 2, 3)
        ]

    run(bench)


def test_holds_and_releases_name_the_same_span() -> None:
    """An ASID hold is the whole span; its release says so with ``whole_asid``."""
    whole = (0, (1 << 52) - 1)

    async def bench(ctx: SimulatorContext, unit: Invalidation) -> None:
        for kind, fields, span in (
            (CommandKind.PAGE, {"hold": 1}, (5, 5)),
            (CommandKind.RANGE, {"hold": 1}, (5, 9)),
            (CommandKind.ASID, {"hold": 1}, whole),
            (CommandKind.RELEASE, {}, (5, 9)),
            (CommandKind.RELEASE, {"whole_asid": 1}, whole),
        ):
            await send(ctx, unit, kind, first=5, last=9, **fields)
            released = kind == CommandKind.RELEASE
            assert (ctx.get(unit.hold.place), ctx.get(unit.hold.release)) == (
                not released,
                released,
            )
            assert (ctx.get(unit.hold.first), ctx.get(unit.hold.last)) == span
            await completions(ctx, unit, 5)

    run(bench)


@pytest.mark.parametrize(
    ("mutant", "asid", "phases"),
    [
        (None, 3, [Phase.INVALIDATED]),
        ("rtl-no-drain", 3, [Phase.INVALIDATED, Phase.DRAINED]),
        ("rtl-no-asid-compare", 0, [Phase.INVALIDATED]),
    ],
)
def test_what_the_mutants_break(mutant: str | None, asid: int, phases: list[Phase]) -> None:
    """Only the named fault is there."""

    async def bench(ctx: SimulatorContext, unit: Invalidation) -> None:
        ctx.set(unit.busy_next, 1)
        await send(ctx, unit, CommandKind.PAGE, asid=3, first=5)
        assert ctx.get(unit.kill.asid) == asid
        ctx.set(unit.closing, 1)
        await ctx.tick()
        ctx.set(unit.closing, 0)
        assert [item[2] for item in await completions(ctx, unit, 9)] == phases

    run(bench, SecmmuConfig(commands=3, use_slots=4, mutant=mutant))
