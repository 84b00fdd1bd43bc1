"""The associative part of the TLB: every entry compared at once, with an access or with an invalidation."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from secmmu.config import SecmmuConfig
from secmmu.internals import (
    GROUP_BITS,
    EntryLayout,
    KillLayout,
    LookupSignature,
    YoungSignature,
)
from secmmu.page_numbers import below, free_bits, free_pieces, spans
from secmmu.picks import chosen, encoded

__all__ = ["Cam"]

TRUST_BITS = 2
"""One new entry in 2**TRUST_BITS counts as recent: the others are replaced first unless they hit before."""


class TagLayout(data.StructLayout):
    """What an entry is compared by; the rest of it stands in a memory. ``free`` is as in :mod:`secmmu.page_numbers`.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "writable": 1,
                "shared": 1,
                "asid": config.asid_bits,
                "group": GROUP_BITS,
                "first": config.vpn_bits,
                "last": config.vpn_bits,
                "free": free_bits(config.vpn_bits),
            }
        )


class Cam(wiring.Component):
    """Fully associative entries of any grain, ``config.large_entries`` of them.

    Invalidations and questions are compared a cycle before they are applied. They come before a fill, which takes the
    comparators for a cycle and is written in another in which nothing is compared. It kills every entry
    that would match an access which it matches, so that no access finds two of one asid, or two of a group; an entry
    of the asid itself goes before one of its group.

    A hand points to the entry that the next fill replaces (CLOCK, Corbato 1968): it goes on past those that are in use
    while others are not, and past recent ones, which it makes old. A fill waits for it.

    Parameters
    ----------
    config : SecmmuConfig
        ``large_entries``, ``lookup_latency``, widths, ``observe``, ``mutant``.

    Members
    -------
    coming : In(KillLayout), asks : In(1)
        The invalidation of the next cycle; the next cycle asks about its first page.
    kill : In(KillLayout)
        The invalidation applied in this cycle.
    young : In(YoungSignature)
        Answered in the same cycle.
    lookup : In(LookupSignature)
        One a cycle.
    fill : In(1), entry : In(EntryLayout), last : In
        Write this entry, whose last page that is; it stays until ``filled``, or until it was killed.
    filled : Out(1), index : Out
        It is written in this cycle, there.
    died : Out(large_entries)
        Entries that die in this cycle; the one that a fill replaces is not among them.
    """

    coming: data.View
    asks: Signal
    kill: data.View
    young: wiring.PureInterface
    lookup: wiring.PureInterface
    fill: Signal
    entry: data.View
    last: Signal
    filled: Signal
    index: Signal
    died: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        self.index_bits = max(1, ceil_log2(config.large_entries))
        count = config.large_entries
        # In reach of proofs, which state what holds between them.
        self.tags = [Signal(TagLayout(config), name=f"tag{i}") for i in range(count)]
        self.store = memory.Memory(shape=EntryLayout(config), depth=count, init=[])
        self.valid, self.recent = Signal(count), Signal(count)
        self.hand, self.passes = Signal(count, init=1), Signal()
        self.compared, self.overlapping = Signal(), Signal(count)
        self.near, self.far, self.named = Signal(count), Signal(count), Signal(count)
        super().__init__(
            {
                "coming": In(KillLayout(config)),
                "asks": In(1),
                "kill": In(KillLayout(config)),
                "young": In(YoungSignature()),
                "lookup": In(LookupSignature(config)),
                "fill": In(1),
                "entry": In(EntryLayout(config)),
                "last": In(config.vpn_bits),
                "filled": Out(1),
                "index": Out(self.index_bits),
                "died": Out(config.large_entries),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the tags, their two rows of comparators, the replacement and the store of entries."""
        m = Module()
        count = self.config.large_entries
        valid, used = self.valid, Signal(count)
        spoken_of, reached = self._probe(m)
        overlapped, written = self._fill(m, spoken_of, reached)
        killed, gone, named = Signal(count), Signal(count), self.named
        self._keep(m, named, spoken_of, reached, Const(1))
        m.d.comb += [
            killed.eq(Mux(self.kill.valid, named, 0)),
            gone.eq(killed | written | overlapped),
            self.died.eq(valid & (killed | overlapped) & ~written),
            self.young.answered.eq(self.young.ask),
            # Compared a cycle ago, perhaps beside the invalidation that took it.
            self.young.used.eq((named & used & valid).any()),
        ]
        # The written entry comes last: with the mutant that lets a fill through beside an invalidation it survives.
        m.d.sync += valid.eq((valid & ~killed & ~overlapped) | written)
        translation = self.entry.translation
        free = free_pieces(translation.grain, self.config.vpn_bits)
        for i, tag in enumerate(self.tags):
            with m.If(written[i]):
                m.d.sync += [
                    tag.writable.eq(self.entry.writable),
                    tag.shared.eq(translation.shared),
                    tag.asid.eq(translation.asid),
                    tag.group.eq(translation.group),
                    tag.first.eq(translation.vpn),
                    tag.last.eq(self.last),
                    tag.free.eq(free),
                ]
        hit = self._look_up(m, gone, killed)
        asked = Mux(self.young.ask, named, 0)
        m.d.sync += used.eq(((used & ~asked) | hit) & ~written)
        self._touch(m, hit, written)
        return m

    def _keep(
        self, m: Module, matched: Signal, spoken_of: Signal, reached: Signal, when: Value
    ) -> None:
        """Keep who matches: whose space is spoken of, and whose span is reached. Both take long, so each is kept."""
        kept_space, kept_span = Signal.like(spoken_of), Signal.like(reached)
        with m.If(when):
            m.d.sync += [kept_space.eq(spoken_of), kept_span.eq(reached)]
        m.d.comb += matched.eq(kept_space & kept_span)

    def _probe(self, m: Module) -> tuple[Signal, Signal]:
        """Compare all entries with the next invalidation or question, else with the fill.

        Return whose space that speaks of, and whose span it reaches.
        """
        config, kill, fill = self.config, self.coming, self.entry.translation
        busy = self.coming.valid | self.asks
        first, last = Signal(config.vpn_bits), Signal(config.vpn_bits)
        asid, group = Signal(config.asid_bits), Signal(GROUP_BITS)
        m.d.comb += [
            first.eq(Mux(busy, kill.first, fill.vpn)),
            last.eq(Mux(busy, Mux(self.asks, kill.first, kill.last), self.last)),
            asid.eq(Mux(busy, kill.asid, fill.asid)),
            group.eq(Mux(busy, kill.group, fill.group)),
        ]
        spoken_of, reached = Signal(config.large_entries), Signal(config.large_entries)
        for i, tag in enumerate(self.tags):
            end = tag.last
            if config.mutant == "rtl-no-span-compare":
                end = Mux(kill.valid, tag.first, tag.last)
            shared = tag.shared | (~busy & fill.shared)
            space = (tag.asid == asid) | (shared & (tag.group == group))
            named = (busy & kill.everything) | (space & ~(busy & tag.shared & kill.keep_global))
            m.d.comb += [
                spoken_of[i].eq(self.valid[i] & named),
                reached[i].eq(~below(last, tag.first) & ~below(end, first)),
            ]
        return spoken_of, reached

    def _fill(self, m: Module, spoken_of: Signal, reached: Signal) -> tuple[Signal, Signal]:
        """Find what a fill overlaps, then write it; return who is overlapped and who is written."""
        valid, hand = self.valid, self.hand
        compared, overlapping = self.compared, self.overlapping
        overlapped, written = Signal.like(valid), Signal.like(valid)
        busy = self.coming.valid | self.asks
        if self.config.mutant == "rtl-no-fill-kill":
            busy = self.asks
        m.d.comb += self.filled.eq(self.fill & compared & ~busy)
        compares = ~busy & ~self.passes
        self._keep(m, overlapping, spoken_of, reached, compares & ~compared)
        with m.If(~self.fill | self.filled):
            m.d.sync += compared.eq(0)
        with m.Elif(compares):
            m.d.sync += compared.eq(1)
        m.d.comb += [
            written.eq(Mux(self.filled, hand, 0)),
            overlapped.eq(Mux(self.filled, overlapping, 0)),
            self.index.eq(encoded(hand)),
        ]
        return overlapped, written

    def _touch(self, m: Module, hit: Signal, written: Signal) -> None:
        """Move the hand; keep the recent bits of the entries that hit, and of one new entry in a few."""
        recent, hand = self.recent, self.hand
        turn = Signal(TRUST_BITS)
        old = Signal.like(hand)
        m.d.comb += [
            self.passes.eq((hand & Mux(self.valid.all(), recent, self.valid)).any()),
            old.eq(Mux(self.passes & self.valid.all(), hand, 0)),
        ]
        m.d.sync += recent.eq(((recent & ~old) | hit) & ~written | Mux(turn.all(), written, 0))
        with m.If(self.passes):
            m.d.sync += hand.eq(hand.rotate_left(1))
        with m.If(self.filled):
            m.d.sync += turn.eq(turn + 1)

    def _look_up(self, m: Module, gone: Signal, killed: Signal) -> Signal:
        """Build the lookup; return the entry that hits at the end of this cycle, one-hot."""
        config, lookup = self.config, self.lookup
        near, far = self.near, self.far
        found = self.valid & self._covering()
        self._stage(m, near, found & Cat(self._owns(tag) for tag in self.tags), gone)
        self._stage(m, far, found & Cat(self._shares(tag) for tag in self.tags), gone)
        # Whether there is an access at all is known later than its page, and matters to marks alone.
        asked: Value = lookup.en
        for number in range(config.lookup_latency):
            before, asked = asked, Signal(name=f"asked{number + 1}")
            with m.If(lookup.advance):
                m.d.sync += asked.eq(before)
        chosen = Signal(config.large_entries)
        m.d.comb += chosen.eq(Mux(near.any(), near, far))
        m.submodules.store = store = self.store
        writer, reader = store.write_port(), store.read_port(domain="comb")
        m.d.comb += [
            writer.en.eq(self.filled),
            writer.addr.eq(self.index),
            writer.data.eq(self.entry),
        ]
        if config.lookup_latency == 1:
            # Both sorts are followed up beside each other: what is found is needed early, its rights before the rest.
            writable = Cat(tag.writable for tag in self.tags)
            m.d.comb += [
                reader.addr.eq(Mux(near.any(), encoded(near), encoded(far))),
                lookup.entry.eq(reader.data),
                lookup.entry.writable.eq(
                    Mux(near.any(), (near & writable).any(), (far & writable).any())
                ),
                lookup.free.eq(Mux(near.any(), self._freed(near), self._freed(far))),
                lookup.hit.eq(asked & (near.any() | far.any())),
                # Who matched is known from the start; whether it is killed for it comes last.
                lookup.dies.eq(
                    self.kill.valid
                    & Mux(near.any(), (near & self.named).any(), (far & self.named).any())
                ),
            ]
        else:
            stages = [chosen]
            for _ in range(config.lookup_latency - 1):
                chosen = Signal.like(chosen)
                self._stage(m, chosen, stages[-1], gone)
                stages.append(chosen)
            m.d.comb += reader.addr.eq(encoded(stages[-2]))
            grain = reader.data.translation.grain
            with m.If(lookup.advance):
                m.d.sync += [
                    lookup.entry.eq(reader.data),
                    lookup.free.eq(free_pieces(grain, config.vpn_bits)),
                ]
            m.d.comb += [
                lookup.hit.eq(asked & chosen.any()),
                lookup.dies.eq((chosen & killed).any()),
            ]
        hit = Signal(config.large_entries)
        m.d.comb += hit.eq(Mux(lookup.advance & asked, chosen & ~killed, 0))
        return hit

    def _freed(self, found: Signal) -> Value:
        """Return the pieces that the span of an entry leaves free."""
        return Cat(
            chosen(found, Cat(tag.free[piece] for tag in self.tags))
            for piece in range(len(self.lookup.free))
        )

    def _owns(self, tag: data.View) -> Value:
        """Return whether an entry is of the asid that is looked up."""
        return tag.asid == self.lookup.asid

    def _shares(self, tag: data.View) -> Value:
        """Return whether an entry is global in the group of that asid."""
        return tag.shared & (tag.group == self.lookup.group)

    def _stage(self, m: Module, stage: Signal, bits: Value, gone: Signal) -> None:
        """Make ``stage`` the ``bits`` of one advance ago, without the entries that are gone since."""
        m.d.sync += stage.eq(Mux(self.lookup.advance, bits, stage) & ~gone)

    def _covering(self) -> Value:
        """Return which spans hold the page looked up: equal but for the bits that a span leaves free."""
        return Cat(spans(tag.first, tag.free, self.lookup.vpn) for tag in self.tags)
