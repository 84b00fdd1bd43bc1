"""Read data back to the device, with the answers to refused reads."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import ReadBeatLayout, RefusalLayout
from secmmu.layouts import Response

__all__ = ["ReadReturn"]


class ReadReturn(wiring.Component):
    """Passes R beats through, and puts in SLVERR beats for refused reads.

    A refused read of an id is answered when nothing of that id is outstanding, between two bursts of the memory.

    Parameters
    ----------
    config : SecmmuConfig
        ``id_bits``.

    Members
    -------
    memory : In(stream of ReadBeatLayout), device : Out(stream of ReadBeatLayout)
        The R channels; passed through without a cycle of delay.
    refusal : In(stream of RefusalLayout)
        The read to refuse; taken with the last beat of its answer.
    outstanding : In
        For each id, whether something is outstanding.
    """

    memory: stream.Interface
    device: stream.Interface
    refusal: stream.Interface
    outstanding: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "memory": In(stream.Signature(ReadBeatLayout(config))),
                "device": Out(stream.Signature(ReadBeatLayout(config))),
                "refusal": In(stream.Signature(RefusalLayout(config))),
                "outstanding": In(1 << config.id_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the choice between the two."""
        m = Module()
        source, sink = self.memory, self.device
        inside = Signal()
        inside_next = Signal()
        # Beats to come after this one; whether there are none is known a cycle ahead.
        rest = Signal(8)
        ends = Signal()
        due = self.refusal.valid & ~self.outstanding.bit_select(self.refusal.payload.id, 1)
        with m.FSM():
            with m.State("Pass"):
                wiring.connect(m, wiring.flipped(source), wiring.flipped(sink))
                m.d.comb += inside_next.eq(inside)
                with m.If(source.valid & sink.ready):
                    m.d.comb += inside_next.eq(~source.payload.last)
                # A beat that is offered must stay: change over only when none is, or when it goes.
                with m.If(due & ~inside_next & (~source.valid | sink.ready)):
                    m.next = "Refuse"
                m.d.sync += [
                    inside.eq(inside_next),
                    rest.eq(self.refusal.payload.len),
                    ends.eq(self.refusal.payload.len == 0),
                ]
            with m.State("Refuse"):
                m.d.comb += [
                    sink.valid.eq(1),
                    sink.payload.id.eq(self.refusal.payload.id),
                    sink.payload.resp.eq(Response.SLVERR),
                    sink.payload.last.eq(ends),
                    self.refusal.ready.eq(sink.ready & ends),
                ]
                with m.If(sink.ready):
                    m.d.sync += [rest.eq(rest - 1), ends.eq(rest == 1)]
                    with m.If(ends):
                        m.next = "Pass"
        return m
