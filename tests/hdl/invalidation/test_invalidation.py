"""The invalidation unit by itself: timing, order, refusals, what a command waits for, and how long."""

import dataclasses
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from secmmu.config import SecmmuConfig
from secmmu.layouts import CommandKind, Phase
from tests.hdl.invalidation.invalidation_bench import InvalidationBench
from tests.hdl.invalidation.invalidation_bench import run as run_with

CONFIG = SecmmuConfig(commands=4, use_slots=4, walks=2)
TOP = (1 << 27) - 1
INVALIDATED, DRAINED, REFUSED, TIMED_OUT = (
    Phase.INVALIDATED,
    Phase.DRAINED,
    Phase.REFUSED,
    Phase.TIMED_OUT,
)


def run(testbench: Callable[[InvalidationBench], Coroutine[Any, Any, None]]) -> None:
    """Simulate ``testbench(bench)`` on a unit of four rows."""
    run_with(testbench, CONFIG)


@pytest.mark.parametrize("kind", [kind for kind in CommandKind if kind != CommandKind.YOUNG])
def test_a_command_that_waits_for_nothing_takes_constant_time(kind: CommandKind) -> None:
    """Invalidated three cycles after the handshake, drained after four."""

    async def bench(it: InvalidationBench) -> None:
        it.send(kind, first=5, last=1 << 20, tag=7)
        await it.cycles(6)
        assert it.since(it.invalidated) == {7: (3, INVALIDATED)}
        assert it.since(it.drained) == {7: (4, DRAINED)}
        assert it.ctx.get(it.unit.idle)

    run(bench)


@pytest.mark.parametrize(
    ("kind", "kill"),
    [
        (CommandKind.PAGE, {"first": 5, "last": 5, "page": 1, "keep_global": 1, "leaf_only": 1}),
        (CommandKind.RANGE, {"first": 5, "last": 9, "keep_global": 1, "leaf_only": 1}),
        (CommandKind.ASID, {"first": 0, "last": TOP, "keep_global": 1, "leaf_only": 1}),
        (CommandKind.ALL, {"first": 0, "last": TOP, "everything": 1, "leaf_only": 1}),
        (CommandKind.CONTEXT, {"first": 0, "last": TOP, "context": 1}),
        (CommandKind.FENCE, None),
        (CommandKind.RELEASE, None),
        (CommandKind.YOUNG, None),
    ],
)
def test_what_a_command_kills(kind: CommandKind, kill: dict[str, int] | None) -> None:
    """Two cycles after the handshake and in no other, announced in the one before; ALL and CONTEXT spare no globals."""

    async def bench(it: InvalidationBench) -> None:
        ctx, unit = it.ctx, it.unit
        it.send(kind, first=5, last=9, keep_global=1, leaf_only=1)
        rest = {"everything": 0, "keep_global": 0, "context": 0, "leaf_only": 0, "page": 0}
        for shown in (unit.coming, unit.kill):
            assert not ctx.get(unit.kill.valid)
            await it.cycle()
            assert ctx.get(shown.valid) == (kill is not None)
            if kill is not None:
                expected = rest | {"asid": 1, "group": 5} | kill
                found = ctx.get(shown)
                assert {name: found[name] for name in expected} == expected
            ahead = shown is unit.coming
            assert ctx.get(unit.asks) == (ahead and kind == CommandKind.YOUNG)
            assert ctx.get(unit.hold.release) == (ahead and kind == CommandKind.RELEASE)
        assert ctx.get(unit.young.ask) == (kind == CommandKind.YOUNG)
        await it.cycle()
        assert not ctx.get(unit.kill.valid) | ctx.get(unit.young.ask)

    run(bench)


