"""Event counters in one block RAM, and latency histograms in distributed RAM."""

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from secmmu.csr import BUCKETS
from secmmu.layouts import WORD_BITS

__all__ = ["AGE_BITS", "BUCKET_BITS", "CounterBank", "Histogram", "LatencyLayout"]

AGE_BITS = 20
"""Width of the clock that latencies are measured with: longer ones are counted modulo 2**20 cycles."""

BUCKET_BITS = 32


class CounterBank(wiring.Component):
    """Counters of 64 bits, one block RAM word each.

    Each counter has a small register in front that adds what happens in every cycle. A pointer goes round and pours one
    of them a cycle into its word: read, add, write back, one cycle each. After a round without an event it rests at the
    first counter. A counter that is asked for is read when the pointer comes by, so the answer is exact.

    Parameters
    ----------
    names : sequence of str
        Of the counters, each an identifier; at least 4.

    Members
    -------
    events : In(StructLayout of one bit each)
        What happens in this cycle.
    request : In(1), index : In
        Asks for a counter, until ``done``.
    done : Out(1), value : Out(64)
        The counter, for one cycle, at most three cycles more than one round later.
    busy : Out(1)
        The pointer does not rest. In the first round after a reset the words become zero.
    """

    events: data.View
    request: Signal
    index: Signal
    done: Signal
    value: Signal
    busy: Signal

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        super().__init__(
            {
                "events": In(data.StructLayout(dict.fromkeys(names, 1))),
                "request": In(1),
                "index": In(range(len(names))),
                "done": Out(1),
                "value": Out(WORD_BITS),
                "busy": Out(1, init=1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the registers in front, the pointer and the pipeline."""
        m = Module()
        count = len(self._names)
        pointer = Signal(range(count))
        # The same, one bit each: what each register in front looks at.
        turn = Signal(count, init=1)
        fresh = Signal(init=1)
        lively = Signal()
        last = turn[-1]
        happening = self.events.as_value().any()
        with m.If(self.busy):
            m.d.sync += [
                pointer.eq(Mux(last, 0, pointer + 1)),
                turn.eq(turn.rotate_left(1)),
                lively.eq(happening | (lively & ~last)),
            ]
            with m.If(last):
                m.d.sync += [fresh.eq(0), self.busy.eq(fresh | lively | happening | self.request)]
        with m.Elif(happening | self.request):
            m.d.sync += [self.busy.eq(1), lively.eq(happening)]
        asked = Signal(3)
        m.d.sync += asked.eq(
            Cat(self.busy & ~fresh & self.request & (pointer == self.index), asked[:2])
        )
        sum_ = self._pour(m, pointer, turn, fresh)
        m.d.comb += [self.done.eq(asked[2]), self.value.eq(sum_)]
        return m

    def _pour(self, m: Module, pointer: Signal, turn: Signal, fresh: Signal) -> Value:
        """Take what the register in front holds whose turn it is, and add it to its word; return the sum."""
        words = memory.Memory(
            shape=WORD_BITS,
            depth=1 << len(pointer),
            init=[],
            # Left alone, synthesis takes twice as many LUTs for distributed RAM.
            attrs={"ram_style": "block"},
        )
        m.submodules.words = words
        reader, writer = words.read_port(), words.write_port()
        fronts = self._fronts(m, turn)
        going = Signal(3)
        taken = [Signal(len(fronts[0]), name=f"taken{stage}") for stage in range(2)]
        place = [Signal.like(pointer, name=f"place{stage}") for stage in range(2)]
        clearing = Signal()
        word = Signal(WORD_BITS)
        m.d.comb += [reader.addr.eq(pointer), writer.en.eq(going[2])]
        m.d.sync += [
            going.eq(Cat(self.busy, going[:2])),
            taken[0].eq(Array(fronts)[pointer]),
            place[0].eq(pointer),
            clearing.eq(fresh),
            taken[1].eq(taken[0]),
            place[1].eq(place[0]),
            word.eq(Mux(clearing, 0, reader.data)),
            writer.addr.eq(place[1]),
            writer.data.eq(word + taken[1]),
        ]
        return writer.data

    def _fronts(self, m: Module, turn: Signal) -> list[Signal]:
        """Build the registers in front, each wide enough for what may happen in one round."""
        bits = len(self._names).bit_length()
        fronts = []
        for position, name in enumerate(self._names):
            front = Signal(bits, name=f"front_{name}")
            poured = turn[position] & self.busy
            event = self.events[name]
            m.d.sync += front.eq(Mux(poured, event, _incremented(front, event)))
            fronts.append(front)
        return fronts


def _incremented(value: Signal, by: Signal) -> Value:
    """Return ``value`` plus the bit ``by``, without a carry chain: for so few bits that would be larger."""
    carries: list[Value] = [by]
    for bit in value[:-1]:
        carries.append(carries[-1] & bit)
    return value ^ Cat(carries)


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
    bucket : In, count : Out(32)
        Reads a bucket, in the same cycle.
    busy : Out(1)
        The first cycles after a reset, in which the buckets become zero and nothing is counted.
    """

    now: Signal
    latency: data.View
    bucket: Signal
    count: Signal
    busy: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "now": In(AGE_BITS),
                "latency": In(LatencyLayout()),
                "bucket": In(range(BUCKETS)),
                "count": Out(BUCKET_BITS),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the logarithm and the counting."""
        m = Module()
        m.submodules.counts = counts = memory.Memory(shape=BUCKET_BITS, depth=BUCKETS, init=[])
        reader, counter = (counts.read_port(domain="comb") for _ in range(2))
        writer = counts.write_port()
        # A reset does not reach the memory: the first cycles clear it.
        clearing = Signal(range(BUCKETS + 1))
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
            self.busy.eq(~clearing[-1]),
            counter.addr.eq(found),
            writer.addr.eq(Mux(self.busy, clearing, found)),
            writer.data.eq(Mux(self.busy, 0, counter.data + 1)),
            writer.en.eq(counting | self.busy),
            reader.addr.eq(self.bucket),
            self.count.eq(reader.data),
        ]
        with m.If(self.busy):
            m.d.sync += clearing.eq(clearing + 1)
        return m
