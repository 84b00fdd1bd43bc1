"""The walker by itself: the privileged spec's checks, and what an invalidation does to a walk."""

from typing import Any

import pytest
from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.internals import Outcome
from secmmu.layouts import Cause, PteLayout, Response
from secmmu.walker import Walker

CONFIG = SecmmuConfig()
VPN = 3 << 18 | 5 << 9 | 7
ROOT, MIDDLE, LAST = 0x10, 0x11, 0x12
LEAF = {"v": 1, "r": 1, "w": 1, "u": 1, "a": 1, "d": 1, "ppn": 0x4_0000 << 10}


def pte(**fields: int) -> int:
    """Return a page-table entry."""
    return PteLayout().const(fields).as_bits()


def tables(level: int, leaf: dict[str, int], **pointer: int) -> list[int]:
    """Return the entries that a walk reads down to a leaf at ``level``."""
    return [*[pte(v=1, ppn=table, **pointer) for table in (MIDDLE, LAST)][: 2 - level], pte(**leaf)]


async def walk(
    ctx: SimulatorContext,
    walker: Walker,
    entries: list[int],
    *,
    write: bool = False,
    kill: tuple[int, dict[str, int]] | None = None,
    resp: Response = Response.OKAY,
) -> tuple[Outcome, Cause, dict[str, Any]]:
    """Walk for VPN; return how it ended and what was seen. ``kill`` is (cycle, invalidation)."""
    door = walker.write if write else walker.read
    ctx.set(door.request.payload, {"vpn": VPN, "asid": 1, "group": 5, "root_ppn": ROOT})
    ctx.set(door.request.valid, 1)
    ctx.set(walker.bus.arready, 1)
    ctx.set(walker.bus.rvalid, 1)
    seen: dict[str, Any] = {"reads": [], "entry": None, "owed": 0}
    waiting = list(entries)
    for cycle in range(30):
        ctx.set(
            walker.kill,
            {"valid": 1, "asid": 1, "group": 5, **kill[1]} if kill and kill[0] == cycle else {},
        )
        ctx.set(walker.fill.busy, ctx.get(walker.kill.valid))
        if ctx.get(walker.bus.arvalid):
            seen["reads"].append(ctx.get(walker.bus.araddr))
            ctx.set(walker.bus.rdata, waiting.pop(0))
            ctx.set(walker.bus.rresp, resp if not waiting else Response.OKAY)
        if ctx.get(walker.fill.en):
            seen["entry"] = walker.fill.entry.shape().from_bits(
                ctx.get(walker.fill.entry.as_value())
            )
        seen["owed"] |= ctx.get(walker.owed)
        if ctx.get(door.done):
            result = ctx.get(door.result.outcome), ctx.get(door.result.cause), seen
            await ctx.tick()
            assert ctx.get(walker.idle)
            return result
        await ctx.tick()
        ctx.set(door.request.valid, 0)
    raise AssertionError("the walk did not end")


def run(testbench: Any, config: SecmmuConfig = CONFIG) -> None:
    """Simulate ``testbench(ctx, walker)``."""
    walker = Walker(config)

    async def bench(ctx: SimulatorContext) -> None:
        await testbench(ctx, walker)

    simulator = Simulator(walker)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_each_leaf_size_is_filled_as_its_own_span(level: int) -> None:
    """The reads go to the right words; the entry is aligned and carries the leaf's frame."""
    addresses = [ROOT << 12 | 3 * 8, MIDDLE << 12 | 5 * 8, LAST << 12 | 7 * 8]

    async def bench(ctx: SimulatorContext, walker: Walker) -> None:
        outcome, _, seen = await walk(ctx, walker, tables(level, LEAF))
        assert outcome == Outcome.FILLED
        assert seen["reads"] == addresses[: 3 - level]
        translation = seen["entry"].translation
        assert (translation.vpn, translation.level) == (VPN >> 9 * level << 9 * level, level)
        assert (translation.asid, translation.group, translation.shared) == (1, 5, 0)
        assert (seen["entry"].ppn, seen["entry"].writable) == (LEAF["ppn"], 1)

    run(bench)


def test_global_is_inherited_from_a_pointer() -> None:
    """G in a non-leaf entry makes everything below it global."""

    async def bench(ctx: SimulatorContext, walker: Walker) -> None:
        assert (await walk(ctx, walker, tables(0, LEAF, g=1)))[2]["entry"].translation.shared == 1

    run(bench)


GRANTS: tuple[tuple[int, dict[str, int], bool, bool], ...] = (
    (0, {"v": 0}, False, False),
    (0, {"u": 0}, False, False),
    (0, {"a": 0}, False, False),
    (0, {"d": 0}, True, False),
    (0, {"w": 0}, True, False),
    (0, {"w": 0, "d": 0}, True, False),
    (0, {"r": 0}, False, False),
    (0, {"r": 0, "w": 0, "x": 1}, False, False),
    (0, {"x": 1, "g": 1, "rsw": 3}, True, True),
    (0, {"n": 1}, False, False),
    (0, {"pbmt": 1}, False, False),
    (0, {"reserved": 64}, False, False),
    (0, {"r": 0, "w": 0, "u": 0, "a": 0, "d": 0}, False, False),
    (1, {"ppn": 0x1FF}, False, False),
    (2, {"ppn": 0x3FE00}, False, False),
)
"""Level and fields of a leaf; whether it may be read, and written."""


