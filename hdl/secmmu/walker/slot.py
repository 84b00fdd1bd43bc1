"""One walk: what it is for, what invalidations have touched since it began, and how it ended."""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.enum import EnumView
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import GRAIN_BITS, KillLayout, Outcome, WalkRequestLayout
from secmmu.kills import may_kill_asid
from secmmu.layouts import GRAIN_SHIFTS
from secmmu.page_numbers import below

__all__ = ["WalkSlot"]


class WalkSlot(wiring.Component):
    """A walk from its request until nothing refers to its answer; a good answer stays, to be joined, until replaced.

    Until the leaf is read its span is unknown, and whether it is global. So a walk remembers for each grain whether an
    invalidation that may speak of it overlapped a leaf of that grain. The page itself being touched dooms it; the rest
    is decided when it has ended: a touched answer turns into ``AGAIN``. A table that a walk may still read is *owed*
    to the invalidation that may have unlinked it, whether or not that takes the page.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``, ``mutant``.

    Members
    -------
    request : In(WalkRequestLayout), begin : In(1)
        The request on offer; it becomes this walk, which goes on from the next cycle.
    joinable : Out(1)
        The request on offer may share this walk, or its answer, as they were in the cycle before: not where what was
        noted then reaches into a hold.
    coming : In(KillLayout), tables : In(1)
        The invalidation applied in the next cycle: no walk begins beside it. That of this cycle takes table pointers.
    step : In(1), level : In
        A table of ``level`` is read next.
    updating : In(1)
        An A/D update of the leaf may be under way: it is owed to whatever overlaps the leaf.
    leaf : In(1), grain : In(3), writable : In(1)
        The leaf, or where a fault was found the grain 0, is noted.
    reaches : In(1)
        What was noted one cycle ago reaches into a hold.
    end : In(1), outcome : In(Outcome)
        The walk is over; what is noted in this cycle counts.
    barred : In(1)
        The walk is over with its start, since its page is held.
    referred : In(1)
        The answer is awaited.
    young : In(1), clear : In(1)
        The answer must not be joined any more; nor believed.
    filled : In(1)
        The TLB has taken the answer.
    running, free : Out(1), asid : Out
        The walk goes on; the slot may be given to another, if no request has joined it one cycle ago; whose it is.
    doomed : Out(1)
        An earlier invalidation touched the page.
    owed : Out(1)
        The invalidation of this cycle must wait for the end of this walk, which may be in this cycle.
    pure : Out(1)
        No table on the way may have been unlinked, by this cycle's invalidation neither.
    answered : Out(1), result : Out(Outcome)
        The answer stands. One that an invalidation overlaps is ``AGAIN`` from the next cycle on.
    lost : Out(1)
        It is, or from the next cycle on will be, ``AGAIN`` or ``HELD``.
    filling : Out(1)
        The answer stands, is good and not yet in the TLB.
    settled : Out(1)
        Nothing goes on: neither a walk, nor is an answer left for the TLB.
    """

    request: data.View
    begin: Signal
    joinable: Signal
    coming: data.View
    tables: Signal
    step: Signal
    level: Signal
    updating: Signal
    leaf: Signal
    grain: Signal
    writable: Signal
    reaches: Signal
    end: Signal
    outcome: "EnumView[Outcome]"
    barred: Signal
    referred: Signal
    young: Signal
    clear: Signal
    filled: Signal
    running: Signal
    free: Signal
    asid: Signal
    doomed: Signal
    owed: Signal
    pure: Signal
    answered: Signal
    result: "EnumView[Outcome]"
    lost: Signal
    filling: Signal
    settled: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        told = ("tables", "begin", "step", "updating", "leaf", "writable", "reaches", "end")
        asked = ("barred", "referred", "young", "clear", "filled")
        shown = ("joinable", "running", "free", "doomed", "owed", "pure")
        kept = ("answered", "lost", "filling", "settled")
        super().__init__(
            {
                "request": In(WalkRequestLayout(config)),
                "coming": In(KillLayout(config)),
                "level": In(range(config.levels)),
                "grain": In(GRAIN_BITS),
                "outcome": In(Outcome),
                "asid": Out(config.asid_bits),
                "result": Out(Outcome, init=Outcome.AGAIN),
            }
            | {name: In(1) for name in told + asked}
            | {name: Out(1) for name in shown + kept}
        )

    def elaborate(self, platform: object) -> Module:
        """Build the walk's registers and its comparators."""
        m = Module()
        config = self.config
        walk = Signal(WalkRequestLayout(config))
        before = Signal(config.levels + 1)
        grain = Signal(config.levels + 1)
        writable = Signal()
        touching = self._touching(m, walk)
        touched = before | Mux(config.mutant != "rtl-no-walk-kill", touching, 0)
        m.d.comb += [self.doomed.eq(before[0]), self.asid.eq(walk.asid)]
        # An answer that is touched is AGAIN from the next cycle on, and a walk begins with nothing.
        m.d.sync += before.eq(Mux(self.running, touched, 0))
        with m.If(self.leaf):
            m.d.sync += writable.eq(self.writable)
            m.d.sync += [grain[i].eq(self.grain == i) for i in range(len(grain))]
        with m.If(self.end | self.barred):
            m.d.sync += self.running.eq(0)
        with m.If(self.begin):
            m.d.sync += [self.running.eq(1), walk.eq(self.request)]
        dead = ~self.running & (touched & grain).any()
        reaches = self._answer(m, touched, dead)
        self._join(m, walk, touched[0], writable, dead | reaches)
        self._owe(m, touching)
        return m

    def _answer(self, m: Module, touched: Value, dead: Value) -> Value:
        """Keep the answer, until an invalidation takes it or a hold is found to keep it back; return whether one is.

        Whether it stands is known a cycle ahead, so that of a walk that was touched it does so a cycle later.
        """
        unfilled = Signal()
        noted = Signal()
        held = Signal()
        stands = Signal()
        kept_back = Signal()
        again = self.result == Outcome.AGAIN
        reaches = held | (noted & self.reaches)
        m.d.comb += [
            kept_back.eq(~self.running & (self.result == Outcome.GRANTED) & reaches),
            self.answered.eq(stands & ~self.running & ~(noted & self.reaches)),
            self.lost.eq(dead | kept_back | (~self.running & again)),
            self.filling.eq(self.answered & unfilled),
            self.settled.eq(~(self.running | unfilled)),
            self.free.eq(self.settled & ~self.referred),
        ]
        untouched = self.end & ~touched.any() & ~reaches
        m.d.sync += [
            noted.eq(self.leaf),
            held.eq(reaches & ~self.leaf & self.running),
            stands.eq(untouched | ~self.running),
        ]
        with m.If(self.end):
            m.d.sync += [
                self.result.eq(self.outcome),
                unfilled.eq(self.outcome == Outcome.GRANTED),
            ]
        with m.Elif(dead | self.clear):
            m.d.sync += [self.result.eq(Outcome.AGAIN), unfilled.eq(0)]
        with m.Elif(kept_back | self.barred):
            m.d.sync += [self.result.eq(Outcome.HELD), unfilled.eq(0)]
        with m.Elif(self.filled):
            m.d.sync += unfilled.eq(0)
        return reaches

    def _touching(self, m: Module, walk: data.View) -> Signal:
        """Return, for each grain, whether this cycle's invalidation may take the leaf of that grain that holds the page.

        It was compared a cycle ahead.
        """
        vpn, kill = walk.vpn, self.coming
        shifts = GRAIN_SHIFTS[: self.config.levels + 1]
        pieces = [slice(low, high) for low, high in pairwise([*shifts, len(vpn)])]
        same_first = Cat(kill.first[piece] == vpn[piece] for piece in pieces)
        same_last = Cat(kill.last[piece] == vpn[piece] for piece in pieces)
        touching = Signal(len(shifts))
        space, not_before, not_after = Signal(), Signal(), Signal()
        m.d.comb += [
            space.eq(may_kill_asid(kill, asid=walk.asid, group=walk.group)),
            not_before.eq(~below(vpn, kill.first)),
            not_after.eq(~below(kill.last, vpn)),
        ]
        for grain in range(len(shifts)):
            reaches = not_before | same_first[grain:].all()
            ends = not_after | same_last[grain:].all()
            m.d.sync += touching[grain].eq(space & reaches & ends)
        return touching

    def _join(
        self, m: Module, walk: data.View, doomed: Value, writable: Signal, lost: Value
    ) -> None:
        """Say whether the request on offer may share this walk: a write only one that lets it write.

        Not one that is found to be held: who joins hears of later releases only, and the one that undoes the hold may
        have been before.
        """
        request = self.request
        same = (walk.vpn == request.vpn) & (walk.asid == request.asid)
        sharing = Signal()
        reads, writes = Signal(), Signal()
        with m.If(self.end):
            m.d.sync += sharing.eq(1)
        with m.Elif(self.young & ~self.running):
            m.d.sync += sharing.eq(0)
        refuses = self.barred | (self.end & (self.outcome != Outcome.GRANTED))
        going_on = self.running & ~doomed & ~refuses
        stands = ~self.running & sharing & (self.result == Outcome.GRANTED) & ~self.young
        m.d.sync += [
            reads.eq((going_on | stands) & ~lost),
            writes.eq(((going_on & walk.write) | (stands & writable)) & ~lost),
        ]
        m.d.comb += self.joinable.eq(same & Mux(request.write, writes, reads))

    def _owe(self, m: Module, touching: Signal) -> None:
        """Follow the tables on the way."""
        config = self.config
        level = Signal(range(config.levels), init=config.levels - 1)
        tainted = Signal()
        # The leaf's span of the level above is what the table being read, or about to be, maps.
        above = Signal()
        for i in range(config.levels):
            with m.If(level == i):
                m.d.comb += above.eq(touching[min(i + 2, config.levels)])
        table = above & self.tables
        reached = touching[0] | table | (above & self.updating)
        m.d.comb += [self.owed.eq(self.running & reached), self.pure.eq(~tainted & ~table)]
        m.d.sync += tainted.eq(self.running & (tainted | table))
        with m.If(self.step):
            m.d.sync += level.eq(self.level)
        with m.Elif(~self.running):
            m.d.sync += level.eq(config.levels - 1)
