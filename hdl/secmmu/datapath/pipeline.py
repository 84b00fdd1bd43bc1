"""The lookup pipeline: an access beside its TLB lookup and its context row."""

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.datapath.flight import CandidateLayout, changes_context
from secmmu.internals import ContextLayout, KillLayout

__all__ = ["Pipeline"]


class Pipeline(wiring.Component):
    """Stages A to D: what enters in stage A stands in stage D ``config.lookup_latency`` advances later.

    Parameters
    ----------
    config : SecmmuConfig
        ``lookup_latency``, widths.

    Members
    -------
    enter : In(CandidateLayout)
        Stage A; its TLB lookup and the reading of its context row begin in the same cycle.
    advance : In(1)
        Every stage passes its access on at the end of this cycle.
    row : In(ContextLayout)
        The context row of what entered last, from the cycle after that on.
    kill : In(KillLayout)
        The invalidation applied in this cycle.
    ahead : Out(CandidateLayout)
        The access that stands in stage D after the next advance.
    last : Out(CandidateLayout), last_row : Out(ContextLayout)
        Stage D.
    outdated : Out(1)
        The context row of stage D may have changed since it was read.
    none : Out(1)
        No access is inside.
    """

    enter: data.View
    advance: Signal
    row: data.View
    kill: data.View
    ahead: data.View
    last: data.View
    last_row: data.View
    outdated: Signal
    none: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "enter": In(CandidateLayout(config)),
                "advance": In(1),
                "row": In(ContextLayout()),
                "kill": In(KillLayout(config)),
                "ahead": Out(CandidateLayout(config)),
                "last": Out(CandidateLayout(config)),
                "last_row": Out(ContextLayout()),
                "outdated": Out(1),
                "none": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the stages."""
        m = Module()
        config, kill = self.config, self.kill
        changes = Signal()
        m.d.comb += [
            self.ahead.eq(self.enter),
            changes.eq(changes_context(kill)),
        ]
        held = [
            Signal(CandidateLayout(config), name=f"stage{at + 1}")
            for at in range(config.lookup_latency)
        ]
        # What enters beside an invalidation reads the row after every change that came before it.
        before: tuple[data.View, Value] = (self.enter, Const(0))
        row = self.row
        for at, stage in enumerate(held):
            outdated = Signal(name=f"outdated{at + 1}")
            outdated_now = Signal(name=f"outdated_now{at + 1}")
            named = changes & (kill.everything | (kill.asid == stage.flight.access.asid))
            m.d.comb += outdated_now.eq(outdated | named)
            with m.If(self.advance):
                m.d.sync += [stage.eq(before[0]), outdated.eq(before[1])]
            with m.Else():
                m.d.sync += outdated.eq(outdated_now)
            if at:
                kept = Signal(ContextLayout(), name=f"row{at + 1}")
                with m.If(self.advance):
                    m.d.sync += kept.eq(row)
                row = kept
            if at == config.lookup_latency - 2:
                m.d.comb += self.ahead.eq(stage)
            before = (stage, outdated_now)
        m.d.comb += [
            self.last.eq(before[0]),
            self.outdated.eq(before[1]),
            self.last_row.eq(row),
            self.none.eq(~Cat(stage.valid for stage in held).any()),
        ]
        return m
