"""What each walk is for, how far it is, and the TLB entry that comes of it."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import EntryLayout
from secmmu.layouts import WORD_BITS
from secmmu.registers.counters import AGE_BITS
from secmmu.walker.layouts import LeafLayout, OwnerLayout, ProgressLayout

__all__ = ["WalkNotes"]


class WalkNotes(wiring.Component):
    """Small memories, one word of each per walk, that are read in the same cycle.

    Parameters
    ----------
    config : SecmmuConfig
        ``walks``, widths, ``observe``.

    Members
    -------
    begins : In(1), beginner : In, owner : In(OwnerLayout), now : In
        This walk begins, for this, now.
    moves, finds : In(1), mover : In, progress : In(ProgressLayout), leaf : In(LeafLayout)
        This walk has come so far, or has found this.
    reader : In, reader_owner : Out(OwnerLayout), reader_began : Out, reader_progress : Out(ProgressLayout)
        What is noted of the walk whose data comes.
    select : In, write : Out(1), entry : Out(EntryLayout)
        The answer of a walk; whether it was for a write.
    filler : In, fill : Out(EntryLayout)
        The answer of another.
    pte : Out(64)
        With ``observe``: its leaf.
    """

    begins: Signal
    beginner: Signal
    owner: data.View
    now: Signal
    moves: Signal
    finds: Signal
    mover: Signal
    progress: data.View
    leaf: data.View
    reader: Signal
    reader_owner: data.View
    reader_began: Signal
    reader_progress: data.View
    select: Signal
    write: Signal
    entry: data.View
    filler: Signal
    fill: data.View
    pte: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        members = {
            "begins": In(1),
            "owner": In(OwnerLayout(config)),
            "now": In(AGE_BITS),
            "moves": In(1),
            "finds": In(1),
            "progress": In(ProgressLayout(config)),
            "leaf": In(LeafLayout(config)),
            "reader_owner": Out(OwnerLayout(config)),
            "reader_began": Out(AGE_BITS),
            "reader_progress": Out(ProgressLayout(config)),
            "write": Out(1),
            "entry": Out(EntryLayout(config)),
            "fill": Out(EntryLayout(config)),
        }
        numbers = ("beginner", "mover", "reader", "select", "filler")
        members |= {name: In(config.walk_bits) for name in numbers}
        if config.observe:
            members |= {"pte": Out(WORD_BITS)}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """Build the memories."""
        m = Module()
        config = self.config
        depth = 1 << config.walk_bits
        m.submodules.owners = owners = memory.Memory(
            shape=OwnerLayout(config), depth=depth, init=[]
        )
        m.submodules.begins = begins = memory.Memory(shape=AGE_BITS, depth=depth, init=[])
        m.submodules.steps = steps = memory.Memory(
            shape=ProgressLayout(config), depth=depth, init=[]
        )
        m.submodules.answers = answers = memory.Memory(
            shape=LeafLayout(config), depth=depth, init=[]
        )
        for notes, en, number, word in (
            (owners, self.begins, self.beginner, self.owner),
            (begins, self.begins, self.beginner, self.now),
            (steps, self.moves, self.mover, self.progress),
            (answers, self.finds, self.mover, self.leaf),
        ):
            writer = notes.write_port()
            m.d.comb += [writer.en.eq(en), writer.addr.eq(number), writer.data.eq(word)]
        for notes, word in (
            (owners, self.reader_owner),
            (begins, self.reader_began),
            (steps, self.reader_progress),
        ):
            reader = notes.read_port(domain="comb")
            m.d.comb += [reader.addr.eq(self.reader), word.eq(reader.data)]
        for number, entry in ((self.select, self.entry), (self.filler, self.fill)):
            reader = answers.read_port(domain="comb")
            m.d.comb += [reader.addr.eq(number), entry.eq(reader.data.entry)]
            if number is self.select:
                m.d.comb += self.write.eq(reader.data.write)
            elif config.observe:
                m.d.comb += self.pte.eq(reader.data.pte)
        return m
