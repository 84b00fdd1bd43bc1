"""Proofs about invalidation unit and in-flight table together: one burst and one command are watched."""

from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from secmmu.config import SecmmuConfig
from secmmu.datapath.uses import PageLayout, Uses
from secmmu.internals import GROUP_BITS, TranslationLayout
from secmmu.invalidation.invalidation import Invalidation
from secmmu.kills import is_killed
from secmmu.layouts import CommandLayout, Phase
from secmmu.page_numbers import free_pieces, span_last, span_mask
from shootdown.formal.rules import so_far
from shootdown.formal.spec import CONTEXTS, dooms

__all__ = ["CONFIG", "DrainHarness"]

CONFIG = SecmmuConfig(
    asid_bits=1,
    contexts=CONTEXTS,
    id_bits=1,
    outstanding=2,
    use_slots=1,
    walks=1,
    commands=2,
    tag_bits=1,
    observe=False,
)
"""One burst of each id and direction at a time, so that an end names its burst."""
_SOUND = CONFIG
"""What forbids a burst does not have the mutant that is looked for."""
LARGEST_GRAIN = 3
INVALIDATED_WITHIN, DRAINED_WITHIN = 5, 6
"""Cycles after the handshake, when nothing is in flight."""


class _EndlessInvalidation(Invalidation):
    """A fence waits for itself as well: the fault that the proof of progress must find."""

    def _wait(self, m: Module, row: data.View, applied: Value, others: Value) -> Value:
        return super()._wait(m, row, applied, ~(others ^ others))


