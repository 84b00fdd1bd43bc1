"""The waiters: accesses that cannot leave yet, and what each of them waits for."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.flight import (
    AnswerSignature,
    CandidateLayout,
    DecisionLayout,
    FlightLayout,
    Source,
    Wait,
    changes_context,
    place_bits,
    stash_bits,
)
from secmmu.internals import (
    ContextLayout,
    KillLayout,
    RefusalLayout,
    WalkRequestLayout,
    WalkSignature,
)
from secmmu.layouts import EPOCH_BITS, PAGE_BITS, FaultLayout, ResumeLayout
from secmmu.picks import encoded, lowest

__all__ = ["StashedLayout", "Waiters", "WriteRefusalLayout"]

READ, WRITE = 0, 1


class StashedLayout(data.StructLayout):
    """The whole data of a write is in the write buffer now.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"valid": 1, "stash": stash_bits(config)})


class WriteRefusalLayout(data.StructLayout):
    """A write to be answered SLVERR, and where its data is.

    Parameters
    ----------
    config : SecmmuConfig
        ``id_bits``, ``waiters``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"id": config.id_bits, "source": Source, "stash": stash_bits(config)})


class PlaceLayout(data.StructLayout):
    """The registers of one waiter.

    ``behind_valid``  the waiter ``behind`` is older and of the same direction and id
    ``youngest``      the youngest of its direction and id
    ``supplied``      its W data may go to the memory now
    ``refers``        it awaits the answer of ``walk``
    ``released``      a hold was released meanwhile
    ``able``          it waited, one cycle ago, for nothing but the answer

    The others are as in :class:`~secmmu.flight.DecisionLayout`.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``, ``walks``, ``id_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        places = place_bits(config)
        super().__init__(
            {
                "state": Wait,
                "write": 1,
                "id": config.id_bits,
                "behind_valid": 1,
                "behind": places,
                "youngest": 1,
                "starved": 1,
                "slotless": 1,
                "page_fault": 1,
                "final": 1,
                "may_stall": 1,
                "source": Source,
                "stash": stash_bits(config),
                "turn": places + 1,
                "supplied": 1,
                "refers": 1,
                "walk": config.walk_bits,
                "released": 1,
                "able": 1,
            }
        )


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
    released : Out(1)
        A hold was released since the walk of the answered waiter was asked for.
    source, stash : Out
        Where the data of the write in stage D is, when it is a waiter.
    again : Out(stream of CandidateLayout)
        A waiter to look up again.
    answered_place : Out(AnswerSignature)
        A waiter whose walk is answered.
    walk : Out(WalkSignature)
        The walker; ``select`` and ``answer`` belong to ``answered_place``.
    kill : In(KillLayout), release : In(1)
        The invalidation applied in this cycle; a hold is released.
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
    source: Value
    stash: Signal
    again: stream.Interface
    answered_place: wiring.PureInterface
    walk: wiring.PureInterface
    kill: data.View
    release: Signal
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
                "source": Out(Source),
                "stash": Out(stash_bits(config)),
                "again": Out(stream.Signature(CandidateLayout(config))),
                "answered_place": Out(AnswerSignature(config)),
                "walk": Out(WalkSignature(config)),
                "kill": In(KillLayout(config)),
                "release": In(1),
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
        self._freed = Signal(count)
        self._gone = Signal(count)
        self._taken = Signal(count)
        m.d.comb += [
            self.place_free.eq(encoded(lowest(m, self._in(Wait.FREE)))),
            self.none.eq(self._in(Wait.FREE).all()),
        ]
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
        self._decide(m)
        self._line_up(m)
        self._await_data(m)
        self._go(m)
        self._ask(m)
        self._report(m)
        self._refuse(m)
        return m

    def _in(self, state: Wait) -> Value:
        """Return the set of waiters in ``state``."""
        return Cat(place.state == state for place in self._places)

    def _of(self, place: Value, field: str) -> Value:
        """Return a register of the waiter whose number is ``place``."""
        return Array(each[field] for each in self._places)[place]

    def _keep(self, m: Module) -> None:
        """Build the memories: one write port, a read port for each way out."""
        config = self.config
        self._flights, self._rows, self._epochs = (
            memory.Memory(shape=shape, depth=config.waiters, init=[])
            for shape in (FlightLayout(config), ContextLayout(), EPOCH_BITS)
        )
        m.submodules.flights = self._flights
        m.submodules.rows = self._rows
        m.submodules.epochs = self._epochs
        for kept, value in (
            (self._flights, self.last.flight),
            (self._rows, self.row),
            (self._epochs, self.epoch),
        ):
            port = kept.write_port()
            m.d.comb += [
                # Also where nobody stays: the place is free then.
                port.en.eq(self.last.valid & ~self.aside),
                port.addr.eq(Mux(self.last.fresh, self.place_free, self.last.place)),
                port.data.eq(value),
            ]

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
        answered = Cat(
            (place.state == Wait.REFUSING)
            & Mux(place.write, self.refused[WRITE], self.refused[READ])
            for place in self._places
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
            gone.eq(self._freed | answered),
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
        m.d.comb += turn_taken.eq(
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
                ((place.source == Source.TURN) & (place.turn == head) & ~turn_taken)
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
        going = self._in(Wait.GOING)
        answered, again, waiting = [], [], []
        for place in self._places:
            output = self.output_free.bit_select(place.write, 1)
            clear = ~place.behind_valid
            walked = (place.state == Wait.WALK) & self.walk.answered.bit_select(place.walk, 1)
            answered.append(walked & place.able & output)
            waiting.append(walked & ~(place.able & output))
            follows = clear | going.bit_select(place.behind, 1)
            slot = ~place.slotless | self.room.bit_select(place.write, 1)
            again.append((place.state == Wait.PARKED) & follows & place.supplied & output & slot)
            m.d.sync += place.able.eq((place.state == Wait.WALK) & clear & place.supplied)
        first = Signal(config.waiters)
        second = Signal(config.waiters)
        picks = Signal(config.waiters)
        may_pick = Signal()
        m.d.comb += [
            first.eq(lowest(m, Cat(answered))),
            second.eq(lowest(m, Cat(again))),
            may_pick.eq(~busy | Mux(aside, self.answered_place.taken, self.again.ready)),
            picks.eq(Mux(may_pick, Mux(first.any(), first, second), 0)),
        ]
        with m.If(may_pick):
            m.d.sync += [
                busy.eq(picks.any()),
                aside.eq(first.any()),
                number.eq(encoded(picks)),
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
            with m.Elif(waiting[i]):
                m.d.sync += [place.state.eq(Wait.PARKED), place.refers.eq(0)]
        port = self._flights.read_port(domain="comb")
        m.d.comb += [
            port.addr.eq(number),
            self.again.valid.eq(busy & ~aside),
            self.again.payload.valid.eq(1),
            self.again.payload.place.eq(number),
            self.again.payload.flight.eq(port.data),
            self.answered_place.valid.eq(busy & aside),
            self.answered_place.place.eq(number),
            self.answered_place.walk.eq(walk),
            self.answered_place.flight.eq(port.data),
            self.walk.select.eq(walk),
            self.released.eq(self._of(number, "released") | self.release),
        ]
        looked_at = Mux(aside & busy, number, self.last.place)
        m.d.comb += [
            self.source.eq(self._of(looked_at, "source")),
            self.stash.eq(self._of(looked_at, "stash")),
        ]

    def _ask(self, m: Module) -> None:
        """Ask for walks: what stage D has just seen miss, unless an older waiter wants one."""
        config, request = self.config, self.walk.request
        asks = Signal()
        asker = Signal(place_bits(config))
        payload = Signal(WalkRequestLayout(config))
        wants = Signal(config.waiters)
        oldest = Signal(place_bits(config))
        free = Signal()
        changes = Signal()
        direct = Signal()
        flights = self._flights.read_port(domain="comb")
        rows = self._rows.read_port(domain="comb")
        m.d.comb += [
            changes.eq(changes_context(self.kill)),
            wants.eq(self._in(Wait.WANT)),
            oldest.eq(encoded(lowest(m, wants))),
            flights.addr.eq(oldest),
            rows.addr.eq(oldest),
            # A context row read before an invalidation of its asid is not walked with.
            request.valid.eq(asks & ~changes),
            request.payload.eq(payload),
            free.eq(~asks | request.ready | changes),
            direct.eq(free & (~wants.any() | changes)),
        ]
        flight, row = Signal(FlightLayout(config)), Signal(ContextLayout())
        missed = self.decision.valid & (self.decision.state == Wait.WANT)
        with m.If(direct):
            m.d.comb += [flight.eq(self.last.flight), row.eq(self.row)]
        with m.Else():
            m.d.comb += [flight.eq(flights.data), row.eq(rows.data)]
        with m.If(free):
            m.d.sync += [
                asks.eq(Mux(direct, missed, wants.any())),
                asker.eq(Mux(direct, self.decision.place, oldest)),
                payload.vpn.eq(flight.access.addr[PAGE_BITS:]),
                payload.asid.eq(flight.access.asid),
                payload.group.eq(row.global_group),
                payload.root_ppn.eq(row.root_ppn),
                payload.mode.eq(row.mode),
                payload.write.eq(flight.write),
            ]
        referred = []
        for i, place in enumerate(self._places):
            with m.If(direct & missed & (self.decision.place == i)):
                m.d.sync += place.state.eq(Wait.ASKING)
            with m.If((place.state == Wait.WANT) & changes):
                m.d.sync += place.state.eq(Wait.PARKED)
            with m.Elif(free & ~direct & wants[i] & (oldest == i)):
                m.d.sync += place.state.eq(Wait.ASKING)
            with m.If(place.state == Wait.ASKING):
                self._be_given(m, place, changes)
            with m.If(place.refers & self.release):
                m.d.sync += place.released.eq(1)
            referred.append(Mux(place.refers, 1 << place.walk, 0)[: config.walks])
        m.d.comb += self.walk.referred.eq(_union(referred))

    def _be_given(self, m: Module, place: data.View, changes: Signal) -> None:
        """Take the walk's number for the one that asks."""
        with m.If(changes):
            m.d.sync += place.state.eq(Wait.PARKED)
        with m.Elif(self.walk.request.ready):
            m.d.sync += [
                place.state.eq(Wait.WALK),
                place.refers.eq(1),
                place.walk.eq(self.walk.number),
                place.released.eq(self.release),
            ]

    def _report(self, m: Module) -> None:
        """Report faults, one at a time; let the host decide on those that stall."""
        config, fault = self.config, self.fault
        reports = Signal(config.waiters)
        number = Signal(place_bits(config))
        stalled = Signal(range(config.stalls + 1))
        stalls = Signal()
        self._flight_out = self._flights.read_port(domain="comb")
        epochs = self._epochs.read_port(domain="comb")
        self._loads_fault = Signal()
        access = self._flight_out.data.access
        m.d.comb += [
            reports.eq(
                Cat((place.state == Wait.REPORT) & ~place.behind_valid for place in self._places)
            ),
            number.eq(encoded(lowest(m, reports))),
            self._loads_fault.eq(reports.any() & ~fault.valid),
            epochs.addr.eq(number),
            stalls.eq(
                self._of(number, "may_stall")
                & ~self._of(number, "final")
                & (stalled != config.stalls)
                & ~self.stop
            ),
            self.resume.ready.eq(1),
        ]
        with m.If(self._loads_fault):
            m.d.comb += self._flight_out.addr.eq(number)
            m.d.sync += [
                fault.valid.eq(1),
                fault.payload.va.eq(access.addr),
                fault.payload.asid.eq(access.asid),
                fault.payload.id.eq(access.id),
                fault.payload.write.eq(self._flight_out.data.write),
                fault.payload.cause.eq(
                    Cat(1, self._flight_out.data.write, 1, self._of(number, "page_fault"))
                ),
                fault.payload.stalled.eq(stalls),
                fault.payload.place.eq(number),
                fault.payload.epoch.eq(epochs.data),
            ]
        with m.Elif(fault.ready):
            m.d.sync += fault.valid.eq(0)
        leaves = Signal(config.waiters)
        for i, place in enumerate(self._places):
            with m.If(self._loads_fault & (number == i)):
                m.d.sync += place.state.eq(Wait.REPORTING)
            with m.If((place.state == Wait.REPORTING) & fault.ready):
                m.d.sync += place.state.eq(Mux(fault.payload.stalled, Wait.STALLED, Wait.REFUSE))
            resumes = self.resume.valid & (self.resume.payload.place == i)
            m.d.comb += leaves[i].eq((place.state == Wait.STALLED) & (resumes | self.stop))
            with m.If(leaves[i]):
                retry = resumes & self.resume.payload.retry
                m.d.sync += place.state.eq(Mux(retry, Wait.PARKED, Wait.REFUSE))
        gains = fault.valid & fault.ready & fault.payload.stalled
        if config.stalls:
            m.d.sync += stalled.eq(
                stalled + gains - sum((bit for bit in leaves), Const(0, place_bits(config) + 1))
            )

    def _refuse(self, m: Module) -> None:
        """Hand refused accesses to those who answer for them."""
        config = self.config
        loads = self._loads_fault
        for at, out in ((READ, self.read_refusal), (WRITE, self.write_refusal)):
            due = Signal(config.waiters, name=f"due{at}")
            number = Signal(place_bits(config), name=f"refused{at}")
            load = Signal(name=f"load{at}")
            m.d.comb += [
                due.eq(
                    Cat(
                        (place.state == Wait.REFUSE)
                        & (place.write == at)
                        # Data that comes from the device is dropped in its turn.
                        & (place.supplied | (place.source != Source.TURN))
                        for place in self._places
                    )
                ),
                number.eq(encoded(lowest(m, due))),
                load.eq(due.any() & ~out.valid & ~loads),
                self.refused[at].eq(out.valid & out.ready),
            ]
            with m.If(load):
                m.d.comb += self._flight_out.addr.eq(number)
                m.d.sync += [
                    out.valid.eq(1),
                    out.payload.id.eq(self._flight_out.data.access.id),
                ]
                if at == READ:
                    m.d.sync += out.payload.len.eq(self._flight_out.data.access.len)
                else:
                    m.d.sync += [
                        out.payload.source.eq(self._of(number, "source")),
                        out.payload.stash.eq(self._of(number, "stash")),
                    ]
            with m.Elif(out.ready):
                m.d.sync += out.valid.eq(0)
            for i, place in enumerate(self._places):
                with m.If(load & due[i] & (number == i)):
                    m.d.sync += place.state.eq(Wait.REFUSING)
                with m.If((place.state == Wait.REFUSING) & (place.write == at) & self.refused[at]):
                    m.d.sync += place.state.eq(Wait.FREE)
            loads = loads | load


def _union(sets: list[Value]) -> Value:
    """Return the union of sets."""
    union: Value = Const(0)
    for each in sets:
        union = union | each
    return union
