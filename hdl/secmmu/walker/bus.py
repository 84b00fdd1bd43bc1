"""What the walker drives its AXI port with."""

from amaranth.hdl import Const, Module
from amaranth.lib import stream, wiring

from secmmu.axi import Burst
from secmmu.internals import INDEX_BITS
from secmmu.layouts import PAGE_BITS
from secmmu.walker.pte_update import PteUpdate
from secmmu.walker.reads import word_address

__all__ = ["drive_bus"]

WORD_SIZE = PAGE_BITS - INDEX_BITS
"""AxSIZE of a PTE."""


def drive_bus(
    m: Module,
    bus: wiring.PureInterface,
    read: stream.Interface,
    update: PteUpdate,
    *,
    svadu: bool,
) -> None:
    """Offer reads, and with Svadu the updates of leaves, which are exclusive; R and B go to whom they concern.

    Parameters
    ----------
    m : Module
        That of the walker.
    bus : Axi4 interface
        The port.
    read : stream of TableReadLayout
        The reads.
    update : PteUpdate
        The update that is going on.
    svadu : bool
        The port has write channels.
    """
    m.d.comb += [
        bus.arvalid.eq(read.valid),
        read.ready.eq(bus.arready),
        bus.arid.eq(read.payload.walk),
        bus.araddr.eq(word_address(read.payload.word)),
        bus.aruser.eq(read.payload.word.asid),
        bus.arlock.eq(read.payload.lock),
        bus.arsize.eq(WORD_SIZE),
        bus.arburst.eq(Burst.INCR),
        bus.rready.eq(1),
    ]
    if svadu:
        m.d.comb += [
            bus.awvalid.eq(update.address.valid),
            update.address.ready.eq(bus.awready),
            bus.awid.eq(update.walk),
            bus.awaddr.eq(word_address(update.address.payload)),
            bus.awuser.eq(update.address.payload.asid),
            bus.awlock.eq(1),
            bus.awsize.eq(WORD_SIZE),
            bus.awburst.eq(Burst.INCR),
            bus.wvalid.eq(update.beat.valid),
            update.beat.ready.eq(bus.wready),
            bus.wdata.eq(update.beat.payload),
            bus.wstrb.eq(Const(-1, 8)),
            bus.wlast.eq(1),
            update.reply.valid.eq(bus.bvalid),
            update.reply.payload.eq(bus.bresp),
            bus.bready.eq(update.reply.ready),
        ]
