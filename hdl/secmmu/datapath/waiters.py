"""The waiters: accesses that cannot leave yet, and what each of them waits for."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
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
from secmmu.datapath.waiting import (
    READ,
    WRITE,
    PlaceLayout,
    StashedLayout,
    WriteRefusalLayout,
    waiting,
)
from secmmu.datapath.walk_asker import WalkAsker
from secmmu.internals import ContextLayout, KillLayout, RefusalLayout, WalkSignature
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
    walk : Out(WalkSignature)
        The walker; ``select`` and ``answer`` belong to ``answered_place``.
    kill : In(KillLayout), release : In(1), fences : In(1)
        The invalidation applied in this cycle; a hold is released; an asid is fenced off.
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
    walk: wiring.PureInterface
    kill: data.View
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
                "walk": Out(WalkSignature(config)),
                "kill": In(KillLayout(config)),
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
        self._places = [Signal(PlaceLayout(config), name=f"place{i}") for i in range(count)]
        self._exits = Exits(config)
        self._freed = Signal(count)
        self._gone = Signal(count)
        self._taken = Signal(count)
        m.d.comb += self.none.eq(waiting(self._places, Wait.FREE).all())
        for at in (READ, WRITE):
            starving = [
                place.starved
                & (place.write == at)
                & ((place.state == Wait.PARKED) | (place.state == Wait.GOING))
                for place in self._places
            ]
            slotless = [
                bit & place.slotless for bit, place in zip(starving, self._places, strict=True)
            ]
            m.d.comb += [
                self.starved[at].eq(Cat(starving).any()),
                self.slotless[at].eq(Cat(slotless).any()),
            ]
        self._keep(m)
        self._choose_free(m)
        self._decide(m)
        self._line_up(m)
        self._await_data(m)
        self._go(m)
        self._ask(m)
        self._leave(m)
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

    def _choose_free(self, m: Module) -> None:
        """Choose the next free place a cycle ahead: what is reserved is free for longer than that."""
        free = waiting(self._places, Wait.FREE)
        m.d.comb += self.place_free.eq(encoded(chosen_ahead(m, free, self._taken.any())))

    def _decide(self, m: Module) -> None:
        """Take over what stage D decides."""
        decision = self.decision
        for i, place in enumerate(self._places):
            mine = decision.valid & (decision.place == i)
            m.d.comb += [
                self._freed[i].eq(mine & (decision.state == Wait.FREE)),
                self._taken[i].eq(mine & decision.fresh),
            ]
            with m.If(mine):
                m.d.sync += [
                    place.state.eq(decision.state),
                    place.starved.eq(decision.starved),
                    place.slotless.eq(decision.slotless),
                    place.page_fault.eq(decision.page_fault),
                    place.final.eq(decision.final),
                    place.refers.eq(0),
                ]
                with m.If(~self.aside):
                    m.d.sync += place.may_stall.eq(self.row.stall)
            with m.If(self._taken[i]):
                m.d.sync += [
                    place.write.eq(self.last.flight.write),
                    place.id.eq(self.last.flight.access.id),
                    place.source.eq(decision.source),
                    place.stash.eq(decision.stash),
                ]
            with m.If(self.fences):
                m.d.sync += place.barred.eq(1)
            with m.Elif(mine):
                m.d.sync += place.barred.eq(0)
            with m.If((place.state == Wait.HELD) & self.release):
                m.d.sync += place.state.eq(Wait.PARKED)
            with m.Elif((place.state == Wait.HELD) & self.stop):
                m.d.sync += [
                    place.state.eq(Wait.REPORT),
                    place.page_fault.eq(0),
                    place.final.eq(1),
                ]

    def _line_up(self, m: Module) -> None:
        """Keep the order of each id: who waits behind whom."""
        access = self.last.flight
        refused = self._exits.refused
        self._answered = waiting(self._places, Wait.REFUSING) & Cat(
            Mux(place.write, refused[WRITE], refused[READ]) for place in self._places
        )
        ahead = Signal(self.config.waiters)
        gone = self._gone
        before = Signal(place_bits(self.config))
        fresh = Signal()
        waits = Signal()
        m.d.comb += [
            before.eq(encoded(ahead)),
            fresh.eq(self.decision.valid & self.decision.fresh),
            waits.eq((ahead & ~gone).any()),
            ahead.eq(
                Cat(
                    place.youngest & (place.write == access.write) & (place.id == access.access.id)
                    for place in self._places
                )
            ),
            gone.eq(self._freed | self._answered),
            self.behind.eq(
                Mux(self.last.fresh, ahead.any(), self._of(self.last.place, "behind_valid"))
            ),
        ]
        for i, place in enumerate(self._places):
            with m.If(gone.bit_select(place.behind, 1)):
                m.d.sync += place.behind_valid.eq(0)
            with m.If(self._taken[i]):
                m.d.sync += [
                    place.behind_valid.eq(waits),
                    place.behind.eq(before),
                ]
            with m.If(self._taken[i]):
                m.d.sync += place.youngest.eq(1)
            with m.Elif(gone[i] | (ahead[i] & fresh)):
                m.d.sync += place.youngest.eq(0)

    def _await_data(self, m: Module) -> None:
        """Note whose W data may go; count the turns of those whose data has not been told where to go."""
        tail = Signal(place_bits(self.config) + 1)
        head = Signal.like(tail)
        turn_taken = Signal()
        m.d.sync += turn_taken.eq(
            Cat(
                self._gone[i] & place.write & (place.source == Source.TURN)
                for i, place in enumerate(self._places)
            ).any()
        )
        waits = self.decision.source == Source.TURN
        with m.If(turn_taken):
            m.d.sync += head.eq(head + 1)
        with m.If(self._taken.any() & self.last.flight.write & waits):
            m.d.sync += tail.eq(tail + 1)
        m.d.comb += self.turns.eq(head != tail)
        for i, place in enumerate(self._places):
            with m.If(self._taken[i]):
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
        busy = Signal()
        aside = Signal()
        number = Signal(place_bits(config))
        walk = Signal(config.walk_bits)
        written = Signal()
        going = waiting(self._places, Wait.GOING)
        answered, again, let_go = [], [], []
        for place in self._places:
            output = self.output_free.bit_select(place.write, 1)
            clear = ~place.behind_valid
            walked = (place.state == Wait.WALK) & self.walk.answered.bit_select(place.walk, 1)
            answered.append(walked & place.able & output)
            let_go.append(walked & ~(place.able & output))
            follows = clear | going.bit_select(place.behind, 1)
            slot = ~place.slotless | self.room.bit_select(place.write, 1)
            again.append((place.state == Wait.PARKED) & follows & place.supplied & output & slot)
            # One that joins an answer which stands already must go at once: the TLB may have lost the entry since.
            walks = (place.state == Wait.ASKING) | (place.state == Wait.WALK)
            m.d.sync += place.able.eq(walks & clear & place.supplied)
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
            m.d.sync += busy.eq(~Mux(aside, self.answered_place.taken, self.again.ready))
        with m.Else():
            m.d.sync += [
                busy.eq(picks.any()),
                aside.eq(first.any()),
                number.eq(encoded(picks)),
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
        for i, place in enumerate(self._places):
            with m.If(picks[i]):
                m.d.sync += place.state.eq(Wait.GOING)
            with m.Elif(let_go[i]):
                m.d.sync += [place.state.eq(Wait.PARKED), place.refers.eq(0)]
        port = self._flights.read_port(domain="comb")
        m.d.comb += [
            port.addr.eq(number),
            self.again.valid.eq(busy & ~aside),
            self.again.payload.valid.eq(1),
            self.again.payload.place.eq(number),
            self.again.payload.flight.eq(port.data),
            # Stage D wants to know this one early.
            self.again.payload.flight.write.eq(written),
            self.answered_place.valid.eq(busy & aside),
            self.answered_place.place.eq(number),
            self.answered_place.walk.eq(walk),
            self.answered_place.flight.eq(port.data),
            self.answered_place.flight.write.eq(written),
            self.walk.select.eq(walk),
            self.released.eq(self._of(number, "released") | self.release),
            self.barred.eq(self._of(number, "barred")),
        ]
        looked_at = Mux(aside & busy, number, self.last.place)
        m.d.comb += [
            self.source.eq(self._of(looked_at, "source")),
            self.stash.eq(self._of(looked_at, "stash")),
        ]

    def _ask(self, m: Module) -> None:
        """Ask for walks, and keep those that were asked for until their answers are taken."""
        config, decision = self.config, self.decision
        m.submodules.asker = asker = WalkAsker(config)
        wiring.connect(m, asker.request, wiring.flipped(self.walk.request))
        missed = decision.valid & (decision.state == Wait.WANT)
        m.d.comb += [
            asker.last.eq(self.last),
            asker.row.eq(self.row),
            asker.looked_up.eq(self._looked_up),
            asker.place.eq(self._looked_up_place),
            asker.missed.eq(missed),
            asker.wants.eq(waiting(self._places, Wait.WANT)),
            asker.kill.eq(self.kill),
        ]
        referred: Value = Const(0)
        for i, place in enumerate(self._places):
            state = place.state
            lost = (state == Wait.WANT) | (state == Wait.FETCHED) | (state == Wait.ASKING)
            with m.If(asker.direct & missed & (decision.place == i)):
                m.d.sync += state.eq(Wait.ASKING)
            with m.If(lost & asker.changes):
                m.d.sync += state.eq(Wait.PARKED)
            with m.Elif(asker.fetches[i]):
                m.d.sync += state.eq(Wait.FETCHED)
            with m.Elif((state == Wait.FETCHED) & asker.asks & ~asker.direct):
                m.d.sync += state.eq(Wait.ASKING)
            with m.Elif((state == Wait.ASKING) & self.walk.request.ready):
                m.d.sync += [
                    state.eq(Wait.WALK),
                    place.refers.eq(1),
                    place.walk.eq(self.walk.number),
                    place.released.eq(self.release),
                ]
            with m.If(place.refers & self.release):
                m.d.sync += place.released.eq(1)
            referred = referred | Mux(place.refers, 1 << place.walk, 0)[: config.walks]
        m.d.comb += self.walk.referred.eq(referred)

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
        stays = Mux(self.fault.payload.stalled, Wait.STALLED, Wait.REFUSE)
        for i, place in enumerate(self._places):
            with m.If(exits.reports[i]):
                m.d.sync += place.state.eq(Wait.REPORTING)
            with m.If((place.state == Wait.REPORTING) & exits.reported):
                m.d.sync += place.state.eq(stays)
            with m.If(exits.leaves[i]):
                m.d.sync += place.state.eq(Mux(exits.retries[i], Wait.PARKED, Wait.REFUSE))
            with m.If(exits.refuses[i]):
                m.d.sync += place.state.eq(Wait.REFUSING)
            with m.If(self._answered[i]):
                m.d.sync += place.state.eq(Wait.FREE)
