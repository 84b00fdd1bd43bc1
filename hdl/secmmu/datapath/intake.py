"""The intake: which access enters the lookup pipeline, and how many may be inside."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.axi import Burst
from secmmu.config import SecmmuConfig
from secmmu.datapath.flight import CandidateLayout, FlightLayout
from secmmu.internals import INDEX_BITS, AccessLayout
from secmmu.layouts import PAGE_BITS
from secmmu.registers.counters import AGE_BITS

__all__ = ["Intake"]

READ, WRITE = 0, 1


class AnsweredLayout(data.StructLayout):
    """The last answer of a burst is taken by the device.

    Parameters
    ----------
    config : SecmmuConfig
        ``id_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"valid": 1, "id": config.id_bits})


class Intake(wiring.Component):
    """Takes one access a cycle: a waiter that is looked up again before all others, else reads and writes in turn.

    Where one may not be taken the other direction has its turn a cycle later.

    What is taken has a place reserved among the waiters until it has left or was answered, and one among the
    outstanding bursts of its id until the device has its last answer. One place of the waiters is left to the other
    direction, so that reads go on while writes stand, and the other way round.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``, ``outstanding``, ``levels``, widths.

    Members
    -------
    read, write : In(stream of AccessLayout)
        Address beats of the device; taken in the cycle in which they enter the pipeline.
    again : In(stream of CandidateLayout)
        A waiter to look up again.
    advance : In(1)
        The pipeline moves on in this cycle.
    enter : Out(CandidateLayout)
        What enters it.
    closed : In(2)
        For reads and for writes: take none of the device's.
    begun, refused : In(2)
        For reads and for writes: one leaves for the memory, one has been refused, in this cycle.
    read_done, write_done : In(AnsweredLayout)
        The device takes the last answer of a burst.
    now : In(20)
        The clock.
    none : Out(2)
        For reads and for writes: none is inside.
    """

    read: stream.Interface
    write: stream.Interface
    again: stream.Interface
    advance: Signal
    enter: data.View
    closed: Signal
    begun: Signal
    refused: Signal
    read_done: data.View
    write_done: data.View
    now: Signal
    none: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "read": In(stream.Signature(AccessLayout(config))),
                "write": In(stream.Signature(AccessLayout(config))),
                "again": In(stream.Signature(CandidateLayout(config))),
                "advance": In(1),
                "enter": Out(CandidateLayout(config)),
                "closed": In(2),
                "begun": In(2),
                "refused": In(2),
                "read_done": In(AnsweredLayout(config)),
                "write_done": In(AnsweredLayout(config)),
                "now": In(AGE_BITS),
                "none": Out(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the reservations and the choice."""
        m = Module()
        doors = (self.read, self.write)
        asks = Signal(2)
        chosen = Signal(2)
        # Whose turn it is, and whose page is looked at: known early in the cycle, whatever may be taken.
        turn = Signal()
        side = Signal()
        goes = Signal()
        may, room = self._reserve(m, Cat(goes & ~side, goes & side))
        m.d.comb += [
            asks.eq(Cat(door.valid & may[at] & room[at] for at, door in enumerate(doors))),
            side.eq(Mux(turn, self.write.valid, ~self.read.valid)),
            chosen[READ].eq(asks[READ] & ~side),
            chosen[WRITE].eq(asks[WRITE] & side),
            goes.eq(self.advance & ~self.again.valid),
            self.again.ready.eq(self.advance),
        ]
        for at, door in enumerate(doors):
            m.d.comb += door.ready.eq(chosen[at] & goes)
        mine, other = Mux(side, asks[WRITE], asks[READ]), Mux(side, asks[READ], asks[WRITE])
        with m.If(other & (~mine | goes)):
            m.d.sync += turn.eq(~side)
        with m.Elif(mine):
            m.d.sync += turn.eq(side)
        self._enter(m, chosen, side)
        return m

    def _enter(self, m: Module, chosen: Signal, side: Signal) -> None:
        """Let a waiter in, or else the device's access."""
        again, enter = self.again, self.enter
        device = Signal(FlightLayout(self.config))
        access: data.View = device.access
        doors = [door.payload for door in (self.read, self.write)]
        m.d.comb += [
            device.write.eq(side),
            device.born.eq(self.now),
            access.eq(Mux(side, doors[WRITE].as_value(), doors[READ].as_value())),
            # Side by side: the sum takes as long as the choice.
            device.crosses.eq(Mux(side, _crosses(doors[WRITE]), _crosses(doors[READ]))),
            device.canonical.eq(self._canonical(access)),
            enter.valid.eq(again.valid | chosen.any()),
            enter.fresh.eq(~again.valid),
            enter.place.eq(again.payload.place),
            enter.flight.eq(Mux(again.valid, again.payload.flight.as_value(), device.as_value())),
        ]
        # The side is known last, and most is done with the page.
        looked_up = self._page(again.payload.flight.access)
        pages = []
        for name, door in zip(("read", "write"), doors, strict=True):
            # Kept, lest synthesis asks for the side first to save a multiplexer.
            page = Signal(len(looked_up), name=f"{name}_page", attrs={"keep": 1})
            m.d.comb += page.eq(Mux(again.valid, looked_up, self._page(door)))
            pages.append(page)
        m.d.comb += self._page(enter.flight.access).eq(Mux(side, pages[WRITE], pages[READ]))

    def _page(self, access: data.View) -> Value:
        """Return what is looked up of an access."""
        return Cat(access.addr[PAGE_BITS:][: self.config.vpn_bits], access.asid)

    def _canonical(self, access: data.View) -> Value:
        """Return, for each mode from Sv39 on, whether the address is canonical."""
        signs = (
            access.addr[PAGE_BITS + INDEX_BITS * levels - 1 :]
            for levels in range(3, self.config.levels + 1)
        )
        return Cat(sign.all() | ~sign.any() for sign in signs)

    def _reserve(self, m: Module, goes: Value) -> tuple[Signal, Value]:
        """Count what is inside.

        ``goes`` says for each direction that its port's access enters if it may. Return for each whether there is a
        place, and whether there is room among the bursts of its id.
        """
        config = self.config
        may = Signal(2)
        places = [Signal(range(config.waiters + 1), name=f"places{at}") for at in (READ, WRITE)]
        left = [Signal(2, name=f"left{at}") for at in (READ, WRITE)]
        full = Signal()
        rooms = []
        m.d.comb += full.eq(places[READ] + places[WRITE] >= config.waiters)
        for at, (door, done) in enumerate(
            ((self.read, self.read_done), (self.write, self.write_done))
        ):
            m.d.comb += may[at].eq(~full & (places[at] < config.waiters - 1) & ~self.closed[at])
            tries = door.valid & may[at] & goes[at]
            room = self._count_ids(m, tries, door.payload.id, done, at)
            rooms.append(room)
            others = Signal.like(places[at], name=f"others{at}")
            m.d.comb += others.eq(places[at] - left[at])
            m.d.sync += [
                left[at].eq(self.begun[at] + self.refused[at]),
                places[at].eq(Mux(tries & room, others + 1, others)),
            ]
        return may, Cat(rooms)

    def _count_ids(
        self, m: Module, tries: Value, tried_id: Value, done: data.View, at: int
    ) -> Value:
        """Count the bursts of each id; return whether one more of ``tried_id`` has room."""
        config = self.config
        full = Signal(1 << config.id_bits, name=f"full{at}")
        some = Signal(1 << config.id_bits, name=f"some{at}")
        ended = Signal(AnsweredLayout(config), name=f"ended{at}")
        m.d.sync += ended.eq(done)
        for number in range(1 << config.id_bits):
            count = Signal(range(config.outstanding_per_id + 1), name=f"count{at}_{number}")
            gains = tries & (tried_id == number) & ~full[number]
            loses = ended.valid & (ended.id == number)
            m.d.comb += [
                full[number].eq(count == config.outstanding_per_id),
                some[number].eq(count != 0),
            ]
            m.d.sync += count.eq(count + gains - loses)
        m.d.comb += self.none[at].eq(~some.any() & ~ended.valid)
        return ~Array(full)[tried_id]


def _crosses(access: data.View) -> Value:
    """Return whether the burst leaves its 4 KiB page, which only an incrementing one can, or is wider than the bus."""
    # Full width, so that its complement keeps the upper bits of the offset.
    inside = Cat(((1 << access.size[:2]) - 1)[:3], Const(0, PAGE_BITS - 3))
    last = (access.addr[:PAGE_BITS] & ~inside) + (access.len << access.size[:2])
    return access.size[2] | ((access.burst == Burst.INCR.value) & last[PAGE_BITS])
