"""The store of W data that waits for its write."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from secmmu.block_ram import BlockRam
from secmmu.config import SecmmuConfig
from secmmu.datapath.flight import stash_bits, stashes
from secmmu.datapath.waiting import StashedLayout
from secmmu.internals import WriteBeatLayout
from secmmu.picks import chosen_ahead, encoded, lowest

__all__ = ["Stash"]


class Stash(wiring.Component):
    """Beats in chains, one chain a write; the beats of a chain stand anywhere.

    Parameters
    ----------
    config : SecmmuConfig
        ``write_beats``, ``waiters``.

    Members
    -------
    len : In(8), free : Out(1), number : Out
        For a write of that length: whether its data has room; the chain it would be.
    reserve : In(1)
        It gets that chain, and the room.
    put : In(1), beat : In(WriteBeatLayout), into : In
        The next beat of chain ``into``; those of one chain come in one go.
    stashed : Out(StashedLayout)
        A chain gets its last beat.
    whole : Out
        Chains that have all their beats.
    wanted : In(1), first : In
        The beats of the whole chain ``first`` are wanted; it stays the same up to its last beat.
    shown : Out(1), out : Out(WriteBeatLayout), take : In(1)
        The next of them, from the cycle after that in which the chain is wanted first; its removal.
    none : Out(1)
        No chain is reserved.
    """

    len: Signal
    free: Signal
    number: Signal
    reserve: Signal
    put: Signal
    beat: data.View
    into: Signal
    stashed: data.View
    whole: Signal
    wanted: Signal
    first: Signal
    shown: Signal
    out: data.View
    take: Signal
    none: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        chain = stash_bits(config)
        super().__init__(
            {
                "len": In(8),
                "free": Out(1),
                "number": Out(chain),
                "reserve": In(1),
                "put": In(1),
                "beat": In(WriteBeatLayout()),
                "into": In(chain),
                "stashed": Out(StashedLayout(config)),
                "whole": Out(stashes(config)),
                "wanted": In(1),
                "first": In(chain),
                "shown": Out(1),
                "out": Out(WriteBeatLayout()),
                "take": In(1),
                "none": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the reservations, the beats and their chains."""
        m = Module()
        config = self.config
        chains = Signal(stashes(config))
        room = Signal(range(config.write_beats + 1), init=config.write_beats)
        freed = Signal.like(room)
        left = Signal(len(room) + 9)
        used = Signal(config.write_beats)
        place = Signal(exact_log2(config.write_beats))
        # A cycle ahead: what is reserved is free for longer than that.
        next_free = chosen_ahead(m, ~used, self.put)
        m.submodules.beats = beats = BlockRam(
            WriteBeatLayout(), depth=config.write_beats, observe=config.observe
        )
        # Which beat is the last must be known sooner than block RAM tells.
        m.submodules.lasts = lasts = memory.Memory(shape=1, depth=config.write_beats, init=[])
        m.submodules.links = links = memory.Memory(
            shape=len(place), depth=config.write_beats, init=[]
        )
        m.d.comb += [
            freed.eq(room + self.take),
            left.eq(room - self.len - 1),
            self.free.eq(~chains.all() & ~left[-1]),
            self.number.eq(encoded(lowest(m, ~chains))),
            place.eq(encoded(next_free)),
            self.none.eq(~chains.any()),
        ]
        m.d.sync += room.eq(Mux(self.reserve, left + self.take, freed))
        starts = [Signal(len(place), name=f"start{i}") for i in range(stashes(config))]
        self._put(m, place, beats, (lasts, links), starts)
        at = self._take(m, beats, (lasts, links), starts)
        for i in range(config.write_beats):
            with m.If(self.put & next_free[i]):
                m.d.sync += used[i].eq(1)
            with m.Elif(self.take & (at == i)):
                m.d.sync += used[i].eq(0)
        for i in range(stashes(config)):
            with m.If(self.reserve & (self.number == i)):
                m.d.sync += chains[i].eq(1)
            with m.If(self.stashed.valid & (self.stashed.stash == i)):
                m.d.sync += self.whole[i].eq(1)
            with m.If(self.take & self.out.last & (self.first == i)):
                m.d.sync += [chains[i].eq(0), self.whole[i].eq(0)]
        return m

    def _put(
        self,
        m: Module,
        place: Signal,
        beats: BlockRam,
        memories: tuple[memory.Memory, memory.Memory],
        starts: list[Signal],
    ) -> None:
        """Store a beat in a free place and link it to the one before."""
        inside = Signal()
        before = Signal.like(place)
        last, link = (each.write_port() for each in memories)
        m.d.comb += [
            beats.write.eq(self.put),
            beats.write_place.eq(place),
            beats.item.eq(self.beat),
            last.en.eq(self.put),
            last.addr.eq(place),
            last.data.eq(self.beat.last),
            link.en.eq(self.put & inside),
            link.addr.eq(before),
            link.data.eq(place),
            self.stashed.valid.eq(self.put & self.beat.last),
            self.stashed.stash.eq(self.into),
        ]
        with m.If(self.put):
            m.d.sync += [before.eq(place), inside.eq(~self.beat.last)]
            with m.If(~inside):
                m.d.sync += Array(starts)[self.into].eq(place)

    def _take(
        self,
        m: Module,
        beats: BlockRam,
        memories: tuple[memory.Memory, memory.Memory],
        starts: list[Signal],
    ) -> Signal:
        """Show the next beat of a chain; return its place."""
        at, follows = Signal.like(starts[0]), Signal.like(starts[0])
        last, link = (each.read_port(domain="comb") for each in memories)
        ends = Signal()
        moves = self.take | (self.wanted & ~self.shown)
        m.d.comb += [
            link.addr.eq(at),
            follows.eq(Mux(self.shown, link.data, Array(starts)[self.first])),
            beats.read_place.eq(follows),
            beats.read.eq(moves),
            last.addr.eq(follows),
            self.out.eq(beats.shown),
            self.out.last.eq(ends),
        ]
        with m.If(moves):
            m.d.sync += [at.eq(follows), self.shown.eq(~(self.shown & ends)), ends.eq(last.data)]
        return at
