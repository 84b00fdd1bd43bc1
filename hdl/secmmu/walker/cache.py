"""The walk cache: pointers to page tables, so that a walk need not begin at the root."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from secmmu.config import SecmmuConfig
from secmmu.internals import GROUP_BITS, INDEX_BITS, KillLayout
from secmmu.kills import may_kill_asid
from secmmu.layouts import PPN_BITS
from secmmu.page_numbers import below
from secmmu.picks import encoded

__all__ = ["CachedPointerLayout", "PlaceLayout", "WalkCache"]


class CachedPointerLayout(data.StructLayout):
    """A table, and whether what is below it is global."""

    def __init__(self) -> None:
        super().__init__({"ppn": PPN_BITS, "shared": 1})


class PlaceLayout(data.StructLayout):
    """Where a pointer is kept; ``level`` is that of the table that it points to: 0, 1, ...

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``walk_cache``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        # Never without bits: the Verilog of a wire of none is [-1:0].
        index_bits = max(1, ceil_log2(config.walk_cache))
        super().__init__({"index": index_bits, "level": ceil_log2(config.levels - 1)})


class PointerKeyLayout(data.StructLayout):
    """Whose pointers are looked for.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"vpn": config.vpn_bits, "asid": config.asid_bits})


class InsertLayout(data.StructLayout):
    """A pointer to keep for the key: ``level`` is that of the table that it points to.

    One that is not ``pure`` only takes the place that it would have taken.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "valid": 1,
                "pure": 1,
                "level": ceil_log2(config.levels - 1),
                "group": GROUP_BITS,
                "pointer": CachedPointerLayout(),
            }
        )


class WalkCache(wiring.Component):
    """``walk_cache`` pointers to the tables of each level, fully associative, the oldest replaced first.

    A pointer is of its asid alone, global or not; an invalidation takes it where one of the group's might. One
    comparison a cycle: that of ``key`` either finds a pointer or says what an insertion replaces.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``, ``walk_cache``, ``mutant``.

    Members
    -------
    key : In(PointerKeyLayout)
        The page whose pointers are looked for.
    found : Out(1), place : Out(PlaceLayout)
        In the same cycle: there is one; where the deepest stands. Not to be used beside ``coming``.
    read : In(PlaceLayout), pointer : Out(CachedPointerLayout)
        What stands at a place found one cycle ago.
    insert : In(InsertLayout)
        Keep a pointer of ``key`` from the next cycle on: ``pure`` says that no invalidation so far has taken it. One
        beside ``coming`` is not kept.
    coming : In(KillLayout)
        The invalidation applied in the next cycle: it is compared ahead.
    clear : In(1)
        Forget everything.
    """

    key: data.View
    found: Signal
    place: data.View
    read: data.View
    pointer: data.View
    insert: data.View
    coming: data.View
    clear: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "key": In(PointerKeyLayout(config)),
                "found": Out(1),
                "place": Out(PlaceLayout(config)),
                "read": In(PlaceLayout(config)),
                "pointer": Out(CachedPointerLayout()),
                "insert": In(InsertLayout(config)),
                "coming": In(KillLayout(config)),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the comparators of each level around one memory of pointers."""
        m = Module()
        config, insert = self.config, self.insert
        depth = 1 << len(self.read.as_value())
        m.submodules.pointers = pointers = memory.Memory(
            shape=CachedPointerLayout(), depth=depth, init=[]
        )
        reader, writer = pointers.read_port(domain="comb"), pointers.write_port()
        target = Signal(PlaceLayout(config))
        m.d.comb += [
            reader.addr.eq(self.read),
            self.pointer.eq(reader.data),
            target.level.eq(insert.level),
            writer.addr.eq(target),
            writer.data.eq(insert.pointer),
            writer.en.eq(insert.valid),
        ]
        # The deepest level is assigned last.
        for level in reversed(range(config.levels - 1)):
            here = insert.valid & (insert.level == level)
            found, index, slot = self._level(m, level, here)
            with m.If(found):
                m.d.comb += [
                    self.found.eq(1),
                    self.place.level.eq(level),
                    self.place.index.eq(index),
                ]
            with m.If(insert.level == level):
                m.d.comb += target.index.eq(slot)
        return m

    def _level(self, m: Module, level: int, here: Value) -> tuple[Value, Value, Value]:
        """Build the pointers to tables of ``level``; return whether and where one is found, and where to insert."""
        config, kill, key = self.config, self.coming, self.key
        bits = INDEX_BITS * (level + 1)
        count = config.walk_cache
        shape = data.StructLayout(
            {"vpn": config.vpn_bits - bits, "asid": config.asid_bits, "group": GROUP_BITS}
        )
        rows = [Signal(shape, name=f"table{level}_{i}") for i in range(count)]
        kept = Signal(count, name=f"kept{level}")
        dying = Signal(count, name=f"dying{level}")
        same = Signal(count, name=f"same{level}")
        turn = Signal(range(max(2, count)), name=f"turn{level}")
        slot = Signal(range(max(2, count)), name=f"slot{level}")
        for i, row in enumerate(rows):
            overlaps = ~below(row.vpn, kill.first[bits:]) & ~below(kill.last[bits:], row.vpn)
            spoken_of = may_kill_asid(kill, asid=row.asid, group=row.group)
            takes = ~kill.leaf_only | kill.context
            if config.mutant == "rtl-no-table-kill":
                takes = kill.context
            alike = (row.asid == key.asid) & (row.vpn == key.vpn[bits:])
            m.d.sync += dying[i].eq(overlaps & spoken_of & takes)
            m.d.comb += same[i].eq(kept[i] & ~dying[i] & alike)
            with m.If(here & (slot == i)):
                m.d.sync += [
                    kept[i].eq(self.insert.pure & ~kill.valid),
                    row.vpn.eq(key.vpn[bits:]),
                    row.asid.eq(key.asid),
                    row.group.eq(self.insert.group),
                ]
            with m.Elif(dying[i]):
                m.d.sync += kept[i].eq(0)
            with m.If(self.clear):
                m.d.sync += kept[i].eq(0)
        with m.If(here & ~same.any()):
            m.d.sync += turn.eq(Mux(turn == count - 1, 0, turn + 1))
        index = encoded(same)
        m.d.comb += slot.eq(Mux(same.any(), index, turn))
        return same.any(), index, slot
