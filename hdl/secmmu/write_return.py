"""Write responses back to the device, with the answers to refused and to ended writes."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import WriteResponseLayout
from secmmu.layouts import Response
from secmmu.use_order import position_bits
from secmmu.waiters import WriteRefusalLayout
from secmmu.write_buffer import DropLayout

__all__ = ["WriteReturn"]


class WriteReturn(wiring.Component):
    """Passes B through; puts in SLVERR for refused writes, and in the place of the answer to one that was ended.

    The data of a refused write is lost first. Its B follows when nothing older of its id is outstanding.

    Parameters
    ----------
    config : SecmmuConfig
        ``id_bits``, ``outstanding``.

    Members
    -------
    begin : In(1), position : In
        A write was presented first in this cycle; what names it.
    spoiled : In(1), spoiled_position : In, spoil_taken : Out(1)
        A write was ended; this is noted.
    memory : In(stream of WriteResponseLayout), device : Out(stream of WriteResponseLayout)
        The B channels; passed through without a cycle of delay.
    end_position : In
        What names the write that ``memory`` answers.
    refusal : In(stream of WriteRefusalLayout)
        The write to refuse; taken with its B.
    drop : Out(stream of DropLayout)
        Its data, to be lost.
    outstanding : In
        For each id, whether something is outstanding.
    """

    begin: Signal
    position: Signal
    spoiled: Signal
    spoiled_position: Signal
    spoil_taken: Signal
    memory: stream.Interface
    device: stream.Interface
    end_position: Signal
    refusal: stream.Interface
    drop: stream.Interface
    outstanding: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        position = position_bits(config)
        super().__init__(
            {
                "begin": In(1),
                "position": In(position),
                "spoiled": In(1),
                "spoiled_position": In(position),
                "spoil_taken": Out(1),
                "memory": In(stream.Signature(WriteResponseLayout(config))),
                "device": Out(stream.Signature(WriteResponseLayout(config))),
                "end_position": In(position),
                "refusal": In(stream.Signature(WriteRefusalLayout(config))),
                "drop": Out(stream.Signature(DropLayout(config))),
                "outstanding": In(1 << config.id_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the marks and the choice between the two sources of B."""
        m = Module()
        refusal, device = self.refusal, self.device
        spoiled = self._mark(m)
        lost = Signal()
        due = refusal.valid & lost & ~self.outstanding.bit_select(refusal.payload.id, 1)
        m.d.comb += [
            self.drop.valid.eq(refusal.valid & ~lost),
            self.drop.payload.source.eq(refusal.payload.source),
            self.drop.payload.stash.eq(refusal.payload.stash),
        ]
        with m.If(self.drop.valid & self.drop.ready):
            m.d.sync += lost.eq(1)
        with m.FSM():
            with m.State("Pass"):
                wiring.connect(m, wiring.flipped(self.memory), wiring.flipped(device))
                with m.If(spoiled):
                    m.d.comb += device.payload.resp.eq(Response.SLVERR)
                # A B that is offered must stay: change over only when none is, or when it goes.
                with m.If(due & (~self.memory.valid | device.ready)):
                    m.next = "Refuse"
            with m.State("Refuse"):
                m.d.comb += [
                    device.valid.eq(1),
                    device.payload.id.eq(refusal.payload.id),
                    device.payload.resp.eq(Response.SLVERR),
                    refusal.ready.eq(device.ready),
                ]
                with m.If(device.ready):
                    m.d.sync += lost.eq(0)
                    m.next = "Pass"
        return m

    def _mark(self, m: Module) -> Value:
        """Keep a mark for each outstanding write; return that of the one being answered."""
        m.submodules.marks = marks = memory.Memory(
            shape=1, depth=1 << position_bits(self.config), init=[]
        )
        write = marks.write_port()
        read = marks.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.begin | self.spoiled),
            write.addr.eq(Mux(self.begin, self.position, self.spoiled_position)),
            write.data.eq(~self.begin),
            self.spoil_taken.eq(self.spoiled & ~self.begin),
            read.addr.eq(self.end_position),
        ]
        return read.data
