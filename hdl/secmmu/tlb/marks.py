"""What the page array remembers of hits: which entries were used, and which were used recently."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.tlb.replacement import Duel, touched

__all__ = ["Marks"]


class Marks(wiring.Component):
    """Two bits of each entry, in memories: *used* since software asked last, *recent* for the replacement.

    An entry is used where two memories differ, of which hits write one and questions the other: both in one cycle.
    Recent bits have one writer: a fill comes before a hit, whose mark is lost.

    Parameters
    ----------
    config : SecmmuConfig
        Geometry.

    Members
    -------
    hit : In(tlb_ways), hit_set : In
        The way that hits in this cycle: it is marked in the next.
    index : In, used : Out(tlb_ways), recent : Out(tlb_ways)
        A set, and the bits of its ways, in the same cycle.
    forget : In(tlb_ways)
        Ways of that set that are not used any more from the next cycle on.
    written : In(tlb_ways)
        The way of that set that gets a new entry in this cycle.
    """

    hit: Signal
    hit_set: Signal
    index: Signal
    used: Signal
    recent: Signal
    forget: Signal
    written: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "hit": In(config.tlb_ways),
                "hit_set": In(config.set_bits),
                "index": In(config.set_bits),
                "used": Out(config.tlb_ways),
                "recent": Out(config.tlb_ways),
                "forget": In(config.tlb_ways),
                "written": In(config.tlb_ways),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the three memories."""
        m = Module()
        hit, hit_set = Signal.like(self.hit), Signal.like(self.hit_set)
        # That an access goes on is known late in a cycle.
        m.d.sync += [hit.eq(self.hit), hit_set.eq(self.hit_set)]
        self._keep_used(m, hit, hit_set)
        self._keep_recent(m, hit, hit_set)
        return m

    def _memory(self) -> memory.Memory:
        return memory.Memory(shape=self.config.tlb_ways, depth=self.config.tlb_sets, init=[])

    def _keep_used(self, m: Module, hit: Signal, hit_set: Signal) -> None:
        m.submodules.seen = seen = self._memory()
        m.submodules.told = told = self._memory()
        seen_here, seen_hit = seen.read_port(domain="comb"), seen.read_port(domain="comb")
        told_here, told_hit = told.read_port(domain="comb"), told.read_port(domain="comb")
        seen_writer, told_writer = seen.write_port(), told.write_port()
        m.d.comb += [
            seen_here.addr.eq(self.index),
            told_here.addr.eq(self.index),
            self.used.eq(seen_here.data ^ told_here.data),
            told_writer.addr.eq(self.index),
            told_writer.en.eq(self.forget.any()),
            told_writer.data.eq(
                (told_here.data & ~self.forget) | (seen_here.data & self.forget),
            ),
            seen_hit.addr.eq(hit_set),
            told_hit.addr.eq(hit_set),
            seen_writer.addr.eq(hit_set),
            seen_writer.en.eq(hit.any()),
            seen_writer.data.eq((seen_hit.data & ~hit) | (~told_hit.data & hit)),
        ]

    def _keep_recent(self, m: Module, hit: Signal, hit_set: Signal) -> None:
        m.submodules.lately = lately = self._memory()
        m.submodules.duel = duel = Duel(self.config.set_bits)
        here, there = lately.read_port(domain="comb"), lately.read_port(domain="comb")
        writer = lately.write_port()
        m.d.comb += [
            here.addr.eq(self.index),
            there.addr.eq(hit_set),
            self.recent.eq(here.data),
            duel.index.eq(self.index),
            duel.fills.eq(self.written.any()),
            writer.addr.eq(hit_set),
            writer.en.eq(hit.any()),
            writer.data.eq(touched(there.data, hit)),
        ]
        with m.If(duel.fills):
            m.d.comb += [
                writer.addr.eq(self.index),
                writer.en.eq(1),
                writer.data.eq(
                    Mux(
                        duel.trusted,
                        touched(here.data, self.written),
                        here.data & ~self.written,
                    )
                ),
            ]
