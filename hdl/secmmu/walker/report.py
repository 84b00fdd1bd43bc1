"""What the walker tells the counters and the observer when a walk has ended."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.enum import EnumView
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import Outcome
from secmmu.picks import chosen
from secmmu.registers.counters import LatencyLayout
from secmmu.walker.layouts import WalkEndLayout, WalkRecordLayout

__all__ = ["WalkReport"]


class WalkReport(wiring.Component):
    """Reports a walk one cycle after its last step, when it is known whether its answer stands.

    Parameters
    ----------
    config : SecmmuConfig
        ``walks``, widths, ``observe``.

    Members
    -------
    step : In(WalkEndLayout), making : In(1), storing : In(1)
        The walk whose step is made in this cycle, if one is; its leaf is to be updated.
    ending : In(walks), outcome : In(Outcome)
        The walk that ends in this cycle: that of the step, or where there is none that of the last update.
    lost : In(walks)
        Answers that do not stand.
    killed : Out(1), latency : Out(LatencyLayout)
        One that ended in the cycle before came to nothing; or it was answered, begun then.
    ended : Out(WalkRecordLayout)
        With ``observe``: either.
    """

    step: data.View
    making: Signal
    storing: Signal
    ending: Signal
    outcome: "EnumView[Outcome]"
    lost: Signal
    killed: Signal
    latency: data.View
    ended: data.View

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        members = {
            "step": In(WalkEndLayout(config)),
            "making": In(1),
            "storing": In(1),
            "ending": In(config.walks),
            "outcome": In(Outcome),
            "lost": In(config.walks),
            "killed": Out(1),
            "latency": Out(LatencyLayout()),
        }
        if config.observe:
            members |= {"ended": Out(WalkRecordLayout(config))}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """Build the registers of the walk that ended, and of that whose update is under way."""
        m = Module()
        stored = Signal(WalkEndLayout(self.config))
        last = Signal(WalkEndLayout(self.config))
        at = Signal(self.config.walks)
        outcome = Signal(Outcome)
        with m.If(self.storing):
            m.d.sync += stored.eq(self.step)
        m.d.sync += [
            at.eq(self.ending),
            outcome.eq(self.outcome),
            last.eq(Mux(self.making, self.step, stored)),
        ]
        m.d.comb += [
            self.killed.eq(chosen(at, self.lost)),
            self.latency.valid.eq(at.any() & ~self.killed),
            self.latency.began.eq(last.began),
        ]
        if self.config.observe:
            m.d.comb += [
                self.ended.valid.eq(at.any()),
                self.ended.walk.eq(last.walk),
                self.ended.vpn.eq(last.owner.vpn),
                self.ended.asid.eq(last.owner.asid),
                self.ended.write.eq(last.owner.write),
                self.ended.outcome.eq(Mux(self.killed, Outcome.AGAIN, outcome)),
                self.ended.pte.eq(last.pte),
            ]
        return m
