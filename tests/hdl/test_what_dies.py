"""Invalidation unit and TLB together: the table of docs/secmmu.md, what each kind of command kills."""

from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.invalidation.invalidation import Invalidation
from secmmu.layouts import CommandKind, Phase
from secmmu.tlb.tlb import Tlb
from tests.hdl.tlb.tlb_model import GROUPS, Entry, TlbBench

ASSOCIATIVE = SecmmuConfig(tlb_sets=0, large_entries=8)
PAGES = SecmmuConfig(tlb_sets=8, tlb_ways=2, large_entries=8, filters=2)
FULL = SecmmuConfig(tlb_sets=256, tlb_ways=4, large_entries=1, filters=2, observe=False)

OWN = Entry(8, 1, asid=1)
OWN_GLOBAL = Entry(9, 2, asid=1, shared=1)
GROUP_GLOBAL = Entry(10, 3, asid=2, shared=1)
GROUP_OWN = Entry(11, 4, asid=2)
STRANGE = Entry(12, 5, asid=3)
STRANGE_GLOBAL = Entry(13, 6, asid=3, shared=1)
ENTRIES = [OWN, OWN_GLOBAL, GROUP_GLOBAL, GROUP_OWN, STRANGE, STRANGE_GLOBAL]
"""Asids 1 and 2 are of one group, asid 3 of another."""

NAMED = {OWN, OWN_GLOBAL, GROUP_GLOBAL}
TABLE = {
    (CommandKind.PAGE, 0): NAMED,
    (CommandKind.PAGE, 1): {OWN},
    (CommandKind.RANGE, 0): NAMED,
    (CommandKind.RANGE, 1): {OWN},
    (CommandKind.ASID, 0): NAMED,
    (CommandKind.ASID, 1): {OWN},
    (CommandKind.CONTEXT, 0): NAMED,
    (CommandKind.CONTEXT, 1): NAMED,
    (CommandKind.ALL, 0): set(ENTRIES),
    (CommandKind.ALL, 1): set(ENTRIES),
    (CommandKind.FENCE, 0): set(),
    (CommandKind.RELEASE, 0): set(),
    (CommandKind.YOUNG, 0): set(),
}
"""What a command of asid 1 over all pages kills, by kind and ``keep_global``."""


class Joined:
    """An invalidation unit wired to a TLB."""

    def __init__(self, config: SecmmuConfig) -> None:
        self.unit, self.tlb = Invalidation(config), Tlb(config)
        self.module = m = Module()
        m.submodules.unit, m.submodules.tlb = self.unit, self.tlb
        m.d.comb += [
            self.tlb.coming.eq(self.unit.coming),
            self.tlb.asks.eq(self.unit.asks),
            self.tlb.kill.eq(self.unit.kill),
            self.tlb.young.ask.eq(self.unit.young.ask),
            self.unit.young.answered.eq(self.tlb.young.answered),
            self.unit.young.used.eq(self.tlb.young.used),
            self.unit.invalidated.ready.eq(1),
            self.unit.drained.ready.eq(1),
        ]

    def run(self, testbench: Any) -> None:
        """Simulate ``testbench(ctx, bench)``."""

        async def bench(ctx: SimulatorContext) -> None:
            # The bench's own kills would fight the unit's: it is only used for lookups and fills.
            it = TlbBench(ctx, self.tlb, drives_kill=False)
            await it.settle()
            await testbench(ctx, it)

        simulator = Simulator(self.module)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()

    async def command(self, ctx: SimulatorContext, it: TlbBench, **fields: Any) -> tuple[int, int]:
        """Send a command, looking up pages all the time; return when it was invalidated, and when drained."""
        unit = self.unit
        ctx.set(unit.command.payload, {"asid": 1, **fields})
        ctx.set(unit.command.valid, 1)
        assert ctx.get(unit.command.ready)
        invalidated = drained = 0
        for cycle in range(1, 20):
            await it.cycle(access=(1, OWN.vpn + cycle % 2))
            ctx.set(unit.command.valid, 0)
            ctx.set(unit.group, GROUPS[fields.get("asid", 1)])
            if ctx.get(unit.invalidated.valid):
                assert ctx.get(unit.invalidated.payload.phase) == Phase.INVALIDATED
                invalidated = cycle
            if ctx.get(unit.drained.valid):
                drained = cycle
                break
        return invalidated, drained


@pytest.mark.parametrize("config", [ASSOCIATIVE, PAGES], ids=["associative", "pages"])
def test_what_each_kind_kills(config: SecmmuConfig) -> None:
    """At once, and no more than the table says, when the sweep is done."""
    joined = Joined(config)

    async def bench(ctx: SimulatorContext, it: TlbBench) -> None:
        for (kind, keep_global), dies in TABLE.items():
            names = [8, 13] if kind == CommandKind.RANGE else [entry.vpn for entry in ENTRIES]
            for entry in ENTRIES:
                await it.put(entry)
            firsts = names if kind == CommandKind.PAGE else names[:1]
            for first in firsts:
                it.live = list(ENTRIES)
                fields = {"kind": kind, "keep_global": keep_global, "first": first, "last": 13}
                invalidated, drained = await joined.command(ctx, it, **fields)
                # A question goes through the page array.
                asks = kind == CommandKind.YOUNG
                assert invalidated <= (6 if asks else 5)
                assert drained <= (7 if asks else 6)
            for _ in range(2):
                found = {
                    entry
                    for entry in ENTRIES
                    if await it.look_up(entry.asid, entry.vpn) == entry.ppn
                }
                assert found == set(ENTRIES) - dies, (kind, keep_global)
                await it.settle()

    joined.run(bench)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CommandKind.PAGE, CommandKind.RANGE, CommandKind.ASID])
def test_a_thousand_entries_take_no_longer(kind: CommandKind) -> None:
    """Invalidated within five cycles, drained within six, hits going on."""
    joined = Joined(FULL)

    async def bench(ctx: SimulatorContext, it: TlbBench) -> None:
        for entry in (OWN, OWN_GLOBAL):
            await it.put(entry)
        before = it.hits
        fields = {"kind": kind, "first": 100, "last": 1 << 24, "asid": 3}
        invalidated, drained = await joined.command(ctx, it, **fields)
        await it.idle(3)
        assert invalidated <= 5
        assert drained <= 6
        assert it.hits - before == drained

    joined.run(bench)