class DrainHarness(wiring.Component):
    """Any commands, of which the one with tag 1 is sent once at most; any bursts that no invalidation forbids.

    Asserted is, by ``claim``:

    ``drained``   that command is not answered DRAINED while a burst goes on that it overlaps
    ``progress``  with no burst, and its answers taken at once, it is INVALIDATED within 5 cycles and DRAINED within 6;
                  each command before it may delay it by one

    Parameters
    ----------
    config : SecmmuConfig
        Of the kind of :data:`CONFIG`.
    claim : str
        What is asserted.
    endless : bool
        The invalidation unit has the fault that fences wait for ever.
    """

    def __init__(self, config: SecmmuConfig, claim: str, *, endless: bool = False) -> None:
        self.config, self.claim = config, claim
        self.unit = _EndlessInvalidation(config) if endless else Invalidation(config)
        self.uses = Uses(config)
        super().__init__(
            {
                "command": In(CommandLayout()),
                "command_valid": In(1),
                "answers_ready": In(2),
                "ahead": In(PageLayout(config)),
                "advance": In(1),
                "begin": In(1),
                "watch": In(1),
                "translation": In(TranslationLayout(config)),
                "id": In(config.id_bits),
                "ends": In(2),
                "end_ids": In(2),
                "groups": In(2 * GROUP_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wire the two, constrain the bursts, and assert."""
        m = Module()
        m.submodules.unit, m.submodules.uses = unit, uses = self.unit, self.uses
        self._fix_groups(m)
        m.d.comb += [
            unit.command.payload.eq(self.command),
            unit.command.valid.eq(self.command_valid),
            Cat(unit.invalidated.ready, unit.drained.ready).eq(self.answers_ready),
            unit.closing.eq(uses.closing),
            unit.busy_next.eq(uses.busy_next),
            # As a TLB without a page array does.
            unit.young.answered.eq(unit.young.ask),
            uses.kill.eq(unit.kill),
        ]
        self._drive_bursts(m)
        sent = Signal()
        with m.If(unit.accepted & (self.command.tag == 1)):
            m.d.sync += sent.eq(1)
        m.d.comb += [
            Assume(self.command.tag <= 1),
            Assume(~(sent & self.command_valid & (self.command.tag == 1))),
        ]
        if self.claim == "drained":
            self._claim_drained(m)
        else:
            self._claim_progress(m)
        return m

    def _fix_groups(self, m: Module) -> None:
        kept, started = Signal.like(self.groups), Signal()
        m.d.sync += [kept.eq(Mux(started, kept, self.groups)), started.eq(1)]
        groups = Mux(started, kept, self.groups)
        self._groups = groups[:GROUP_BITS], groups[GROUP_BITS:]
        told = Signal.like(self.unit.context_asid)
        m.d.sync += told.eq(self.unit.context_asid)
        m.d.comb += self.unit.group.eq(self._group(told))

    def _group(self, asid: Value) -> Value:
        return Mux(asid, self._groups[1], self._groups[0])

    def _drive_bursts(self, m: Module) -> None:
        """Bursts of what stands in stage D, with a translation that may serve it and does not die in this cycle."""
        uses, translation = self.uses, self.translation
        page = Signal(PageLayout(self.config))
        with m.If(self.advance):
            m.d.sync += page.eq(self.ahead)
        free = span_mask(translation.grain)[: self.config.vpn_bits]
        last = span_last(translation.vpn, translation.grain)
        serves = (translation.asid == page.asid) | (
            translation.shared & (translation.group == self._group(page.asid))
        )
        shown = Cat(uses.read_outstanding, uses.write_outstanding)
        going = self._count(m, page.write)
        m.d.comb += [
            uses.ahead.eq(self.ahead),
            uses.advance.eq(self.advance),
            uses.page.eq(page),
            uses.begin.eq(self.begin),
            uses.translation.eq(translation),
            uses.free.eq(free_pieces(translation.grain, self.config.vpn_bits)),
            uses.id.eq(self.id),
            uses.read_end.valid.eq(self.ends[0]),
            uses.write_end.valid.eq(self.ends[1]),
            uses.read_end.id.eq(self.end_ids[0]),
            uses.write_end.id.eq(self.end_ids[1]),
            Assume(~self.begin | uses.matches | uses.room.bit_select(page.write, 1)),
            # An access begins once.
            Assume(~self.begin | self.advance),
            Assume(~self.begin | ~(going | shown).bit_select(Cat(self.id, page.write), 1)),
            Assume((translation.grain <= LARGEST_GRAIN) & ((translation.vpn & free) == 0)),
            Assume((translation.vpn <= page.vpn) & (page.vpn <= last) & serves),
            Assume(translation.group == self._group(translation.asid)),
            Assume(~(self.begin & is_killed(self.unit.kill, translation, _SOUND))),
        ]
        self._page = page

    def _count(self, m: Module, write: Value) -> Signal:
        """Let only what was begun end; return what goes on, reads first, by id."""
        going, before = Signal(4), Signal(4)
        begins = self.begin << Cat(self.id, write)
        ended = Cat(self.ends[0] & (self.end_ids[0] == i) for i in range(2))
        ended = Cat(ended, *(self.ends[1] & (self.end_ids[1] == i) for i in range(2)))
        m.d.comb += [before.eq(ended), Assume((before & ~going) == 0)]
        m.d.sync += going.eq((going & ~ended) | begins)
        return going

    def _claim_drained(self, m: Module) -> None:
        """Follow the watched burst, and whether the watched command overlapped it."""
        unit, page = self.unit, self._page
        subject = Signal(TranslationLayout(self.config))
        direction, number = Signal(), Signal.like(self.id)
        using, over, waits = Signal(), Signal(), Signal()
        begins = self.begin & self.watch
        ends = (
            using
            & self.ends.bit_select(direction, 1)
            & (self.end_ids.bit_select(direction, 1) == number)
        )
        now = Signal(TranslationLayout(self.config))
        m.d.comb += now.eq(Mux(using, subject.as_value(), self.translation.as_value()))
        overlaps = dooms(self.command, now, self._group)
        m.d.sync += [
            using.eq((using & ~ends) | begins),
            over.eq(over | ends),
            waits.eq(
                ~over
                & ~ends
                & (waits | (unit.accepted & (self.command.tag == 1) & (using | begins) & overlaps))
            ),
        ]
        with m.If(begins):
            m.d.sync += [subject.eq(self.translation), direction.eq(page.write), number.eq(self.id)]
        drained = unit.drained.payload
        answered = unit.drained.valid & (drained.tag == 1) & (drained.phase == Phase.DRAINED)
        m.d.comb += [
            Assume(~(begins & (using | over))),
            Assert(so_far(m, ~(answered & waits))),
        ]

    def _claim_progress(self, m: Module) -> None:
        """Count from the watched command's handshake on."""
        unit = self.unit
        age = Signal(4)
        invalidated, drained = Signal(), Signal()
        taken = unit.accepted & (self.command.tag == 1)
        with m.If(taken | (age.any() & ~age.all())):
            m.d.sync += age.eq(age + 1)
        with m.If(unit.invalidated.valid & (unit.invalidated.payload.tag == 1)):
            m.d.sync += invalidated.eq(1)
            with m.If(unit.invalidated.payload.phase == Phase.REFUSED):
                m.d.sync += drained.eq(1)
        with m.If(unit.drained.valid & (unit.drained.payload.tag == 1)):
            m.d.sync += drained.eq(1)
        before = self.config.commands - 1
        m.d.comb += [
            Assume(self.answers_ready.all()),
            Assume(~self.begin & ~self.ends.any()),
            Assert((age <= INVALIDATED_WITHIN) | invalidated),
            Assert((age <= DRAINED_WITHIN + before) | drained),
        ]
