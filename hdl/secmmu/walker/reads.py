"""The page-table reads of the walks: at once where the bus is free, else in turn."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import INDEX_BITS
from secmmu.layouts import PA_BITS, PAGE_BITS, PPN_BITS
from secmmu.picks import encoded, in_turn

__all__ = ["TableReadLayout", "WalkReads", "WordLayout", "word_address"]


class WordLayout(data.StructLayout):
    """A word of a page table, and whose walk reads it.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"index": INDEX_BITS, "ppn": PPN_BITS, "asid": config.asid_bits})


class TableReadLayout(data.StructLayout):
    """The address beat of a page-table read.

    Parameters
    ----------
    config : SecmmuConfig
        ``walks``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"walk": config.walk_bits, "lock": 1, "word": WordLayout(config)})


def word_address(word: data.View) -> Cat:
    """Return the physical address of a word."""
    address = Cat(Const(0, PAGE_BITS - INDEX_BITS), word.index, word.ppn)
    assert len(address) == PA_BITS
    return address


class WalkReads(wiring.Component):
    """One read a cycle, offered from the cycle after its request on; those that find the bus taken wait in turn.

    A walk has one read at a time. It may ask for its last word once more, exclusively: that waits until no exclusive
    access of another walk is going on.

    Parameters
    ----------
    config : SecmmuConfig
        ``walks``, ``asid_bits``, ``svadu``.

    Members
    -------
    want : In(1), walk : In, word : In(WordLayout)
        This walk needs this word.
    barred : In(1)
        It does not need the word after all, which takes long to see: nothing is offered of it.
    retry : In(1)
        It needs its last word, exclusively.
    locked : In(1)
        An exclusive access is going on, none other may begin.
    locking : Out(1), locker : Out, locked_word : Out(WordLayout)
        The walk whose exclusive access begins in this cycle; the word.
    read : Out(stream of TableReadLayout)
        The reads.
    """

    want: Signal
    walk: Signal
    word: data.View
    barred: Signal
    retry: Signal
    locked: Signal
    locking: Signal
    locker: Signal
    locked_word: data.View
    read: stream.Interface

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "want": In(1),
                "walk": In(config.walk_bits),
                "word": In(WordLayout(config)),
                "barred": In(1),
                "retry": In(1),
                "locked": In(1),
                "locking": Out(1),
                "locker": Out(config.walk_bits),
                "locked_word": Out(WordLayout(config)),
                "read": Out(stream.Signature(TableReadLayout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the output register and the memory of words behind it."""
        m = Module()
        config, read = self.config, self.read
        m.submodules.words = words = memory.Memory(
            shape=WordLayout(config), depth=1 << config.walk_bits, init=[]
        )
        writer, reader = words.write_port(), words.read_port(domain="comb")
        waiting = Signal(config.walks)
        exclusive = Signal(config.walks)
        occupied, fresh = Signal(), Signal()
        # Those whose word, asked for in the cycle before, is not needed.
        dropped = Signal(config.walks)
        free = Signal()
        may = waiting & ~dropped & ~(exclusive & self.locked.replicate(config.walks))
        pick = in_turn(m, may, free, name="pick")
        at_once = Signal()
        mine = Cat(self.walk == i for i in range(config.walks))
        m.d.comb += [
            writer.addr.eq(self.walk),
            writer.data.eq(self.word),
            writer.en.eq(self.want),
            reader.addr.eq(encoded(pick)),
            read.valid.eq(occupied & ~(fresh & dropped.any())),
            free.eq(~read.valid | read.ready),
            at_once.eq(free & ~may.any()),
            self.locking.eq(free & (pick & exclusive).any()),
            self.locker.eq(reader.addr),
            self.locked_word.eq(reader.data),
        ]
        m.d.sync += [
            dropped.eq(Mux(self.barred, mine, 0)),
            fresh.eq(at_once),
            waiting.eq(
                (waiting & ~dropped & ~Mux(free, pick, 0))
                | Mux(self.retry | (self.want & ~at_once), mine, 0)
            ),
        ]
        with m.If(free):
            m.d.sync += occupied.eq(may.any() | self.want)
            with m.If(may.any()):
                m.d.sync += [
                    read.payload.walk.eq(reader.addr),
                    read.payload.word.eq(reader.data),
                    read.payload.lock.eq(self.locking),
                ]
            with m.Else():
                m.d.sync += [
                    read.payload.walk.eq(self.walk),
                    read.payload.word.eq(self.word),
                    read.payload.lock.eq(0),
                ]
        with m.If(self.want | self.retry):
            m.d.sync += exclusive.eq((exclusive & ~mine) | Mux(self.retry, mine, 0))
        return m
