"""One device: a queue of DMA descriptors and the AXI ids that they are issued under."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from secmmu.layouts import DescriptorLayout

__all__ = ["Engine"]


class Engine(wiring.Component):
    """One device: a descriptor queue and the AXI ids that are its own.

    ``head`` offers the oldest descriptor while one of the ids is free and fewer than ``limit``
    bursts are outstanding; taking it makes ``id`` busy until it is given back.

    Parameters
    ----------
    descriptors : int
        Depth of the queue.
    id_bits : int
        Width of the part of AxID that is the engine's to choose.

    Members
    -------
    descriptor : In(stream of DescriptorLayout)
        To be queued.
    head : Out(stream of DescriptorLayout), id : Out(id_bits)
        The burst to be issued next and its id.
    read_end, write_end : In(1); read_end_id, write_end_id : In(id_bits)
        A burst has ended in this cycle.
    limit : In(16)
        Register ``dma.outstanding``.
    pending : Out(16)
        Descriptors queued or outstanding.
    """

    descriptor: stream.Interface
    head: stream.Interface

    def __init__(self, *, descriptors: int, id_bits: int) -> None:
        self._depth = descriptors
        self._id_bits = id_bits
        super().__init__(
            {
                "descriptor": In(stream.Signature(DescriptorLayout())),
                "head": Out(stream.Signature(DescriptorLayout())),
                "id": Out(id_bits),
                "read_end": In(1),
                "read_end_id": In(id_bits),
                "write_end": In(1),
                "write_end_id": In(id_bits),
                "limit": In(16),
                "pending": Out(16),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build the queue and the set of busy ids."""
        m = Module()
        m.submodules.queue = queue = SyncFIFOBuffered(
            width=DescriptorLayout().size, depth=self._depth
        )
        ids = 1 << self._id_bits
        busy = Signal(ids)
        outstanding = Signal(range(ids + 1))
        taken = self.head.valid & self.head.ready
        begun = Mux(taken, 1 << self.id, 0)
        ended = Mux(self.read_end, 1 << self.read_end_id, 0) | Mux(
            self.write_end, 1 << self.write_end_id, 0
        )
        m.d.comb += [
            queue.w_data.eq(self.descriptor.payload),
            queue.w_en.eq(self.descriptor.valid),
            self.descriptor.ready.eq(queue.w_rdy),
            self.head.payload.as_value().eq(queue.r_data),
            self.head.valid.eq(queue.r_rdy & ~busy.all() & (outstanding < self.limit)),
            queue.r_en.eq(self.head.valid & self.head.ready),
            self.pending.eq(queue.level + outstanding),
        ]
        for index in reversed(range(ids)):
            with m.If(~busy[index]):
                m.d.comb += self.id.eq(index)
        m.d.sync += [
            busy.eq((busy | begun) & ~ended),
            outstanding.eq(outstanding + taken - self.read_end - self.write_end),
        ]
        return m
