"""The part of the TLB in block RAM: 4 KiB entries, set-associative, looked up and kept up in parallel."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import (
    GROUP_BITS,
    EntryLayout,
    KillLayout,
    LookupSignature,
    SharingLayout,
    TranslationLayout,
    YoungSignature,
)
from secmmu.kills import is_killed, killed_sharing
from secmmu.layouts import PPN_BITS
from secmmu.page_numbers import below
from secmmu.picks import encoded, lowest
from secmmu.tlb.marks import Marks
from secmmu.tlb.sweep import PageTagLayout, lanes_of, rows_of
from secmmu.tlb.upkeep import Upkeep, page_tag

__all__ = ["PageArray"]


class PageLayout(data.StructLayout):
    """What block RAM holds of an entry.

    Parameters
    ----------
    config : SecmmuConfig
        Geometry, widths.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"ppn": PPN_BITS, "writable": 1, "tag": PageTagLayout(config)})


class AccessStageLayout(data.StructLayout):
    """An access on its way; ``group`` is its asid's.

    ``alive`` are the ways of its set that have held an entry ever since they were read; ``dead`` says that an
    invalidation overlapped the page since.

    Parameters
    ----------
    config : SecmmuConfig
        Geometry, widths.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "asid": config.asid_bits,
                "group": GROUP_BITS,
                "vpn": config.vpn_bits,
                "alive": config.tlb_ways,
                "dead": SharingLayout(),
            }
        )


class PageArray(wiring.Component):
    """4 KiB entries in memories.

    ==========  ================================================================================================
    lookup      what happens
    ==========  ================================================================================================
    A           block RAM and valid bits of the set are read
    B           the access is compared with the invalidations that are not carried out yet
    C           tags, registered, are compared; the access is compared with the invalidation of this cycle
    D           the entry stands there, and dies when the invalidation of this cycle overlaps it
    ==========  ================================================================================================

    A way counts that was valid in A and in B: one that was killed and filled again in between shows in neither both.

    Parameters
    ----------
    config : SecmmuConfig
        Geometry, widths, ``filters``, ``mutant``.

    Members
    -------
    kill : In(KillLayout)
        The invalidation applied in this cycle.
    young : In(YoungSignature)
        Answered three cycles later.
    lookup : In(LookupSignature)
        One a cycle.
    fill : In(1), filling : In(TranslationLayout), granted : Out(1)
        Whether a fill is wanted, and whether it is begun in this cycle.
    free : Out(1)
        Another fill may take the place of ``pending`` at the end of this cycle.
    pending : In(EntryLayout), drop : In(1)
        The fill begun last, from the cycle after it until three later; whether it dies in this cycle.
    filled : Out(1), index : Out
        It is written in this cycle, there: set * ways + way.
    died : Out, died_row : Out
        Entries of this row that are cleared in this cycle; the one that a fill replaces is not among them.
    overflowed : Out(1)
        The invalidation of this cycle became one of everything.
    """

    kill: data.View
    young: wiring.PureInterface
    lookup: wiring.PureInterface
    fill: Signal
    filling: data.View
    granted: Signal
    free: Signal
    pending: data.View
    drop: Signal
    filled: Signal
    index: Signal
    died: Signal
    died_row: Signal
    overflowed: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        self.lanes, self.rows = lanes_of(config), rows_of(config)
        entries = self.lanes * config.tlb_ways
        super().__init__(
            {
                "kill": In(KillLayout(config)),
                "young": In(YoungSignature()),
                "lookup": In(LookupSignature(config)),
                "fill": In(1),
                "filling": In(TranslationLayout(config)),
                "granted": Out(1),
                "free": Out(1),
                "pending": In(EntryLayout(config)),
                "drop": In(1),
                "filled": Out(1),
                "index": Out((config.tlb_sets * config.tlb_ways - 1).bit_length()),
                "died": Out(entries),
                "died_row": Out((self.rows - 1).bit_length()),
                "overflowed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the upkeep, the change of a row, and the lookup."""
        m = Module()
        m.submodules.upkeep = upkeep = Upkeep(self.config)
        m.submodules.valid = valid = memory.Memory(shape=len(self.died), depth=self.rows, init=[])
        m.submodules.marks = marks = Marks(self.config)
        m.d.comb += [
            upkeep.kill.eq(self.kill),
            upkeep.ask.eq(self.young.ask),
            upkeep.fill.eq(self.fill),
            upkeep.filling.eq(self.filling),
            upkeep.pending.eq(self.pending.translation),
            upkeep.drop.eq(self.drop),
            self.granted.eq(upkeep.granted),
            self.free.eq(upkeep.free),
            self.overflowed.eq(upkeep.overflowed),
        ]
        chosen = self._change(m, upkeep, valid, marks)
        waiting = self._admit(m, upkeep, valid)
        self._decide(m, waiting, self._store(m, chosen), marks)
        return m

    def _row(self, index: Value) -> Value:
        return index[self.config.set_bits - len(self.died_row) : self.config.set_bits]

    def _lane(self, row: Value, index: Value) -> Value:
        """Return the bits of one set, from those of its row."""
        lane = index[: self.config.set_bits - len(self.died_row)]
        return row.word_select(lane, self.config.tlb_ways)

    def _change(self, m: Module, upkeep: Upkeep, valid: memory.Memory, marks: Marks) -> Signal:
        """Carry out the operation of this cycle; return the way that it writes, one-hot."""
        config, operation = self.config, upkeep.operation
        index = operation.vpn[: config.set_bits]
        reader, writer = valid.read_port(domain="comb"), valid.write_port()
        matched, written = Signal.like(self.died), Signal.like(self.died)
        alive, same = Signal(config.tlb_ways), Signal(config.tlb_ways)
        victim, chosen = Signal(config.tlb_ways), Signal(config.tlb_ways)
        old = Signal(config.tlb_ways)
        lane = index[: config.set_bits - len(self.died_row)]
        m.d.comb += [
            reader.addr.eq(self._row(index)),
            matched.eq(upkeep.matched & reader.data),
            alive.eq(self._lane(reader.data, index)),
            same.eq(self._lane(matched, index)),
            marks.index.eq(index),
            # One way at least is not recent, but for sets of a single way.
            old.eq(~marks.recent if config.tlb_ways > 1 else 1),
            victim.eq(Mux(same.any(), same, Mux(alive.all(), old, ~alive))),
            chosen.eq(Mux(operation.fills, lowest(m, victim), 0)),
            written.eq(Cat(Mux(lane == i, chosen, 0) for i in range(self.lanes))),
            writer.addr.eq(self._row(index)),
            writer.en.eq(operation.kills | operation.sweeps | operation.fills),
            writer.data.eq((reader.data & ~matched) | written),
            upkeep.written.eq(written),
            self.filled.eq(operation.fills),
            self.index.eq(index * config.tlb_ways + encoded(chosen)),
            self.died_row.eq(writer.addr),
            self.died.eq(Mux(writer.en, matched & ~written, 0)),
            self.young.answered.eq(operation.asks),
            self.young.used.eq((same & marks.used).any()),
            marks.forget.eq(Mux(operation.asks, same, chosen)),
            marks.written.eq(chosen),
        ]
        return chosen

    def _store(self, m: Module, chosen: Signal) -> list[data.View]:
        """Build the block RAM; return what it held in the set of the access in B, for each way."""
        config, pending = self.config, self.pending
        ways = []
        for way in range(config.tlb_ways):
            m.submodules[f"way{way}"] = store = memory.Memory(
                shape=PageLayout(config), depth=config.tlb_sets, init=[]
            )
            reader, writer = store.read_port(), store.write_port()
            m.d.comb += [
                reader.addr.eq(self.lookup.vpn[: config.set_bits]),
                reader.en.eq(self.lookup.advance),
                writer.addr.eq(pending.translation.vpn[: config.set_bits]),
                writer.en.eq(chosen[way]),
                writer.data.ppn.eq(pending.ppn),
                writer.data.writable.eq(pending.writable),
            ]
            m.d.comb += [
                writer.data.tag[name].eq(value)
                for name, value in page_tag(pending.translation, config).items()
            ]
            ways.append(reader.data)
        return ways

    def _admit(self, m: Module, upkeep: Upkeep, valid: memory.Memory) -> data.View:
        """Build stages A and B; return the access in B as it is at the end of this cycle."""
        config, lookup = self.config, self.lookup
        before, now = valid.read_port(domain="comb"), valid.read_port(domain="comb")
        stage, admitted = (
            Signal(AccessStageLayout(config), name=name) for name in ("b", "admitted")
        )
        m.d.comb += [
            before.addr.eq(self._row(lookup.vpn)),
            now.addr.eq(self._row(stage.vpn)),
            upkeep.asid.eq(stage.asid),
            upkeep.group.eq(stage.group),
            upkeep.vpn.eq(stage.vpn),
            admitted.eq(stage),
            admitted.alive.eq(stage.alive & self._lane(now.data, stage.vpn[: config.set_bits])),
        ]
        for name, overlaps in self._overlaps(stage).items():
            m.d.comb += admitted.dead[name].eq(stage.dead[name] | upkeep.masks[name] | overlaps)
        m.d.sync += stage.eq(admitted)
        with m.If(lookup.advance):
            m.d.sync += [
                stage.asid.eq(lookup.asid),
                stage.group.eq(lookup.group),
                stage.vpn.eq(lookup.vpn),
                stage.alive.eq(self._lane(before.data, lookup.vpn[: config.set_bits])),
                stage.dead.own.eq(~lookup.en),
                stage.dead.shared.eq(~lookup.en),
            ]
        return admitted

    def _overlaps(self, stage: data.View) -> dict[str, Value]:
        """Return whether the invalidation of this cycle overlaps entries that serve an access: a SharingLayout."""
        within = ~below(stage.vpn, self.kill.first) & ~below(self.kill.last, stage.vpn)
        speaks = killed_sharing(self.kill, asid=stage.asid, group=stage.group)
        return {name: named & within for name, named in speaks.items()}

    def _decide(self, m: Module, admitted: data.View, ways: list[data.View], marks: Marks) -> None:
        """Build stages C and D."""
        config, lookup = self.config, self.lookup
        stage = Signal(AccessStageLayout(config), name="c")
        stored = [Signal(PageLayout(config), name=f"stored{way}") for way in range(len(ways))]
        way_hit, dead = Signal(config.tlb_ways), Signal(SharingLayout())
        for name, overlaps in self._overlaps(stage).items():
            m.d.comb += dead[name].eq(stage.dead[name] | overlaps)
        near, far = Signal(config.tlb_ways), Signal(config.tlb_ways)
        for way, held in enumerate(stored):
            tag = held.tag
            dies = Mux(tag.shared, dead.shared, dead.own)
            found = stage.alive[way] & ~dies & (tag.page == stage.vpn[config.set_bits :])
            m.d.comb += [
                near[way].eq(found & (tag.asid == stage.asid)),
                far[way].eq(found & tag.shared & (tag.group == stage.group)),
            ]
        chosen = Signal(config.tlb_ways)
        m.d.comb += chosen.eq(Mux(near.any(), near, lowest(m, far)))
        entry = lookup.entry
        with m.If(lookup.advance):
            m.d.sync += [stage.eq(admitted), way_hit.eq(chosen)]
            m.d.sync += [held.eq(way) for held, way in zip(stored, ways, strict=True)]
            found = _selected(stored, chosen)
            m.d.sync += [
                entry.ppn.eq(found.ppn),
                entry.writable.eq(found.writable),
                entry.translation.vpn.eq(stage.vpn),
                entry.translation.shared.eq(found.tag.shared),
                entry.translation.asid.eq(found.tag.asid),
                entry.translation.group.eq(found.tag.group),
            ]
        with m.Else():
            m.d.sync += [
                stage.dead.eq(dead),
                way_hit.eq(Mux(lookup.dies, 0, way_hit)),
            ]
        m.d.comb += [
            lookup.hit.eq(way_hit.any()),
            lookup.dies.eq(is_killed(self.kill, entry.translation, config)),
            marks.hit.eq(Mux(lookup.advance & ~lookup.dies, way_hit, 0)),
            marks.hit_set.eq(entry.translation.vpn[: config.set_bits]),
        ]


def _selected(stored: list[data.View], chosen: Signal) -> data.View:
    """Return the one that is chosen, all zeros when none is."""
    found: Value = Const(0, len(stored[0].as_value()))
    for way, held in enumerate(stored):
        found |= Mux(chosen[way], held.as_value(), 0)
    return data.View(stored[0].shape(), found)
