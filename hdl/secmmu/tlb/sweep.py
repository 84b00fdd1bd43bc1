"""Filters: invalidations of many pages, masked at once and swept from the page array in the background."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from secmmu.config import SecmmuConfig
from secmmu.internals import GROUP_BITS, KillLayout, SharingLayout
from secmmu.page_numbers import below
from secmmu.picks import lowest

__all__ = ["Filters", "PageTagLayout", "RowLayout", "lanes_of", "rows_of"]

SWEEP_ROWS = 64
"""Most rows of the page array, so most cycles of a sweep."""
SETTLE_STEPS = 4
"""Steps of the sweep after which what an earlier step found is cleared and seen by every lookup."""


def lanes_of(config: SecmmuConfig) -> int:
    """Return how many neighbouring sets one row of the page array holds."""
    return max(1, config.tlb_sets // SWEEP_ROWS)


def rows_of(config: SecmmuConfig) -> int:
    """Return how many rows the page array has."""
    return config.tlb_sets // lanes_of(config)


class PageTagLayout(data.StructLayout):
    """Whose page an entry of the page array translates; ``page`` is its page number without the set index.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``tlb_sets``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "page": config.vpn_bits - config.set_bits,
                "shared": 1,
                "asid": config.asid_bits,
                "group": GROUP_BITS,
            }
        )


class RowLayout(data.ArrayLayout):
    """The tags of one row: those of all ways of the first lane, then of the next.

    Parameters
    ----------
    config : SecmmuConfig
        Geometry, widths.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(PageTagLayout(config), lanes_of(config) * config.tlb_ways)


class FilterLayout(data.StructLayout):
    """One invalidation still being swept: it has ``left`` steps to go, and is free at 0.

    Parameters
    ----------
    config : SecmmuConfig
        Geometry, widths.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "left": (rows_of(config) + SETTLE_STEPS).bit_length(),
                "everything": 1,
                "keep_global": 1,
                "asid": config.asid_bits,
                "group": GROUP_BITS,
                "first": config.vpn_bits,
                "last": config.vpn_bits,
            }
        )


