"""The waiters: accesses that cannot leave yet, and what each of them waits for."""

from functools import reduce
from operator import or_

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.datapath.exits import Exits
from secmmu.datapath.flight import (
    AnswerSignature,
    CandidateLayout,
    DecisionLayout,
    FlightLayout,
    Source,
    Wait,
    place_bits,
    stash_bits,
)
from secmmu.datapath.uses import FollowedLayout
from secmmu.datapath.waiting import (
    READ,
    WRITE,
    Moves,
    PlaceLayout,
    StashedLayout,
    WriteRefusalLayout,
    is_in,
    waiting,
)
from secmmu.datapath.walk_asker import WalkAsker
from secmmu.internals import ContextLayout, RefusalLayout, WalkSignature
from secmmu.layouts import EPOCH_BITS, FaultLayout, ResumeLayout
from secmmu.picks import chosen, chosen_ahead, encoded, lowest

__all__ = ["Waiters"]


class Waiters(wiring.Component):
    """Keeps the accesses that stage D could not let go.

    What waits is looked up again when nothing holds it back any more; accesses of one id and direction in the order
    in which they came. One whose walk is answered goes to stage D directly, if it may go at all; otherwise it lets
    the walk go and is looked up again later, so that an access that stands for another reason never keeps a walk.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``, ``stalls``, ``walks``, widths.

    Members
    -------
    decision : In(DecisionLayout)
        What stage D makes of a waiter, or of a fresh access that becomes ``place_free``.
    last : In(CandidateLayout), row : In(ContextLayout), epoch : In(64)
        The pipeline's last stage; the count of commands.
    aside : In(1)
        Stage D looks at an answered waiter, not at ``last``.
    place_free : Out
        Where a fresh access goes.
    behind : Out(1)
        An older access of the id of ``last`` waits.
    released, barred : Out(1)
        A hold was released since the walk of the answered waiter was asked for; an asid was fenced off since its lookup.
    source, stash : Out
        Where the data of the write in stage D is, when it is a waiter.
    again : Out(stream of CandidateLayout)
        A waiter to look up again.
    answered_place : Out(AnswerSignature)
        A waiter whose walk is answered.
    followed : In(FollowedLayout)
        The walk and the direction of the one that left stage D for the memory last.
    walk : Out(WalkSignature)
        The walker; ``select`` and ``answer`` belong to ``answered_place``.
    changes : In(1), release : In(1), fences : In(1)
        A context row may have changed before the invalidation applied in this cycle; a hold is released; an asid is
        fenced off.
    output_free, room : In(2)
        For reads and writes: the output register takes an access; a use slot is free.
    stashed : In(StashedLayout)
        W data that is complete.
    fault : Out(stream of FaultLayout), resume : In(stream of ResumeLayout)
        The host's side of faults.
    read_refusal : Out(stream of RefusalLayout), write_refusal : Out(stream of WriteRefusalLayout)
        Who answers SLVERR; taken with the last of the answer.
    refused : Out(2)
        For reads and writes: one is answered in this cycle.
    turns : Out(1)
        Writes wait for their turn to have their data told where to go.
    starved, slotless : Out(2)
        For reads and writes: one could begin but for the output or a slot; but for a slot.
    stop : In(1)
        Soft reset: refuse what waits for the host.
    none : Out(1)
        Nobody waits.
    """

    decision: data.View
    last: data.View
    row: data.View
    epoch: Signal
    aside: Signal
    place_free: Signal
    behind: Signal
    released: Signal
    barred: Signal
    source: Value
    stash: Signal
    again: stream.Interface
    answered_place: wiring.PureInterface
    followed: data.View
    walk: wiring.PureInterface
    changes: Signal
    release: Signal
    fences: Signal
    output_free: Signal
    room: Signal
    stashed: data.View
    fault: stream.Interface
    resume: stream.Interface
    read_refusal: stream.Interface
    write_refusal: stream.Interface
    refused: Signal
    turns: Signal
    starved: Signal
    slotless: Signal
    stop: Signal
    none: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "decision": In(DecisionLayout(config)),
                "last": In(CandidateLayout(config)),
                "row": In(ContextLayout()),
                "epoch": In(EPOCH_BITS),
                "aside": In(1),
                "place_free": Out(place_bits(config)),
                "behind": Out(1),
                "released": Out(1),
                "barred": Out(1),
                "source": Out(Source),
                "stash": Out(stash_bits(config)),
                "again": Out(stream.Signature(CandidateLayout(config))),
                "answered_place": Out(AnswerSignature(config)),
                "followed": In(FollowedLayout(config)),
                "walk": Out(WalkSignature(config)),
                "changes": In(1),
                "release": In(1),
                "fences": In(1),
                "output_free": In(2),
                "room": In(2),
                "stashed": In(StashedLayout(config)),
                "fault": Out(stream.Signature(FaultLayout())),
                "resume": In(stream.Signature(ResumeLayout())),
                "read_refusal": Out(stream.Signature(RefusalLayout(config))),
                "write_refusal": Out(stream.Signature(WriteRefusalLayout(config))),
                "refused": Out(2),
                "turns": Out(1),
                "starved": Out(2),
                "slotless": Out(2),
                "stop": In(1),
                "none": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the waiters, and the four ways out of waiting."""
        m = Module()
        config = self.config
        count = config.waiters
        self._places = [
            Signal(PlaceLayout(config), name=f"place{i}", init={"waits": 1 << Wait.FREE.value})
            for i in range(count)
        ]
        self._moves = [Moves() for _ in range(count)]
        self._exits = Exits(config)
        self._gone = Signal(count)
        free = waiting(self._places, Wait.FREE)
        m.d.comb += [
            self.none.eq(free.all()),
            # A cycle ahead: what is reserved is free for longer than that.
            self.place_free.eq(encoded(chosen_ahead(m, free, self.decision.joins))),
        ]
        self._throttle(m)
        self._keep(m)
        self._decide(m)
        self._line_up(m)
        self._await_data(m)
        self._go(m)
        self._ask(m)
        self._leave(m)
        for moves, place in zip(self._moves, self._places, strict=True):
            moves.make(m, place.waits)
        return m

    def _of(self, place: Value, field: str) -> Value:
        """Return a register of the waiter whose number is ``place``."""
        return Array(each[field] for each in self._places)[place]

    def _keep(self, m: Module) -> None:
        """Build the memory of the accesses, for those that go on."""
        config = self.config
        m.submodules.flights = self._flights = memory.Memory(
            shape=FlightLayout(config), depth=config.waiters, init=[]
        )
        self._looked_up = Signal()
        self._looked_up_place = Signal(place_bits(config))
        port = self._flights.write_port()
        m.d.comb += [
            # Also where nobody stays: the place is free then.
            self._looked_up.eq(self.last.valid & ~self.aside),
            self._looked_up_place.eq(Mux(self.last.fresh, self.place_free, self.last.place)),
            port.en.eq(self._looked_up),
            port.addr.eq(self._looked_up_place),
            port.data.eq(self.last.flight),
        ]

    def _throttle(self, m: Module) -> None:
        """Say who could begin but for the output or a slot."""
        for at in (READ, WRITE):
            starving = Cat(
                place.starved & (place.write == at) & is_in(place, Wait.PARKED, Wait.GOING)
                for place in self._places
            )
            slotless = Cat(place.slotless for place in self._places)
            m.d.comb += [
                self.starved[at].eq(starving.any()),
                self.slotless[at].eq((starving & slotless).any()),
            ]

    def _decide(self, m: Module) -> None:
        """Take over what stage D decides. What depends on the decision least is taken as long as none is made."""
        decision, last = self.decision, self.last.flight
        self._here = [decision.place == i for i in range(self.config.waiters)]
        for place, here, moves in zip(self._places, self._here, self._moves, strict=True):
            ends = here & decision.ends
            for source in (Wait.FREE, Wait.GOING):
                moves.add(source, ends & decision.parks, Wait.PARKED)
                moves.add(source, ends & decision.reports, Wait.REPORT)
            moves.add(Wait.GOING, ends & decision.holds, Wait.HELD)
            moves.add(Wait.GOING, here & decision.begins, Wait.FREE)
            with m.If(is_in(place, Wait.FREE)):
                m.d.sync += [
                    place.write.eq(last.write),
                    place.id.eq(last.access.id),
                    place.source.eq(decision.source),
                    place.stash.eq(decision.stash),
                ]
            with m.If(is_in(place, Wait.FREE, Wait.GOING)):
                m.d.sync += [
                    place.page_fault.eq(decision.page_fault),
                    place.final.eq(decision.final),
                ]
            looked_up = is_in(place, Wait.FREE, Wait.GOING) & ~self.aside
            with m.If(looked_up):
                m.d.sync += place.may_stall.eq(self.row.stall)
            with m.If(self.fences):
                m.d.sync += place.barred.eq(1)
            with m.Elif(looked_up):
                m.d.sync += place.barred.eq(0)
            with m.If(ends):
                m.d.sync += [
                    place.starved.eq(decision.starved),
                    place.slotless.eq(decision.slotless),
                ]
            stops = self.stop & ~self.release
            moves.add(Wait.HELD, self.release, Wait.PARKED)
            moves.add(Wait.HELD, stops, Wait.REPORT)
            with m.If(is_in(place, Wait.HELD) & stops):
                m.d.sync += [place.page_fault.eq(0), place.final.eq(1)]

    def _line_up(self, m: Module) -> None:
        """Keep the order of each id: who waits behind whom."""
        access, gone = self.last.flight, self._gone
        refused = self._exits.refused
        ahead = Signal(self.config.waiters)
        m.d.comb += [
            ahead.eq(
                Cat(
                    place.youngest & (place.write == access.write) & (place.id == access.access.id)
                    for place in self._places
                )
            ),
            self.behind.eq(
                Mux(
                    self.last.fresh,
                    ahead.any(),
                    Array(place.behind.any() for place in self._places)[self.last.place],
                )
            ),
        ]
        for i, (place, here) in enumerate(zip(self._places, self._here, strict=True)):
            answered = Mux(place.write, refused[WRITE], refused[READ])
            self._moves[i].add(Wait.REFUSING, answered, Wait.FREE)
            m.d.comb += gone[i].eq(
                (is_in(place, Wait.REFUSING) & answered)
                | (is_in(place, Wait.GOING) & here & self.decision.begins)
            )
            with m.If(is_in(place, Wait.FREE)):
                m.d.sync += place.behind.eq(ahead & ~gone)
            with m.Else():
                m.d.sync += place.behind.eq(place.behind & ~gone)
            joins = is_in(place, Wait.FREE) & here
            with m.If(self.decision.joins & (joins | ahead[i])):
                m.d.sync += place.youngest.eq(joins)
            with m.If(gone[i]):
                m.d.sync += place.youngest.eq(0)

    def _await_data(self, m: Module) -> None:
        """Note whose W data may go; count the turns of those whose data has not been told where to go."""
        tail = Signal(place_bits(self.config) + 1)
        head = Signal.like(tail)
        took_turn = Signal(self.config.waiters)
        m.d.sync += took_turn.eq(
            Cat(
                self._gone[i] & place.write & (place.source == Source.TURN)
                for i, place in enumerate(self._places)
            )
        )
        waits = self.decision.source == Source.TURN
        with m.If(took_turn.any()):
            m.d.sync += head.eq(head + 1)
        with m.If(self.decision.joins & self.last.flight.write & waits):
            m.d.sync += tail.eq(tail + 1)
        m.d.comb += self.turns.eq(head != tail)
        for place in self._places:
            with m.If(is_in(place, Wait.FREE)):
                m.d.sync += [place.supplied.eq(~self.last.flight.write), place.turn.eq(tail)]
            with m.Elif(
                ((place.source == Source.TURN) & (place.turn == head))
                | (
                    (place.source == Source.STASH)
                    & self.stashed.valid
                    & (self.stashed.stash == place.stash)
                )
            ):
                m.d.sync += place.supplied.eq(1)

    def _go(self, m: Module) -> None:
        """Send waiters to stage D: those that are answered at once, else one through the pipeline."""
        config = self.config
        # Which of the two ways one is on.
        aside, on_again = Signal(), Signal()
        busy = aside | on_again
        number = Signal(place_bits(config))
        walk = Signal(config.walk_bits)
        written = Signal()
        same = Signal()
        going = waiting(self._places, Wait.GOING)
        answered, again = [], []
        for place, moves in zip(self._places, self._moves, strict=True):
            output = self.output_free.bit_select(place.write, 1)
            walked = (place.refers & self.walk.answered).any()
            goes = place.able & output
            answered.append(is_in(place, Wait.WALK) & walked & goes)
            moves.add(Wait.WALK, walked & ~goes, Wait.PARKED)
            with m.If(is_in(place, Wait.WALK) & walked & ~goes):
                m.d.sync += place.refers.eq(0)
            follows = ~(place.behind & ~going).any()
            slot = ~place.slotless | self.room.bit_select(place.write, 1)
            again.append(is_in(place, Wait.PARKED) & follows & place.supplied & output & slot)
            # One that joins an answer which stands already must go at once: the TLB may have lost the entry since.
            walks = is_in(place, Wait.ASKING, Wait.WALK)
            m.d.sync += place.able.eq(walks & ~place.behind.any() & place.supplied)
        first = Signal(config.waiters)
        second = Signal(config.waiters)
        picks = Signal(config.waiters)
        m.d.comb += [
            first.eq(lowest(m, Cat(answered))),
            second.eq(lowest(m, Cat(again))),
            # One every other cycle at most: who comes next does not depend on what stage D does now.
            picks.eq(Mux(busy, 0, Mux(first.any(), first, second))),
        ]
        with m.If(busy):
            m.d.sync += [
                aside.eq(aside & ~self.answered_place.taken),
                on_again.eq(on_again & ~self.again.ready),
            ]
        with m.Else():
            m.d.sync += [
                aside.eq(first.any()),
                on_again.eq(second.any() & ~first.any()),
                number.eq(encoded(picks)),
                # Nobody begins who could change that before this one does.
                same.eq(chosen(first, Cat(self._follows(place) for place in self._places))),
                written.eq(chosen(picks, Cat(place.write for place in self._places))),
                walk.eq(
                    Cat(
                        Cat(
                            first[i] & place.walk[bit] for i, place in enumerate(self._places)
                        ).any()
                        for bit in range(config.walk_bits)
                    )
                ),
            ]
        for i, moves in enumerate(self._moves):
            moves.add(Wait.WALK, ~busy & first[i], Wait.GOING)
            moves.add(Wait.PARKED, picks[i], Wait.GOING)
        port = self._flights.read_port(domain="comb")
        m.d.comb += [
            port.addr.eq(number),
            self.again.valid.eq(on_again),
            self.again.payload.valid.eq(1),
            self.again.payload.place.eq(number),
            self.again.payload.flight.eq(port.data),
            # Stage D wants to know this one early.
            self.again.payload.flight.write.eq(written),
            self.answered_place.valid.eq(aside),
            self.answered_place.place.eq(number),
            self.answered_place.walk.eq(walk),
            self.answered_place.same.eq(same),
            self.answered_place.flight.eq(port.data),
            self.answered_place.flight.write.eq(written),
            self.walk.select.eq(walk),
            self.released.eq(self._of(number, "released") | self.release),
            self.barred.eq(self._of(number, "barred")),
        ]
        looked_at = Mux(aside, number, self.last.place)
        m.d.comb += [
            self.source.eq(self._of(looked_at, "source")),
            self.stash.eq(self._of(looked_at, "stash")),
        ]

    def _follows(self, place: data.View) -> Value:
        return (place.walk == self.followed.walk) & (place.write == self.followed.write)

    def _ask(self, m: Module) -> None:
        """Ask for walks, and keep those that were asked for until their answers are taken."""
        config, decision = self.config, self.decision
        m.submodules.asker = asker = WalkAsker(config)
        wiring.connect(m, asker.request, wiring.flipped(self.walk.request))
        given = Signal()
        m.d.comb += [
            asker.last.eq(self.last),
            asker.row.eq(self.row),
            asker.looked_up.eq(self._looked_up),
            asker.place.eq(self._looked_up_place),
            asker.missed.eq(decision.ends & decision.wants),
            asker.wants.eq(waiting(self._places, Wait.WANT)),
            asker.changes.eq(self.changes),
            given.eq(asker.request.valid & asker.request.ready),
            self.walk.referred.eq(reduce(or_, (place.refers for place in self._places))),
        ]
        for i, (place, here, moves) in enumerate(
            zip(self._places, self._here, self._moves, strict=True)
        ):
            misses = here & decision.ends & decision.wants
            for source in (Wait.FREE, Wait.GOING):
                moves.add(source, misses & asker.direct, Wait.ASKING)
                moves.add(source, misses & ~asker.direct, Wait.WANT)
            for source in (Wait.WANT, Wait.FETCHED, Wait.ASKING):
                moves.add(source, self.changes, Wait.PARKED)
            moves.add(Wait.WANT, asker.fetches[i], Wait.FETCHED)
            moves.add(Wait.FETCHED, asker.asks & ~asker.direct & ~self.changes, Wait.ASKING)
            moves.add(Wait.ASKING, given, Wait.WALK)
            with m.If(is_in(place, Wait.ASKING) & given):
                m.d.sync += [
                    place.refers.eq(1 << self.walk.number),
                    place.walk.eq(self.walk.number),
                    place.released.eq(self.release),
                ]
            with m.Elif(self.release):
                m.d.sync += place.released.eq(1)
            with m.If(is_in(place, Wait.GOING) & here & decision.ends):
                m.d.sync += place.refers.eq(0)

    def _leave(self, m: Module) -> None:
        """Tell the host of faults; refuse."""
        m.submodules.exits = exits = self._exits
        wiring.connect(m, exits.fault, wiring.flipped(self.fault))
        wiring.connect(m, wiring.flipped(self.resume), exits.resume)
        wiring.connect(m, exits.read_refusal, wiring.flipped(self.read_refusal))
        wiring.connect(m, exits.write_refusal, wiring.flipped(self.write_refusal))
        m.d.comb += [
            exits.last.eq(self.last),
            exits.epoch.eq(self.epoch),
            exits.looked_up.eq(self._looked_up),
            exits.place.eq(self._looked_up_place),
            *(exits.places[i].eq(place) for i, place in enumerate(self._places)),
            exits.stop.eq(self.stop),
            self.refused.eq(exits.refused),
        ]
        stalled = self.fault.payload.stalled
        for i, moves in enumerate(self._moves):
            retries = exits.retries[i]
            moves.add(Wait.REPORT, exits.reports[i], Wait.REPORTING)
            moves.add(Wait.REPORTING, exits.reported & stalled, Wait.STALLED)
            moves.add(Wait.REPORTING, exits.reported & ~stalled, Wait.REFUSE)
            moves.add(Wait.STALLED, exits.leaves[i] & retries, Wait.PARKED)
            moves.add(Wait.STALLED, exits.leaves[i] & ~retries, Wait.REFUSE)
            moves.add(Wait.REFUSE, exits.refuses[i], Wait.REFUSING)
