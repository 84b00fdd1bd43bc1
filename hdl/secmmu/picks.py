"""Choosing one of several: the lowest, in turn, a cycle ahead, and its number."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value

__all__ = ["chosen", "chosen_ahead", "encoded", "in_turn", "lowest"]


def lowest(m: Module, bits: Value) -> Signal:
    """Return the lowest bit that is set, alone."""
    given = Signal(len(bits), name="lowest_of")
    alone = Signal(len(bits), name="lowest")
    m.d.comb += [
        given.eq(bits),
        alone.eq(Cat(bit & ~given[:at].any() for at, bit in enumerate(given))),
    ]
    return alone


def encoded(one_hot: Value) -> Value:
    """Return the number of the one bit that is set, 0 when none is."""
    width = max(1, (len(one_hot) - 1).bit_length())
    return Cat(
        Cat(one_hot[i] for i in range(len(one_hot)) if i >> bit & 1).any() for bit in range(width)
    )


def chosen(one_hot: Value, bits: Value) -> Value:
    """Return the one of ``bits`` that ``one_hot`` names."""
    return (one_hot & bits).any()


def in_turn(m: Module, bits: Value, taken: Value, *, name: str) -> Signal:
    """Return one of ``bits``, one-hot: the next after the one that was ``taken`` last."""
    later = Signal(len(bits), name=f"{name}_later")
    choice = Signal(len(bits), name=name)
    rest = bits & later
    m.d.comb += choice.eq(Mux(rest.any(), lowest(m, rest), lowest(m, bits)))
    with m.If(taken & choice.any()):
        m.d.sync += later.eq(Cat(choice[:i].any() for i in range(len(bits))))
    return choice


def chosen_ahead(m: Module, free: Value, taken: Value) -> Signal:
    """Return the lowest of ``free`` of the cycle before, one-hot, unless it was ``taken`` in that: then the next.

    So that the choice takes no time; what comes free can be had a cycle later.
    """
    choice = Signal(len(free), name="next_free", init=1)
    m.d.sync += choice.eq(Mux(taken, lowest(m, free & ~choice), lowest(m, free)))
    return choice