def test_a_leaf_grants_what_the_spec_says() -> None:
    """A page fault, with the cause of its direction, everywhere else."""

    async def bench(ctx: SimulatorContext, walker: Walker) -> None:
        for level, change, reads, writes in GRANTS:
            for write, granted in ((False, reads), (True, writes)):
                outcome, cause, _ = await walk(
                    ctx, walker, tables(level, LEAF | change), write=write
                )
                assert outcome == (Outcome.FILLED if granted else Outcome.FAULT), (
                    level,
                    change,
                    write,
                )
                if not granted:
                    assert cause == (Cause.STORE_PAGE if write else Cause.LOAD_PAGE)

    run(bench)


def test_reserved_bits_of_a_pointer_are_refused() -> None:
    """A, D and U are reserved in non-leaf entries."""

    async def bench(ctx: SimulatorContext, walker: Walker) -> None:
        for field in ("a", "d", "u", "n", "pbmt", "reserved"):
            outcome, cause, seen = await walk(ctx, walker, tables(0, LEAF, **{field: 1}))
            assert (outcome, cause, len(seen["reads"])) == (Outcome.FAULT, Cause.LOAD_PAGE, 1)

    run(bench)


@pytest.mark.parametrize("resp", [Response.SLVERR, Response.DECERR])
@pytest.mark.parametrize("write", [False, True])
def test_a_failed_table_read_is_an_access_fault(resp: Response, write: bool) -> None:
    """Even where the data looks like a good leaf."""

    async def bench(ctx: SimulatorContext, walker: Walker) -> None:
        outcome, cause, _ = await walk(ctx, walker, tables(0, LEAF), write=write, resp=resp)
        assert (outcome, cause) == (
            Outcome.FAULT,
            Cause.STORE_ACCESS if write else Cause.LOAD_ACCESS,
        )

    run(bench)


WALK_CYCLES = range(1, 11)
"""Cycles of a three-level walk on a bus without latency, its fill included."""


def page(vpn: int, **fields: int) -> dict[str, int]:
    """Return an invalidation of one page."""
    return {"first": vpn, "last": vpn, **fields}


@pytest.mark.parametrize(
    "invalidation", [page(VPN), page(VPN, everything=1, asid=9), page(VPN, asid=9)]
)
def test_an_overlapping_invalidation_kills_the_walk_in_every_cycle(
    invalidation: dict[str, int],
) -> None:
    """Its own asid's, everyone's, and its group's, since the leaf may be global."""

    async def bench(ctx: SimulatorContext, walker: Walker) -> None:
        for cycle in WALK_CYCLES:
            outcome, _, seen = await walk(ctx, walker, tables(0, LEAF), kill=(cycle, invalidation))
            assert outcome == Outcome.KILLED
            assert seen["entry"] is None
            # Between a table's data and the next address nothing is owed.
            assert seen["owed"] == (cycle not in (3, 6, 9, 10))

    run(bench)


@pytest.mark.parametrize("invalidation", [page(VPN + 1, leaf_only=1), page(VPN, asid=9, group=9)])
def test_another_invalidation_leaves_the_walk_alone(invalidation: dict[str, int]) -> None:
    """Nothing is owed to it either."""

    async def bench(ctx: SimulatorContext, walker: Walker) -> None:
        for cycle in WALK_CYCLES:
            outcome, _, seen = await walk(ctx, walker, tables(0, LEAF), kill=(cycle, invalidation))
            assert (outcome, seen["owed"]) == (Outcome.FILLED, 0)

    run(bench)


@pytest.mark.parametrize(("level", "distance"), [(1, 1), (1, 400), (2, 513)])
def test_an_invalidation_in_the_span_of_a_superpage_kills_its_fill(
    level: int, distance: int
) -> None:
    """The leaf turns out to span a page that was invalidated while it was looked for."""

    async def bench(ctx: SimulatorContext, walker: Walker) -> None:
        for cycle in range(1, 4 + 3 * (2 - level)):
            other = page(VPN + distance, leaf_only=1)
            outcome, _, _ = await walk(ctx, walker, tables(level, LEAF), kill=(cycle, other))
            assert outcome == Outcome.KILLED

    run(bench)


def test_an_invalidation_waits_for_a_walk_that_may_hold_its_table() -> None:
    """I17: a neighbour's walk is not killed, but the table that both use is not free yet."""

    async def bench(ctx: SimulatorContext, walker: Walker) -> None:
        for cycle, other, owed in ((2, VPN + 513, 1), (8, VPN + 1, 1), (8, VPN + 513, 0)):
            outcome, _, seen = await walk(ctx, walker, tables(0, LEAF), kill=(cycle, page(other)))
            assert (outcome, seen["owed"]) == (Outcome.FILLED, owed)

    run(bench)


def test_a_held_leaf_is_not_filled() -> None:
    """The question is asked for the whole span of the leaf."""

    async def bench(ctx: SimulatorContext, walker: Walker) -> None:
        ctx.set(walker.hold.held, 1)
        outcome, _, seen = await walk(ctx, walker, tables(1, LEAF))
        assert (outcome, seen["entry"]) == (Outcome.HELD, None)

    run(bench)


@pytest.mark.parametrize(
    ("mutant", "survives"),
    [("rtl-no-walk-kill", [1, 2, 3, 4, 5, 6, 7, 8, 9]), ("rtl-no-fill-kill", [10])],
)
def test_what_the_mutants_break(mutant: str, survives: list[int]) -> None:
    """The walk in progress, or the fill in the very cycle, and nothing else."""

    async def bench(ctx: SimulatorContext, walker: Walker) -> None:
        filled = []
        for cycle in WALK_CYCLES:
            outcome, _, _ = await walk(ctx, walker, tables(0, LEAF), kill=(cycle, page(VPN)))
            filled += [cycle] if outcome == Outcome.FILLED else []
        assert filled == survives

    run(bench, SecmmuConfig(mutant=mutant))
