"""Choosing one of several: the lowest, in turn, and its number."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

__all__ = ["chosen", "in_turn", "lowest", "number"]


def lowest(bits: Value) -> Value:
    """Return ``bits`` with only the lowest one left."""
    return Cat(bits[i] & ~bits[:i].any() for i in range(len(bits)))


def number(one_hot: Value) -> Value:
    """Return the place of the only bit that is set; 0 when there is none."""
    return reduce(or_, (Mux(one_hot[i], i, 0) for i in range(len(one_hot))), Const(0))


def chosen(one_hot: Value, bits: Value) -> Value:
    """Return the one of ``bits`` that ``one_hot`` names."""
    return (one_hot & bits).any()


def in_turn(m: Module, bits: Value, taken: Value, *, name: str) -> Signal:
    """Return one of ``bits``, one-hot: the next after the one that was ``taken`` last."""
    later = Signal(len(bits), name=f"{name}_later")
    choice = Signal(len(bits), name=name)
    rest = bits & later
    m.d.comb += choice.eq(Mux(rest.any(), lowest(rest), lowest(bits)))
    with m.If(taken & choice.any()):
        m.d.sync += later.eq(Cat(choice[:i].any() for i in range(len(bits))))
    return choice
