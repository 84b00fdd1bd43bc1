"""Event counters in one block RAM, and latency histograms in distributed RAM."""

from collections.abc import Mapping

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from secmmu.csr import BUCKETS
from secmmu.layouts import WORD_BITS

__all__ = ["AGE_BITS", "BUCKET_BITS", "CounterBank", "Histogram", "LatencyLayout"]

AGE_BITS = 20
"""Width of the clock that latencies are measured with: longer ones are counted modulo 2**20 cycles."""

BUCKET_BITS = 40


class CounterBank(wiring.Component):
    """Counters of 64 bits, one block RAM word each.

    Each counter has a small register in front that adds what happens in every cycle. A pointer goes round and pours one
    of them a cycle into its word: read, add, write back, one cycle each. A request empties that pipeline and then
    pours the register asked for, so the answer is exact, and takes the same time whenever three cycles or more lie
    between two requests.

    Parameters
    ----------
    widths : mapping of str to int
        Bits of each counter's increment, by a name that is an identifier; at least 4 counters.

    Members
    -------
    events : In(StructLayout of ``widths``)
        How often each thing happens in this cycle.
    request : In(1), index : In
        Asks for a counter, until ``done``.
    done : Out(1), value : Out(64)
        The counter, for one cycle.
    busy : Out(1)
        The first round after a reset, in which the words become zero, is going on.
    """

    events: data.View
    request: Signal
    index: Signal
    done: Signal
    value: Signal
    busy: Signal

    def __init__(self, widths: Mapping[str, int]) -> None:
        self._widths = dict(widths)
        super().__init__(
            {
                "events": In(data.StructLayout(self._widths)),
                "request": In(1),
                "index": In(range(len(widths))),
                "done": Out(1),
                "value": Out(WORD_BITS),
                "busy": Out(1, init=1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the registers in front, the pointer and the pipeline."""
        m = Module()
        count = len(self._widths)
        words = memory.Memory(shape=WORD_BITS, depth=1 << (count - 1).bit_length(), init=[])
        m.submodules.words = words
        reader, writer = words.read_port(), words.write_port()
        pointer = Signal(range(count))
        visited = Signal(range(count))
        visit = Signal()
        asking = Signal()
        # What is under way in the stages read, add and write.
        going = Signal(3)
        asked = Signal(3)
        m.d.comb += [
            asking.eq(self.request & ~self.busy),
            visited.eq(Mux(asking, self.index, pointer)),
            visit.eq(~asking | (going == 0)),
            reader.addr.eq(visited),
        ]
        m.d.sync += [
            going.eq(Cat(visit, going[:2])),
            asked.eq(Cat(visit & asking, asked[:2])),
        ]
        with m.If(~asking):
            m.d.sync += pointer.eq(Mux(pointer == count - 1, 0, pointer + 1))
            with m.If(pointer == count - 1):
                m.d.sync += self.busy.eq(0)
        self._pour(m, visit, visited, reader, writer)
        m.d.comb += [
            writer.en.eq(going[2]),
            self.done.eq(going[2] & asked[2]),
            self.value.eq(writer.data),
        ]
        return m

    def _pour(
        self,
        m: Module,
        visit: Signal,
        visited: Signal,
        reader: memory.ReadPort,
        writer: memory.WritePort,
    ) -> None:
        """Take what the register in front of ``visited`` holds and add it to its word."""
        # A round takes at most twice as many cycles as there are counters, requests included.
        margin = (2 * len(self._widths)).bit_length()
        fronts = []
        for position, (name, width) in enumerate(self._widths.items()):
            front = Signal(width + margin, name=f"front_{name}")
            kept = Mux(visit & (visited == position), 0, front)
            m.d.sync += front.eq(kept + self.events[name])
            fronts.append(front)
        taken = [Signal(max(map(len, fronts)), name=f"taken{stage}") for stage in range(2)]
        place = [Signal.like(visited, name=f"place{stage}") for stage in range(2)]
        fresh = Signal()
        word = Signal(WORD_BITS)
        m.d.sync += [
            taken[0].eq(Array(fronts)[visited]),
            place[0].eq(visited),
            fresh.eq(self.busy),
            taken[1].eq(taken[0]),
            place[1].eq(place[0]),
            word.eq(Mux(fresh, 0, reader.data)),
            writer.addr.eq(place[1]),
            writer.data.eq(word + taken[1]),
        ]


class LatencyLayout(data.StructLayout):
    """The end of something whose latency counts: ``began`` is the clock when it began."""

    def __init__(self) -> None:
        super().__init__({"valid": 1, "began": AGE_BITS})


class Histogram(wiring.Component):
    """Counts latencies by their logarithm: bucket ``i`` those of ``2**i`` to ``2**(i+1) - 1`` cycles, the last all above.

    A latency of 0 counts as 1. One a cycle; it is in its bucket three cycles later.

    Members
    -------
    now : In(AGE_BITS)
        The clock.
    latency : In(LatencyLayout)
        What ends in this cycle.
    bucket : In, count : Out(BUCKET_BITS)
        Reads a bucket, in the same cycle.
    """

    now: Signal
    latency: data.View
    bucket: Signal
    count: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "now": In(AGE_BITS),
                "latency": In(LatencyLayout()),
                "bucket": In(range(BUCKETS)),
                "count": Out(BUCKET_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the logarithm and the counting."""
        m = Module()
        m.submodules.counts = counts = memory.Memory(shape=BUCKET_BITS, depth=BUCKETS, init=[])
        reader, counter = (counts.read_port(domain="comb") for _ in range(2))
        writer = counts.write_port()
        # A reset does not reach the memory.
        known = Signal(BUCKETS)
        age = Signal(AGE_BITS)
        aged = Signal()
        found = Signal(range(BUCKETS))
        counting = Signal()
        m.d.sync += [
            age.eq(self.now - self.latency.began),
            aged.eq(self.latency.valid),
            counting.eq(aged),
            found.eq(0),
        ]
        for bit in range(1, AGE_BITS):
            with m.If(age[bit]):
                m.d.sync += found.eq(min(bit, BUCKETS - 1))
        m.d.comb += [
            counter.addr.eq(found),
            writer.addr.eq(found),
            writer.data.eq(Mux(known.bit_select(found, 1), counter.data, 0) + 1),
            writer.en.eq(counting),
            reader.addr.eq(self.bucket),
            self.count.eq(Mux(known.bit_select(self.bucket, 1), reader.data, 0)),
        ]
        with m.If(counting):
            m.d.sync += known.bit_select(found, 1).eq(1)
        return m
