"""Proofs about TLB and invalidation unit together: one entry is watched from its fill on."""

from typing import Any

from amaranth.hdl import Assert, Assume, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from secmmu.config import SecmmuConfig
from secmmu.internals import GROUP_BITS, EntryLayout
from secmmu.invalidation.invalidation import Invalidation
from secmmu.kills import is_killed
from secmmu.layouts import CommandLayout
from secmmu.page_numbers import span_last, span_mask
from secmmu.tlb.cam import Cam
from secmmu.tlb.page_array import PageArray
from secmmu.tlb.tlb import Tlb
from secmmu.tlb.upkeep import page_tag
from shootdown.formal.parts import with_parts
from shootdown.formal.rules import so_far
from shootdown.formal.spec import dooms

__all__ = ["ASSOCIATIVE", "PAGES", "TlbHarness"]

_SMALL: dict[str, Any] = {
    "asid_bits": 1,
    "contexts": 2,
    "use_slots": 1,
    "walks": 1,
    "commands": 1,
    "tag_bits": 1,
    "observe": False,
}
ASSOCIATIVE = SecmmuConfig(tlb_sets=0, large_entries=2, **_SMALL)
PAGES = SecmmuConfig(tlb_sets=2, tlb_ways=1, large_entries=2, filters=1, **_SMALL)
LARGEST_GRAIN = 3
"""1 GiB: the largest leaf of a table of three levels."""
FREE_PAGE_BITS = 0b1_000000000_000000011
"""Without invariants: two of the lowest index, and one of the next."""
FREE_GROUP_BITS = 1 | 1 << GROUP_BITS
FRAME = 1
"""Frame of the watched entry. The TLB does not look at frames, so one stands for all."""


class _AnyAsidCam(Cam):
    """Entries answer to every asid: the fault that the proof of isolation must find."""

    def _owns(self, tag: data.View) -> Value:
        return Const(1)


def _any_asid_tag(*entry: Any) -> dict[str, Value]:
    """Return a tag without the asid."""
    return {**page_tag(*entry), "asid": Const(0)}


class _AnyAsidTlb(Tlb):
    associative = _AnyAsidCam

    def elaborate(self, platform: object) -> Module:
        pages = with_parts(PageArray, page_tag=_any_asid_tag)
        found: Module = with_parts(Tlb, PageArray=pages).elaborate(self, platform)
        return found