@pytest.mark.parametrize(
    ("first", "last", "clipped"),
    [
        (0, (1 << 52) - 1, (0, TOP)),
        (5, 1 << 30, (5, (1 << 26) - 1)),
        (1 << 30, (1 << 52) - 4, (1 << 26, TOP - 3)),
        (1 << 30, 1 << 31, None),
    ],
)
def test_a_range_is_clipped_to_canonical_pages(
    first: int, last: int, clipped: tuple[int, int] | None
) -> None:
    """One that lies in the hole kills and holds nothing, and is answered all the same."""

    async def bench(it: InvalidationBench) -> None:
        ctx, unit = it.ctx, it.unit
        it.send(CommandKind.RANGE, first=first, last=last, hold=1)
        await it.cycle()
        held = ctx.get(unit.hold.place)
        await it.cycle()
        assert held == ctx.get(unit.kill.valid) == (clipped is not None)
        if clipped is not None:
            assert (ctx.get(unit.kill.first), ctx.get(unit.kill.last)) == clipped
        await it.cycles(4)
        assert it.since(it.drained) == {0: (4, DRAINED)}

    run(bench)


def test_a_page_that_is_not_canonical_kills_no_other() -> None:
    """Page 2**30 is not page 2**26, nor page 0."""

    async def bench(it: InvalidationBench) -> None:
        it.send(CommandKind.PAGE, first=1 << 30)
        await it.cycles(2)
        assert not it.ctx.get(it.unit.kill.valid)

    run(bench)


@pytest.mark.parametrize("kind", [CommandKind.RANGE, CommandKind.RELEASE])
def test_an_empty_range_is_refused_alone(kind: CommandKind) -> None:
    """It neither kills, holds nor releases, and is not drained."""

    async def bench(it: InvalidationBench) -> None:
        it.send(kind, first=5, last=4, tag=7, hold=1)
        ctx, unit = it.ctx, it.unit
        await it.cycle()
        assert not ctx.get(unit.hold.place) | ctx.get(unit.hold.release)
        await it.cycle()
        assert not ctx.get(unit.kill.valid)
        await it.cycles(5)
        assert it.since(it.invalidated) == {7: (3, REFUSED)}
        assert it.drained == []
        assert ctx.get(unit.idle)

    run(bench)


def test_drained_waits_for_the_slots_and_walks_that_it_met() -> None:
    """Not for slots in use again later; offered in the cycle after the last one is seen to end."""

    async def bench(it: InvalidationBench) -> None:
        ctx, unit = it.ctx, it.unit
        ctx.set(unit.busy_next, 0b0110)
        it.send(CommandKind.PAGE, first=5, tag=7)
        await it.cycles(2)
        ctx.set(unit.closing, 0b0010)
        ctx.set(unit.owed, 0b10)
        await it.cycle()
        ctx.set(unit.closing, 0)
        ctx.set(unit.owed, 0)
        await it.cycles(4)
        ctx.set(unit.settled, 0b10)
        await it.cycle()
        ctx.set(unit.settled, 0)
        await it.cycle()
        assert it.drained == []
        ctx.set(unit.busy_next, 0b0100)
        ended = it.now
        await it.cycles(3)
        assert [(answer.cycle - ended, answer.phase) for answer in it.drained] == [(1, DRAINED)]

    run(bench)


def test_a_hundred_pages_drain_in_little_more_than_a_hundred_cycles() -> None:
    """Back to back, each invalidated three cycles after its handshake, with five rows only."""

    async def bench(it: InvalidationBench) -> None:
        for tag in range(100):
            it.send(CommandKind.PAGE, first=tag * 77, tag=tag)
        await it.cycles(115)
        assert len(it.drained) == 100
        assert it.drained[-1].cycle - it.accepted[0] <= 105
        assert {cycles for cycles, _phase in it.since(it.invalidated).values()} == {3}

    run_with(bench, dataclasses.replace(CONFIG, commands=5))


