"""What counts events from one visit of the counter bank to the next: a code in flip-flops, or one a bucket of a histogram."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from secmmu.csr import BUCKETS

__all__ = [
    "AGE_BITS",
    "BUCKET_BITS",
    "Histogram",
    "LatencyLayout",
    "code_bits",
    "following",
    "ordinals",
]

AGE_BITS = 20
"""Width of the clock that latencies are measured with: longer ones are counted modulo 2**20 cycles."""

BUCKET_BITS = exact_log2(BUCKETS)

_TAPS = {3: 1, 4: 2, 5: 2, 6: 4, 7: 5}
"""By width: the bit that with the last one makes the longest sequence (Xilinx XAPP052, table 3, counted from 0)."""


def code_bits(events: int) -> int:
    """Return the width of a code that tells 0 to ``events`` steps apart.

    Raises
    ------
    ValueError
        There are too many.
    """
    for bits in _TAPS:
        if events < (1 << bits) - 1:
            return bits
    raise ValueError(f"events must be at most {(1 << max(_TAPS)) - 2}, not {events}")


def following(code: Value) -> Value:
    """Return what comes after ``code`` in the sequence 0, ... of all codes but the one of ones alone.

    One LUT whatever the width, where a sum takes one a bit and more.
    """
    return Cat(~(code[-1] ^ code[_TAPS[len(code)]]), code[:-1])


def ordinals(bits: int) -> list[int]:
    """Return the place in the sequence of each code of this width."""
    places = [0] * (1 << bits)
    code = 0
    for place in range((1 << bits) - 1):
        places[code] = place
        new = ~(code >> (bits - 1) ^ code >> _TAPS[bits]) & 1
        code = (code << 1 | new) & (1 << bits) - 1
    return places


class LatencyLayout(data.StructLayout):
    """The end of something whose latency counts: ``began`` is the clock when it began."""

    def __init__(self) -> None:
        super().__init__({"valid": 1, "began": AGE_BITS})


class Histogram(wiring.Component):
    """Counts latencies by their logarithm: bucket ``i`` those of ``2**i`` to ``2**(i+1) - 1`` cycles, the last all above.

    A latency of 0 counts as 1. One a cycle; three cycles later the code of its bucket has gone one on.

    Parameters
    ----------
    bits : int
        Width of a code.

    Members
    -------
    now : In(AGE_BITS)
        The clock.
    latency : In(LatencyLayout)
        What ends in this cycle.
    clear : In(1)
        The code of ``bucket`` becomes 0, nothing is counted.
    bucket : In, code : Out
        Reads a code, in the same cycle.
    busy : Out(1)
        What ended in an earlier cycle is being counted.
    """

    now: Signal
    latency: data.View
    clear: Signal
    bucket: Signal
    code: Signal
    busy: Signal

    def __init__(self, bits: int) -> None:
        super().__init__(
            {
                "now": In(AGE_BITS),
                "latency": In(LatencyLayout()),
                "clear": In(1),
                "bucket": In(BUCKET_BITS),
                "code": Out(bits),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the logarithm and the counting."""
        m = Module()
        m.submodules.codes = codes = memory.Memory(shape=len(self.code), depth=BUCKETS, init=[])
        reader, counter = (codes.read_port(domain="comb") for _ in range(2))
        writer = codes.write_port()
        age = Signal(AGE_BITS)
        aged = Signal()
        found = Signal(BUCKET_BITS)
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
            self.busy.eq(aged | counting),
            counter.addr.eq(found),
            writer.addr.eq(Mux(self.clear, self.bucket, found)),
            writer.data.eq(Mux(self.clear, 0, following(counter.data))),
            writer.en.eq(counting | self.clear),
            reader.addr.eq(self.bucket),
            self.code.eq(reader.data),
        ]
        return m
