"""The in-flight table: translations that bursts are using, and which of them invalidations wait for."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.datapath.use_order import UseOrder, oldest_layout, position_bits, slot_bits
from secmmu.internals import GROUP_BITS, EndSignature, KillLayout, TranslationLayout
from secmmu.kills import killed_asid
from secmmu.page_numbers import below, free_bits, free_mask, spans
from secmmu.picks import chosen, encoded, lowest
from secmmu.registers.registers import FenceLayout

__all__ = ["FollowedLayout", "PageLayout", "Uses"]


class PageLayout(data.StructLayout):
    """The page of an access, and its direction.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"vpn": config.vpn_bits, "asid": config.asid_bits, "write": 1})


class FollowedLayout(data.StructLayout):
    """A walk, and whether a write waited for it.

    Parameters
    ----------
    config : SecmmuConfig
        ``walks``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"walk": config.walk_bits, "write": 1})


class KeyLayout(data.StructLayout):
    """The span of a use slot: its pages, the pieces of the page number that it leaves free, and whose it is.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "vpn": config.vpn_bits,
                "last": config.vpn_bits,
                "free": free_bits(config.vpn_bits),
                "asid": config.asid_bits,
                "group": GROUP_BITS,
            }
        )


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
    page : In(PageLayout), aside, same : In(1), walk : In, walk_write : In(1)
        What stage D decides. ``aside``: not the pipeline's last stage, but a waiter of that walk and direction.
        ``same``: they are those that ``followed`` says, as they were a cycle before it came.
    given : In(1), given_walk : In
        A number is given to a walk in this cycle.
    matches, follows : Out(1)
        The pipeline's last stage may join an open slot; the waiter may join that of the one of its walk that began last.
    followed : Out(FollowedLayout)
        The walk and the direction of that.
    begin : In(1), translation : In(TranslationLayout), free : In, id : In, len : In(8)
        It is presented on the memory side in the next cycle: its use begins. Only where it may join or there is
        ``room``. ``free``: the pieces of the page number that its span leaves free.
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
    write_begun : Out(1), write_position, write_oldest : Out
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
    same: Signal
    walk: Signal
    walk_write: Signal
    given: Signal
    given_walk: Signal
    matches: Signal
    follows: Signal
    followed: data.View
    begin: Signal
    translation: data.View
    free: Signal
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
    write_oldest: data.View
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
                "same": In(1),
                "walk": In(config.walk_bits),
                "walk_write": In(1),
                "given": In(1),
                "given_walk": In(config.walk_bits),
                "matches": Out(1),
                "follows": Out(1),
                "followed": Out(FollowedLayout(config)),
                "begin": In(1),
                "translation": In(TranslationLayout(config)),
                "free": In(free_bits(config.vpn_bits)),
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
                "write_oldest": Out(oldest_layout(config)),
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
        keys = [Signal(KeyLayout(config), name=f"slot{i}") for i in range(slots)]
        busy, closed = Signal(slots), Signal(slots)
        picked, gains, joined = Signal(slots), Signal(slots), Signal(slots)
        closed_next = (closed | self.closing) & self.busy_next
        unfenced = self._fence(m, keys)
        m.d.comb += gains.eq(Mux(self.begin, picked, 0))
        free = self._choose_free(m, self.busy_next | unfenced, picked)
        joinable = self._match(m, keys, (closed, closed_next), (picked, gains & ~joined))
        m.d.comb += [
            picked.eq(Mux(joinable.any(), joinable, free)),
            # A slot that nobody uses any more takes the new span, even where its old one was larger.
            joined.eq(joinable & busy),
        ]
        new = self._span(m, keys, joined)
        for i, key in enumerate(keys):
            self._count(m, i, gains[i], reads, writes)
            self._keep_key(m, i, (key, new), gains[i], joined[i])
        m.d.sync += [
            closed.eq(closed_next),
            busy.eq(self.busy_next | gains | unfenced),
        ]
        m.d.comb += [
            self.slot.eq(encoded(picked)),
            self.none.eq(~busy.any()),
            self.write_begun.eq(writes.begun),
            self.write_position.eq(writes.position),
            self.write_oldest.eq(writes.oldest),
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

    def _choose_free(self, m: Module, busy: Value, picked: Value) -> Signal:
        """Choose the slot of the next span a cycle ahead; ``busy`` are those in use, but for what begins in ``picked``.

        The one for reads alone comes last, so it is chosen only where writes have no room.
        """
        free = Signal(len(picked), name="next_free", init=1)
        open_ = Signal(len(picked), name="open")
        writes = slice(self.config.use_slots)
        room = Signal(2, init=-1)
        rest = open_ & ~picked
        m.d.comb += [open_.eq(~busy), self.room.eq(room)]
        m.d.sync += [
            free.eq(Mux(self.begin, lowest(m, rest), lowest(m, open_))),
            room.eq(
                Mux(
                    self.begin,
                    Cat(rest.any(), rest[writes].any()),
                    Cat(open_.any(), open_[writes].any()),
                )
            ),
        ]
        return free

    def _match(
        self,
        m: Module,
        keys: list[data.View],
        closed: tuple[Value, Value],
        beginning: tuple[Value, Value],
    ) -> Signal:
        """Return the slot that stage D may join.

        ``closed`` are the slots that are, and will be in the next cycle; ``beginning`` the one for what begins, if
        anything does, and the one that takes a new span.
        """
        picked, taking = beginning
        slots = len(keys)
        spare = 1 << self.config.use_slots
        spanning = Signal(slots)
        for i, key in enumerate(keys):
            m.d.comb += spanning[i].eq(
                spans(key.vpn, key.free, self.ahead.vpn)
                & (key.asid == self.ahead.asid)
                & ~closed[0][i]
            )
        # Several may span it.
        matched = Signal(slots)
        following = Signal(slots)
        joinable = Signal(slots)
        repeats = Signal()
        fitting = spanning & ~Mux(self.ahead.write, spare, 0)
        m.d.comb += [
            # The page in stage D is not among the keys before the end of this cycle.
            repeats.eq(
                (self.ahead.vpn == self.page.vpn)
                & (self.ahead.asid == self.page.asid)
                & (self.ahead.write == self.page.write)
            ),
            following.eq(self._of_same_walk(m, beginning, closed[1])),
            joinable.eq(Mux(self.aside, following, lowest(m, matched))),
            self.matches.eq(matched.any()),
            self.follows.eq(following.any()),
        ]
        with m.If(self.advance):
            m.d.sync += matched.eq(
                Mux(repeats & self.begin, picked, fitting & ~taking) & ~closed[1]
            )
        with m.Else():
            m.d.sync += matched.eq(matched & ~taking & ~closed[1])
        return joinable

    def _of_same_walk(self, m: Module, beginning: tuple[Value, Value], closed_next: Value) -> Value:
        """Return the slot of the waiter that began last, where this one waited for the same walk to the same end."""
        picked, taking = beginning
        slot = Signal(len(taking), name="walk_slot")
        followed = self.followed
        with m.If(self.begin & self.aside):
            m.d.sync += [
                slot.eq(picked & ~closed_next),
                followed.walk.eq(self.walk),
                followed.write.eq(self.walk_write),
            ]
        with m.Elif(self.given & (self.given_walk == followed.walk)):
            m.d.sync += slot.eq(0)
        with m.Else():
            m.d.sync += slot.eq(slot & ~taking & ~closed_next)
        return Mux(self.same, slot, 0)

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
        # What began in the cycle before is counted in this one: it cannot end so soon.
        grows = Signal(name=f"grows{i}")
        lost = Cat(order.ended & (order.ended_slot == i) for order in (reads, writes))
        none_left = ~count[2:].any() & Mux(count[1], ~count[0] & lost.all(), ~count[0] | lost.any())
        m.d.comb += self.busy_next[i].eq(grows | ~none_left)
        if config.mutant == "rtl-no-burst-count":
            gain &= ~self.busy_next[i]
        # -2 to 1.
        falls = Mux(grows, lost.all(), lost.any())
        m.d.sync += [
            grows.eq(gain),
            count.eq(count + Cat(grows ^ lost.xor(), falls.replicate(len(count) - 1))),
        ]

    def _span(self, m: Module, keys: list[data.View], joined: Value) -> data.View:
        """Return the key of the slot that stage D gets: the larger of its span and that of the slot it joins."""
        config, page, translation = self.config, self.page, self.translation
        new = Signal(KeyLayout(config), name="new")
        mask = free_mask(new.free, config.vpn_bits)
        m.d.comb += [
            new.free.eq(
                self.free
                | Cat(
                    chosen(joined, Cat(key.free[at] for key in keys))
                    for at in range(len(self.free))
                )
            ),
            # The span holds the page: neither the TLB nor the walker need say where it begins.
            new.vpn.eq(page.vpn & ~mask),
            new.last.eq(page.vpn if config.mutant == "rtl-no-span-compare" else page.vpn | mask),
            # The use is the access's own even where the entry is another asid's, shared.
            new.asid.eq(page.asid),
            new.group.eq(translation.group),
        ]
        return new

    def _keep_key(
        self, m: Module, i: int, keys: tuple[data.View, data.View], gain: Value, joined: Value
    ) -> None:
        """Keep the span that covers all bursts of a slot; say when an invalidation overlaps it."""
        key, new = keys
        kill, is_shared = self.kill, self.translation.shared
        # A slot may hold bursts of both kinds when the G bit has changed between them.
        shared = Signal(name=f"shared{i}")
        private = Signal(name=f"private{i}")
        with m.If(gain):
            m.d.sync += [
                key.eq(new),
                shared.eq(is_shared | (joined & shared)),
                private.eq(~is_shared | (joined & private)),
            ]
        named = [
            killed_asid(kill, asid=key.asid, group=key.group, shared=Const(kind, 1))
            for kind in (0, 1)
        ]
        m.d.comb += self.closing[i].eq(
            self.busy_next[i]
            & ((named[0] & private) | (named[1] & shared))
            & ~below(kill.last, key.vpn)
            & ~below(key.last, kill.first)
        )