class Filters(wiring.Component):
    """Invalidations of more than a page, from the cycle after they are applied until one sweep has passed all rows.

    One sweep serves all filters, each from the row at which it came. An invalidation equal to one that is being
    swept restarts that one's round. When no filter is free the last one becomes one of everything. After a reset
    that one sweeps everything, because the page array is in memories.

    Parameters
    ----------
    config : SecmmuConfig
        ``filters``, geometry, widths.

    Members
    -------
    kill : In(KillLayout)
        The invalidation applied in this cycle; one of a single page is left to the page array.
    wanted : Out(1), pointer : Out
        The row that the sweep wants to read.
    step : In(1)
        It is read in this cycle.
    tags : In(RowLayout), row : In, matched : Out
        A row that was read, and which of its tags some filter overlaps, in the same cycle.
    asks : In(1)
        That row is read for a question that came two cycles ago: the invalidation that came since is not counted.
    asid, group, vpn : In, masks : Out(SharingLayout)
        An access, and whether some filter overlaps an entry that serves it, in the same cycle.
    overflowed : Out(1)
        The invalidation of this cycle found no filter free.
    """

    kill: data.View
    wanted: Signal
    pointer: Signal
    step: Signal
    tags: data.View
    row: Signal
    matched: Signal
    asks: Signal
    asid: Signal
    group: Signal
    vpn: Signal
    masks: data.View
    overflowed: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        row_bits = ceil_log2(rows_of(config))
        super().__init__(
            {
                "kill": In(KillLayout(config)),
                "wanted": Out(1),
                "pointer": Out(row_bits),
                "step": In(1),
                "tags": In(RowLayout(config)),
                "row": In(row_bits),
                "matched": Out(lanes_of(config) * config.tlb_ways),
                "asks": In(1),
                "asid": In(config.asid_bits),
                "group": In(GROUP_BITS),
                "vpn": In(config.vpn_bits),
                "masks": Out(SharingLayout()),
                "overflowed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the filters, and their comparison with a row and with an access."""
        m = Module()
        config = self.config
        whole = {"left": rows_of(config) + SETTLE_STEPS, "everything": 1, "last": -1}
        filters = [
            Signal(
                FilterLayout(config),
                name=f"filter{i}",
                init=whole if i == config.filters - 1 else {},
            )
            for i in range(config.filters)
        ]
        active = Cat(row.left.any() for row in filters)
        m.d.comb += self.wanted.eq(active.any())
        with m.If(self.step):
            m.d.sync += self.pointer.eq(self.pointer + 1)
        new = self._install(m, filters, active)
        within = [
            busy & ~below(self.vpn, row.first) & ~below(row.last, self.vpn)
            for row, busy in zip(filters, active, strict=True)
        ]
        for shared, mask in enumerate((self.masks.own, self.masks.shared)):
            names = [
                _names(row, asid=self.asid, group=self.group, shared=Const(shared, 1))
                for row in filters
            ]
            m.d.comb += mask.eq((Cat(within) & Cat(names)).any())
        counted = active & ~Mux(self.asks, new, 0)
        for lane in range(lanes_of(config)):
            self._compare(m, filters, counted, lane)
        return m

    def _install(self, m: Module, filters: list[data.View], active: Value) -> Signal:
        """Take a filter for the invalidation of this cycle, and let the others go on.

        Return the filter that was taken in the cycle before for what no filter said until then.
        """
        kill, new = self.kill, Signal(len(filters))
        coming, same, taken = Signal(), Signal(len(filters)), Signal(len(filters))
        free = lowest(m, ~active)
        m.d.comb += [
            coming.eq(kill.valid & ~kill.page),
            same.eq(Cat(row.left.any() & _equal(row, kill) for row in filters)),
            taken.eq(Mux(same.any(), lowest(m, same), free)),
            self.overflowed.eq(coming & ~same.any() & active.all()),
        ]
        # The last filter no longer says what it said when it becomes one of everything, and counts as new.
        m.d.sync += new.eq(Mux(coming & ~same.any(), Cat(free[:-1], free[-1] | active.all()), 0))
        for i, row in enumerate(filters):
            with m.If(self.step & active[i]):
                m.d.sync += row.left.eq(row.left - 1)
            with m.If(coming & taken[i]):
                m.d.sync += [
                    row.left.eq(rows_of(self.config) + SETTLE_STEPS),
                    row.everything.eq(kill.everything),
                    row.keep_global.eq(kill.keep_global),
                    row.asid.eq(kill.asid),
                    row.group.eq(kill.group),
                    row.first.eq(kill.first),
                    row.last.eq(kill.last),
                ]
        with m.If(self.overflowed):
            m.d.sync += [
                filters[-1].left.eq(rows_of(self.config) + SETTLE_STEPS),
                filters[-1].everything.eq(1),
                filters[-1].keep_global.eq(0),
                filters[-1].first.eq(0),
                filters[-1].last.eq(-1),
            ]
        return new

    def _compare(self, m: Module, filters: list[data.View], counted: Value, lane: int) -> None:
        """Compare the tags of one lane with the filters that count."""
        config = self.config
        ways, bits = config.tlb_ways, config.set_bits
        index = Cat(Const(lane, bits - len(self.row)), self.row)
        within = []
        for number, row in enumerate(filters):
            # The set index is the same for all ways: its comparison becomes one more bit below the tags'.
            above, under = Signal(name=f"above{number}"), Signal(name=f"under{number}")
            m.d.comb += [
                above.eq(~below(index, row.first[:bits])),
                under.eq(~below(row.last[:bits], index)),
            ]
            within.append((above, under))
        for way in range(ways):
            tag = self.tags[lane * ways + way]
            hits = [
                busy
                & _names(row, asid=tag.asid, group=tag.group, shared=tag.shared)
                & ~below(Cat(above, tag.page), Cat(Const(1, 1), row.first[bits:]))
                & ~below(Cat(Const(0, 1), row.last[bits:]), Cat(~under, tag.page))
                for (above, under), row, busy in zip(within, filters, counted, strict=True)
            ]
            m.d.comb += self.matched[lane * ways + way].eq(Cat(hits).any())


def _names(row: data.View, *, asid: Value, group: Value, shared: Value) -> Value:
    """Return whether a filter speaks of an entry of this address space."""
    named = (row.asid == asid) | (shared & (row.group == group))
    return row.everything | (named & ~(shared & row.keep_global))


def _equal(row: data.View, kill: data.View) -> Value:
    """Return whether a filter is this invalidation already."""
    space = (row.asid == kill.asid) & (row.group == kill.group)
    return (
        (row.everything == kill.everything)
        & (kill.everything | space)
        & (row.keep_global == kill.keep_global)
        & (row.first == kill.first)
        & (row.last == kill.last)
    )
