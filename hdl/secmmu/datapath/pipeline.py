"""The lookup pipeline: an access beside its TLB lookup and its context row."""

from amaranth.hdl import Array, Cat, Const, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.datapath.flight import CandidateLayout
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
    kill : In(KillLayout), changes : In(1)
        The invalidation applied in this cycle; the context row of its asid, or of every asid, may have changed before.
    fenced : In(contexts), fences : In(1)
        Asids fenced off; one more is, from the next cycle on.
    ahead : Out(CandidateLayout)
        The access that stands in stage D after the next advance.
    last : Out(CandidateLayout), last_row : Out(ContextLayout)
        Stage D.
    outdated : Out(1), last_fenced : Out(1)
        The context row of stage D may have changed, or its asid been fenced off, since they were looked at; it is one
        of those fenced off.
    none : Out(1)
        No access is inside.
    """

    enter: data.View
    advance: Signal
    row: data.View
    kill: data.View
    changes: Signal
    fenced: Signal
    fences: Signal
    ahead: data.View
    last: data.View
    last_row: data.View
    outdated: Signal
    last_fenced: Signal
    none: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "enter": In(CandidateLayout(config)),
                "advance": In(1),
                "row": In(ContextLayout()),
                "kill": In(KillLayout(config)),
                "changes": In(1),
                "fenced": In(config.contexts),
                "fences": In(1),
                "ahead": Out(CandidateLayout(config)),
                "last": Out(CandidateLayout(config)),
                "last_row": Out(ContextLayout()),
                "outdated": Out(1),
                "last_fenced": Out(1),
                "none": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the stages."""
        m = Module()
        config, kill = self.config, self.kill
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
            named = self.changes & (kill.everything | (kill.asid == stage.flight.access.asid))
            m.d.comb += outdated_now.eq(outdated | named)
            # Whether an asid is fenced off is looked up on the way into the last stage.
            missed = self.fences if stage is held[-1] else Const(0)
            with m.If(self.advance):
                m.d.sync += [stage.eq(before[0]), outdated.eq(before[1] | missed)]
            with m.Else():
                m.d.sync += outdated.eq(outdated_now | missed)
            if at:
                kept = Signal(ContextLayout(), name=f"row{at + 1}")
                with m.If(self.advance):
                    m.d.sync += kept.eq(row)
                row = kept
            before = (stage, outdated_now)
        ahead, last = [self.enter, *held][-2:]
        with m.If(self.advance):
            m.d.sync += self.last_fenced.eq(
                Array(self.fenced)[ahead.flight.access.asid[: config.context_bits]]
            )
        m.d.comb += [
            self.ahead.eq(ahead),
            self.last.eq(last),
            self.outdated.eq(before[1]),
            self.last_row.eq(row),
            self.none.eq(~Cat(stage.valid for stage in held).any()),
        ]
        return m