def test_a_fence_is_behind_every_earlier_command_and_before_none() -> None:
    """Its DRAINED follows theirs by two cycles; a later command does not wait for it."""

    async def bench(it: InvalidationBench) -> None:
        ctx, unit = it.ctx, it.unit
        ctx.set(unit.busy_next, 1)
        it.send(CommandKind.PAGE, first=5, tag=1)
        it.send(CommandKind.FENCE, tag=2)
        it.send(CommandKind.PAGE, first=6, tag=3)
        await it.cycles(2)
        ctx.set(unit.closing, 1)
        await it.cycle()
        ctx.set(unit.closing, 0)
        await it.cycles(6)
        assert [answer.tag for answer in it.invalidated] == [1, 2, 3]
        assert [answer.tag for answer in it.drained] == [3]
        ctx.set(unit.busy_next, 0)
        await it.cycles(4)
        first, fence = it.drained[1:]
        assert (first.tag, fence.tag) == (1, 2)
        assert fence.cycle == first.cycle + 2

    run(bench)


def test_young_is_answered_with_its_invalidated_in_order() -> None:
    """When the TLB takes three cycles, six after the handshake; what is behind it follows at once."""

    async def bench(it: InvalidationBench) -> None:
        ctx, unit = it.ctx, it.unit
        it.send(CommandKind.YOUNG, first=5, tag=1)
        it.send(CommandKind.YOUNG, first=6, tag=2)
        it.send(CommandKind.YOUNG, first=1 << 30, tag=3)
        it.send(CommandKind.PAGE, first=6, tag=4)
        for cycle in range(12):
            ctx.set(unit.young.answered, cycle in (5, 6))
            ctx.set(unit.young.used, cycle == 6)
            await it.cycle()
        assert it.since(it.invalidated) == {
            tag: (cycles, INVALIDATED) for tag, cycles in ((1, 6), (2, 6), (3, 6), (4, 6))
        }
        assert [answer.young for answer in it.invalidated] == [0, 1, 0, 0]

    run(bench)


def test_the_end_of_a_soft_reset_is_logged_as_a_command_and_answers_nobody() -> None:
    """It takes everything: what software read before it is of an older epoch."""

    async def bench(it: InvalidationBench) -> None:
        ctx, unit = it.ctx, it.unit
        it.send(CommandKind.PAGE, first=5, tag=7)
        await it.cycles(8)
        assert ctx.get(unit.epoch) == 1
        ctx.set(unit.stop, 1)
        ctx.set(unit.clear, 1)
        await it.cycle()
        ctx.set(unit.stop, 0)
        ctx.set(unit.clear, 0)
        assert ctx.get(unit.epoch) == 2
        applied = []
        for _ in range(8):
            kill = ctx.get(unit.kill)
            applied.append((ctx.get(unit.applied), kill.valid & kill.everything))
            await it.cycle()
        assert applied == [(0, 0), (1, 1)] + [(0, 0)] * 6
        assert [answer.tag for answer in it.invalidated] == [7]
        assert ctx.get(unit.idle)

    run(bench)


@pytest.mark.parametrize("timeout", [0, 1, 2, 3, 4, 9, 40])
def test_a_use_that_never_ends_times_out_and_is_never_drained(timeout: int) -> None:
    """The slots that were still waited for are told once, at the earliest when known; the row is free for others."""

    async def bench(it: InvalidationBench) -> None:
        ctx, unit = it.ctx, it.unit
        ctx.set(unit.timeout, timeout)
        ctx.set(unit.busy_next, 0b0110)
        it.send(CommandKind.PAGE, first=5, tag=7)
        await it.cycles(2)
        ctx.set(unit.closing, 0b0110)
        await it.cycle()
        ctx.set(unit.closing, 0)
        ctx.set(unit.busy_next, 0b0100)
        broken = []
        for _ in range(60):
            broken.append(ctx.get(unit.broken))
            await it.cycle()
        expected = {7: (max(timeout + 1, 4) + 1, TIMED_OUT)} if timeout else {}
        assert it.since(it.drained) == expected
        assert [slots for slots in broken if slots] == ([0b0100] if timeout else [])
        assert bool(ctx.get(unit.idle)) is bool(timeout)
        it.send(CommandKind.PAGE, first=6, tag=8)
        await it.cycles(6)
        assert it.since(it.drained)[8] == (4, DRAINED)

    run(bench)


