"""The in-flight table: translations that bursts are using, and which of them invalidations wait for."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import EndSignature, KillLayout, TranslationLayout, UseLayout, is_killed
from secmmu.use_order import DEPTH, UseOrder

__all__ = ["Uses"]


class Uses(wiring.Component):
    """Use slots, one for each translation in flight, with the count of its bursts.

    A burst joins the open slot of its translation, or takes a free one. An invalidation closes every slot it
    overlaps, so that later uses of a new translation of the same page are counted apart; a closed slot is free
    again when its last burst has ended. One burst begins per cycle, in alternation when both directions ask.

    Parameters
    ----------
    config : SecmmuConfig
        ``use_slots``, ``id_bits``.

    Members
    -------
    kill : In(KillLayout)
        The invalidation applied in this cycle. The asker must not present what it kills.
    read, write : In(stream of UseLayout)
        A burst to present on the memory side in the next cycle; its use begins with the handshake.
    read_end, write_end : In(EndSignature)
        Ends of bursts on the memory side.
    closing : Out(use_slots)
        Slots that ``kill`` overlaps and that are still in use after this cycle.
    busy_next : Out(use_slots)
        Slots in use after this cycle.
    read_none, write_none : Out
        For each AXI id, whether it has nothing outstanding.
    none : Out(1)
        Nothing is in flight.
    """

    kill: data.View
    read: stream.Interface
    write: stream.Interface
    read_end: wiring.PureInterface
    write_end: wiring.PureInterface
    closing: Signal
    busy_next: Signal
    read_none: Signal
    write_none: Signal
    none: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        ids = 1 << config.id_bits
        super().__init__(
            {
                "kill": In(KillLayout(config)),
                "read": In(stream.Signature(UseLayout(config))),
                "write": In(stream.Signature(UseLayout(config))),
                "read_end": In(EndSignature(config)),
                "write_end": In(EndSignature(config)),
                "closing": Out(config.use_slots),
                "busy_next": Out(config.use_slots),
                "read_none": Out(ids),
                "write_none": Out(ids),
                "none": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the two orders, the choice between the directions and the slots."""
        m = Module()
        config = self.config
        m.submodules.read_order = reads = UseOrder(config)
        m.submodules.write_order = writes = UseOrder(config)
        use = Signal(UseLayout(config))
        begins = Signal()
        slot = self._arbitrate(m, use, begins, reads, writes)
        closed = Signal(config.use_slots)
        busy = Signal(config.use_slots)
        keys = [Signal(TranslationLayout(config), name=f"slot{i}") for i in range(config.use_slots)]
        match = Signal(config.use_slots)
        for i, key in enumerate(keys):
            count = Signal(config.id_bits + (2 * DEPTH).bit_length(), name=f"count{i}")
            count_next = Signal.like(count, name=f"count_next{i}")
            same = (
                (key.vpn == use.translation.vpn)
                & (key.level == use.translation.level)
                & (key.shared == use.translation.shared)
                & (key.asid == use.translation.asid)
            )
            gain = Signal(name=f"gain{i}")
            m.d.comb += [
                busy[i].eq(count != 0),
                match[i].eq(busy[i] & ~closed[i] & same),
                gain.eq(begins & slot.bit_select(i, 1)),
                count_next.eq(
                    count
                    + gain
                    - (self.read_end.valid & (reads.end_slot == i))
                    - (self.write_end.valid & (writes.end_slot == i))
                ),
                self.busy_next[i].eq(count_next != 0),
                self.closing[i].eq(busy[i] & self.busy_next[i] & is_killed(self.kill, key, config)),
            ]
            m.d.sync += count.eq(count_next)
            with m.If(gain):
                m.d.sync += key.eq(use.translation)
        m.d.sync += closed.eq((closed | self.closing) & self.busy_next)
        free = ~busy & -(~busy)
        m.d.comb += [slot.eq(Mux(match.any(), match, free)), self.none.eq(~busy.any())]
        for order, end, none in (
            (reads, self.read_end, self.read_none),
            (writes, self.write_end, self.write_none),
        ):
            m.d.comb += none.eq(order.none)
            wiring.connect(m, wiring.flipped(end), order.end)
        return m

    def _arbitrate(
        self, m: Module, use: data.View, begins: Signal, reads: UseOrder, writes: UseOrder
    ) -> Signal:
        """Choose the direction that begins a use; return the one-hot slot it gets (0: none to be had)."""
        config = self.config
        slot = Signal(config.use_slots)
        turn = Signal()
        read_asks = Signal()
        write_asks = Signal()
        number = Signal(reads.end_slot.shape())
        m.d.comb += [
            read_asks.eq(self.read.valid & reads.room.bit_select(self.read.payload.id, 1)),
            write_asks.eq(self.write.valid & writes.room.bit_select(self.write.payload.id, 1)),
            number.eq(_encoded(slot)),
        ]
        writes_turn = Signal()
        m.d.comb += writes_turn.eq(write_asks & (turn | ~read_asks))
        with m.If(read_asks & write_asks):
            m.d.sync += turn.eq(~turn)
        m.d.comb += [
            use.eq(Mux(writes_turn, self.write.payload.as_value(), self.read.payload.as_value())),
            begins.eq((read_asks | write_asks) & slot.any()),
            self.read.ready.eq(read_asks & ~writes_turn & slot.any()),
            self.write.ready.eq(writes_turn & slot.any()),
        ]
        for order, own in ((reads, self.read.ready), (writes, self.write.ready)):
            m.d.comb += [
                order.begin.eq(own),
                order.begin_id.eq(use.id),
                order.burst.slot.eq(number),
            ]
            if config.observe:
                m.d.comb += [order.burst.asid.eq(use.translation.asid), order.burst.len.eq(use.len)]
        return slot


def _encoded(one_hot: Signal) -> Value:
    """Return the number of the one bit that is set."""
    width = max(1, (len(one_hot) - 1).bit_length())
    return Cat(
        Cat(one_hot[i] for i in range(len(one_hot)) if i >> bit & 1).any() for bit in range(width)
    )
