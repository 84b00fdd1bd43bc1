"""The TLB: 4 KiB entries in block RAM, the other sizes in an associative store; small ones have the latter alone."""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import (
    EntryLayout,
    FillSignature,
    KillLayout,
    LookupSignature,
    YoungSignature,
)
from secmmu.kills import is_killed
from secmmu.layouts import WORD_BITS
from secmmu.page_numbers import span_last
from secmmu.tlb.cam import Cam
from secmmu.tlb.page_array import PageArray
from secmmu.tlb.upkeep import STAGES

__all__ = ["Tlb"]

INDEX_BITS = 16


class FilledLayout(data.StructLayout):
    """What the observer sees of a fill.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"index": INDEX_BITS, "entry": EntryLayout(config), "pte": WORD_BITS})


class Tlb(wiring.Component):
    """Translations, looked up by accesses, filled by the walker and by drop-ins, killed by invalidations.

    One fill is on its way at a time, two cycles in the associative part and three in the page array; it is dropped
    when an invalidation overlaps it, and none is taken beside an invalidation. Where a page is in both parts, the
    associative one answers.

    Parameters
    ----------
    config : SecmmuConfig
        Geometry, widths, ``observe``, ``mutant``.

    Members
    -------
    coming : In(KillLayout), asks : In(1)
        What ``kill`` is in the next cycle; the next ``young`` asks.
    kill : In(KillLayout)
        The invalidation applied in this cycle.
    young : In(YoungSignature)
        Questions for used bits; answered in the same cycle without a page array, else three cycles later.
    lookup : In(LookupSignature)
        One a cycle.
    fill, dropin : In(FillSignature)
        Fills; a drop-in comes first.
    overflowed : Out(1)
        The invalidation of this cycle empties the page array, because it found no filter free.
    filled : Out(1), fill_shown : Out(FilledLayout)
        With ``observe``: an entry is written in this cycle.
    died : Out(64), died_base : Out(16)
        With ``observe``: entries ``died_base`` + i that were cleared without being replaced; 0 when none. Entries of
        the associative part are shown when the page array shows none, and before they are filled again.
    """

    associative: type[Cam] = Cam
    """The associative part; proofs put one in that shows its inside."""

    coming: data.View
    asks: Signal
    kill: data.View
    young: wiring.PureInterface
    lookup: wiring.PureInterface
    fill: wiring.PureInterface
    dropin: wiring.PureInterface
    overflowed: Signal
    filled: Signal
    fill_shown: data.View
    died: Signal
    died_base: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        members = {
            "coming": In(KillLayout(config)),
            "asks": In(1),
            "kill": In(KillLayout(config)),
            "young": In(YoungSignature()),
            "lookup": In(LookupSignature(config)),
            "fill": In(FillSignature(config)),
            "dropin": In(FillSignature(config)),
            "overflowed": Out(1),
        }
        if config.observe:
            members |= {
                "filled": Out(1),
                "fill_shown": Out(FilledLayout(config)),
                "died": Out(WORD_BITS),
                "died_base": Out(INDEX_BITS),
            }
        super().__init__(members)
        # In reach of proofs, which state what holds between them.
        self.pending, self.large = Signal(EntryLayout(config)), Signal()
        self.last = Signal(config.vpn_bits)
        self.cam = self.associative(config)

    def elaborate(self, platform: object) -> Module:
        """Build the parts and the fill that is on its way to one of them."""
        m = Module()
        m.submodules.cam = cam = self.cam
        pages = PageArray(self.config) if self.config.tlb_sets else None
        m.d.comb += [cam.coming.eq(self.coming), cam.asks.eq(self.asks)]
        parts = [cam] if pages is None else [cam, pages]
        for part in parts:
            m.d.comb += [part.kill.eq(self.kill), part.young.ask.eq(self.young.ask)]
            m.d.comb += [
                getattr(part.lookup, name).eq(getattr(self.lookup, name))
                for name in ("advance", "en", "asid", "vpn", "group")
            ]
        self._answer(m, cam, pages)
        pending, awaited = self._fill(m, cam, pages)
        if pages is not None:
            m.submodules.pages = pages
            m.d.comb += self.overflowed.eq(pages.overflowed)
        if self.config.observe:
            m.d.comb += self.fill_shown.entry.eq(pending)
            m.d.comb += awaited.eq(self._show(m, cam, pages))
        return m

    def _answer(self, m: Module, cam: Cam, pages: PageArray | None) -> None:
        """Join the answers of the parts."""
        lookup, young = self.lookup, self.young
        if pages is None:
            m.d.comb += [
                lookup.hit.eq(cam.lookup.hit),
                lookup.entry.eq(cam.lookup.entry),
                lookup.free.eq(cam.lookup.free),
                lookup.dies.eq(cam.lookup.dies),
                young.answered.eq(cam.young.answered),
                young.used.eq(cam.young.used),
            ]
            return
        large = cam.lookup.hit
        m.d.comb += [
            lookup.hit.eq(large | pages.lookup.hit),
            lookup.entry.eq(Mux(large, cam.lookup.entry.as_value(), pages.lookup.entry.as_value())),
            lookup.free.eq(Mux(large, cam.lookup.free, pages.lookup.free)),
            lookup.dies.eq(Mux(large, cam.lookup.dies, pages.lookup.dies)),
        ]
        used = cam.young.used
        for _ in range(STAGES):
            earlier, used = used, Signal()
            m.d.sync += used.eq(earlier)
        m.d.comb += [
            young.answered.eq(pages.young.answered),
            young.used.eq(pages.young.used | used),
        ]

    def _fill(self, m: Module, cam: Cam, pages: PageArray | None) -> tuple[data.View, Signal]:
        """Take a fill, keep it until it is written, drop it when an invalidation overlaps it.

        Return it, and a signal for whether the associative part must wait.
        """
        config, fill, dropin = self.config, self.fill, self.dropin
        pending, large = self.pending, self.large
        coming, wanted, ready = Signal(EntryLayout(config)), Signal(), Signal()
        open_, awaited, killed = Signal(), Signal(), Signal()
        m.d.comb += [
            wanted.eq(dropin.en | fill.en),
            coming.eq(Mux(dropin.en, dropin.entry.as_value(), fill.entry.as_value())),
            dropin.ready.eq(ready),
            fill.ready.eq(ready & ~dropin.en),
            cam.entry.eq(pending),
            cam.last.eq(self.last),
            cam.fill.eq(large & ~awaited),
            open_.eq(~large),
        ]
        taken = wanted & ready
        if config.mutant != "rtl-no-fill-kill":
            m.d.comb += [
                # Nothing is written beside an invalidation, whatever it takes: that is known late.
                cam.fill.eq(large & ~awaited & ~self.kill.valid),
                open_.eq(~large & ~self.kill.valid),
                killed.eq(is_killed(self.kill, pending.translation, config)),
            ]
        small: Value = Const(0)
        m.d.comb += ready.eq(open_)
        if pages is not None:
            small = coming.translation.grain == 0
            m.d.comb += [
                ready.eq(open_ & Mux(small, pages.granted, pages.free)),
                pages.fill.eq(wanted & small & open_),
                pages.filling.eq(coming.translation),
                pages.pending.eq(pending),
                pages.drop.eq(killed),
            ]
        with m.If(taken):
            translation = coming.translation
            m.d.sync += [
                pending.eq(coming),
                self.last.eq(span_last(translation.vpn, translation.grain)),
                large.eq(~small),
            ]
            if config.observe:
                m.d.sync += self.fill_shown.pte.eq(Mux(dropin.en, dropin.pte, fill.pte))
        with m.Elif(cam.filled | killed):
            m.d.sync += large.eq(0)
        return pending, awaited

    def _show(self, m: Module, cam: Cam, pages: PageArray | None) -> Signal:
        """Show what is written and what died; return whether deaths in the associative part wait to be shown."""
        config = self.config
        base = config.tlb_sets * config.tlb_ways
        unshown, busy = Signal(config.large_entries), Signal()
        m.d.comb += [self.filled.eq(cam.filled), self.fill_shown.index.eq(base + cam.index)]
        fell = unshown | cam.died
        if pages is not None:
            m.d.comb += busy.eq(pages.died.any())
            with m.If(pages.filled):
                m.d.comb += [self.filled.eq(1), self.fill_shown.index.eq(pages.index)]
        with m.If(busy):
            m.d.sync += unshown.eq(fell)
        with m.Elif(fell.any()):
            m.d.comb += [self.died.eq(fell), self.died_base.eq(base)]
            m.d.sync += unshown.eq(0)
        if pages is not None:
            with m.If(busy):
                m.d.comb += [
                    self.died.eq(pages.died),
                    self.died_base.eq(pages.died_row * len(pages.died)),
                ]
        waiting = Signal()
        m.d.comb += waiting.eq(unshown.any())
        return waiting
