"""A queue in distributed RAM whose head shows at once, and whose inside can be looked at."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

__all__ = ["Queue"]


class Queue(wiring.Component):
    """First in, first out. Whoever pushes knows that there is room. What is pushed shows in the next cycle.

    Parameters
    ----------
    layout : StructLayout
        An item.
    depth : int
        Items that it holds, a power of two.

    Members
    -------
    push : In(1), item : In(layout)
        Append ``item``.
    valid : Out(1), head : Out(layout), pop : In(1)
        The oldest item, and its removal.
    head_place, tail_place : Out
        Where the oldest item is, and where the next will be, counted modulo twice the depth.
    look_place : In, looked_at : Out(layout)
        The item at any place.
    """

    push: Signal
    item: data.View
    valid: Signal
    head: data.View
    pop: Signal
    head_place: Signal
    tail_place: Signal
    look_place: Signal
    looked_at: data.View

    def __init__(self, layout: data.StructLayout, *, depth: int) -> None:
        self._layout = layout
        self.depth = depth
        place = exact_log2(depth) + 1
        super().__init__(
            {
                "push": In(1),
                "item": In(layout),
                "valid": Out(1),
                "head": Out(layout),
                "pop": In(1),
                "head_place": Out(place),
                "tail_place": Out(place),
                "look_place": In(place),
                "looked_at": Out(layout),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the memory and its pointers."""
        m = Module()
        m.submodules.items = items = memory.Memory(shape=self._layout, depth=self.depth, init=[])
        # Behind the head, which is a register: so it is known from the beginning of a cycle on.
        next_place = Signal.like(self.tail_place, init=1)
        behind = Signal()
        write = items.write_port()
        follower, look = (items.read_port(domain="comb") for _ in range(2))
        m.d.comb += [
            write.en.eq(self.push),
            write.addr.eq(self.tail_place),
            write.data.eq(self.item),
            follower.addr.eq(next_place),
            look.addr.eq(self.look_place),
            self.looked_at.eq(look.data),
            behind.eq(self.valid & (next_place != self.tail_place)),
        ]
        m.d.sync += self.tail_place.eq(self.tail_place + self.push)
        with m.If(self.pop):
            m.d.sync += [self.head_place.eq(next_place), next_place.eq(next_place + 1)]
        with m.If(self.pop | ~self.valid):
            m.d.sync += [
                self.valid.eq(behind | self.push),
                self.head.eq(Mux(behind, follower.data.as_value(), self.item.as_value())),
            ]
        return m
