"""Block RAM of which nobody reads what is written in the same cycle."""

from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BlockRam"]


class BlockRam(wiring.Component):
    """One port to write, one to read a cycle later.

    Whoever reads sees to it that what is read and used is not written in the same cycle. Synthesis then needs no
    comparison and no multiplexer around the RAM, which it would put there to give the old value as simulation does.
    Where ``observe`` is set, such a read shows the complement of the old value, so that whoever uses it is found out.

    Parameters
    ----------
    layout : StructLayout
        An item.
    depth : int
        Items that it holds.
    observe : bool
        As in the configuration.

    Members
    -------
    write : In(1), write_place : In, item : In(layout)
        Keep ``item``.
    read : In(1), read_place : In, shown : Out(layout)
        The item at that place, from the next cycle until the next ``read``.
    """

    write: Signal
    write_place: Signal
    item: data.View
    read: Signal
    read_place: Signal
    shown: data.View

    def __init__(self, layout: data.StructLayout, *, depth: int, observe: bool) -> None:
        self._layout = layout
        self._depth = depth
        self._observe = observe
        place = range(depth)
        super().__init__(
            {
                "write": In(1),
                "write_place": In(place),
                "item": In(layout),
                "read": In(1),
                "read_place": In(place),
                "shown": Out(layout),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the memory; synthesis makes the register that of the RAM."""
        m = Module()
        attributes: dict[str, Any] = {"ram_style": "block", "no_rw_check": 1}
        m.submodules.items = items = memory.Memory(
            shape=self._layout,
            depth=self._depth,
            init=[],
            attrs=attributes,
        )
        writer, reader = items.write_port(), items.read_port(domain="comb")
        m.d.comb += [
            writer.en.eq(self.write),
            writer.addr.eq(self.write_place),
            writer.data.eq(self.item),
            reader.addr.eq(self.read_place),
        ]
        shown = Signal(self._layout, reset_less=True)
        m.d.comb += self.shown.eq(shown)
        given: Value = reader.data.as_value()
        if self._observe:
            collides = self.write & (self.write_place == self.read_place)
            given ^= collides.replicate(len(given))
        with m.If(self.read):
            m.d.sync += shown.eq(given)
        return m
