"""Stage D: what becomes of the access whose translation is there, or is known not to be."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.datapath.flight import (
    AnswerSignature,
    CandidateLayout,
    DecisionLayout,
    FlightLayout,
    Source,
    stash_bits,
)
from secmmu.internals import (
    SV39_MODE,
    ContextLayout,
    EntryLayout,
    Outcome,
    WalkAnswerLayout,
)
from secmmu.page_numbers import free_bits, free_pieces

__all__ = ["Decide"]

PATIENCE_BITS = 4


class Decide(wiring.Component):
    """Begins the use of what is translated and permitted; makes a waiter of everything else.

    It looks at a waiter whose walk is answered, or else at the last stage of the pipeline. An access that could begin
    but for the output register or a use slot is kept for 15 cycles, then it waits aside: a direction that stands must
    not stop the other for ever.

    Parameters
    ----------
    config : SecmmuConfig
        Widths, ``contexts``, ``levels``, ``mutant``.

    Members
    -------
    last : In(CandidateLayout), row : In(ContextLayout), outdated, fenced : In(1)
        The pipeline's last stage; its asid is fenced off.
    hit, dies : In(1), entry : In(EntryLayout), entry_free : In
        What the TLB says of it; see :class:`~secmmu.internals.LookupSignature`.
    answered_place : In(AnswerSignature)
        A waiter whose walk is answered.
    answered : In(1), answer : In(WalkAnswerLayout)
        Its answer, in so far as it stood in the cycle before.
    killing : In(1)
        Invalidations are applied in this cycle: such a waiter is not decided, since its answer may just have died.
    behind : In(1)
        An older access of the id of ``last`` still waits.
    released, barred : In(1)
        A hold was released since the walk of the answered waiter was asked for; an asid was fenced off since its lookup.
    output_free : In(2)
        For reads and writes: the output register takes an access at the end of this cycle.
    last_slot_free, aside_slot_free : In(1)
        There is a use slot for the pipeline's last stage; for the waiter.
    place_free : In
        The waiter that a fresh access becomes.
    turns : In(1), stash_free : In(1), stash : In
        Writes wait for their turn to have their data told where to go; there is room for the data of ``flight`` in
        the write buffer; there.
    advance : Out(1)
        The pipeline moves on at the end of this cycle.
    flight : Out(FlightLayout)
        The access looked at.
    begin : Out(1)
        Its use begins.
    chosen : Out(EntryLayout), free : Out
        With it: its translation; the pieces of the page number that this leaves free.
    decision : Out(DecisionLayout)
        What becomes of it.
    first_hit, first_miss : Out(1)
        The first lookup of an access ends in this cycle.
    """

    last: data.View
    row: data.View
    outdated: Signal
    hit: Signal
    dies: Signal
    entry: data.View
    entry_free: Signal
    answered_place: wiring.PureInterface
    answered: Signal
    answer: data.View
    killing: Signal
    fenced: Signal
    behind: Signal
    released: Signal
    barred: Signal
    output_free: Signal
    last_slot_free: Signal
    aside_slot_free: Signal
    place_free: Signal
    turns: Signal
    stash_free: Signal
    stash: Signal
    advance: Signal
    flight: data.View
    begin: Signal
    chosen: data.View
    free: Signal
    decision: data.View
    first_hit: Signal
    first_miss: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "last": In(CandidateLayout(config)),
                "row": In(ContextLayout()),
                "outdated": In(1),
                "hit": In(1),
                "dies": In(1),
                "entry": In(EntryLayout(config)),
                "entry_free": In(free_bits(config.vpn_bits)),
                "answered_place": In(AnswerSignature(config)),
                "answered": In(1),
                "answer": In(WalkAnswerLayout(config)),
                "killing": In(1),
                "fenced": In(1),
                "behind": In(1),
                "released": In(1),
                "barred": In(1),
                "output_free": In(2),
                "last_slot_free": In(1),
                "aside_slot_free": In(1),
                "place_free": In((config.waiters - 1).bit_length()),
                "turns": In(1),
                "stash_free": In(1),
                "stash": In(stash_bits(config)),
                "advance": Out(1),
                "flight": Out(FlightLayout(config)),
                "begin": Out(1),
                "chosen": Out(EntryLayout(config)),
                "free": Out(free_bits(config.vpn_bits)),
                "decision": Out(DecisionLayout(config)),
                "first_hit": Out(1),
                "first_miss": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the verdicts on both, side by side, and the choice between them."""
        m = Module()
        last, aside, decision = self.last, self.answered_place, self.decision
        aside_stands, last_stands = Signal(), Signal()
        aside_stays, last_stays = Signal(), Signal()
        patience = Signal(PATIENCE_BITS)
        impatient = patience.all()
        answer_free = free_pieces(self.answer.entry.translation.grain, self.config.vpn_bits)
        m.d.comb += [
            self.flight.eq(Mux(aside.valid, aside.flight.as_value(), last.flight.as_value())),
            self.chosen.eq(Mux(aside.valid, self.answer.entry.as_value(), self.entry.as_value())),
            self.free.eq(Mux(aside.valid, answer_free, self.entry_free)),
            # Known early in the cycle, whatever the TLB says: also what will turn out to miss stands meanwhile.
            last_stands.eq(
                ~(self.output_free.bit_select(last.flight.write, 1) & self.last_slot_free)
            ),
            aside_stands.eq(
                ~(self.output_free.bit_select(aside.flight.write, 1) & self.aside_slot_free)
            ),
            last_stays.eq(last_stands & ~impatient),
            aside_stays.eq(self.killing | (aside_stands & ~impatient)),
            self.advance.eq(~aside.valid & ~(last.valid & last_stays)),
            aside.taken.eq(~aside_stays),
        ]
        m.d.sync += patience.eq(
            Mux(Mux(aside.valid, aside_stays, last.valid & last_stays), patience + 1, 0)
        )
        judged = self._judge_last(m, last_stands)
        granted = self._judge_answer(m, aside_stands)
        m.d.comb += [
            self.begin.eq(
                Mux(
                    aside.valid,
                    granted & ~aside_stands & ~self.killing,
                    last.valid & judged & ~last_stands,
                )
            ),
            decision.begins.eq(self.begin),
            decision.ends.eq(Mux(aside.valid, ~aside_stays, last.valid & ~last_stays)),
            decision.fresh.eq(~aside.valid & last.fresh),
            decision.joins.eq(
                ~aside.valid & last.valid & last.fresh & ~last_stays & ~(judged & ~last_stands)
            ),
            decision.starved.eq(Mux(aside.valid, granted & aside_stands, judged & last_stands)),
            decision.slotless.eq(~Mux(aside.valid, self.aside_slot_free, self.last_slot_free)),
            decision.place.eq(
                Mux(aside.valid, aside.place, Mux(last.fresh, self.place_free, last.place))
            ),
            decision.stash.eq(self.stash),
            decision.source.eq(Mux(self.stash_free & ~self.turns, Source.STASH, Source.TURN)),
        ]
        return m

    def _judge_last(self, m: Module, stands: Signal) -> Value:
        """Judge the last stage of the pipeline; return whether it may begin."""
        last, decision = self.last, self.decision
        access = last.flight.access
        modes = len(last.flight.canonical)
        known = Cat(self.row.mode == SV39_MODE + at for at in range(modes))
        bad, wild, legal = Signal(), Signal(), Signal()
        usable = Signal()
        waits = Signal()
        dies = Const(0) if self.config.mutant == "rtl-no-hit-kill" else self.dies
        m.d.comb += [
            bad.eq(
                last.flight.crosses
                | ~known.any()
                | (access.asid >> self.config.context_bits).any()
                | self.fenced
            ),
            wild.eq(~(known & last.flight.canonical).any()),
            legal.eq(~self.outdated & ~bad & ~wild),
            # An entry that does not permit the access is a miss: its PTE may have been upgraded since (I11).
            usable.eq(self.hit & ~dies & (self.entry.writable | ~last.flight.write)),
            # The data of writes that wait for their turn comes before that of a fresh one.
            waits.eq(self.behind | (last.fresh & last.flight.write & self.turns)),
        ]
        with m.If(~self.answered_place.valid):
            m.d.comb += [
                decision.parks.eq(self.outdated | (legal & usable & (waits | stands))),
                decision.wants.eq(legal & ~usable),
                decision.reports.eq(~self.outdated & (bad | wild)),
                decision.final.eq(1),
                decision.page_fault.eq(~bad),
            ]
        leaves = self.advance & last.valid & last.fresh & legal
        m.d.comb += [
            self.first_hit.eq(leaves & usable),
            self.first_miss.eq(leaves & ~usable),
        ]
        return legal & usable & ~waits

    def _judge_answer(self, m: Module, stands: Signal) -> Value:
        """Judge the waiter whose walk is answered; return whether it may begin."""
        decision, answer, outcome = self.decision, self.answer, self.answer.outcome
        write = self.answered_place.flight.write
        granted, held, refused = Signal(), Signal(), Signal()
        page_fault = outcome == Outcome.PAGE_FAULT
        m.d.comb += [
            granted.eq(
                self.answered
                & (outcome == Outcome.GRANTED)
                & (answer.entry.writable | ~write)
                & ~self.barred
            ),
            held.eq(self.answered & (outcome == Outcome.HELD) & ~self.released),
            refused.eq(
                self.answered
                & (page_fault | (outcome == Outcome.ACCESS_FAULT))
                # Where a write is refused a read may still be granted.
                & (write | ~answer.write)
            ),
        ]
        with m.If(self.answered_place.valid):
            m.d.comb += [
                decision.parks.eq(~held & ~refused & (~granted | stands)),
                decision.holds.eq(held),
                decision.reports.eq(refused),
                decision.page_fault.eq(page_fault),
            ]
        return granted
