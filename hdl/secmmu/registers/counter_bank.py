"""The counter bank: events and latencies of the whole MMU in one block RAM."""

from collections.abc import Sequence
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from secmmu.block_ram import BlockRam
from secmmu.csr import BUCKETS
from secmmu.layouts import WORD_BITS
from secmmu.registers.counters import (
    AGE_BITS,
    BUCKET_BITS,
    Histogram,
    LatencyLayout,
    code_bits,
    following,
    ordinals,
)

__all__ = ["ANSWER_CYCLES", "CounterBank"]

ANSWER_CYCLES = 6
"""From the visit of a counter to the answer."""
SLACK = BUCKETS + 4
"""Cycles beyond a round between two visits: while the histograms are cleared, and while the pointer sets out."""


class CounterBank(wiring.Component):
    """Counters of 64 bits, one block RAM word each: those of events, then the buckets of histograms.

    Each counter has a small code in front that goes one on with each event and never stops. A pointer goes round and
    visits one of them a cycle: how far it has gone since the last visit, which its word tells, is added to the word.
    After a round without an event the pointer rests at the first counter. A counter that is asked for is read when the
    pointer comes by, so the answer is exact.

    Parameters
    ----------
    names : sequence of str
        Of the counters, each an identifier; at least 4.
    histograms : sequence of str
        Of the histograms, each an identifier.
    observe : bool
        As in the configuration.

    Members
    -------
    events : In(StructLayout of one bit each)
        What happens in this cycle.
    now : In(AGE_BITS), latencies : In(StructLayout of LatencyLayout)
        The clock, and what ends in this cycle; the latter is counted three cycles later.
    request : In(1), index : In
        Asks for a counter, until ``done``. Bucket ``b`` of histogram ``h`` is ``place(h) + b``.
    done : Out(1), value : Out(64)
        The counter, for one cycle, at most ``ANSWER_CYCLES`` more than one round later.
    busy : Out(1)
        The pointer does not rest. In the first round after a reset the words become zero.
    happening : Out(1)
        Something, other than a latency of this very cycle, is on its way into a code.
    """

    events: data.View
    now: Signal
    latencies: data.View
    request: Signal
    index: Signal
    done: Signal
    value: Signal
    busy: Signal
    happening: Signal

    def __init__(
        self, names: Sequence[str], histograms: Sequence[str] = (), *, observe: bool
    ) -> None:
        self._names = names
        self._observe = observe
        self._histograms = histograms
        self._round = self.place(len(histograms))
        super().__init__(
            {
                "events": In(data.StructLayout(dict.fromkeys(names, 1))),
                "now": In(AGE_BITS),
                "latencies": In(data.StructLayout({name: LatencyLayout() for name in histograms})),
                "request": In(1),
                "index": In(range(self._round)),
                "done": Out(1),
                "value": Out(WORD_BITS),
                "busy": Out(1, init=1),
                "happening": Out(1),
            }
        )

    def place(self, histogram: int) -> int:
        """Return the index of the first bucket of a histogram: a multiple of their number."""
        return (-(-len(self._names) // BUCKETS) + histogram) * BUCKETS

    def elaborate(self, platform: object) -> Module:
        """Build the codes, the pointer and the pipeline."""
        m = Module()
        bits = code_bits(self._round + SLACK)
        pointer = Signal(range(self._round))
        # A reset does not reach the codes of the histograms: the first cycles clear them.
        cleared = Signal(BUCKET_BITS + 1)
        fresh = Signal(init=1)
        lively = Signal()
        last = Signal()
        visits = Signal()
        # The same as the pointer, one bit each, where there are events.
        turn = Signal(len(self._names), init=1)
        code, counting = self._codes(m, bits, pointer, turn, cleared)
        happening = self.happening
        m.d.comb += [
            happening.eq(self.events.as_value().any() | counting),
            last.eq(pointer == self._round - 1),
            visits.eq(self.busy & cleared[-1]),
        ]
        with m.If(~cleared[-1]):
            m.d.sync += cleared.eq(cleared + 1)
        with m.Elif(self.busy):
            m.d.sync += [
                pointer.eq(Mux(last, 0, pointer + 1)),
                turn.eq(Cat(last, turn[:-1])),
                lively.eq(happening | (lively & ~last)),
            ]
            with m.If(last):
                m.d.sync += [fresh.eq(0), self.busy.eq(fresh | lively | happening | self.request)]
        with m.Elif(happening | self.request):
            m.d.sync += [self.busy.eq(1), lively.eq(happening)]
        asked = Signal(ANSWER_CYCLES)
        meant = visits & ~fresh & self.request & (pointer == self.index)
        m.d.sync += asked.eq(Cat(meant, asked[:-1]))
        m.d.comb += [
            self.done.eq(asked[-1]),
            self.value.eq(self._pour(m, code, pointer, visits, fresh)),
        ]
        return m

    def _codes(
        self, m: Module, bits: int, pointer: Signal, turn: Signal, cleared: Signal
    ) -> tuple[Value, Value]:
        """Build the codes; return that of the counter visited, and whether a latency is being counted."""
        codes: list[Value] = []
        counting: list[Value] = []
        for mine, name in zip(turn, self._names, strict=True):
            front = Signal(bits, name=f"front_{name}")
            with m.If(self.events[name]):
                m.d.sync += front.eq(following(front))
            codes.append(Mux(mine, front, 0))
        for number, name in enumerate(self._histograms):
            m.submodules[name] = histogram = Histogram(bits)
            m.d.comb += [
                histogram.now.eq(self.now),
                histogram.latency.eq(self.latencies[name]),
                histogram.clear.eq(~cleared[-1]),
                histogram.bucket.eq(Mux(cleared[-1], pointer, cleared)),
            ]
            mine = pointer[BUCKET_BITS:] == self.place(number) // BUCKETS
            codes.append(Mux(mine, histogram.code, 0))
            counting.append(histogram.busy)
        return reduce(or_, codes), Cat(counting).any()

    def _pour(
        self, m: Module, code: Value, pointer: Signal, visits: Signal, fresh: Signal
    ) -> Value:
        """Add to the word of the counter visited how far its code has gone since; return the sum when it is there."""
        bits = len(code)
        layout = data.StructLayout({"count": WORD_BITS, "place": bits})
        # A word is written ``ANSWER_CYCLES`` after it was read, and read again a round later: that is longer.
        m.submodules.words = words = BlockRam(
            layout, depth=1 << len(pointer), observe=self._observe
        )
        m.submodules.places = places = memory.Memory(
            shape=bits, depth=1 << bits, init=ordinals(bits), attrs={"rom_style": "block"}
        )
        look = places.read_port()
        going = Signal(ANSWER_CYCLES)
        which = [Signal.like(pointer, name=f"which{stage}") for stage in range(ANSWER_CYCLES)]
        # Without a reset the flip-flops have theirs left for ``clearing``.
        counts = [
            Signal(WORD_BITS, name=f"count{stage}", reset_less=True) for stage in (2, 3, 4, 5)
        ]
        now = [Signal(bits, name=f"now{stage}") for stage in (3, 4, 5)]
        before = [Signal(bits, name=f"before{stage}", reset_less=True) for stage in (2, 3)]
        visited = Signal(bits)
        clearing = Signal()
        ahead = Signal(signed(bits + 1))
        steps = Signal(bits)
        m.d.comb += [
            words.read.eq(1),
            words.read_place.eq(pointer),
            look.addr.eq(visited),
            words.write.eq(going[-1]),
            words.write_place.eq(which[-1]),
        ]
        m.d.sync += [
            going.eq(Cat(visits, going[:-1])),
            Cat(which).eq(Cat(pointer, *which[:-1])),
            visited.eq(code),
            clearing.eq(fresh),
            counts[0].eq(Mux(clearing, 0, words.shown.count)),
            before[0].eq(Mux(clearing, 0, words.shown.place)),
            Cat(counts[1:]).eq(Cat(counts[:-1])),
            before[1].eq(before[0]),
            Cat(now).eq(Cat(look.data, *now[:-1])),
            # Modulo the length of the sequence, one less than a power of two.
            ahead.eq(now[0] - before[1]),
            steps.eq(ahead[:-1] - ahead[-1]),
            words.item.count.eq(counts[-1] + steps),
            words.item.place.eq(now[-1]),
        ]
        return words.item.count
