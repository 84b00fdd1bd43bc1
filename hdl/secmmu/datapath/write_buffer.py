"""W data: to the memory in the order of its AW, whatever became of the writes in the order of the device."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.datapath.flight import Source, stash_bits
from secmmu.datapath.stash import Stash
from secmmu.datapath.use_order import position_bits, slot_bits
from secmmu.datapath.waiting import StashedLayout
from secmmu.internals import WriteBeatLayout
from secmmu.page_numbers import below
from secmmu.queue import Queue

__all__ = ["BegunLayout", "DropLayout", "WriteBuffer"]


class Way(enum.Enum, shape=2):
    """What becomes of the W data of a burst: it passes, goes through the stash, or is dropped."""

    PASS = 0
    STASH = 1
    DROP = 2


class BegunLayout(data.StructLayout):
    """A write whose use begins: where its data is, and how long it is.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``, ``use_slots``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "valid": 1,
                "source": Source,
                "stash": stash_bits(config),
                "len": 8,
                "slot": slot_bits(config),
            }
        )


class DropLayout(data.StructLayout):
    """The data of a refused write.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"source": Source, "stash": stash_bits(config)})


class OwedLayout(data.StructLayout):
    """A burst of W that the memory has still to get (or, with ``DROP``, the stash has to lose).

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``, ``use_slots``, ``outstanding``, ``id_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "way": Way,
                "stash": stash_bits(config),
                "len": 8,
                "slot": slot_bits(config),
                "position": position_bits(config),
            }
        )