@pytest.mark.parametrize("seed", range(4))
def test_random_commands_are_answered_in_order_and_never_too_early(seed: int) -> None:
    """Slots end at random, answers are taken at random; a tag is answered once on each stream."""
    rng = random.Random(seed)

    async def bench(it: InvalidationBench) -> None:
        ctx, unit = it.ctx, it.unit
        kinds = [CommandKind.PAGE, CommandKind.RANGE, CommandKind.ALL, CommandKind.FENCE]
        sent = {tag: rng.choice(kinds) for tag in range(120)}
        for tag, kind in sent.items():
            it.send(kind, first=rng.randrange(8), last=rng.randrange(8), tag=tag)
        busy, waits = set[int](), dict[int, set[int]]()
        applied = iter(sent)
        while len(it.invalidated) < len(sent) or not ctx.get(unit.idle):
            before = set(it.accepted)
            closing = 0
            if ctx.get(unit.applied):
                tag = next(applied)
                met = (
                    {slot for slot in busy if rng.random() < 0.5}
                    if ctx.get(unit.kill.valid)
                    else set()
                )
                waits[tag] = set(met)
                closing = sum(1 << slot for slot in met)
            ctx.set(unit.closing, closing)
            for slot in list(busy):
                fresh = closing >> slot & 1
                if rng.random() < 0.1 and not fresh:
                    busy.discard(slot)
                    for slots in waits.values():
                        slots.discard(slot)
            ctx.set(unit.busy_next, sum(1 << slot for slot in busy))
            if rng.random() < 0.3:
                free = set(range(5)) - busy - {slot for slots in waits.values() for slot in slots}
                busy |= {rng.choice(sorted(free))} if free else set()
            await it.cycle(invalidated=rng.random() < 0.7, drained=rng.random() < 0.7)
            assert len(set(it.accepted) - before) <= 1
            for answer in it.drained:
                assert not waits.get(answer.tag), f"{answer} came before the end of a use"
        order = [answer.tag for answer in it.invalidated]
        assert order == sorted(sent)
        refused = {answer.tag for answer in it.invalidated if answer.phase == REFUSED}
        drained = [answer.tag for answer in it.drained]
        assert sorted(drained) == sorted(set(sent) - refused)
        cycles = {answer.tag: answer.cycle for answer in it.drained}
        first = {answer.tag: answer.cycle for answer in it.invalidated}
        assert all(first[tag] < cycle for tag, cycle in cycles.items())
        for fence in (tag for tag, kind in sent.items() if kind == CommandKind.FENCE):
            assert all(cycles[tag] < cycles[fence] for tag in cycles if tag < fence)

    run(bench)


@pytest.mark.parametrize("name", ["invalidated", "drained"])
def test_an_answer_that_is_offered_does_not_change(name: str) -> None:
    """While another command, of a lower row, becomes ready behind it."""

    async def bench(it: InvalidationBench) -> None:
        ctx, unit = it.ctx, it.unit
        ctx.set(unit.busy_next, 1)
        it.send(CommandKind.PAGE, first=5, tag=1)
        it.send(CommandKind.PAGE, first=6, tag=2)
        await it.cycles(2)
        ctx.set(unit.closing, 1)
        await it.cycle(invalidated=name != "invalidated", drained=False)
        ctx.set(unit.closing, 0)
        seen = []
        for cycle in range(8):
            ctx.set(unit.busy_next, cycle < 4)
            stream = getattr(unit, name)
            if ctx.get(stream.valid):
                seen.append(ctx.get(stream.payload.tag))
            await it.cycle(invalidated=name != "invalidated", drained=False)
        assert len(seen) > 5
        assert set(seen) == {1 if name == "invalidated" else 2}

    run(bench)
