"""The in-flight table: translations that bursts are using, and which of them invalidations wait for."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.datapath.use_order import UseOrder, position_bits, slot_bits
from secmmu.internals import EndSignature, KillLayout, TranslationLayout
from secmmu.kills import killed_asid
from secmmu.page_numbers import below, free_pieces, span_last, span_mask, spans
from secmmu.picks import encoded, lowest
from secmmu.registers.registers import FenceLayout

__all__ = ["PageLayout", "Uses"]


class PageLayout(data.StructLayout):
    """The page of an access, and its direction.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"vpn": config.vpn_bits, "asid": config.asid_bits, "write": 1})


class Uses(wiring.Component):
    """Use slots, one for each translation in flight, with the count of its bursts.

    A burst joins the open slot that spans its page, which takes the larger of the two spans, or takes a free one. An
    invalidation closes every slot it overlaps, so that later uses of a new translation of the same page are counted
    apart; a closed slot is free again when its last burst has ended. The page of the access that comes to stage D
    next is compared with the slots one cycle ahead, so that stage D finds the answer in registers.

    One slot more than ``use_slots`` is for reads alone: writes whose data waits for a read cannot keep it from them.

    Parameters
    ----------
    config : SecmmuConfig
        ``use_slots``, ``id_bits``, ``outstanding``, ``mutant``.

    Members
    -------
    kill : In(KillLayout)
        The invalidation applied in this cycle. What it kills must not begin.
    ahead : In(PageLayout), advance : In(1)
        What stands in the pipeline's last stage in the next cycle, if it advances.
    page : In(PageLayout), aside : In(1), walk : In
        What stage D decides. ``aside``: not the pipeline's last stage, but a waiter of that walk.
    given : In(1), given_walk : In
        A number is given to a walk in this cycle.
    matches, follows : Out(1)
        The pipeline's last stage may join an open slot; the waiter may join that of the one of its walk that began last.
    begin : In(1), translation : In(TranslationLayout), id : In, len : In(8)
        It is presented on the memory side in the next cycle: its use begins. Only
        where it may join or there is ``room``.
    slot : Out
        The slot it gets.
    read_end, write_end : In(EndSignature)
        Ends of bursts on the memory side.
    closing : Out(use_slots + 1)
        Slots that ``kill`` overlaps and that are still in use after this cycle.
    busy_next : Out(use_slots + 1)
        Slots still in use after this cycle, what begins in it left out. An end shows in it after two cycles.
    read_outstanding, write_outstanding : Out
        For each AXI id, whether it has something outstanding.
    write_begun : Out(1), write_position, write_end_position : Out
        What names writes while they are outstanding; see :class:`secmmu.datapath.use_order.UseOrder`.
    room : Out(2)
        For reads and for writes, whether a slot is free.
    asked : In, left : Out(1)
        An asid, and whether a use of it is left.
    broken : In(use_slots + 1), fence : Out(FenceLayout)
        Uses for which a command gave up waiting; their asids, one after the other.
    none : Out(1)
        Nothing is in flight.
    """

    kill: data.View
    ahead: data.View
    advance: Signal
    page: data.View
    aside: Signal
    walk: Signal
    given: Signal
    given_walk: Signal
    matches: Signal
    follows: Signal
    begin: Signal
    translation: data.View
    id: Signal
    len: Signal
    slot: Signal
    read_end: wiring.PureInterface
    write_end: wiring.PureInterface
    closing: Signal
    busy_next: Signal
    read_outstanding: Signal
    write_outstanding: Signal
    write_begun: Signal
    write_position: Signal
    write_end_position: Signal
    room: Signal
    asked: Signal
    left: Signal
    broken: Signal
    fence: data.View
    none: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        ids, slots = 1 << config.id_bits, config.use_slots + 1
        super().__init__(
            {
                "kill": In(KillLayout(config)),
                "ahead": In(PageLayout(config)),
                "advance": In(1),
                "page": In(PageLayout(config)),
                "aside": In(1),
                "walk": In(config.walk_bits),
                "given": In(1),
                "given_walk": In(config.walk_bits),
                "matches": Out(1),
                "follows": Out(1),
                "begin": In(1),
                "translation": In(TranslationLayout(config)),
                "id": In(config.id_bits),
                "len": In(8),
                "slot": Out(slot_bits(config)),
                "read_end": In(EndSignature(config)),
                "write_end": In(EndSignature(config)),
                "closing": Out(slots),
                "busy_next": Out(slots),
                "read_outstanding": Out(ids),
                "write_outstanding": Out(ids),
                "write_begun": Out(1),
                "write_position": Out(position_bits(config)),
                "write_end_position": Out(position_bits(config)),
                "room": Out(2),
                "asked": In(config.asid_bits),
                "left": Out(1),
                "broken": In(slots),
                "fence": Out(FenceLayout(config)),
                "none": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the two orders, the choice of the slot and the slots."""
        m = Module()
        config = self.config
        slots = config.use_slots + 1
        m.submodules.reads = reads = UseOrder(config)
        m.submodules.writes = writes = UseOrder(config)
        keys = [Signal(TranslationLayout(config), name=f"slot{i}") for i in range(slots)]
        busy = Signal(slots)
        closed = Signal(slots)
        chosen = Signal(slots)
        gains = Signal(slots)
        taking = Signal(slots)
        page, grain = self.page.vpn, self.translation.grain
        self._first, self._last = Signal.like(page), Signal.like(page)
        span = page if config.mutant == "rtl-no-span-compare" else span_last(page, grain)
        m.d.comb += [
            gains.eq(Mux(self.begin, chosen, 0)),
            # The span holds the page: neither the TLB nor the walker need say where it begins.
            self._first.eq(page & ~span_mask(grain)),
            self._last.eq(span),
        ]
        joined = self._choose(m, keys, busy, closed, chosen, gains, taking)
        for i, key in enumerate(keys):
            self._count(m, i, gains[i], reads, writes)
            self._keep_key(m, i, key, gains[i], joined[i])
        m.d.sync += [
            closed.eq((closed | self.closing) & self.busy_next),
            busy.eq(self.busy_next | gains | self._fence(m, keys)),
        ]
        m.d.comb += [
            self.slot.eq(encoded(chosen)),
            self.none.eq(~busy.any()),
            self.write_begun.eq(writes.begun),
            self.write_position.eq(writes.position),
            self.write_end_position.eq(writes.end_position),
            self.left.eq(
                Cat(busy[i] & (key.asid == self.asked) for i, key in enumerate(keys)).any()
            ),
        ]
        for order, end, outstanding, write in (
            (reads, self.read_end, self.read_outstanding, 0),
            (writes, self.write_end, self.write_outstanding, 1),
        ):
            wiring.connect(m, wiring.flipped(end), order.end)
            m.d.comb += [
                outstanding.eq(order.outstanding),
                order.begin.eq(self.begin & (self.page.write == write)),
                order.begin_id.eq(self.id),
                order.burst.slot.eq(self.slot),
            ]
            if config.observe:
                m.d.comb += [order.burst.asid.eq(self.page.asid), order.burst.len.eq(self.len)]
        return m

    def _choose(
        self,
        m: Module,
        keys: list[data.View],
        busy: Signal,
        closed: Signal,
        chosen: Signal,
        gains: Signal,
        taking: Signal,
    ) -> Signal:
        """Choose the slot for stage D; return, for each slot, whether it would be joined rather than taken."""
        config = self.config
        slots = len(keys)
        spare = 1 << config.use_slots
        spanning = Signal(slots)
        for i, key in enumerate(keys):
            m.d.comb += spanning[i].eq(
                spans(key.vpn, free_pieces(key.grain, config.vpn_bits), self.ahead.vpn)
                & (key.asid == self.ahead.asid)
                & ~closed[i]
            )
        matched = Signal(slots)
        follows = Signal()
        matching, following = Signal(slots), Signal(slots)
        joinable = Signal(slots)
        joined = Signal(slots)
        free = Signal(slots)
        m.d.comb += [
            # The page in stage D is not among the keys before the end of this cycle.
            follows.eq(
                (self.ahead.vpn == self.page.vpn)
                & (self.ahead.asid == self.page.asid)
                & (self.ahead.write == self.page.write)
            ),
            matching.eq(matched & ~closed),
            following.eq(self._of_same_walk(m, taking, gains) & ~closed),
            joinable.eq(Mux(self.aside, following, matching)),
            free.eq(lowest(m, ~busy & ~Mux(self.page.write, spare, 0))),
            chosen.eq(Mux(joinable.any(), joinable, free)),
            # A slot that nobody uses any more takes the new span, even where its old one was larger.
            joined.eq(joinable & busy),
            taking.eq(gains & ~joined),
            self.matches.eq(matching.any()),
            self.follows.eq(following.any()),
            self.room.eq(Cat(~busy.all(), ~busy[: config.use_slots].all())),
        ]
        fitting = spanning & ~Mux(self.ahead.write, spare, 0)
        with m.If(self.advance):
            m.d.sync += matched.eq(Mux(follows & self.begin, chosen, lowest(m, fitting) & ~taking))
        with m.Else():
            m.d.sync += matched.eq(matched & ~taking)
        return joined

    def _of_same_walk(self, m: Module, taking: Signal, gains: Signal) -> Value:
        """Return the slot of the waiter that began last, where this one waited for the same walk to the same end."""
        slot = Signal(len(taking), name="walk_slot")
        number = Signal(self.config.walk_bits, name="walk_number")
        write = Signal(name="walk_write")
        with m.If(self.begin & self.aside):
            m.d.sync += [slot.eq(gains), number.eq(self.walk), write.eq(self.page.write)]
        with m.Elif((taking & slot).any() | (self.given & (self.given_walk == number))):
            m.d.sync += slot.eq(0)
        return Mux((number == self.walk) & (write == self.page.write), slot, 0)

    def _fence(self, m: Module, keys: list[data.View]) -> Value:
        """Name the asids of broken uses; return the slots that must not be taken before theirs is named."""
        pending = Signal(len(keys), name="unfenced")
        first = lowest(m, pending)
        m.d.sync += pending.eq((pending & ~first) | self.broken)
        m.d.comb += [
            self.fence.valid.eq(pending.any()),
            self.fence.asid.eq(Array(key.asid for key in keys)[encoded(first)]),
        ]
        return pending & ~first

    def _count(self, m: Module, i: int, gain: Value, reads: UseOrder, writes: UseOrder) -> None:
        """Count the bursts of a slot. Nothing begins in a closed one, so what ends is all that invalidations see."""
        config = self.config
        most = 2 * (config.outstanding_per_id << config.id_bits)
        count = Signal(range(most + 1), name=f"count{i}")
        left = Signal.like(count, name=f"left{i}")
        lost = [order.ended & (order.ended_slot == i) for order in (reads, writes)]
        m.d.comb += [
            left.eq(count - lost[0] - lost[1]),
            self.busy_next[i].eq(left != 0),
        ]
        if config.mutant == "rtl-no-burst-count":
            gain &= ~self.busy_next[i]
        m.d.sync += count.eq(left + gain)

    def _keep_key(self, m: Module, i: int, key: data.View, gain: Value, joined: Value) -> None:
        """Keep the span that covers all bursts of a slot; say when an invalidation overlaps it."""
        new = self.translation
        kill = self.kill
        # A slot may hold bursts of both kinds when the G bit has changed between them.
        shared = Signal(name=f"shared{i}")
        private = Signal(name=f"private{i}")
        last = Signal.like(key.vpn, name=f"last{i}")
        with m.If(gain):
            with m.If(~joined | (new.grain >= key.grain)):
                m.d.sync += [key.eq(new), key.vpn.eq(self._first), last.eq(self._last)]
            m.d.sync += [
                # The use is the access's own even where the entry is another asid's, shared.
                key.asid.eq(self.page.asid),
                shared.eq(new.shared | (joined & shared)),
                private.eq(~new.shared | (joined & private)),
            ]
        named = [
            killed_asid(kill, asid=key.asid, group=key.group, shared=Const(kind, 1))
            for kind in (0, 1)
        ]
        m.d.comb += self.closing[i].eq(
            self.busy_next[i]
            & ((named[0] & private) | (named[1] & shared))
            & ~below(kill.last, key.vpn)
            & ~below(last, kill.first)
        )
