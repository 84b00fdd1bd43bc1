"""Write data to the memory and write responses back, with the answers to refused writes."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import RefusalLayout, WriteBeatLayout, WriteResponseLayout
from secmmu.layouts import Response
from secmmu.use_order import DEPTH

__all__ = ["WriteReturn"]


class WriteReturn(wiring.Component):
    """Passes W to the memory, after its AW was presented and never before, and B back.

    W may run beside an AW that is presented and not yet taken: a subordinate may wait for WVALID before it takes
    the AW (AXI4, A3.3.1). The W data of a refused write is swallowed when that of all earlier writes has gone;
    its B, SLVERR, follows when nothing of its id is outstanding.

    Parameters
    ----------
    config : SecmmuConfig
        ``id_bits``.

    Members
    -------
    begin : In(1)
        An AW is presented in the next cycle: one more burst of W belongs to the memory.
    device_data : In(stream of WriteBeatLayout), memory_data : Out(stream of WriteBeatLayout)
        The W channels.
    memory_response : In(stream of WriteResponseLayout), device_response : Out(stream of WriteResponseLayout)
        The B channels.
    refusal : In(stream of RefusalLayout)
        The write to refuse; taken with its B.
    none : In
        For each id, whether nothing is outstanding.
    """

    begin: Signal
    device_data: stream.Interface
    memory_data: stream.Interface
    memory_response: stream.Interface
    device_response: stream.Interface
    refusal: stream.Interface
    none: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "begin": In(1),
                "device_data": In(stream.Signature(WriteBeatLayout())),
                "memory_data": Out(stream.Signature(WriteBeatLayout())),
                "memory_response": In(stream.Signature(WriteResponseLayout(config))),
                "device_response": Out(stream.Signature(WriteResponseLayout(config))),
                "refusal": In(stream.Signature(RefusalLayout(config))),
                "none": In(1 << config.id_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the W route and the choice between the two sources of B."""
        m = Module()
        # Bursts of W that the memory has still to get; what is outstanding bounds it.
        owed = Signal(range((DEPTH << self.config.id_bits) + 1))
        data_in, data_out = self.device_data, self.memory_data
        response = self.device_response
        sent = Signal()
        m.d.comb += [
            data_out.payload.eq(data_in.payload),
            data_out.valid.eq(data_in.valid & (owed != 0)),
            sent.eq(data_out.valid & data_out.ready & data_out.payload.last),
        ]
        with m.If(owed != 0):
            m.d.comb += data_in.ready.eq(data_out.ready)
        m.d.sync += owed.eq(owed + self.begin - sent)

        swallowed = Signal()
        due = self.refusal.valid & swallowed & self.none.bit_select(self.refusal.payload.id, 1)
        with m.If(self.refusal.valid & ~swallowed & (owed == 0)):
            m.d.comb += data_in.ready.eq(1)
            with m.If(data_in.valid & data_in.payload.last):
                m.d.sync += swallowed.eq(1)
        with m.FSM():
            with m.State("Pass"):
                wiring.connect(m, wiring.flipped(self.memory_response), wiring.flipped(response))
                # A B that is offered must stay: change over only when none is, or when it goes.
                with m.If(due & (~self.memory_response.valid | response.ready)):
                    m.next = "Refuse"
            with m.State("Refuse"):
                m.d.comb += [
                    response.valid.eq(1),
                    response.payload.id.eq(self.refusal.payload.id),
                    response.payload.resp.eq(Response.SLVERR),
                    self.refusal.ready.eq(response.ready),
                ]
                with m.If(response.ready):
                    m.d.sync += swallowed.eq(0)
                    m.next = "Pass"
        return m
