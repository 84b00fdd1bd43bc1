"""The TLB: set-associative, all leaf sizes in one structure, every entry compared with an invalidation at once."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from secmmu.config import SecmmuConfig
from secmmu.internals import (
    INDEX_BITS,
    LEVELS,
    SV39_VPN_BITS,
    EntryLayout,
    FillSignature,
    KillLayout,
    LookupSignature,
    TranslationLayout,
    span_last,
)

__all__ = ["Tlb"]

RECORD_BITS = 64
"""Entries that one observation of killed entries covers."""


class Tlb(wiring.Component):
    """Translations, looked up by either direction, filled by the walker, killed by invalidations.

    A lookup reads the sets that the page has at each level, in memories; its answer comes one cycle later. The
    tags stand in registers a second time, where one row of comparators meets them all: in one cycle with an
    invalidation, which has precedence, or with the entry being filled. A fill kills every entry that would match
    an access which it matches, so no access ever finds two.

    An entry that is killed in a cycle no longer hits in that cycle.

    Parameters
    ----------
    config : SecmmuConfig
        Geometry; ``observe``.

    Members
    -------
    kill : In(KillLayout)
        The invalidation applied in this cycle.
    read, write : In(LookupSignature)
        Lookups, one a cycle each.
    fill : In(FillSignature)
        The fill; replaces an overlapping entry of its set, else an invalid one, else in rotation per set.
    showing : Out(1)
        With ``observe`` and more than 64 entries: not all entries that died have been shown yet.
    died : Out(64), died_base : Out(16)
        With ``observe``: entries ``died_base`` + i that died without being replaced; 0 when none.
    """

    kill: data.View
    read: wiring.PureInterface
    write: wiring.PureInterface
    fill: wiring.PureInterface
    showing: Signal
    died: Signal
    died_base: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        members = {
            "kill": In(KillLayout(config)),
            "read": In(LookupSignature(config)),
            "write": In(LookupSignature(config)),
            "fill": In(FillSignature(config)),
            "showing": Out(1),
        }
        if config.observe:
            members |= {"died": Out(RECORD_BITS), "died_base": Out(16)}
        super().__init__(members)

    def _set_of(self, vpn: Value, level: int) -> Value:
        return vpn[level * INDEX_BITS :][: self.config.set_bits]

    def elaborate(self, platform: object) -> Module:
        """Build the ways, the comparators, the replacement and the two lookups."""
        m = Module()
        config = self.config
        fill = self.fill.entry.translation
        fill_set = Signal(config.set_bits)
        m.d.comb += fill_set.eq(
            Array(self._set_of(fill.vpn, level) for level in range(LEVELS))[fill.level]
        )

        tags = [
            [Signal(TranslationLayout(config)) for _ in range(config.tlb_sets)]
            for _ in range(config.tlb_ways)
        ]
        valid = [Signal(config.tlb_sets, name=f"valid{way}") for way in range(config.tlb_ways)]
        alive = [Signal(config.tlb_sets, name=f"alive{way}") for way in range(config.tlb_ways)]
        matched = self._compare(m, tags)
        chosen = self._choose(m, fill_set, valid, matched)

        died = []
        for way in range(config.tlb_ways):
            written = Signal(config.tlb_sets, name=f"written{way}")
            m.d.comb += [
                written.eq((self.fill.en & chosen[way]) << fill_set),
                alive[way].eq(valid[way] & ~matched[way]),
            ]
            # A fill comes last: with the mutant that lets it through beside an invalidation it survives.
            m.d.sync += valid[way].eq(alive[way] | written)
            died.append(valid[way] & matched[way] & ~written)
            for row, tag in enumerate(tags[way]):
                with m.If(written[row]):
                    m.d.sync += tag.eq(fill)
        self._store(m, fill_set, chosen, alive)
        if config.observe:
            self._show(m, Cat(died))
        m.d.comb += self.fill.busy.eq(self.kill.valid | self.showing)
        return m

    def _compare(self, m: Module, tags: list[list[data.View]]) -> list[Signal]:
        """Compare all tags with the invalidation, else with the fill; return one bit per set for each way."""
        config = self.config
        fill = self.fill.entry.translation
        probe = Signal(KillLayout(config))
        shared = Signal()
        with m.If(self.kill.valid):
            m.d.comb += probe.eq(self.kill)
        with m.Else():
            m.d.comb += [
                probe.valid.eq(self.fill.en),
                probe.asid.eq(fill.asid),
                probe.group.eq(fill.group),
                probe.first.eq(fill.vpn),
                probe.last.eq(span_last(fill.vpn, fill.level)),
                shared.eq(fill.shared),
            ]
        matched = [Signal(config.tlb_sets, name=f"matched{way}") for way in range(config.tlb_ways)]
        for way, rows in enumerate(tags):
            for row, tag in enumerate(rows):
                last = span_last(tag.vpn, tag.level)
                if config.mutant == "rtl-no-span-compare":
                    last = Mux(self.kill.valid, tag.vpn, last)
                space = probe.everything | (probe.asid == tag.asid)
                group = (probe.group == tag.group) & (tag.shared | shared)
                overlap = (tag.vpn <= probe.last) & (last >= probe.first)
                m.d.comb += matched[way][row].eq(probe.valid & (space | group) & overlap)
        return matched

    def _choose(
        self, m: Module, fill_set: Signal, valid: list[Signal], matched: list[Signal]
    ) -> Signal:
        """Choose the way that a fill replaces; return it one-hot."""
        config = self.config
        chosen = Signal(config.tlb_ways)
        if config.tlb_ways == 1:
            m.d.comb += [chosen.eq(1), self.fill.index.eq(fill_set)]
            return chosen
        width = ceil_log2(config.tlb_ways)
        # Not a memory, so that a reset makes the replacement repeat itself.
        rotation = Signal(config.tlb_sets * width)
        turn = rotation.word_select(fill_set, width)
        m.d.comb += chosen.eq(1 << turn)
        full = Cat(bits.bit_select(fill_set, 1) for bits in valid).all()
        for way in reversed(range(config.tlb_ways)):
            with m.If(~valid[way].bit_select(fill_set, 1)):
                m.d.comb += chosen.eq(1 << way)
        for way in reversed(range(config.tlb_ways)):
            with m.If(~self.kill.valid & (valid[way] & matched[way]).bit_select(fill_set, 1)):
                m.d.comb += chosen.eq(1 << way)
        with m.If(self.fill.en & full):
            m.d.sync += turn.eq(Mux(turn == config.tlb_ways - 1, 0, turn + 1))
        index = Cat(
            Cat(chosen[way] for way in range(config.tlb_ways) if way >> bit & 1).any()
            for bit in range(3)
        )
        m.d.comb += self.fill.index.eq((index << config.set_bits) | fill_set)
        return chosen

    def _store(self, m: Module, fill_set: Signal, chosen: Signal, alive: list[Signal]) -> None:
        """Build the ways' memories and the two lookups over them."""
        config = self.config
        ways = []
        for way in range(config.tlb_ways):
            m.submodules[f"way{way}"] = store = memory.Memory(
                shape=EntryLayout(config), depth=config.tlb_sets, init=[]
            )
            port = store.write_port()
            m.d.comb += [
                port.addr.eq(fill_set),
                port.data.eq(self.fill.entry),
                port.en.eq(self.fill.en & chosen[way]),
            ]
            ways.append((store, port))
        for lookup in (self.read, self.write):
            vpn = Signal(SV39_VPN_BITS)
            asid = Signal(config.asid_bits)
            with m.If(lookup.en):
                m.d.sync += [vpn.eq(lookup.vpn), asid.eq(lookup.asid)]
            hits, entries = [], []
            for level in range(LEVELS):
                for (store, port), live in zip(ways, alive, strict=True):
                    # Transparent, or the old entry would come out under the valid bit of the new one.
                    reader = store.read_port(transparent_for=(port,))
                    m.d.comb += [
                        reader.addr.eq(self._set_of(lookup.vpn, level)),
                        reader.en.eq(lookup.en),
                    ]
                    entry = reader.data.translation
                    hit = Signal()
                    m.d.comb += hit.eq(
                        live.bit_select(self._set_of(vpn, level), 1)
                        & (entry.level == level)
                        & (entry.vpn[level * INDEX_BITS :] == vpn[level * INDEX_BITS :])
                        & ((entry.asid == asid) | (entry.shared & (entry.group == lookup.group)))
                    )
                    hits.append(hit)
                    entries.append(Mux(hit, reader.data.as_value(), 0))
            found = entries[0]
            for entry in entries[1:]:
                found |= entry
            m.d.comb += [lookup.hit.eq(Cat(hits).any()), lookup.entry.eq(found)]

    def _show(self, m: Module, died: Value) -> None:
        """Show the entries that died: in the same cycle where one record covers all, else one a cycle."""
        if self.config.tlb_entries <= RECORD_BITS:
            m.d.comb += self.died.eq(died)
            return
        pending = Signal(self.config.tlb_entries)
        shown = Signal(self.config.tlb_entries)
        for base in reversed(range(0, self.config.tlb_entries, RECORD_BITS)):
            group = pending[base : base + RECORD_BITS]
            with m.If(group.any()):
                m.d.comb += [
                    self.died.eq(group),
                    self.died_base.eq(base),
                    shown.eq(((1 << RECORD_BITS) - 1) << base),
                ]
        m.d.sync += pending.eq((pending & ~shown) | died)
        m.d.comb += self.showing.eq(pending.any())
