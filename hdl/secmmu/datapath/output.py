"""The output register of one direction: the only place where a translated access waits."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import AccessLayout
from secmmu.layouts import PA_BITS

__all__ = ["Output"]


class Output(wiring.Component):
    """Presents an access on the memory side from the cycle after ``load`` until it is taken.

    Parameters
    ----------
    config : SecmmuConfig
        Widths.

    Members
    -------
    free : Out(1)
        It is empty, or becomes so in this cycle.
    load : In(1), access : In(AccessLayout), pa : In(56)
        Take this; only while ``free``.
    valid : Out(1), held : Out(AccessLayout), held_pa : Out(56), ready : In(1)
        What is presented; ``held.addr`` is the virtual address.
    first : Out(1)
        It is presented for the first cycle.
    """

    free: Signal
    load: Signal
    access: data.View
    pa: Signal
    valid: Signal
    held: data.View
    held_pa: Signal
    ready: Signal
    first: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "free": Out(1),
                "load": In(1),
                "access": In(AccessLayout(config)),
                "pa": In(PA_BITS),
                "valid": Out(1),
                "held": Out(AccessLayout(config)),
                "held_pa": Out(PA_BITS),
                "ready": In(1),
                "first": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the register."""
        m = Module()
        m.d.comb += self.free.eq(~self.valid | self.ready)
        m.d.sync += self.first.eq(self.load)
        with m.If(self.load):
            m.d.sync += [self.valid.eq(1), self.held.eq(self.access), self.held_pa.eq(self.pa)]
        with m.Elif(self.ready):
            m.d.sync += self.valid.eq(0)
        return m
