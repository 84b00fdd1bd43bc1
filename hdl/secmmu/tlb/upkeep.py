"""The second set of tags of the page array, by which it is cleared, asked and filled without stopping lookups."""

import itertools

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import GROUP_BITS, KillLayout, SharingLayout, TranslationLayout
from secmmu.tlb.sweep import Filters, RowLayout, lanes_of, rows_of

__all__ = ["STAGES", "OperationLayout", "Upkeep", "page_tag"]

STAGES = 3
"""Cycles from reading a row to changing it."""


def page_tag(translation: data.View, config: SecmmuConfig) -> dict[str, Value]:
    """Return the fields of the tag of a 4 KiB translation."""
    return {
        "page": translation.vpn[config.set_bits :],
        "shared": translation.shared,
        "asid": translation.asid,
        "group": translation.group,
    }


class OperationLayout(data.StructLayout):
    """What is done with the row that holds ``vpn``: at most one of the first four.

    ``kills``   entries of the page are cleared
    ``asks``    their used bits are told and cleared
    ``fills``   an entry of the page is written; ``shared`` is its own
    ``sweeps``  entries that the filters overlap are cleared

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "kills": 1,
                "asks": 1,
                "fills": 1,
                "sweeps": 1,
                "shared": 1,
                "keep_global": 1,
                "asid": config.asid_bits,
                "group": GROUP_BITS,
                "vpn": config.vpn_bits,
            }
        )


class Upkeep(wiring.Component):
    """Reads a row of tags a cycle and finds the entries that an operation is about.

    ========  ==================================================================================================
    cycle     what happens
    ========  ==================================================================================================
    0         the row is read: for a page command or question at once, else for a fill, else for the sweep
    1         it is registered
    2         its tags are compared
    3         ``operation`` and ``matched`` are up, and the page array changes the row
    ========  ==================================================================================================

    The sweep does not read a row that is being filled, and a page command drops a fill of its set: what was found by
    the tags of an entry never hits its successor.

    Parameters
    ----------
    config : SecmmuConfig
        Geometry, widths, ``filters``, ``mutant``.

    Members
    -------
    kill : In(KillLayout), ask : In(1)
        The invalidation, or the question, of this cycle.
    fill : In(1), filling : In(TranslationLayout), granted : Out(1)
        A fill, and whether it is begun in this cycle.
    free : Out(1)
        No fill is in the cycles 1 or 2: another may take the place of ``pending``.
    pending : In(TranslationLayout), drop : In(1)
        The fill that was begun last, from the cycle after it until three later, and whether it dies in this cycle.
    operation : Out(OperationLayout), matched : Out
        What is done in this cycle, and the entries of the row that it is about, valid or not. ``fills`` says that
        the fill is still wanted.
    written : In
        The entry of the row that is written in this cycle: the tag of ``pending`` is kept for it.
    asid, group, vpn : In, masks : Out(SharingLayout)
        An access, and whether an invalidation that is not carried out yet overlaps an entry that serves it, in the
        same cycle.
    overflowed : Out(1)
        The invalidation of this cycle found no filter free.
    """

    kill: data.View
    ask: Signal
    fill: Signal
    filling: data.View
    granted: Signal
    free: Signal
    pending: data.View
    drop: Signal
    operation: data.View
    matched: Signal
    written: Signal
    asid: Signal
    group: Signal
    vpn: Signal
    masks: data.View
    overflowed: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        entries = lanes_of(config) * config.tlb_ways
        super().__init__(
            {
                "kill": In(KillLayout(config)),
                "ask": In(1),
                "fill": In(1),
                "filling": In(TranslationLayout(config)),
                "granted": Out(1),
                "free": Out(1),
                "pending": In(TranslationLayout(config)),
                "drop": In(1),
                "operation": Out(OperationLayout(config)),
                "matched": Out(entries),
                "written": In(entries),
                "asid": In(config.asid_bits),
                "group": In(GROUP_BITS),
                "vpn": In(config.vpn_bits),
                "masks": Out(SharingLayout()),
                "overflowed": Out(1),
            }
        )

    def row_of(self, vpn: Value) -> Value:
        """Return the row that holds the entries of a page."""
        config = self.config
        return vpn[config.set_bits - (rows_of(config) - 1).bit_length() : config.set_bits]

    def elaborate(self, platform: object) -> Module:
        """Build the choice of an operation, its stages, the tags and their comparison."""
        m = Module()
        config = self.config
        m.submodules.filters = filters = Filters(config)
        chosen = Signal(OperationLayout(config))
        stages = [Signal(OperationLayout(config), name=f"stage{i}") for i in range(1, STAGES + 1)]
        same_set = self.pending.vpn[: config.set_bits] == self.kill.first[: config.set_bits]
        dropped = Signal()
        m.d.comb += dropped.eq(self.drop | (chosen.kills & same_set))
        if config.mutant == "rtl-no-fill-kill":
            m.d.comb += dropped.eq(0)
        for earlier, later in itertools.pairwise([chosen, *stages]):
            m.d.sync += later.eq(earlier)
            if earlier is not chosen:
                m.d.sync += later.fills.eq(earlier.fills & ~dropped)
        self._choose(m, filters, chosen, stages)
        m.d.comb += [
            self.operation.eq(stages[-1]),
            self.operation.fills.eq(stages[-1].fills & ~dropped),
        ]
        tags = self._read(m, chosen)
        hidden = [self._hides(stage) for stage in stages]
        found = Signal.like(self.matched)
        masks = Signal(SharingLayout())
        if config.mutant != "rtl-no-filter-mask":
            m.d.comb += masks.eq(filters.masks)
        for lane in range(lanes_of(config)):
            self._compare(m, found, tags, stages[1], lane)
        m.d.comb += [
            filters.kill.eq(self.kill),
            filters.tags.eq(tags),
            filters.row.eq(self.row_of(stages[1].vpn)),
            filters.asks.eq(stages[1].asks),
            filters.asid.eq(self.asid),
            filters.group.eq(self.group),
            filters.vpn.eq(self.vpn),
            self.masks.own.eq(masks.own | Cat(own for own, _ in hidden).any()),
            self.masks.shared.eq(masks.shared | Cat(shared for _, shared in hidden).any()),
            self.overflowed.eq(filters.overflowed),
        ]
        # A question is not about what is dead and not yet swept.
        dead = Mux(stages[1].asks, filters.matched, 0)
        m.d.sync += self.matched.eq(Mux(stages[1].sweeps, filters.matched, found & ~dead))
        return m

    def _choose(
        self, m: Module, filters: Filters, chosen: data.View, stages: list[data.View]
    ) -> None:
        """Choose the operation that reads its row in this cycle."""
        kill, filling = self.kill, self.filling
        asked = Signal()
        occupied = Cat(stage.fills for stage in stages)
        beside = self.row_of(self.pending.vpn) == self.row_of(filling.vpn)
        m.d.comb += [
            asked.eq((kill.valid & kill.page) | self.ask),
            self.free.eq(~occupied[:-1].any()),
            self.granted.eq(~asked & self.free & ~(occupied[-1] & beside)),
        ]
        with m.If(asked):
            m.d.comb += [
                chosen.kills.eq(kill.valid),
                chosen.asks.eq(self.ask),
                chosen.keep_global.eq(kill.keep_global),
                chosen.asid.eq(kill.asid),
                chosen.group.eq(kill.group),
                chosen.vpn.eq(kill.first),
            ]
        with m.Elif(self.fill & self.granted):
            m.d.comb += [
                chosen.fills.eq(1),
                chosen.shared.eq(filling.shared),
                chosen.asid.eq(filling.asid),
                chosen.group.eq(filling.group),
                chosen.vpn.eq(filling.vpn),
            ]
        with m.Else():
            filled = occupied.any() & (self.row_of(self.pending.vpn) == filters.pointer)
            m.d.comb += [
                filters.step.eq(filters.wanted & ~filled),
                chosen.sweeps.eq(filters.step),
                self.row_of(chosen.vpn).eq(filters.pointer),
            ]

    def _read(self, m: Module, chosen: data.View) -> data.View:
        """Build the memory of tags; return the row that was read two cycles ago."""
        config = self.config
        m.submodules.tags = store = memory.Memory(
            shape=RowLayout(config), depth=rows_of(config), init=[]
        )
        reader, writer = store.read_port(), store.write_port(granularity=1)
        tags = Signal(RowLayout(config))
        m.d.comb += [
            reader.addr.eq(self.row_of(chosen.vpn)),
            writer.addr.eq(self.row_of(self.pending.vpn)),
            writer.en.eq(self.written),
        ]
        for i in range(len(self.written)):
            m.d.comb += [
                writer.data[i][name].eq(value)
                for name, value in page_tag(self.pending, config).items()
            ]
        m.d.sync += tags.eq(reader.data)
        return tags

    def _compare(
        self, m: Module, found: Signal, tags: data.View, stage: data.View, lane: int
    ) -> None:
        """Compare the tags of one lane with the page of the operation."""
        config = self.config
        lane_bits = config.set_bits - len(self.row_of(stage.vpn))
        here = stage.vpn[:lane_bits] == lane
        for i in range(lane * config.tlb_ways, (lane + 1) * config.tlb_ways):
            tag = tags[i]
            shared = tag.shared | stage.shared
            space = (tag.asid == stage.asid) | (shared & (tag.group == stage.group))
            m.d.comb += found[i].eq(
                here
                & space
                & ~(tag.shared & stage.keep_global)
                & (tag.page == stage.vpn[config.set_bits :])
            )

    def _hides(self, stage: data.View) -> tuple[Value, Value]:
        """Return whether a page command on its way overlaps the access's own entry, and a shared one."""
        same = stage.kills & (stage.vpn == self.vpn)
        own = stage.asid == self.asid
        return same & own, same & ~stage.keep_global & (own | (stage.group == self.group))
