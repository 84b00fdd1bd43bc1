"""The page-table walker: several walks at once, killed by invalidations, joined by those who miss the same page."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.enum import EnumView
from amaranth.lib.wiring import In, Out

from secmmu.axi import Axi4Signature, Burst
from secmmu.config import SecmmuConfig
from secmmu.counters import AGE_BITS, LatencyLayout
from secmmu.internals import (
    INDEX_BITS,
    FillSignature,
    HoldCheckSignature,
    KillLayout,
    Outcome,
    WalkSignature,
    span_last,
    span_mask,
)
from secmmu.layouts import PA_BITS, PAGE_BITS, WORD_BITS, PteLayout, Response
from secmmu.picks import chosen, in_turn, lowest, number
from secmmu.pte import PteJudge, PteVerdict
from secmmu.pte_update import PteUpdate
from secmmu.walk_cache import WalkCache
from secmmu.walk_layouts import (
    LeafLayout,
    OwnerLayout,
    PointerLayout,
    ProgressLayout,
    StepLayout,
    WalkEventsLayout,
    WalkRecordLayout,
)
from secmmu.walk_reads import WalkReads, word_address
from secmmu.walk_slot import WalkSlot

__all__ = ["Walker"]

WORD_SIZE = PAGE_BITS - INDEX_BITS
"""AxSIZE of a PTE."""


class Walker(wiring.Component):
    """Walks page tables, ``walks`` at once.

    A request taken in cycle t has its first read offered in t + 2, with the walk cache's help that of the last level.
    The data that comes in cycle r is judged in r + 1; the next read is offered, or the answer stands, in r + 2. One
    step, of whichever walk, is made in each cycle, and one read offered. An entry's data is taken at once, always.

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
    kill : In(KillLayout)
        The invalidation applied in this cycle.
    young : In(1)
        Whether pages were used is asked in this cycle: later accesses must go through the TLB.
    clear : In(1)
        Forget everything; only while ``idle``.
    fill : Out(FillSignature)
        The TLB.
    page, span : Out(HoldCheckSignature)
        The questions whether the page of a request, and the span of a leaf found, are held.
    owed, settled : Out(walks)
        Walks for whose end the invalidation of this cycle must wait; walks that end in this cycle.
    idle : Out(1)
        No walk goes on, and no answer is left for the TLB.
    events : Out(WalkEventsLayout), latency : Out(LatencyLayout), now : In
        For counters; what ended with an answer, and the clock that it is measured with.
    began, ended : Out(WalkRecordLayout)
        With ``observe``: a walk begins in this cycle; one ended, its answer stands from this cycle on.
    """

    walk: wiring.PureInterface
    bus: wiring.PureInterface
    kill: data.View
    young: Signal
    clear: Signal
    fill: wiring.PureInterface
    page: wiring.PureInterface
    span: wiring.PureInterface
    owed: Signal
    settled: Signal
    idle: Signal
    events: data.View
    latency: data.View
    now: Signal
    began: data.View
    ended: data.View

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        self._depth = 1 << config.walk_bits
        bus = Axi4Signature(
            addr_bits=PA_BITS,
            id_bits=config.walk_bits,
            user_bits=config.asid_bits,
            write=config.svadu,
        )
        members = {
            "walk": In(WalkSignature(config)),
            "bus": Out(bus),
            "kill": In(KillLayout(config)),
            "young": In(1),
            "clear": In(1),
            "fill": Out(FillSignature(config)),
            "page": Out(HoldCheckSignature(config)),
            "span": Out(HoldCheckSignature(config)),
            "owed": Out(config.walks),
            "settled": Out(config.walks),
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
        self._judge = PteJudge(config)
        self._update = PteUpdate(config)
        self._owners = memory.Memory(shape=OwnerLayout(config), depth=self._depth, init=[])
        self._begins = memory.Memory(shape=AGE_BITS, depth=self._depth, init=[])
        self._progress = memory.Memory(shape=ProgressLayout(config), depth=self._depth, init=[])
        self._leaves = memory.Memory(shape=LeafLayout(config), depth=self._depth, init=[])

    def elaborate(self, platform: object) -> Module:
        """Build the slots around the one step that is made in a cycle."""
        m = Module()
        m.submodules.cache = self._cache
        m.submodules.reads = self._reads
        m.submodules.judge = self._judge
        m.submodules.update = self._update
        m.submodules.owners = self._owners
        m.submodules.begins = self._begins
        m.submodules.progress = self._progress
        m.submodules.leaves = self._leaves
        for i, slot in enumerate(self._slots):
            m.submodules[f"slot{i}"] = slot
            m.d.comb += [
                slot.request.eq(self.walk.request.payload),
                slot.kill.eq(self.kill),
                slot.young.eq(self.young),
                slot.clear.eq(self.clear),
                slot.referred.eq(self.walk.referred[i]),
                self.owed[i].eq(slot.owed),
                self.settled[i].eq(slot.end),
            ]
        step = Signal(StepLayout(self.config))
        pointer = Signal(PointerLayout(self.config))
        begin = self._take(m, pointer)
        self._load(m, step, begin)
        self._make(m, step, pointer)
        self._answer(m)
        self._fill(m)
        self._drive_bus(m)
        m.d.comb += self.idle.eq(~Cat([slot.running | slot.filling for slot in self._slots]).any())
        return m

    def _of(self, member: str) -> Value:
        """Return one bit of all slots."""
        return Cat(getattr(slot, member) for slot in self._slots)

    def _take(self, m: Module, pointer: data.View) -> Signal:
        """Take a request: it is held, joins a walk, or begins one, which the returned one-hot names."""
        walk, cache, page = self.walk, self._cache, self.page
        request = walk.request.payload
        joined = lowest(self._of("joinable"))
        begin = Signal(self.config.walks)
        able = Signal()
        begins = Signal()
        free = in_turn(m, self._of("free"), begins, name="free")
        owner = Signal(OwnerLayout(self.config))
        m.d.comb += [
            page.asid.eq(request.asid),
            page.group.eq(request.group),
            page.first.eq(request.vpn),
            page.last.eq(request.vpn),
            walk.held.eq(page.held),
            # The step goes to data that comes, the comparators to a pointer to be kept, both before a request.
            able.eq(~self.bus.rvalid & ~pointer.valid & ~self._update.answered),
            walk.request.ready.eq(page.held | (able & (joined.any() | free.any()))),
            walk.number.eq(number(Mux(joined.any(), joined, free))),
            begins.eq(walk.request.valid & able & ~page.held & ~joined.any() & free.any()),
            begin.eq(Mux(begins, free, 0)),
            cache.key.vpn.eq(Mux(pointer.valid, pointer.owner.vpn, request.vpn)),
            cache.key.asid.eq(Mux(pointer.valid, pointer.owner.asid, request.asid)),
            cache.insert.valid.eq(pointer.valid),
            cache.insert.pure.eq(chosen(pointer.at, self._of("pure"))),
            cache.insert.level.eq(pointer.level),
            cache.insert.group.eq(pointer.owner.group),
            cache.insert.pointer.eq(pointer.pointer),
            cache.kill.eq(self.kill),
            cache.clear.eq(self.clear),
            owner.vpn.eq(request.vpn),
            owner.asid.eq(request.asid),
            owner.group.eq(request.group),
            owner.write.eq(request.write),
        ]
        for place, word in ((self._owners, owner), (self._begins, self.now)):
            writer = place.write_port()
            m.d.comb += [
                writer.en.eq(begins),
                writer.addr.eq(number(free)),
                writer.data.eq(word),
            ]
        m.d.comb += [slot.begin.eq(begin[i]) for i, slot in enumerate(self._slots)]
        return begin

    def _load(self, m: Module, step: data.View, begin: Signal) -> None:
        """Choose the step of the next cycle: data that comes now, or else the start of a walk."""
        bus, request, cache = self.bus, self.walk.request.payload, self._cache
        owner, began, progress = (
            place.read_port(domain="comb") for place in (self._owners, self._begins, self._progress)
        )
        for reader in (owner, began, progress):
            m.d.comb += reader.addr.eq(bus.rid)
        root = Signal(PteLayout())
        m.d.comb += root.ppn.eq(request.root_ppn)
        m.d.sync += step.valid.eq(bus.rvalid | begin.any())
        with m.If(bus.rvalid):
            m.d.sync += [
                step.start.eq(0),
                step.walk.eq(bus.rid),
                step.at.eq(Cat(bus.rid == i for i in range(self.config.walks))),
                step.owner.eq(owner.data),
                step.progress.eq(progress.data),
                step.next.eq(progress.data.level - 1),
                step.began.eq(began.data),
                step.found.eq(0),
                step.misled.eq(0),
                step.exclusive.eq(self._update.locked & (self._update.walk == bus.rid)),
                step.pte.eq(bus.rdata),
                step.response.eq(bus.rresp),
            ]
        with m.Else():
            m.d.sync += [
                step.start.eq(1),
                step.walk.eq(number(begin)),
                step.at.eq(begin),
                step.owner.vpn.eq(request.vpn),
                step.owner.asid.eq(request.asid),
                step.owner.group.eq(request.group),
                step.owner.write.eq(request.write),
                step.progress.shared.eq(0),
                # Sv39, Sv48 and Sv57 are modes 8, 9 and 10, their root tables of level 2, 3 and 4.
                step.next.eq(Mux(cache.found, cache.place.level, request.mode[:2] + 2)),
                step.began.eq(self.now),
                step.found.eq(cache.found),
                step.misled.eq(cache.dies),
                step.place.eq(cache.place),
                step.exclusive.eq(0),
                step.pte.eq(root),
            ]

    def _make(self, m: Module, step: data.View, pointer: data.View) -> None:
        """Make a step, or close an update when there is none: read on, update the leaf, or end the walk."""
        judge, update, reads, cache = self._judge, self._update, self._reads, self._cache
        writer = self._progress.write_port()
        doomed, failed, moves, updates = Signal(), Signal(), Signal(), Signal()
        closes, lost = Signal(), Signal()
        going = step.valid & ~doomed
        came = ~step.start & ~failed
        shared = step.progress.shared | step.pte.g | (step.found & cache.pointer.shared)
        m.d.comb += [
            judge.pte.eq(step.pte),
            judge.level.eq(step.progress.level),
            judge.write.eq(step.owner.write),
            doomed.eq(step.misled | chosen(step.at, self._of("doomed"))),
            failed.eq(_failed(step.response) | (step.exclusive & (step.response == Response.OKAY))),
            moves.eq(going & (step.start | (came & (judge.verdict == PteVerdict.POINTER)))),
            updates.eq(going & came & (judge.verdict == PteVerdict.UPDATE)),
            closes.eq(update.answered & ~step.valid),
            lost.eq(closes & (update.response == Response.OKAY)),
            cache.read.eq(step.place),
            reads.walk.eq(Mux(step.valid, step.walk, update.walk)),
            reads.want.eq(moves),
            reads.word.index.eq(step.owner.vpn.word_select(step.next, INDEX_BITS)),
            reads.word.ppn.eq(Mux(step.found, cache.pointer.ppn, step.pte.ppn)),
            reads.word.asid.eq(step.owner.asid),
            reads.retry.eq((updates & ~step.exclusive) | lost),
            reads.locked.eq(update.locked),
            update.locking.eq(reads.locking),
            update.locker.eq(reads.locker),
            update.word.eq(reads.locked_word),
            update.store.eq(updates & step.exclusive),
            update.release.eq((step.valid & step.exclusive & ~updates) | closes),
            writer.en.eq(moves),
            writer.addr.eq(step.walk),
            writer.data.level.eq(step.next),
            writer.data.shared.eq(shared),
        ]
        m.d.sync += [
            pointer.valid.eq(moves & ~step.start),
            pointer.at.eq(step.at),
            pointer.owner.eq(step.owner),
            pointer.level.eq(step.next),
            pointer.pointer.ppn.eq(step.pte.ppn),
            pointer.pointer.shared.eq(shared),
        ]
        leaf = self._note(m, step, step.valid & ~moves, failed, shared)
        outcome = self._outcome(m, step, doomed, failed)
        ends = step.valid & ~moves & ~updates
        ending = Signal(self.config.walks)
        closing = Cat((update.walk == i) & closes & ~lost for i in range(self.config.walks))
        m.d.comb += ending.eq(Mux(ends, step.at, closing))
        for i, slot in enumerate(self._slots):
            m.d.comb += [
                slot.step.eq(moves & step.at[i]),
                slot.level.eq(step.next),
                slot.updating.eq(update.locked & (update.walk == i)),
                slot.end.eq(ending[i]),
                slot.outcome.eq(outcome),
            ]
        self._report(m, step, leaf, ending, outcome, lost)

    def _note(
        self, m: Module, step: data.View, found: Value, failed: Value, shared: Value
    ) -> data.View:
        """Note the leaf that a step found, or an entry that refuses."""
        judge, span, update = self._judge, self.span, self._update
        vpn = step.owner.vpn
        writer = self._leaves.write_port()
        leaf = Signal(LeafLayout(self.config))
        reaches = Signal()
        m.d.sync += reaches.eq(span.held)
        updated = Signal(PteLayout())
        m.d.comb += [
            updated.eq(step.pte),
            leaf.ppn.eq(judge.ppn),
            leaf.grain.eq(judge.grain),
            leaf.shared.eq(shared),
            leaf.writable.eq(updated.w & updated.d),
            writer.en.eq(found),
            writer.addr.eq(step.walk),
            writer.data.eq(leaf),
            update.pte.eq(updated),
            span.asid.eq(step.owner.asid),
            span.group.eq(step.owner.group),
            span.shared.eq(shared),
            span.first.eq(vpn & ~span_mask(judge.grain)[: len(vpn)]),
            span.last.eq(span_last(vpn, judge.grain)),
        ]
        if self.config.svadu:
            m.d.comb += [updated.a.eq(1), updated.d.eq(step.pte.d | step.owner.write)]
        if self.config.observe:
            m.d.comb += leaf.pte.eq(updated)
        refused = failed | (judge.verdict == PteVerdict.REFUSED)
        for i, slot in enumerate(self._slots):
            m.d.comb += [
                slot.leaf.eq(found & step.at[i]),
                slot.grain.eq(Mux(refused, 0, judge.grain)),
                slot.writable.eq(leaf.writable),
                slot.reaches.eq(reaches),
            ]
        return leaf

    def _outcome(
        self, m: Module, step: data.View, doomed: Value, failed: Value
    ) -> "EnumView[Outcome]":
        """Return how the walk ends if it ends now."""
        outcome = Signal(Outcome)
        with m.If(~step.valid), m.If(_failed(self._update.response)):
            m.d.comb += outcome.eq(Outcome.ACCESS_FAULT)
        with m.Elif(doomed):
            m.d.comb += outcome.eq(Outcome.AGAIN)
        with m.Elif(failed):
            m.d.comb += outcome.eq(Outcome.ACCESS_FAULT)
        with m.Elif(self._judge.verdict == PteVerdict.REFUSED):
            m.d.comb += outcome.eq(Outcome.PAGE_FAULT)
        return outcome

    def _entry(self, m: Module, entry: data.View, number: Value) -> tuple[data.View, data.View]:
        """Put together the entry that a walk found; return what it was for and the leaf."""
        owner = self._owners.read_port(domain="comb")
        leaf = self._leaves.read_port(domain="comb")
        translation = entry.translation
        m.d.comb += [
            owner.addr.eq(number),
            leaf.addr.eq(number),
            entry.ppn.eq(leaf.data.ppn),
            entry.writable.eq(leaf.data.writable),
            translation.vpn.eq(owner.data.vpn & ~span_mask(leaf.data.grain)),
            translation.grain.eq(leaf.data.grain),
            translation.shared.eq(leaf.data.shared),
            translation.asid.eq(owner.data.asid),
            translation.group.eq(owner.data.group),
        ]
        return owner.data, leaf.data

    def _answer(self, m: Module) -> None:
        """Show the answer asked for."""
        walk = self.walk
        owner, _ = self._entry(m, walk.answer.entry, walk.select)
        m.d.comb += [
            walk.answered.eq(self._of("answered")),
            walk.answer.write.eq(owner.write),
        ]
        for i, slot in enumerate(self._slots):
            with m.If(walk.select == i):
                m.d.comb += walk.answer.outcome.eq(slot.result)

    def _fill(self, m: Module) -> None:
        """Offer the TLB a good answer that it does not have."""
        fill = self.fill
        pick = Signal(self.config.walks)
        _, leaf = self._entry(m, fill.entry, number(pick))
        m.d.comb += [pick.eq(lowest(self._of("filling"))), fill.en.eq(pick.any())]
        for i, slot in enumerate(self._slots):
            m.d.comb += slot.filled.eq(pick[i] & fill.ready)
        if self.config.observe:
            m.d.comb += fill.pte.eq(leaf.pte)

    def _drive_bus(self, m: Module) -> None:
        bus, read, update = self.bus, self._reads.read, self._update
        m.d.comb += [
            bus.arvalid.eq(read.valid),
            read.ready.eq(bus.arready),
            bus.arid.eq(read.payload.walk),
            bus.araddr.eq(word_address(read.payload.word)),
            bus.aruser.eq(read.payload.word.asid),
            bus.arlock.eq(read.payload.lock),
            bus.arsize.eq(WORD_SIZE),
            bus.arburst.eq(Burst.INCR),
            bus.rready.eq(1),
        ]
        if self.config.svadu:
            m.d.comb += [
                bus.awvalid.eq(update.address.valid),
                update.address.ready.eq(bus.awready),
                bus.awid.eq(update.walk),
                bus.awaddr.eq(word_address(update.address.payload)),
                bus.awuser.eq(update.address.payload.asid),
                bus.awlock.eq(1),
                bus.awsize.eq(WORD_SIZE),
                bus.awburst.eq(Burst.INCR),
                bus.wvalid.eq(update.beat.valid),
                update.beat.ready.eq(bus.wready),
                bus.wdata.eq(update.beat.payload),
                bus.wstrb.eq(Const(-1, 8)),
                bus.wlast.eq(1),
                update.reply.valid.eq(bus.bvalid),
                update.reply.payload.eq(bus.bresp),
                bus.bready.eq(update.reply.ready),
            ]

    def _report(
        self,
        m: Module,
        step: data.View,
        leaf: data.View,
        ending: Value,
        outcome: "EnumView[Outcome]",
        lost: Value,
    ) -> None:
        """Tell the counters and the observer."""
        walk, update = self.walk, self._update
        record = data.StructLayout(
            {"walk": self.config.walk_bits, "owner": step.owner.shape(), "began": AGE_BITS}
            | ({"pte": WORD_BITS} if self.config.observe else {})
        )
        now, stored, last = Signal(record), Signal(record), Signal(record)
        at = Signal(self.config.walks)
        ended = Signal(Outcome)
        killed = Signal()
        m.d.comb += [
            now.walk.eq(step.walk),
            now.owner.eq(step.owner),
            now.began.eq(step.began),
            killed.eq(chosen(at, self._of("lost"))),
            self.events.walks.eq(self._of("begin").any()),
            self.events.walks_killed.eq(killed),
            self.events.walks_joined.eq(
                walk.request.valid & walk.request.ready & ~walk.held & self._of("joinable").any()
            ),
            self.events.walk_cache_hits.eq(step.valid & step.found),
            self.events.updates.eq(
                (update.response == Response.EXOKAY) & update.release & ~step.valid
            ),
            self.events.updates_lost.eq(lost),
            self.latency.valid.eq(at.any() & ~killed),
            self.latency.began.eq(last.began),
        ]
        with m.If(update.store):
            m.d.sync += stored.eq(now)
        m.d.sync += [at.eq(ending), ended.eq(outcome), last.eq(Mux(step.valid, now, stored))]
        if self.config.observe:
            m.d.comb += now.pte.eq(leaf.pte)
            self._observe(m, last, at.any(), Mux(killed, Outcome.AGAIN, ended))

    def _observe(self, m: Module, last: data.View, valid: Value, outcome: Value) -> None:
        request = self.walk.request.payload
        m.d.comb += [
            self.began.valid.eq(self.events.walks),
            self.began.walk.eq(self.walk.number),
            self.began.vpn.eq(request.vpn),
            self.began.asid.eq(request.asid),
            self.began.write.eq(request.write),
            self.ended.valid.eq(valid),
            self.ended.walk.eq(last.walk),
            self.ended.vpn.eq(last.owner.vpn),
            self.ended.asid.eq(last.owner.asid),
            self.ended.write.eq(last.owner.write),
            self.ended.outcome.eq(outcome),
            self.ended.pte.eq(last.pte),
        ]


def _failed(response: Value) -> Value:
    """Return whether a response is SLVERR or DECERR."""
    return (response == Response.SLVERR) | (response == Response.DECERR)
