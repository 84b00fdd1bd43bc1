"""The page-table walker: Sv39, one walk at a time, checks of the privileged spec, killed by invalidations."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.enum import EnumView
from amaranth.lib.wiring import In, Out

from secmmu.axi import Axi4Signature
from secmmu.config import SecmmuConfig
from secmmu.internals import (
    INDEX_BITS,
    LEVELS,
    FillSignature,
    HoldCheckSignature,
    KillLayout,
    Outcome,
    WalkRequestLayout,
    WalkSignature,
    killed_asid,
    sign_extended,
    span_last,
    span_mask,
)
from secmmu.layouts import PA_BITS, PAGE_BITS, PPN_BITS, Cause, PteLayout

__all__ = ["Walker"]


class Walker(wiring.Component):
    """Walks page tables for the two translators, in turn.

    A page-table read is 8 bytes; L cycles from its address to its data make a walk of n levels take n (L + 2) + 1
    cycles or so. An invalidation of the page kills the walk: the read it owes is absorbed, then it ends as
    ``KILLED``. An invalidation of another page that the leaf may turn out to span is remembered, and kills the
    fill if it does. Either way the translator begins again from the root.

    ============  ==============================================================================================
    state         meaning
    ============  ==============================================================================================
    ``Idle``      a request is taken
    ``Request``   the address of a page-table read is offered
    ``Data``      its data is awaited
    ``Check``     the entry is judged
    ``Fill``      a good leaf waits for the TLB, one cycle when no invalidation is applied in it
    ============  ==============================================================================================

    Parameters
    ----------
    config : SecmmuConfig
        Widths, ``observe``, ``mutant``.

    Members
    -------
    read, write : In(WalkSignature)
        The translators' doors.
    bus : Out(Axi4Signature)
        Page-table reads.
    kill : In(KillLayout)
        The invalidation applied in this cycle.
    fill : Out(FillSignature), hold : Out(HoldCheckSignature)
        The TLB, and the question whether the leaf's span is held.
    owed : Out(1)
        The invalidation applied in this cycle must wait for ``retired`` before its pages are free: a table that
        it may have unlinked can still be read by this walk.
    begun, retired, killed : Out(1)
        A walk begins; ends; ends as ``KILLED`` or ``HELD``.
    idle : Out(1)
        No walk.
    subject : Out(WalkRequestLayout), writing : Out(1), pte : Out(64)
        With ``observe``: whose walk begins or ends in this cycle, and with a fill its leaf.
    """

    read: wiring.PureInterface
    write: wiring.PureInterface
    bus: wiring.PureInterface
    kill: data.View
    fill: wiring.PureInterface
    hold: wiring.PureInterface
    owed: Signal
    begun: Signal
    retired: Signal
    killed: Signal
    idle: Signal
    subject: data.View
    writing: Signal
    pte: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        members = {
            "read": In(WalkSignature(config)),
            "write": In(WalkSignature(config)),
            "bus": Out(
                Axi4Signature(addr_bits=PA_BITS, id_bits=1, user_bits=config.asid_bits, write=False)
            ),
            "kill": In(KillLayout(config)),
            "fill": Out(FillSignature(config)),
            "hold": Out(HoldCheckSignature(config)),
            "owed": Out(1),
            "begun": Out(1),
            "retired": Out(1),
            "killed": Out(1),
            "idle": Out(1),
        }
        if config.observe:
            members |= {
                "subject": Out(WalkRequestLayout(config)),
                "writing": Out(1),
                "pte": Out(64),
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """Build the state machine around one walk."""
        m = Module()
        config = self.config
        walk = Signal(WalkRequestLayout(config))
        writing = Signal()
        level = Signal(range(LEVELS))
        table = Signal(PPN_BITS)
        shared = Signal()
        pte = Signal(PteLayout())
        failed = Signal()
        touched = Signal(LEVELS)
        touching = self._touching(m, walk, level)
        touched_now = Signal(LEVELS)
        stale = Signal()
        outcome = Signal(Outcome)
        cause = Signal(Cause, init=Cause.LOAD_ACCESS)
        bad, leaf = self._judge(m, pte, level, writing)

        with m.FSM() as fsm:
            with m.State("Idle"):
                self._take(m, walk, writing, level, table, shared, touched)
                with m.If(self.begun):
                    m.next = "Request"
            with m.State("Request"):
                m.d.comb += self.bus.arvalid.eq(1)
                with m.If(self.bus.arready):
                    m.next = "Data"
            with m.State("Data"):
                m.d.comb += self.bus.rready.eq(1)
                with m.If(self.bus.rvalid):
                    m.d.sync += [pte.eq(self.bus.rdata), failed.eq(self.bus.rresp[1])]
                    m.next = "Check"
            with m.State("Check"):
                # A pointer is stale with the page alone: what it leads to is judged when it is read.
                with m.If(touched_now[0] | failed | bad):
                    m.d.comb += [
                        self.retired.eq(1),
                        outcome.eq(Mux(stale, Outcome.KILLED, Outcome.FAULT)),
                    ]
                    m.next = "Idle"
                with m.Elif(leaf):
                    m.next = "Fill"
                with m.Else():
                    m.d.sync += [level.eq(level - 1), table.eq(pte.ppn), shared.eq(shared | pte.g)]
                    m.next = "Request"
            with m.State("Fill"):
                with m.If(stale):
                    m.d.comb += [self.retired.eq(1), outcome.eq(Outcome.KILLED)]
                with m.Elif(self.hold.held):
                    m.d.comb += [self.retired.eq(1), outcome.eq(Outcome.HELD)]
                with m.Elif(self._may_fill()):
                    m.d.comb += [self.retired.eq(1), outcome.eq(Outcome.FILLED), self.fill.en.eq(1)]
                with m.If(self.retired):
                    m.next = "Idle"

        filling = fsm.ongoing("Fill")
        now = (
            touching & ~filling.replicate(LEVELS)
            if config.mutant == "rtl-no-fill-kill"
            else touching
        )
        if config.mutant == "rtl-no-walk-kill":
            now = touching & filling.replicate(LEVELS)
        m.d.comb += [
            touched_now.eq(touched | now),
            # The page itself, or a page that a leaf of this level spans.
            stale.eq(touched_now[0] | touched_now.bit_select(level, 1)),
            cause.eq(self._cause(writing, failed)),
            self.idle.eq(fsm.ongoing("Idle")),
            self.killed.eq(
                self.retired & ((outcome == Outcome.KILLED) | (outcome == Outcome.HELD))
            ),
        ]
        with m.If(~fsm.ongoing("Idle")):
            m.d.sync += touched.eq(touched_now)
        self._drive_bus(m, walk, table, level)
        self._drive_fill(m, walk, level, pte, shared | pte.g)
        self._answer(m, writing, outcome, cause)
        if config.observe:
            m.d.comb += self.pte.eq(pte)
            with m.If(~self.begun):
                m.d.comb += [self.subject.eq(walk), self.writing.eq(writing)]
        return m

    def _take(
        self,
        m: Module,
        walk: data.View,
        writing: Signal,
        level: Signal,
        table: Signal,
        shared: Signal,
        touched: Signal,
    ) -> None:
        """Take a request, the direction that did not have the last walk first."""
        chooses_write = Signal()
        m.d.comb += [
            chooses_write.eq(self.write.request.valid & ~(self.read.request.valid & writing)),
            self.read.request.ready.eq(~chooses_write),
            self.write.request.ready.eq(chooses_write),
            self.begun.eq(self.read.request.valid | self.write.request.valid),
        ]
        chosen = Signal(WalkRequestLayout(self.config))
        m.d.comb += chosen.eq(
            Mux(
                chooses_write,
                self.write.request.payload.as_value(),
                self.read.request.payload.as_value(),
            )
        )
        if self.config.observe:
            with m.If(self.begun):
                m.d.comb += [self.subject.eq(chosen), self.writing.eq(chooses_write)]
        with m.If(self.begun):
            m.d.sync += [
                walk.eq(chosen),
                writing.eq(chooses_write),
                level.eq(LEVELS - 1),
                table.eq(chosen.root_ppn),
                shared.eq(0),
                touched.eq(0),
            ]

    def _touching(self, m: Module, walk: data.View, level: Signal) -> Value:
        """Return, for each level, whether the invalidation overlaps the span of a leaf there; drive ``owed``."""
        kill = self.kill
        # Until the leaf is read it may be global: the whole group's invalidations count.
        space = killed_asid(kill, asid=walk.asid, group=walk.group, shared=Const(1))
        touching = Signal(LEVELS)
        for i in range(LEVELS):
            bits = i * INDEX_BITS
            first, last = kill.first[bits:], kill.last[bits:]
            page = walk.vpn[bits:]
            m.d.comb += touching[i].eq(space & (first <= page) & (page <= last))
        # A table that maps 2 MiB is being read at level 0; before that, one that maps 1 GiB may be about to be.
        table = Mux(level == 0, touching[1], touching[2])
        m.d.comb += self.owed.eq(
            ~self.idle & ~self.retired & (touching[0] | (~kill.leaf_only & table))
        )
        return touching

    def _judge(
        self, m: Module, pte: data.View, level: Signal, writing: Signal
    ) -> tuple[Signal, Signal]:
        """Return whether the entry refuses the access, and whether it is a leaf (privileged spec, 4.3.2)."""
        leaf = Signal()
        bad = Signal()
        m.d.comb += leaf.eq(pte.r | pte.x)
        m.d.comb += bad.eq(~pte.v | (pte.w & ~pte.r) | pte.reserved.any() | pte.pbmt.any() | pte.n)
        with m.If(leaf):
            forbidden = ~pte.u | ~pte.r | (writing & ~pte.w) | ~pte.a | (writing & ~pte.d)
            misaligned = (pte.ppn & span_mask(level)).any()
            with m.If(forbidden | misaligned):
                m.d.comb += bad.eq(1)
        with m.Elif(pte.d | pte.a | pte.u | (level == 0)):
            m.d.comb += bad.eq(1)
        return bad, leaf

    def _may_fill(self) -> Value:
        """Return whether the fill may go in: not beside an invalidation, which has the TLB's comparators."""
        if self.config.mutant == "rtl-no-fill-kill":
            return self.kill.valid | ~self.fill.busy
        return ~self.fill.busy

    def _cause(self, writing: Signal, failed: Signal) -> Value:
        return Mux(
            failed,
            Mux(writing, Cause.STORE_ACCESS, Cause.LOAD_ACCESS),
            Mux(writing, Cause.STORE_PAGE, Cause.LOAD_PAGE),
        )

    def _drive_bus(self, m: Module, walk: data.View, table: Signal, level: Signal) -> None:
        index = walk.vpn.word_select(level, INDEX_BITS)
        m.d.comb += [
            self.bus.araddr.eq(Cat(Const(0, PAGE_BITS - INDEX_BITS), index, table)),
            self.bus.arsize.eq(PAGE_BITS - INDEX_BITS),
            self.bus.arburst.eq(1),
            self.bus.aruser.eq(walk.asid),
        ]

    def _drive_fill(
        self, m: Module, walk: data.View, level: Signal, pte: data.View, shared: Value
    ) -> None:
        entry = self.fill.entry
        m.d.comb += [
            entry.ppn.eq(pte.ppn),
            entry.writable.eq(pte.w & pte.d),
            entry.translation.vpn.eq(walk.vpn & ~span_mask(level)),
            entry.translation.level.eq(level),
            entry.translation.shared.eq(shared),
            entry.translation.asid.eq(walk.asid),
            entry.translation.group.eq(walk.group),
            self.hold.asid.eq(walk.asid),
            self.hold.group.eq(walk.group),
            self.hold.shared.eq(shared),
            self.hold.first.eq(sign_extended(entry.translation.vpn)),
            self.hold.last.eq(sign_extended(span_last(walk.vpn, level))),
        ]

    def _answer(
        self, m: Module, writing: Signal, outcome: "EnumView[Outcome]", cause: "EnumView[Cause]"
    ) -> None:
        for door, mine in ((self.read, ~writing), (self.write, writing)):
            m.d.comb += [
                door.done.eq(self.retired & mine),
                door.result.outcome.eq(outcome),
                door.result.cause.eq(cause),
                door.filled.eq(self.fill.en),
            ]
