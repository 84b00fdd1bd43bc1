"""What the TLB may answer: a reference in Python, and a bench that compares it cycle by cycle."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.layouts import GRAIN_SHIFTS
from secmmu.tlb.tlb import Tlb

GROUPS = {1: 5, 2: 5, 3: 3}
"""Global group of each asid: two share one."""


@dataclass(frozen=True)
class Entry:
    """A translation as software would say it."""

    vpn: int
    ppn: int
    grain: int = 0
    asid: int = 1
    shared: int = 0
    writable: int = 0

    @property
    def last(self) -> int:
        """Last page of the span."""
        return self.vpn + (1 << GRAIN_SHIFTS[self.grain]) - 1

    @property
    def group(self) -> int:
        """Group of its asid."""
        return GROUPS[self.asid]

    def serves(self, asid: int, vpn: int) -> bool:
        """Whether an access may use it."""
        space = asid == self.asid or (self.shared and GROUPS[asid] == self.group)
        return bool(space) and self.vpn <= vpn <= self.last

    def fields(self) -> dict[str, Any]:
        """The same as an EntryLayout."""
        translation = {
            name: getattr(self, name) for name in ("vpn", "grain", "shared", "asid", "group")
        }
        return {"ppn": self.ppn, "writable": self.writable, "translation": translation}


@dataclass(frozen=True)
class Kill:
    """An invalidation as it is applied."""

    first: int
    last: int
    asid: int = 1
    everything: int = 0
    keep_global: int = 0
    page: int = 0

    def takes(self, entry: Entry) -> bool:
        """Whether it overlaps an entry (docs/secmmu.md, what dies)."""
        if not (entry.vpn <= self.last and self.first <= entry.last):
            return False
        if self.everything:
            return True
        if entry.shared:
            return not self.keep_global and GROUPS[self.asid] == entry.group
        return self.asid == entry.asid

    def fields(self) -> dict[str, int]:
        """The same as a KillLayout."""
        names = ("first", "last", "asid", "everything", "keep_global", "page")
        return {"valid": 1, "group": GROUPS[self.asid]} | {
            name: getattr(self, name) for name in names
        }


@dataclass
class TlbBench:
    """Drives a TLB one cycle at a time and knows which entries may still answer.

    What is announced in one cycle, an invalidation or a question, is applied in the next.

    Parameters
    ----------
    ctx : SimulatorContext
        Of the running simulation.
    tlb : Tlb
        The TLB.
    drives_kill : bool
        Whether its kills and questions are the bench's; otherwise ``live`` is the caller's.
    watch : callable
        Called in each cycle, before the edge.
    """

    ctx: SimulatorContext
    tlb: Tlb
    drives_kill: bool = True
    live: list[Entry] = field(default_factory=list)
    stages: deque[tuple[int, int] | None] = field(default_factory=deque)
    watch: Callable[[], None] = lambda: None
    applied: Kill | None = None
    hits: int = 0
    answers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stages.extend([None] * self.tlb.config.lookup_latency)

    async def cycle(
        self,
        *,
        access: tuple[int, int] | None = None,
        advance: bool = True,
        kill: Kill | None = None,
        ask: tuple[int, int] | None = None,
        fill: Entry | None = None,
    ) -> tuple[Entry | None, bool]:
        """Run one cycle; return the entry that stood at the end of the pipeline, and whether ``fill`` was taken."""
        ctx, tlb = self.ctx, self.tlb
        ctx.set(tlb.lookup.advance, advance)
        ctx.set(tlb.lookup.en, access is not None)
        if access is not None:
            ctx.set(tlb.lookup.asid, access[0])
            ctx.set(tlb.lookup.vpn, access[1])
            ctx.set(tlb.lookup.group, GROUPS[access[0]])
        applied = self.applied
        if self.drives_kill:
            self._announce(kill, ask)
        ctx.set(tlb.fill.en, fill is not None)
        if fill is not None:
            ctx.set(tlb.fill.entry, fill.fields())
        standing = self.stages[0]
        entry = self._standing(standing, applied)
        if ctx.get(tlb.young.answered):
            self.answers.append(ctx.get(tlb.young.used))
        taken = fill is not None and bool(ctx.get(tlb.fill.ready))
        self.watch()
        await ctx.tick()
        if fill is not None and taken and fill not in self.live:
            self.live.append(fill)
        if applied is not None:
            self.live = [entry for entry in self.live if not applied.takes(entry)]
        if self.drives_kill:
            ctx.set(tlb.kill, ctx.get(tlb.coming))
            ctx.set(tlb.young.ask, ask is not None)
            self.applied = kill
        if advance:
            self.stages.popleft()
            self.stages.append(access)
        return entry, taken

    def _announce(self, kill: Kill | None, ask: tuple[int, int] | None) -> None:
        ctx, tlb = self.ctx, self.tlb
        ctx.set(tlb.coming, kill.fields() if kill else {})
        ctx.set(tlb.asks, ask is not None)
        if ask is not None:
            asid, vpn = ask
            ctx.set(tlb.coming, {"asid": asid, "group": GROUPS[asid], "first": vpn, "last": vpn})

    def _standing(self, access: tuple[int, int] | None, kill: Kill | None) -> Entry | None:
        """Read the entry at the end of the pipeline and check that it may answer."""
        lookup = self.tlb.lookup
        if not self.ctx.get(lookup.hit):
            return None
        assert access is not None
        value = self.ctx.get(lookup.entry)
        part = value.translation
        entry = Entry(
            vpn=part.vpn,
            ppn=value.ppn,
            grain=part.grain,
            asid=part.asid,
            shared=part.shared,
            writable=value.writable,
        )
        assert entry in self.live, f"{entry} answers {access} and is dead"
        assert entry.serves(*access), f"{entry} answers {access}"
        assert part.group == entry.group
        # Pieces are numbered as grains are: one leaves free all the smaller ones.
        assert self.ctx.get(lookup.free) == (1 << min(entry.grain, len(lookup.free))) - 1
        dies = bool(self.ctx.get(lookup.dies))
        if self.drives_kill:
            assert dies is (kill is not None and kill.takes(entry))
        if dies:
            return None
        self.hits += 1
        return entry

    async def idle(self, cycles: int) -> None:
        """Run cycles in which nothing is asked."""
        for _ in range(cycles):
            await self.cycle()

    async def put(self, entry: Entry) -> None:
        """Fill an entry and wait until it is written."""
        for _ in range(20):
            _, taken = await self.cycle(fill=entry)
            if taken:
                return await self.idle(4)
        raise AssertionError("the fill is never taken")

    async def look_up(self, asid: int, vpn: int) -> int | None:
        """Return the frame that a page is translated to, or None."""
        await self.cycle(access=(asid, vpn))
        for _ in range(self.tlb.config.lookup_latency - 1):
            await self.cycle()
        entry, _ = await self.cycle()
        return None if entry is None else entry.ppn

    async def settle(self) -> None:
        """Wait until the page array is swept."""
        await self.idle(self.tlb.config.tlb_sets + 12)

    async def young(self, asid: int, vpn: int) -> int:
        """Ask whether a page was used."""
        before = len(self.answers)
        await self.cycle(ask=(asid, vpn))
        await self.idle(4)
        assert len(self.answers) == before + 1
        return self.answers[-1]


def run(testbench: Any, config: SecmmuConfig) -> None:
    """Simulate ``testbench(bench)`` on a TLB that was swept after its reset."""
    tlb = Tlb(config)

    async def bench(ctx: SimulatorContext) -> None:
        it = TlbBench(ctx, tlb)
        await it.settle()
        await testbench(it)

    simulator = Simulator(tlb)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def random_entry(rng: random.Random, vpns: list[int], large: bool) -> Entry:
    """Return an entry over one of ``vpns``."""
    grain = rng.choice([0, 0, 0, 1, 2]) if large else 0
    vpn = rng.choice(vpns) >> GRAIN_SHIFTS[grain] << GRAIN_SHIFTS[grain]
    return Entry(
        vpn=vpn,
        ppn=rng.randrange(1, 1 << 20) << GRAIN_SHIFTS[grain],
        grain=grain,
        asid=rng.choice(list(GROUPS)),
        shared=rng.random() < 0.25,
        writable=rng.randrange(2),
    )


def random_kill(rng: random.Random, vpns: list[int], last_vpn: int) -> Kill:
    """Return an invalidation of one page, of a range, of an asid, or of everything."""
    asid = rng.choice(list(GROUPS))
    keep_global = rng.randrange(2)
    kind = rng.choices(["page", "range", "asid", "all"], [6, 3, 1, 0.3])[0]
    if kind == "page":
        vpn = rng.choice(vpns)
        return Kill(vpn, vpn, asid, keep_global=keep_global, page=1)
    if kind == "range":
        first, last = sorted(rng.choice(vpns) for _ in range(2))
        return Kill(first, last, asid, keep_global=keep_global)
    if kind == "asid":
        return Kill(0, last_vpn, asid, keep_global=keep_global)
    return Kill(0, last_vpn, asid, everything=1)