class TlbHarness(wiring.Component):
    """Any commands, lookups and fills; the entry of :data:`FRAME` is filled once at most.

    Without ``invariants`` pages and frames have few bits that are not 0, so that a solver can follow for some cycles.

    Asserted is, by ``claim``:

    ``stale``      from two cycles after the handshake of a command that overlaps it on, that entry never answers
    ``isolation``  it answers its own asid, or when global its group, and no page outside its span

    Parameters
    ----------
    config : SecmmuConfig
        Two asids; with ``invariants``, no page array.
    claim : str
        What is asserted.
    any_asid : bool
        The TLB has the fault that entries answer to every asid.
    invariants : bool
        Assert what makes the induction close, too; if not, that the claim has held so far.
    """

    def __init__(
        self,
        config: SecmmuConfig,
        claim: str,
        *,
        any_asid: bool = False,
        invariants: bool = False,
    ) -> None:
        self.claim, self.invariants = claim, invariants
        self.tlb = _AnyAsidTlb(config) if any_asid else Tlb(config)
        self.unit = Invalidation(config)
        self.seen, self.doomed, self.due, self.dead = Signal(), Signal(), Signal(), Signal()
        self.watched = Signal(EntryLayout(config))
        super().__init__(
            {
                "command": In(CommandLayout()),
                "command_valid": In(1),
                "answers_ready": In(2),
                "advance": In(1),
                "en": In(1),
                "asid": In(config.asid_bits),
                "vpn": In(config.vpn_bits),
                "fill": In(1),
                "filling": In(EntryLayout(config)),
                "groups": In(2 * GROUP_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wire the two, watch, and assert."""
        m = Module()
        m.submodules.tlb, m.submodules.unit = tlb, unit = self.tlb, self.unit
        self._drive_inputs(m)
        self._fix_groups(m)
        m.d.comb += [
            unit.command.payload.eq(self._command),
            unit.command.valid.eq(self.command_valid),
            Cat(unit.invalidated.ready, unit.drained.ready).eq(self.answers_ready),
            unit.young.answered.eq(tlb.young.answered),
            unit.young.used.eq(tlb.young.used),
            tlb.coming.eq(unit.coming),
            tlb.asks.eq(unit.asks),
            tlb.kill.eq(unit.kill),
            tlb.young.ask.eq(unit.young.ask),
            tlb.lookup.advance.eq(self.advance),
            tlb.lookup.en.eq(self.en),
            tlb.lookup.asid.eq(self.asid),
            tlb.lookup.vpn.eq(self._vpn),
            tlb.fill.en.eq(self.fill),
            tlb.fill.entry.eq(self._filling),
        ]
        self._watch(m)
        standing = self._follow(m)
        self._claim(m, standing)
        if self.invariants:
            self._tie_state(m, standing)
        return m

    def _drive_inputs(self, m: Module) -> None:
        """Take the inputs as they are, or only their free bits."""
        self._command = Signal(CommandLayout())
        self._vpn = Signal.like(self.vpn)
        self._filling = Signal.like(self.filling)
        self._given_groups = Signal.like(self.groups)
        page, frame, group = (
            (-1, -1, -1) if self.invariants else (FREE_PAGE_BITS, FRAME, FREE_GROUP_BITS)
        )
        m.d.comb += [
            self._command.eq(self.command),
            self._command.first.eq(self.command.first & page),
            self._command.last.eq(self.command.last & page),
            self._vpn.eq(self.vpn & page),
            self._filling.eq(self.filling),
            self._filling.translation.vpn.eq(self.filling.translation.vpn & page),
            self._filling.ppn.eq(self.filling.ppn & frame),
            self._given_groups.eq(self.groups & group),
        ]

    def _fix_groups(self, m: Module) -> None:
        """Let each asid have any group, the same all the time."""
        kept, started = Signal.like(self.groups), Signal()
        groups = Mux(started, kept, self._given_groups)
        m.d.sync += [kept.eq(groups), started.eq(1)]
        self._groups = groups[:GROUP_BITS], groups[GROUP_BITS:]
        told = Signal.like(self.unit.context_asid)
        m.d.sync += told.eq(self.unit.context_asid)
        m.d.comb += self.unit.group.eq(self._group(told))

    def _group(self, asid: Value) -> Value:
        return Mux(asid, self._groups[1], self._groups[0])

    def _watch(self, m: Module) -> None:
        """Assume sound fills; take the watched one, and note which commands overlap it."""
        filling, unit = self._filling.translation, self.unit
        chosen = self.fill & (self._filling.ppn == FRAME)
        m.d.comb += [
            Assume(self._is_sound(filling)),
            Assume(~(self.seen & chosen)),
        ]
        taken = chosen & self.tlb.fill.ready
        subject = Signal(EntryLayout(self.tlb.config))
        m.d.comb += subject.eq(Mux(self.seen, self.watched.as_value(), self._filling.as_value()))
        exists = self.seen | taken
        m.d.sync += [
            self.seen.eq(exists),
            self.watched.eq(subject),
            self.doomed.eq(
                self.doomed
                | (exists & unit.accepted & dooms(self._command, subject.translation, self._group))
            ),
            self.due.eq(self.doomed),
            self.dead.eq(
                self.dead | (exists & is_killed(unit.kill, subject.translation, self.tlb.config))
            ),
        ]

    def _is_sound(self, translation: data.View) -> Value:
        free = span_mask(translation.grain)[: len(translation.vpn)]
        return (
            (translation.grain <= LARGEST_GRAIN)
            & ((translation.vpn & free) == 0)
            & (translation.group == self._group(translation.asid))
        )

    def _follow(self, m: Module) -> tuple[Value, Value]:
        """Keep the accesses beside the TLB's pipeline; return the asid and page of the one that stands at its end."""
        asid, vpn = self.asid, self._vpn
        m.d.comb += self.tlb.lookup.group.eq(self._group(asid))
        for _ in range(self.tlb.config.lookup_latency):
            before = asid, vpn
            asid, vpn = Signal.like(self.asid), Signal.like(self._vpn)
            with m.If(self.advance):
                m.d.sync += [asid.eq(before[0]), vpn.eq(before[1])]
        return asid, vpn

    def _claim(self, m: Module, standing: tuple[Value, Value]) -> None:
        lookup, translation = self.tlb.lookup, self.watched.translation
        answers = lookup.hit & ~lookup.dies & (lookup.entry.ppn == FRAME)
        asid, vpn = standing
        own = asid == translation.asid
        group = translation.shared & (self._group(asid) == translation.group)
        within = (translation.vpn <= vpn) & (vpn <= span_last(translation.vpn, translation.grain))
        claims = {"stale": ~self.due, "isolation": self.seen & (own | group) & within}
        rule = ~answers | claims[self.claim]
        m.d.comb += Assert(rule if self.invariants else so_far(m, rule))

    def _tie_state(self, m: Module, standing: tuple[Value, Value]) -> None:
        """Assert what holds between the registers of the associative part and what is watched."""
        tlb, cam, watched = self.tlb, self.tlb.cam, self.watched
        asid, vpn = standing
        held = []
        for i in range(len(cam.tags)):
            reader = cam.store.read_port(domain="comb")
            m.d.comb += reader.addr.eq(i)
            held.append(reader.data)
        pending = tlb.pending.translation
        m.d.comb += [
            Assert(~tlb.large | self._is_sound(pending)),
            Assert(~tlb.large | (tlb.last == span_last(pending.vpn, pending.grain))),
            Assert(
                ~(tlb.large & (tlb.pending.ppn == FRAME)) | (self.seen & (tlb.pending == watched))
            ),
            Assert(~(tlb.large & (tlb.pending.ppn == FRAME) & self.dead)),
            Assert(~self.seen | ((watched.ppn == FRAME) & self._is_sound(watched.translation))),
            Assert(
                ~(self.doomed & ~self.due & ~self.dead)
                | is_killed(self.unit.coming, watched.translation, tlb.config)
            ),
            Assert(
                ~(self.due & ~self.dead)
                | is_killed(self.unit.kill, watched.translation, tlb.config)
            ),
            Assert(~(self.doomed | self.dead) | self.seen),
            Assert(~self.due | self.doomed),
        ]
        for i, (tag, entry) in enumerate(zip(cam.tags, held, strict=True)):
            translation = entry.translation
            same = (
                (tag.first == translation.vpn)
                & (tag.last == span_last(translation.vpn, translation.grain))
                & (tag.asid == translation.asid)
                & (tag.group == translation.group)
                & (tag.shared == translation.shared)
                & (tag.free == Cat(translation.grain >= size + 1 for size in range(len(tag.free))))
            )
            alone = self.seen & ~self.dead & (entry == watched)
            within = (tag.first <= vpn) & (vpn <= tag.last)
            clashes = self._clash(
                tag.first,
                tag.last,
                tag,
                pending.vpn,
                span_last(pending.vpn, pending.grain),
                pending,
            )
            m.d.comb += [
                Assert(~cam.valid[i] | (same & self._is_sound(translation))),
                Assert(
                    ~(cam.valid[i] & self.unit.kill.valid)
                    | (cam.named[i] == is_killed(self.unit.kill, translation, tlb.config))
                ),
                Assert(~(cam.valid[i] & (entry.ppn == FRAME)) | alone),
                Assert(~cam.near[i] | (cam.valid[i] & within & (tag.asid == asid))),
                Assert(
                    ~cam.far[i]
                    | (cam.valid[i] & within & tag.shared & (tag.group == self._group(asid)))
                ),
                Assert(~(tlb.large & cam.compared & cam.valid[i] & clashes) | cam.overlapping[i]),
            ]
            for j in range(i):
                other = cam.tags[j]
                clash = self._clash(tag.first, tag.last, tag, other.first, other.last, other)
                frames = (entry.ppn == FRAME) & (held[j].ppn == FRAME)
                m.d.comb += Assert(~(cam.valid[i] & cam.valid[j] & (clash | frames)))
            m.d.comb += Assert(
                ~(tlb.large & (tlb.pending.ppn == FRAME) & cam.valid[i] & (entry.ppn == FRAME))
            )
        hands = Cat(cam.hand == 1 << i for i in range(len(cam.hand)))
        m.d.comb += [Assert(~cam.compared | tlb.large), Assert(hands.any())]

    def _clash(
        self, first: Value, last: Value, one: data.View, low: Value, high: Value, other: data.View
    ) -> Value:
        """Return whether an access could match both of two entries."""
        shared = (one.shared | other.shared) & (one.group == other.group)
        return (first <= high) & (low <= last) & ((one.asid == other.asid) | shared)
