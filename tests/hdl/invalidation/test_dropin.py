"""Drop-ins by themselves: which are refused, and that none outlives an invalidation since its epoch."""

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.invalidation.dropin import Dropin
from secmmu.layouts import PteLayout
from tests.hdl.tlb.tlb_model import GROUPS, Entry, Kill

CONFIG = SecmmuConfig(log=8, contexts=4, levels=3)
LEAF = {"v": 1, "r": 1, "u": 1, "a": 1}


@dataclass
class DropinBench:
    """Drives a drop-in unit; plays the invalidation unit, the context table, and a TLB ``busy`` for some cycles."""

    ctx: SimulatorContext
    unit: Dropin
    epoch: int = 0
    coming: Kill | str | None = None
    filled: list[Entry] = field(default_factory=list)
    busy: int = 0

    async def cycle(self, kill: Kill | str | None = None) -> None:
        """Run one cycle, before which a command was accepted or not; ``"other"`` is one that kills nothing.

        It is applied in the next cycle.
        """
        ctx, unit = self.ctx, self.unit
        self.epoch += kill is not None
        kill, self.coming = self.coming, kill
        ctx.set(unit.applied, kill is not None)
        ctx.set(unit.epoch, self.epoch)
        ctx.set(unit.kill, kill.fields() if isinstance(kill, Kill) else {})
        wanted = bool(ctx.get(unit.fill.en))
        killing = isinstance(kill, Kill)
        ready = wanted and self.busy == 0 and not killing
        self.busy -= wanted and self.busy > 0
        ctx.set(unit.fill.ready, ready)
        group = GROUPS.get(ctx.get(unit.context_asid), 0) if ctx.get(unit.context_en) else None
        if ready:
            value = ctx.get(unit.fill.entry)
            part = value.translation
            entry = Entry(part.vpn, value.ppn, part.grain, part.asid, part.shared, value.writable)
            self.filled.append(entry)
        await ctx.tick()
        if group is not None:
            ctx.set(unit.group, group)

    async def offer(self, kills: dict[int, Kill | str] | None = None, **fields: Any) -> bool:
        """Offer a drop-in; accept commands before the cycles from its handshake on; return whether it was taken."""
        ctx, unit = self.ctx, self.unit
        pte = LEAF | {"ppn": 0x1200} | fields.pop("pte", {})
        payload = {"asid": 1, "vpn": 0, "tag": 7, "epoch": self.epoch} | fields
        ctx.set(unit.dropin.payload, payload | {"pte": PteLayout().const(pte)})
        ctx.set(unit.dropin.valid, 1)
        for cycle in range(40):
            await self.cycle((kills or {}).get(cycle))
            ctx.set(unit.dropin.valid, 0)
            if ctx.get(unit.dropped.valid):
                break
        assert ctx.get(unit.dropped.payload.tag) == 7
        taken = bool(ctx.get(unit.dropped.payload.taken))
        ctx.set(unit.dropped.ready, 1)
        await self.cycle()
        ctx.set(unit.dropped.ready, 0)
        assert ctx.get(unit.idle)
        return taken


def run(testbench: Callable[[DropinBench], Coroutine[Any, Any, None]]) -> None:
    """Simulate ``testbench(bench)``."""
    unit = Dropin(CONFIG)

    async def bench(ctx: SimulatorContext) -> None:
        await testbench(DropinBench(ctx, unit))

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize(
    ("fields", "entry"),
    [
        ({"vpn": 5}, Entry(5, 0x1200)),
        ({"vpn": 5, "pte": {"w": 1, "d": 1, "g": 1}}, Entry(5, 0x1200, shared=1, writable=1)),
        ({"vpn": 5, "pte": {"w": 1}}, Entry(5, 0x1200)),
        ({"vpn": 0x25, "grain": 1, "pte": {"n": 1, "ppn": 0x1208}}, Entry(0x20, 0x1200, 1)),
        ({"vpn": 0x3FF, "grain": 2, "asid": 3}, Entry(0x200, 0x1200, 2, 3)),
        ({"vpn": (1 << 52) - 1}, Entry((1 << 27) - 1, 0x1200)),
    ],
)
def test_what_a_leaf_becomes(fields: dict[str, Any], entry: Entry) -> None:
    """The span holds the page, whichever of its pages is named."""

    async def bench(it: DropinBench) -> None:
        assert await it.offer(**fields)
        assert it.filled == [entry]

    run(bench)


