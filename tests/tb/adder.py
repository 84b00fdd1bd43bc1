"""A tiny component to try the simulation layer on."""

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Adder(wiring.Component):
    """Adds two bytes, registered; ``constant`` is 5 and depends on nothing."""

    def __init__(self) -> None:
        super().__init__(
            {"left": In(8), "right": In(8), "total": Out(9), "parity": Out(1), "constant": Out(4)}
        )

    def elaborate(self, platform: object) -> Module:
        """Build the adder."""
        m = Module()
        m.d.sync += self.total.eq(self.left + self.right)
        with m.Switch(Cat(self.total[0])), m.Case(1):
            m.d.comb += self.parity.eq(1)
        with m.If(1):
            m.d.comb += self.constant.eq(5)
        return m
