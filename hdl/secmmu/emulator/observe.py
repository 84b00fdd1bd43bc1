"""The event collector: every event of an emulated cycle becomes a record, in order, without disturbing the cycle."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from secmmu.layouts import CYCLE_BITS, WORD_BITS, Event, RecordLayout

__all__ = ["RECORD_QUEUE", "Collector", "EventLayout", "EventSignature"]

RECORD_QUEUE = 64
"""Records that wait for the carrier before the emulated clock freezes."""


class EventLayout(data.StructLayout):
    """A record without its cycle."""

    def __init__(self) -> None:
        super().__init__(
            {"kind": Event, "source": 8, "tag": 16, "arg": 32, "a": WORD_BITS, "b": WORD_BITS}
        )


class EventSignature(wiring.Signature):
    """One source of events, seen from the source: an event happens in each emulated cycle with ``valid`` = 1.

    Both members must depend on frozen state only, so that they stay while the emulated clock stands
    still.
    """

    def __init__(self) -> None:
        super().__init__({"valid": Out(1), "payload": Out(EventLayout())})


class Collector(wiring.Component):
    """Turns the events of one emulated cycle into records and grants the cycle.

    A cycle that is wanted (``enable``) is shown its own events while it still stands: they are
    stored one a clock in the order of the lanes, and the clock that stores the last of them is the
    one that ``run`` lets through. A cycle with no event or one therefore takes one clock, a cycle
    with n events n clocks; a full queue makes any of them wait. Records are in cycle order, none is
    lost, and what the emulated part does depends on none of this.

    ``seen`` has the bit of each record kind stored since ``clear``; it changes only between cycles.

    Parameters
    ----------
    lanes : int
        Number of event sources.

    Members
    -------
    lanes : In(EventSignature) array
        The sources, in the order in which events of one cycle are recorded.
    enable : In(1)
        The cycle is wanted; must not fall while ``run`` is 0 and ``busy`` is 1.
    run : Out(1)
        The emulated part does the cycle in this clock.
    busy : Out(1)
        Part of the cycle's events are stored.
    quiet : Out(1)
        No lane has an event.
    cycle : In(64)
        The emulated cycle counter.
    direct : In(stream of RecordLayout)
        The endpoint's own records, taken while ``enable`` is 0.
    clear : In(1)
        Empties ``seen``.
    seen : Out(32)
        See above.
    records : Out(stream of RecordLayout)
        To the carrier.
    """

    direct: stream.Interface
    records: stream.Interface

    def __init__(self, lanes: int) -> None:
        super().__init__(
            {
                "lanes": In(EventSignature()).array(lanes),
                "enable": In(1),
                "run": Out(1),
                "busy": Out(1),
                "quiet": Out(1),
                "cycle": In(CYCLE_BITS),
                "direct": In(stream.Signature(RecordLayout())),
                "clear": In(1),
                "seen": Out(32),
                "records": Out(stream.Signature(RecordLayout())),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build the queue, the choice of the next event and the grant of the cycle."""
        m = Module()
        count = len(self.lanes)
        m.submodules.queue = queue = SyncFIFOBuffered(width=RecordLayout().size, depth=RECORD_QUEUE)
        valid = Signal(count)
        served = Signal(count)
        pending = Signal(count)
        several = Signal()
        store = Signal()
        event = self._first(m, pending)
        record = Signal(RecordLayout())
        m.d.comb += [
            *(valid[index].eq(lane.valid) for index, lane in enumerate(self.lanes)),
            self.quiet.eq(valid == 0),
            self.busy.eq(served != 0),
            pending.eq(valid & ~served),
            several.eq((pending & (pending - 1)) != 0),
            store.eq(self.enable & (pending != 0) & queue.w_rdy),
            self.run.eq(self.enable & ((pending == 0) | (store & ~several))),
            queue.w_data.eq(record),
            queue.w_en.eq(Mux(self.enable, store, self.direct.valid)),
            self.direct.ready.eq(~self.enable & queue.w_rdy),
            self.records.payload.as_value().eq(queue.r_data),
            self.records.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.records.ready),
        ]
        with m.If(self.enable):
            m.d.comb += [record.cycle.eq(self.cycle)]
            m.d.comb += [record[name].eq(event[name]) for name, _ in EventLayout()]
        with m.Else():
            m.d.comb += record.eq(self.direct.payload)
        with m.If(self.run):
            m.d.sync += served.eq(0)
        with m.Elif(store):
            # pending ^ (pending & (pending - 1)) is its lowest bit, the one stored now.
            m.d.sync += served.eq(served | (pending ^ (pending & (pending - 1))))
        self._remember(m, record, queue.w_en & queue.w_rdy)
        return m

    def _first(self, m: Module, pending: Signal) -> data.View:
        """Return the event of the first pending lane."""
        event = Signal(EventLayout())
        with m.If(pending[0]):
            m.d.comb += event.eq(self.lanes[0].payload)
        for index in range(1, len(self.lanes)):
            with m.Elif(pending[index]):
                m.d.comb += event.eq(self.lanes[index].payload)
        return event

    def _remember(self, m: Module, record: data.View, stored: Value) -> None:
        """Keep ``seen``; the kinds of a half recorded cycle count only when the cycle is done."""
        partial = Signal(32)
        kinds = Signal(32)
        m.d.comb += kinds.eq(partial | Mux(stored, 1 << record.kind.as_value()[:5], 0))
        with m.If(self.enable & ~self.run):
            m.d.sync += partial.eq(kinds)
        with m.Else():
            m.d.sync += partial.eq(0)
            with m.If(self.clear):
                m.d.sync += self.seen.eq(0)
            with m.Else():
                m.d.sync += self.seen.eq(self.seen | kinds)