class ComingLayout(data.StructLayout):
    """A burst of W that the device has still to give.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``, ``id_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"way": Way, "stash": stash_bits(config), "id": config.id_bits})


class WriteBuffer(wiring.Component):
    """Routes W.

    The device gives W in the order of its AW, the memory takes it in the order of the AW that it is presented; between
    the two stand two queues and the stash. A write that goes on at once has its data passed. One that must wait puts
    its data by, if there is room, so that later ones may go; otherwise later ones wait for it. W is offered from the
    second cycle on in which its AW is.

    A write that a time-out broke is ended: what is missing of it, and of the writes before it, goes to the memory as
    beats without strobes; what the device still gives of them is swallowed.

    Parameters
    ----------
    config : SecmmuConfig
        ``write_beats``, ``waiters``, ``outstanding``, ``use_slots``.

    Members
    -------
    begun : In(BegunLayout)
        A write is presented on the memory side in the next cycle.
    position : In
        In the cycle after that: what the write is called when it is spoiled.
    len : In(8), stash_free : Out(1), stash : Out
        For a write of that length: whether there is room in the stash; where.
    puts_by : In(1)
        It goes there.
    stashed : Out(StashedLayout)
        The data of a write has come in whole.
    drop : In(stream of DropLayout)
        A refused write, whose data is to be lost; taken when it is.
    broken, busy_next : In(use_slots + 1)
        Use slots whose writes are to be ended; slots still in use after this cycle.
    spoiled : Out(1), spoiled_position : Out
        A write was ended: its answer must be an error.
    swallowed : Out(stream of its id)
        What the device still gave of an ended write has come to its end: it may be answered.
    device : In(stream of WriteBeatLayout), memory : Out(stream of WriteBeatLayout)
        The W channels.
    none : Out(1)
        No data is owed, put by or to come.
    """

    begun: data.View
    position: Signal
    len: Signal
    stash_free: Signal
    stash: Signal
    puts_by: Signal
    stashed: data.View
    drop: stream.Interface
    broken: Signal
    busy_next: Signal
    spoiled: Signal
    spoiled_position: Signal
    swallowed: stream.Interface
    device: stream.Interface
    memory: stream.Interface
    none: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "begun": In(BegunLayout(config)),
                "position": In(position_bits(config)),
                "len": In(8),
                "stash_free": Out(1),
                "stash": Out(stash_bits(config)),
                "puts_by": In(1),
                "stashed": Out(StashedLayout(config)),
                "drop": In(stream.Signature(DropLayout(config))),
                "broken": In(config.use_slots + 1),
                "busy_next": In(config.use_slots + 1),
                "spoiled": Out(1),
                "spoiled_position": Out(position_bits(config)),
                "swallowed": Out(stream.Signature(config.id_bits)),
                "device": In(stream.Signature(WriteBeatLayout())),
                "memory": Out(stream.Signature(WriteBeatLayout())),
                "none": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the two queues, the stash and the way through them."""
        m = Module()
        config = self.config
        depth = 1 << position_bits(config)
        m.submodules.coming = coming = Queue(ComingLayout(config), depth=depth)
        # A refused write is among those outstanding until it is answered, so it has room beside the others.
        m.submodules.owed = owed = Queue(OwedLayout(config), depth=depth)
        m.submodules.store = store = Stash(config)
        begun = Signal(BegunLayout(config))
        put = Signal()
        stash = Signal(stash_bits(config))
        m.d.sync += [begun.eq(self.begun), put.eq(self.puts_by), stash.eq(self.stash)]
        m.d.comb += [
            store.len.eq(self.len),
            store.reserve.eq(self.puts_by),
            self.stash_free.eq(store.free),
            self.stash.eq(store.number),
            self.stashed.eq(store.stashed),
            self.none.eq(~begun.valid & ~put & ~coming.valid & ~owed.valid & store.none),
        ]
        passes = begun.source != Source.STASH
        with m.If(begun.valid):
            m.d.comb += [
                owed.push.eq(1),
                owed.item.way.eq(Mux(passes, Way.PASS, Way.STASH)),
                owed.item.stash.eq(begun.stash),
                owed.item.len.eq(begun.len),
                owed.item.slot.eq(begun.slot),
                owed.item.position.eq(self.position),
                coming.push.eq(passes),
                coming.item.way.eq(Way.PASS),
                coming.item.id.eq(self.position[-self.config.id_bits :]),
            ]
        with m.Elif(put):
            m.d.comb += [
                coming.push.eq(1),
                coming.item.way.eq(Way.STASH),
                coming.item.stash.eq(stash),
            ]
        self._drop(m, coming, owed, store, begun.valid | put)
        self._route(m, coming, owed, store, self._find_broken(m, owed))
        return m

    def _drop(self, m: Module, coming: Queue, owed: Queue, store: Stash, busy: Value) -> None:
        """Lose the data of refused writes: what is in the stash, or what comes from the device in its turn."""
        item = self.drop.payload
        # Told apart from what goes to the memory, whose READY is late.
        swallowed = coming.valid & (coming.head.way == Way.DROP)
        swallowed &= self.device.valid & self.device.payload.last
        lost = owed.valid & (owed.head.way == Way.DROP) & store.shown & store.out.last
        with m.FSM():
            with m.State("Idle"), m.If(self.drop.valid & ~busy):
                with m.If(item.source == Source.TURN):
                    m.d.comb += [coming.push.eq(1), coming.item.way.eq(Way.DROP)]
                    m.next = "Swallow"
                with m.Elif(store.whole.bit_select(item.stash, 1)):
                    m.d.comb += [
                        owed.push.eq(1),
                        owed.item.way.eq(Way.DROP),
                        owed.item.stash.eq(item.stash),
                    ]
                    m.next = "Lose"
            with m.State("Swallow"), m.If(swallowed):
                m.d.comb += self.drop.ready.eq(1)
                m.next = "Idle"
            with m.State("Lose"), m.If(lost):
                m.d.comb += self.drop.ready.eq(1)
                m.next = "Idle"

    def _find_broken(self, m: Module, owed: Queue) -> Value:
        """Go through the queue after a time-out; return whether the burst at its head is to be ended."""
        slots = self.config.use_slots + 1
        asked = Signal(slots)
        sought = Signal(slots)
        place = Signal.like(owed.head_place)
        # Counted from what was the head one cycle ago: whether that has left is known late.
        cut_left = Signal.like(owed.head_place)
        popped = Signal()
        # What has left the queue meanwhile is before its head.
        behind_head = Signal.like(cut_left)
        found = Signal.like(cut_left)
        m.d.comb += [
            owed.look_place.eq(place),
            behind_head.eq(place - owed.head_place),
            found.eq(behind_head + 1),
        ]
        m.d.sync += [
            popped.eq(owed.pop),
            # A slot that its bursts have left may be another's before it is found.
            asked.eq((asked | self.broken) & self.busy_next),
            sought.eq(sought & self.busy_next),
        ]
        with m.If(popped & (cut_left != 0)):
            m.d.sync += cut_left.eq(cut_left - 1)
        with m.FSM():
            with m.State("Idle"), m.If(asked.any()):
                m.d.sync += [
                    sought.eq(asked & self.busy_next),
                    asked.eq(self.broken),
                    place.eq(owed.head_place),
                ]
                m.next = "Look"
            with m.State("Look"):
                # Also one whose data is here: it stands behind others'.
                hit = sought.bit_select(owed.looked_at.slot, 1) & (owed.looked_at.way != Way.DROP)
                with m.If(place == owed.tail_place):
                    m.next = "Idle"
                with m.Else():
                    m.d.sync += place.eq(place + 1)
                    # An earlier time-out may have gone further.
                    with m.If(hit & ~behind_head[-1] & ~below(found, cut_left)):
                        m.d.sync += cut_left.eq(found)
        return Mux(popped, cut_left[1:].any(), cut_left.any())

    def _route(self, m: Module, coming: Queue, owed: Queue, store: Stash, cuts: Value) -> None:
        """Move beats: from the device to where its oldest burst goes, and to the memory what it is owed first."""
        device, out = self.device, self.memory
        # Bursts that were ended and whose data the device has still to give; whether there are any.
        late, late_next = Signal(range(owed.depth + 1)), Signal(range(owed.depth + 1))
        some_late = Signal()
        passes = Signal()
        passed = Signal()
        ended = self._pay(m, owed, store, cuts, (passes, passed))
        m.d.comb += [
            passes.eq(coming.valid & (coming.head.way == Way.PASS) & ~some_late),
            passed.eq(passes & device.valid & device.ready & device.payload.last),
            store.beat.eq(device.payload),
            store.into.eq(coming.head.stash),
            self.swallowed.payload.eq(coming.head.id),
        ]
        with m.If(passes):
            m.d.comb += [device.ready.eq(self._passing & out.ready), coming.pop.eq(passed)]
        with m.Elif(coming.valid & (coming.head.way == Way.STASH)):
            m.d.comb += [
                device.ready.eq(1),
                store.put.eq(device.valid),
                coming.pop.eq(device.valid & device.payload.last),
            ]
        with m.Elif(coming.valid & (coming.head.way == Way.DROP)):
            m.d.comb += [device.ready.eq(1), coming.pop.eq(device.valid & device.payload.last)]
        with m.Elif(coming.valid & some_late):
            m.d.comb += [
                self.swallowed.valid.eq(device.valid & device.payload.last),
                device.ready.eq(~device.payload.last | self.swallowed.ready),
                coming.pop.eq(self.swallowed.valid & self.swallowed.ready),
            ]
        swallowed = self.swallowed.valid & self.swallowed.ready
        m.d.comb += late_next.eq(late + ended - swallowed)
        m.d.sync += [late.eq(late_next), some_late.eq(late_next != 0)]

    def _pay(
        self, m: Module, owed: Queue, store: Stash, cuts: Value, coming: tuple[Value, Value]
    ) -> Value:
        """Give the memory what it is owed first: from the stash, from the device, or empty beats.

        ``cuts``: that is to be ended. ``coming`` says whether the device's oldest burst passes, and that the last of
        its beats does in this cycle. Return whether a burst that was ended leaves. Each of the three ways excludes
        the others by itself, so that none waits to know of another.
        """
        device, out, head = self.device, self.memory, owed.head
        passes, passed = coming
        sent, sent_next = Signal(8), Signal(8)
        cutting = Signal()
        marked = Signal()
        direct = Signal()
        pays_empty = Signal()
        moves = Signal()
        ended = Signal()
        # Known a cycle ahead: all but one beat of a burst that is being ended are sent.
        ends = Signal()
        self._passing = Signal()
        m.d.comb += [
            direct.eq(owed.valid & (head.way == Way.PASS)),
            self._passing.eq(direct & passes & ~cutting),
            store.wanted.eq(owed.valid & (head.way != Way.PASS)),
            store.first.eq(head.stash),
            # What is shown is of the head, which is not to be passed then.
            store.take.eq(store.shown & (out.ready | (head.way == Way.DROP))),
            # Its answer must not come before it is marked.
            pays_empty.eq(cutting & (~ends | marked)),
            self.spoiled.eq(cutting & ~marked),
            self.spoiled_position.eq(head.position),
            ended.eq(cutting & ends & marked & out.ready),
            moves.eq(out.ready & (pays_empty | (self._passing & device.valid))),
            sent_next.eq(sent + moves),
            out.valid.eq(
                (store.shown & (head.way == Way.STASH))
                | pays_empty
                | (self._passing & device.valid)
            ),
            owed.pop.eq((store.take & store.out.last) | ended | passed),
        ]
        with m.If(head.way != Way.PASS):
            m.d.comb += out.payload.eq(store.out)
        with m.Elif(cutting):
            m.d.comb += out.payload.last.eq(ends)
        with m.Else():
            m.d.comb += out.payload.eq(device.payload)
        m.d.sync += ends.eq(sent_next == head.len)
        with m.If(owed.pop):
            m.d.sync += [cutting.eq(0), marked.eq(0), sent.eq(0)]
        with m.Else():
            m.d.sync += sent.eq(sent_next)
            with m.If(direct & cuts & (~out.valid | out.ready)):
                m.d.sync += cutting.eq(1)
        with m.If(self.spoiled):
            m.d.sync += marked.eq(1)
        return ended
