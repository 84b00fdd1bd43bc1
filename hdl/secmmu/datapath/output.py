"""The output register of one direction: the only place where a translated access waits."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import AccessLayout
from secmmu.layouts import PA_BITS, PAGE_BITS, PPN_BITS
from secmmu.page_numbers import free_bits, free_mask

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
    load : In(1), access : In(AccessLayout), ppn : In(44), span : In
        Take this and its translation; only while ``free``. ``span``: the pieces of the page number that come from the
        address.
    valid : Out(1), held : Out(AccessLayout), held_pa : Out(56), ready : In(1)
        What is presented; ``held.addr`` is the virtual address.
    first : Out(1)
        It is presented for the first cycle.
    """

    free: Signal
    load: Signal
    access: data.View
    ppn: Signal
    span: Signal
    valid: Signal
    held: data.View
    held_pa: Signal
    ready: Signal
    first: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "free": Out(1),
                "load": In(1),
                "access": In(AccessLayout(config)),
                "ppn": In(PPN_BITS),
                "span": In(free_bits(config.vpn_bits)),
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
        width = self.config.vpn_bits
        ppn = Signal(PPN_BITS)
        span = Signal.like(self.span)
        inside = self.held.addr[PAGE_BITS:][:width] & free_mask(span, width)
        m.d.comb += [
            self.free.eq(~self.valid | self.ready),
            self.held_pa.eq(Cat(self.held.addr[:PAGE_BITS], ppn | inside)),
        ]
        m.d.sync += self.first.eq(self.load)
        with m.If(self.free):
            # Whatever stands in stage D: whether it begins is known later than what it is.
            m.d.sync += [
                self.valid.eq(self.load),
                self.held.eq(self.access),
                ppn.eq(self.ppn),
                span.eq(self.span),
            ]
        return m
