"""The page-table walker: several walks at once, killed by invalidations, joined by those who miss the same page."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.enum import EnumView
from amaranth.lib.wiring import In, Out

from secmmu.axi import Axi4Signature
from secmmu.config import SecmmuConfig
from secmmu.internals import (
    INDEX_BITS,
    FillSignature,
    HoldCheckSignature,
    KillLayout,
    Outcome,
    WalkSignature,
)
from secmmu.layouts import PA_BITS, Response
from secmmu.picks import chosen, encoded, lowest
from secmmu.registers.counters import AGE_BITS, LatencyLayout
from secmmu.walker.bus import drive_bus
from secmmu.walker.cache import WalkCache
from secmmu.walker.entry import EntryJudge, failed
from secmmu.walker.layouts import (
    JudgedLayout,
    PointerLayout,
    StepLayout,
    WalkEventsLayout,
    WalkRecordLayout,
)
from secmmu.walker.notes import WalkNotes
from secmmu.walker.pte_update import PteUpdate
from secmmu.walker.reads import WalkReads
from secmmu.walker.report import WalkReport
from secmmu.walker.slot import WalkSlot

__all__ = ["Walker"]


class Walker(wiring.Component):
    """Walks page tables, ``walks`` at once.

    A request is taken every other cycle at most, and in none before that of an invalidation. One taken in cycle t
    has its first read offered in t + 2, with the walk cache's help that of the last level.
    The data that comes in cycle r is judged at once; the next read is offered, or the answer stands, in r + 2, and
    is offered to the TLB in r + 3. One step, of whichever walk, is made in each cycle, and one read offered. An entry's
    data is taken at once, always.

    A step that ends a walk makes it an answer that stands until nothing refers to it, its slot is needed and the TLB
    has it. An invalidation that overlaps a walk, or its answer, makes it ``AGAIN``; a read that it still owes is
    absorbed first, and the invalidation waits for that (``owed``, ``settled``).

    Parameters
    ----------
    config : SecmmuConfig
        ``walks``, ``walk_cache``, ``levels``, ``svadu``, widths, ``observe``, ``mutant``.

    Members
    -------
    walk : In(WalkSignature)
        The datapath's door.
    bus : Out(Axi4Signature)
        Page-table reads and A/D writes; the id is the number of the walk.
    coming : In(KillLayout)
        The invalidation applied in the next cycle: it is compared ahead.
    young : In(1)
        Whether pages were used is asked in this cycle: later accesses must go through the TLB.
    clear : In(1)
        Forget everything; only while ``idle``.
    fill : Out(FillSignature)
        The TLB.
    span : Out(HoldCheckSignature)
        The question whether the page of a walk that begins, or the span of a leaf found, is held.
    owed, settled : Out(walks)
        Walks for whose end the invalidation applied in this cycle must wait; walks that end in this cycle, whether owed or not.
    stuck : In(walks), fence : Out(stream of an asid)
        Walks for which a command gave up waiting; their asids, one after the other.
    asked : In, left : Out(1)
        An asid, and whether a walk of it goes on.
    idle : Out(1)
        No walk goes on, and no answer is left for the TLB.
    events : Out(WalkEventsLayout), latency : Out(LatencyLayout), now : In
        For counters; what ended with an answer, and the clock that it is measured with.
    began, ended : Out(WalkRecordLayout)
        With ``observe``: a walk begins in this cycle; one ended, its answer stands from this cycle on.
    """

    walk: wiring.PureInterface
    bus: wiring.PureInterface
    coming: data.View
    young: Signal
    clear: Signal
    fill: wiring.PureInterface
    span: wiring.PureInterface
    owed: Signal
    settled: Signal
    stuck: Signal
    fence: stream.Interface
    asked: Signal
    left: Signal
    idle: Signal
    events: data.View
    latency: data.View
    now: Signal
    began: data.View
    ended: data.View

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        bus = Axi4Signature(
            addr_bits=PA_BITS,
            id_bits=config.walk_bits,
            user_bits=config.asid_bits,
            write=config.svadu,
        )
        members = {
            "walk": In(WalkSignature(config)),
            "bus": Out(bus),
            "coming": In(KillLayout(config)),
            "young": In(1),
            "clear": In(1),
            "fill": Out(FillSignature(config)),
            "span": Out(HoldCheckSignature(config)),
            "owed": Out(config.walks),
            "settled": Out(config.walks),
            "stuck": In(config.walks),
            "fence": Out(stream.Signature(config.context_bits)),
            "asked": In(config.asid_bits),
            "left": Out(1),
            "idle": Out(1),
            "events": Out(WalkEventsLayout()),
            "latency": Out(LatencyLayout()),
            "now": In(AGE_BITS),
        }
        if config.observe:
            members |= {name: Out(WalkRecordLayout(config)) for name in ("began", "ended")}
        super().__init__(members)
        self._slots = [WalkSlot(config) for _ in range(config.walks)]
        self._cache = WalkCache(config)
        self._reads = WalkReads(config)
        self.entry = EntryJudge(config)
        self._update = PteUpdate(config)
        self._notes = WalkNotes(config)
        self._report = WalkReport(config)
        # What a step noted in the cycle before reaches into a hold.
        self._reaches = Signal()

    def elaborate(self, platform: object) -> Module:
        """Build the slots around the one step that is made in a cycle."""
        m = Module()
        m.submodules.cache = self._cache
        m.submodules.reads = self._reads
        m.submodules.entry = self.entry
        m.submodules.update = self._update
        m.submodules.notes = self._notes
        m.submodules.report = self._report
        tables = Signal()
        m.d.sync += tables.eq(~self.coming.leaf_only | self.coming.context)
        for i, slot in enumerate(self._slots):
            m.submodules[f"slot{i}"] = slot
            m.d.comb += [
                slot.request.eq(self.walk.request.payload),
                slot.coming.eq(self.coming),
                slot.tables.eq(tables),
                slot.young.eq(self.young),
                slot.clear.eq(self.clear),
                slot.referred.eq(self.walk.referred[i]),
                self.owed[i].eq(slot.owed),
                self.settled[i].eq(slot.end | slot.barred),
            ]
        step = Signal(StepLayout(self.config))
        pointer = Signal(PointerLayout(self.config))
        begin = self._take(m, pointer)
        self._load(m, step, begin)
        self._make(m, step, pointer)
        self._answer(m)
        self._offer(m)
        drive_bus(m, self.bus, self._reads.read, self._update, svadu=self.config.svadu)
        self._fence(m)
        m.d.comb += self.idle.eq(self._of("settled").all())
        return m

    def _of(self, member: str) -> Value:
        """Return one bit of all slots."""
        return Cat(getattr(slot, member) for slot in self._slots)

    def _take(self, m: Module, pointer: data.View) -> Signal:
        """Take a request: it joins a walk, or begins one, which the returned one-hot names."""
        walk, cache, notes = self.walk, self._cache, self._notes
        request = walk.request.payload
        joined = lowest(m, self._of("joinable"))
        begin = Signal(self.config.walks)
        able = Signal()
        begins = Signal()
        # What was taken shows in the slots a cycle later, and that a leaf noted reaches into a hold.
        taken = Signal()
        free = self._choose_free(m, begins)
        m.d.sync += taken.eq(walk.request.valid & walk.request.ready)
        m.d.comb += [
            # The step goes to data that comes, the comparators to a pointer to be kept, both before a request.
            able.eq(
                ~(self.bus.rvalid | pointer.valid | self._update.answered)
                & ~(self.coming.valid | taken | self._reaches)
            ),
            walk.request.ready.eq(able & (joined.any() | free.any())),
            walk.number.eq(encoded(Mux(joined.any(), joined, free))),
            begins.eq(walk.request.valid & able & ~joined.any() & free.any()),
            begin.eq(Mux(begins, free, 0)),
            cache.key.vpn.eq(Mux(pointer.valid, pointer.owner.vpn, request.vpn)),
            cache.key.asid.eq(Mux(pointer.valid, pointer.owner.asid, request.asid)),
            cache.insert.valid.eq(pointer.valid),
            cache.insert.pure.eq(chosen(pointer.at, self._of("pure"))),
            cache.insert.level.eq(pointer.level),
            cache.insert.group.eq(pointer.owner.group),
            cache.insert.pointer.eq(pointer.pointer),
            cache.coming.eq(self.coming),
            cache.clear.eq(self.clear),
            notes.begins.eq(begins),
            notes.beginner.eq(encoded(free)),
            notes.owner.vpn.eq(request.vpn),
            notes.owner.asid.eq(request.asid),
            notes.owner.group.eq(request.group),
            notes.owner.write.eq(request.write),
            notes.now.eq(self.now),
        ]
        m.d.comb += [slot.begin.eq(begin[i]) for i, slot in enumerate(self._slots)]
        return begin

    def _choose_free(self, m: Module, begins: Value) -> Signal:
        """Choose the slot of the next walk a cycle ahead: the next after the one that began last."""
        free = Signal(self.config.walks)
        later = Signal(self.config.walks)
        left = self._of("free")
        rest = left & later
        m.d.sync += free.eq(Mux(rest.any(), lowest(m, rest), lowest(m, left)))
        with m.If(begins):
            m.d.sync += later.eq(Cat(free[:i].any() for i in range(len(free))))
        return free

    def _load(self, m: Module, step: data.View, begin: Signal) -> None:
        """Choose the step of the next cycle: data that comes now, or else the start of a walk."""
        bus, request, notes, cache = self.bus, self.walk.request.payload, self._notes, self._cache
        update, entry = self._update, self.entry
        m.d.comb += [
            notes.reader.eq(bus.rid),
            entry.word.eq(bus.rdata),
            entry.response.eq(bus.rresp),
            entry.exclusive.eq(update.locked & (update.walk == bus.rid)),
            entry.owner.eq(notes.reader_owner),
            entry.progress.eq(notes.reader_progress),
        ]
        m.d.sync += [
            step.valid.eq(bus.rvalid | begin.any()),
            step.start.eq(~bus.rvalid),
            step.place.eq(cache.place),
        ]
        with m.If(bus.rvalid):
            m.d.sync += [step[name].eq(entry.judged[name]) for name, _ in JudgedLayout(self.config)]
            m.d.sync += [
                step.exclusive.eq(entry.exclusive),
                step.walk.eq(bus.rid),
                step.at.eq(Cat(bus.rid == i for i in range(self.config.walks))),
                step.owner.eq(notes.reader_owner),
                step.next.eq(notes.reader_progress.level - 1),
                step.began.eq(notes.reader_began),
                step.found.eq(0),
            ]
        with m.Else():
            m.d.sync += [
                step.walk.eq(encoded(begin)),
                step.at.eq(begin),
                step.owner.eq(notes.owner),
                # Sv39, Sv48 and Sv57 are modes 8, 9 and 10, their root tables of level 2, 3 and 4.
                step.next.eq(Mux(cache.found, cache.place.level, request.mode[:2] + 2)),
                step.began.eq(self.now),
                step.found.eq(cache.found),
                step.goes.eq(1),
                step.repeats.eq(0),
                step.stores.eq(0),
                step.over.eq(0),
                step.exclusive.eq(0),
                step.shared.eq(0),
                step.ppn.eq(request.root_ppn),
                step.first.eq(request.vpn),
                step.last.eq(request.vpn),
            ]

    def _make(self, m: Module, step: data.View, pointer: data.View) -> None:
        """Make a step, or close an update when there is none: read on, update the leaf, or end the walk."""
        update, reads, cache, notes = self._update, self._reads, self._cache, self._notes
        doomed, barred, going, moves = Signal(), Signal(), Signal(), Signal()
        closes, lost = Signal(), Signal()
        shared = step.shared | (step.found & cache.pointer.shared)
        m.d.comb += [
            doomed.eq(chosen(step.at, self._of("doomed"))),
            barred.eq(step.start & self.span.held),
            going.eq(step.valid & ~doomed),
            moves.eq(going & step.goes),
            closes.eq(update.answered & ~step.valid),
            lost.eq(closes & (update.response == Response.OKAY)),
            cache.read.eq(step.place),
            reads.walk.eq(Mux(step.valid, step.walk, update.walk)),
            reads.want.eq(moves),
            reads.word.index.eq(step.owner.vpn.word_select(step.next, INDEX_BITS)),
            reads.word.ppn.eq(Mux(step.found, cache.pointer.ppn, step.ppn)),
            reads.word.asid.eq(step.owner.asid),
            reads.barred.eq(barred),
            reads.retry.eq((going & step.repeats) | lost),
            reads.locked.eq(update.locked),
            update.locking.eq(reads.locking),
            update.locker.eq(reads.locker),
            update.word.eq(reads.locked_word),
            update.pte.eq(step.pte),
            update.store.eq(going & step.stores),
            update.release.eq((step.valid & step.exclusive & ~update.store) | closes),
            # What a walk that is over has come to says nothing.
            notes.moves.eq(step.valid & step.goes),
            notes.mover.eq(step.walk),
            notes.progress.level.eq(step.next),
            notes.progress.shared.eq(shared),
        ]
        m.d.sync += [
            pointer.valid.eq(moves & ~step.start),
            pointer.at.eq(step.at),
            pointer.owner.eq(step.owner),
            pointer.level.eq(step.next),
            pointer.pointer.ppn.eq(step.ppn),
            pointer.pointer.shared.eq(shared),
        ]
        outcome = self._outcome(m, step, doomed)
        for i, slot in enumerate(self._slots):
            m.d.comb += [
                slot.step.eq(step.at[i] & step.goes),
                slot.level.eq(step.next),
                slot.updating.eq(update.locked & (update.walk == i)),
                slot.end.eq(
                    (step.at[i] & (step.over | slot.doomed)) | ((update.walk == i) & closes & ~lost)
                ),
                slot.outcome.eq(outcome),
                slot.barred.eq(step.at[i] & barred),
            ]
        m.d.comb += [
            self._report.ending.eq(self._of("end") | self._of("barred")),
            self._report.outcome.eq(Mux(barred, Outcome.HELD, outcome)),
        ]
        self._note(m, step, shared)
        self._tell(m, step, lost)

    def _note(self, m: Module, step: data.View, shared: Value) -> None:
        """Note the leaf that a step found, or an entry that refuses; ask whether it is held."""
        span, notes = self.span, self._notes
        owner, entry = step.owner, notes.leaf.entry
        found = step.valid & ~step.goes
        m.d.sync += self._reaches.eq(span.held & found)
        m.d.comb += [
            notes.finds.eq(found),
            notes.leaf.write.eq(owner.write),
            entry.ppn.eq(step.ppn),
            entry.writable.eq(step.writable),
            entry.translation.vpn.eq(step.first),
            entry.translation.grain.eq(step.grain),
            entry.translation.shared.eq(shared),
            entry.translation.asid.eq(owner.asid),
            entry.translation.group.eq(owner.group),
            span.asid.eq(owner.asid),
            span.group.eq(owner.group),
            span.shared.eq(step.shared),
            span.first.eq(step.first),
            span.last.eq(step.last),
        ]
        if self.config.observe:
            m.d.comb += notes.leaf.pte.eq(step.pte)
        granted = step.outcome == Outcome.GRANTED
        for i, slot in enumerate(self._slots):
            m.d.comb += [
                slot.leaf.eq(step.at[i] & ~step.goes),
                slot.grain.eq(Mux(granted, step.grain, 0)),
                slot.writable.eq(step.writable),
                slot.reaches.eq(self._reaches),
            ]

    def _outcome(self, m: Module, step: data.View, doomed: Value) -> "EnumView[Outcome]":
        """Return how the walk ends if it ends now."""
        outcome = Signal(Outcome)
        with m.If(~step.valid):
            refused = failed(self._update.response)
            m.d.comb += outcome.eq(Mux(refused, Outcome.ACCESS_FAULT, Outcome.GRANTED))
        with m.Elif(doomed):
            m.d.comb += outcome.eq(Outcome.AGAIN)
        with m.Else():
            m.d.comb += outcome.eq(step.outcome)
        return outcome

    def _answer(self, m: Module) -> None:
        """Show the answer asked for."""
        walk, notes = self.walk, self._notes
        m.d.comb += [
            notes.select.eq(walk.select),
            walk.answered.eq(self._of("answered")),
            walk.answer.write.eq(notes.write),
            walk.answer.entry.eq(notes.entry),
        ]
        for i, slot in enumerate(self._slots):
            with m.If(walk.select == i):
                m.d.comb += walk.answer.outcome.eq(slot.result)

    def _offer(self, m: Module) -> None:
        """Offer the TLB a good answer that it does not have, for as long as it is one."""
        fill, notes = self.fill, self._notes
        filling = self._of("filling")
        pick, offered = lowest(m, filling), Signal(self.config.walks)
        m.d.comb += [notes.filler.eq(encoded(pick)), fill.en.eq((offered & filling).any())]
        with m.If(offered.any()):
            m.d.sync += offered.eq(Mux(fill.ready, 0, offered & filling))
        with m.Else():
            m.d.sync += [offered.eq(pick), fill.entry.eq(notes.fill)]
            if self.config.observe:
                m.d.sync += fill.pte.eq(notes.pte)
        for i, slot in enumerate(self._slots):
            m.d.comb += slot.filled.eq(offered[i] & fill.ready)

    def _fence(self, m: Module) -> None:
        """Name the asids of walks that are stuck; say whether one of the asid asked for is left."""
        pending = Signal(self.config.walks, name="unfenced")
        first = lowest(m, pending)
        told = Mux(self.fence.ready, first, 0)
        m.d.sync += pending.eq(((pending & ~told) | self.stuck) & self._of("running"))
        m.d.comb += self.fence.valid.eq(pending.any())
        for i, slot in enumerate(self._slots):
            with m.If(first[i]):
                m.d.comb += self.fence.payload.eq(slot.asid)
        mine = Cat(slot.asid == self.asked for slot in self._slots)
        m.d.comb += self.left.eq((mine & self._of("running")).any())

    def _tell(self, m: Module, step: data.View, lost: Value) -> None:
        """Tell the counters and the observer."""
        walk, update, report, events = self.walk, self._update, self._report, self.events
        request = walk.request.payload
        taken = walk.request.valid & walk.request.ready
        m.d.comb += [
            report.step.walk.eq(step.walk),
            report.step.owner.eq(step.owner),
            report.step.began.eq(step.began),
            report.making.eq(step.valid),
            report.storing.eq(update.store),
            report.lost.eq(self._of("lost")),
            events.walks.eq(self._of("begin").any()),
            events.walks_killed.eq(report.killed),
            events.walks_joined.eq(taken & ~events.walks),
            events.walk_cache_hits.eq(step.valid & step.found),
            events.updates.eq(update.release & ~step.valid & ~lost & ~failed(update.response)),
            events.updates_lost.eq(lost),
            self.latency.eq(report.latency),
        ]
        if self.config.observe:
            m.d.comb += [
                report.step.pte.eq(step.pte),
                self.ended.eq(report.ended),
                self.began.valid.eq(events.walks),
                self.began.walk.eq(walk.number),
                self.began.vpn.eq(request.vpn),
                self.began.asid.eq(request.asid),
                self.began.write.eq(request.write),
            ]