@pytest.mark.parametrize(
    "fields",
    [
        {"pte": {"v": 0}},
        {"pte": {"a": 0}},
        {"pte": {"u": 0}},
        {"pte": {"r": 0, "x": 1}},
        {"pte": {"r": 0, "a": 0, "u": 0}},
        {"pte": {"n": 1, "ppn": 0x1208}},
        {"grain": 1},
        {"grain": 3},
        {"grain": 4, "pte": {"ppn": 0}},
        {"grain": 7, "pte": {"ppn": 0}},
        {"asid": 4},
        {"vpn": 1 << 26},
        {"epoch": 1},
        {"epoch": (1 << 64) - 1},
    ],
)
def test_what_the_walker_would_not_grant_is_refused(fields: dict[str, Any]) -> None:
    """Nor what is no leaf of its grain, for no page or no asid, or of an epoch that is still to come."""

    async def bench(it: DropinBench) -> None:
        assert not await it.offer(**fields)
        assert it.filled == []

    run(bench)


def test_a_span_inside_a_hold_is_refused() -> None:
    """The question names the whole span."""

    async def bench(it: DropinBench) -> None:
        it.ctx.set(it.unit.hold.held, 1)
        assert not await it.offer(vpn=0x3FF, grain=2, pte={"g": 1})
        it.ctx.set(it.unit.hold.held, 0)
        assert (it.ctx.get(it.unit.hold.first), it.ctx.get(it.unit.hold.last)) == (0x200, 0x3FF)
        assert it.ctx.get(it.unit.hold.shared)

    run(bench)


@pytest.mark.parametrize("others", range(CONFIG.log + 2))
def test_an_epoch_is_good_for_as_many_commands_as_the_log_holds(others: int) -> None:
    """Commands that do not overlap count, too; one that does refuses it wherever it stands in the log."""

    async def bench(it: DropinBench) -> None:
        for _ in range(3):
            await it.cycle("other")
        epoch = it.epoch
        for _ in range(others):
            await it.cycle("other")
        assert await it.offer(vpn=9, epoch=epoch) is (others <= CONFIG.log)
        for stands in range(others):
            epoch = it.epoch
            for position in range(others):
                await it.cycle(Kill(8, 9) if position == stands else Kill(0, 8))
            # More come meanwhile: they take the oldest places of the log when those are read.
            assert not await it.offer(dict.fromkeys(range(1, 12), "other"), vpn=9, epoch=epoch)

    run(bench)


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_filled_that_was_invalidated_since_its_epoch(seed: int) -> None:
    """Commands come at any time, also while the drop-in is compared and while the TLB makes it wait."""
    rng = random.Random(seed)

    async def bench(it: DropinBench) -> None:
        taken = refused = 0
        for _ in range(250):
            history: list[tuple[int, Kill | str]] = []
            epoch = it.epoch
            for _ in range(rng.randrange(4)):
                kill = _command(rng)
                await it.cycle(kill)
                history.append((it.epoch, kill))
            kills = {cycle: _command(rng) for cycle in range(14) if rng.random() < 0.2}
            it.filled.clear()
            epoch = rng.choice([epoch, it.epoch])
            asid, vpn, shared = rng.choice([1, 2, 3]), rng.choice([4, 5, 6]), rng.randrange(2)
            subject = Entry(vpn, 0x1200, asid=asid, shared=shared)
            it.busy = rng.randrange(4)
            if await it.offer(kills, asid=asid, vpn=vpn, epoch=epoch, pte={"g": shared}):
                taken += 1
                assert it.filled == [subject]
                since = [kill for number, kill in history if number > epoch]
                assert not any(isinstance(kill, Kill) and kill.takes(subject) for kill in since)
                # The command of the handshake's own cycle was accepted before.
                first = kills.get(0)
                assert not (isinstance(first, Kill) and first.takes(subject))
            else:
                refused += 1
                assert it.filled == []
        assert taken > 100
        assert refused > 10

    run(bench)


def _command(rng: random.Random) -> Kill | str:
    if rng.random() < 0.5:
        return "other"
    first = rng.choice([3, 4, 5, 6])
    return Kill(
        first, first + rng.randrange(2), rng.choice([1, 2, 3]), keep_global=rng.randrange(2)
    )
