"""The rules of AXI (Arm IHI 0022, AXI4) as values: asserted of the MMU's side of a port, assumed of the other side."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike

from secmmu.axi import Burst
from secmmu.layouts import PAGE_BITS

__all__ = ["ADDRESS", "ReadLedger", "WriteLedger", "channel", "so_far", "stays", "within_page"]

ADDRESS = ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "user")
"""What an address beat says."""
WIDEST = 3
"""AxSIZE of eight bytes."""


def channel(port: object, prefix: str, fields: tuple[str, ...]) -> Cat:
    """Return the payload of a channel."""
    return Cat(getattr(port, prefix + field) for field in fields)


def so_far(m: Module, rule: Value) -> Value:
    """Return whether a rule holds and has held in every cycle: in the last one it is all that a solver has to ask."""
    held, holds = Signal(init=1), Signal()
    m.d.comb += holds.eq(held & rule)
    m.d.sync += held.eq(holds)
    return holds


def stays(m: Module, valid: Value, ready: Value, payload: ValueLike) -> Value:
    """Return whether what was offered and not taken is still offered, unchanged (A3.2.1)."""
    now = Cat(payload)
    waited, before = Signal(), Signal(len(now))
    m.d.sync += [waited.eq(valid & ~ready), before.eq(now)]
    return ~waited | (valid & (now == before))


def within_page(port: object, prefix: str) -> Value:
    """Return whether a burst is no wider than the bus, and stays in its 4 KiB if it increments (A3.4.1)."""
    address, size = getattr(port, f"{prefix}addr"), getattr(port, f"{prefix}size")
    beat = Cat((size > i) for i in range(WIDEST))
    start = address[:PAGE_BITS] & ~Cat(beat, Const(0, PAGE_BITS - WIDEST))
    last = start + (getattr(port, f"{prefix}len") << size[:2])
    return (size <= WIDEST) & (
        (getattr(port, f"{prefix}burst") != Burst.INCR) | (last < (1 << PAGE_BITS))
    )


class ReadLedger:
    """The reads of a port that are owed an answer: for each id in order, and how many beats the oldest has had.

    Parameters
    ----------
    m : Module
        Where it is built.
    port : AXI4 interface
        Followed from its AR and R handshakes on.
    depth : int
        Reads of one id at once; the port must not take more, which :attr:`fits` says.
    """

    def __init__(self, m: Module, port: object, *, depth: int) -> None:
        ids = 1 << len(port.arid)
        begins, moves = port.arvalid & port.arready, port.rvalid & port.rready
        ends = moves & port.rlast
        some, last, fits = [], [], []
        for number in range(ids):
            lens = [Signal(8, name=f"len{number}_{i}") for i in range(depth)]
            count = Signal(range(depth + 2), name=f"reads{number}")
            beat = Signal(8, name=f"beat{number}")
            comes, goes = begins & (port.arid == number), ends & (port.rid == number)
            with m.If(moves & (port.rid == number)):
                m.d.sync += beat.eq(Mux(port.rlast, 0, beat + 1))
            _shift(m, lens, count, comes, goes, port.arlen)
            some.append(count != 0)
            last.append(beat == lens[0])
            fits.append(~comes | (count < depth) | goes)
        self.fits: Value = Cat(fits).all()
        """Whether no more is taken than there is room for."""
        self.some: Value = Cat(some)
        """Per id, whether a beat is owed."""
        self.last: Value = Cat(last)
        """Per id, whether the next beat is the last of its burst."""

    def allows(self, port: object) -> Value:
        """Return whether the beat on R, if any, is owed, and the last where it must be (A5.3, A3.4.1)."""
        number = port.rid
        due = self.some.bit_select(number, 1)
        return ~port.rvalid | (due & (port.rlast == self.last.bit_select(number, 1)))


class WriteLedger:
    """The writes of a port: whose data is to come, in order, and which are owed an answer.

    Parameters
    ----------
    m : Module
        Where it is built.
    port : AXI4 interface
        Followed from its handshakes on; a write's data may come from the first cycle of its AWVALID on.
    depth : int
        Writes of one id at once.
    """

    def __init__(self, m: Module, port: object, *, depth: int) -> None:
        ids = 1 << len(port.awid)
        total = depth * ids + 1
        offered, moves = Signal(), port.wvalid & port.wready
        begins = port.awvalid & ~offered
        m.d.sync += offered.eq(port.awvalid & ~port.awready)
        lens = [Signal(8 + len(port.awid), name=f"write{i}") for i in range(total)]
        count, beat = Signal(range(total + 1)), Signal(8)
        over = moves & port.wlast
        coming = Cat(port.awlen, port.awid)
        head = Mux(count == 0, coming, lens[0])
        _shift(m, lens, count, begins, over, coming)
        with m.If(moves):
            m.d.sync += beat.eq(Mux(port.wlast, 0, beat + 1))
        self.owed: Value = (count != 0) | begins
        """Whether data is to come."""
        self.last: Value = beat == head[:8]
        """Whether the next beat is the last of its burst."""
        self.fits: Value = ~begins | (count < total)
        """Whether there is room for one more."""
        answerable, some = [], []
        for number in range(ids):
            counts = []
            ends = port.bvalid & port.bready & (port.bid == number)
            for name, gains in (
                ("addressed", port.awvalid & port.awready & (port.awid == number)),
                ("supplied", over & (head[8:] == number)),
            ):
                many = Signal(range(depth + 2), name=f"{name}{number}")
                m.d.sync += many.eq(many + gains - ends)
                counts.append(many)
            answerable.append((counts[0] != 0) & (counts[1] != 0))
            some.append(counts[0] != 0)
        self.answerable: Value = Cat(answerable)
        """Per id, whether the oldest write has its address and all its data, and no answer."""
        self.some: Value = Cat(some)
        """Per id, whether an answer is owed, now or later."""

    def allows_data(self, port: object) -> Value:
        """Return whether the beat on W, if any, belongs to a write and is the last where it must be."""
        return ~port.wvalid | (self.owed & (port.wlast == self.last))

    def allows_answer(self, port: object) -> Value:
        """Return whether the answer on B, if any, is owed: it comes after the address and the last data (A3.3.1)."""
        return ~port.bvalid | self.answerable.bit_select(port.bid, 1)


def _shift(
    m: Module, items: list[Signal], count: Signal, comes: Value, goes: Value, item: Value
) -> None:
    """Append to, and take from, a queue whose head is ``items[0]``."""
    m.d.sync += count.eq(count + comes - goes)
    for i, kept in enumerate(items):
        behind = items[i + 1] if i + 1 < len(items) else kept
        here = comes & (count - goes == i)
        m.d.sync += kept.eq(Mux(here, item, Mux(goes, behind, kept)))
