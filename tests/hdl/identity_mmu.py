"""A stand-in for the slot: passes the device through, physical address = virtual address; for tests only."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from secmmu.config import SecmmuConfig
from secmmu.emulator.slot import MmuSlotSignature
from secmmu.layouts import PA_BITS, Cause, CommandKind, Event, Phase

__all__ = ["IdentityMmu"]

_CHANNELS = ("ar", "r", "aw", "w", "b")


class IdentityMmu(wiring.Component):
    """No translation at all.

    A burst with bit 60 of its address set reads the walk port instead of the data port (single
    beats). A command is taken in every third cycle and completes with INVALIDATED, and DRAINED in
    the next cycle. A drop-in is answered in the next cycle, taken where its tag is odd. A resume makes a fault of the
    same place, stalled where it retries, its epoch the last drop-in's tag. Each accepted AR shows on ``observe_read_begin``, each last R on
    ``observe_read_end``; CSRs are one scratch register of 64 bits.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(MmuSlotSignature(config))

    def elaborate(self, platform: Any) -> Module:
        """Build the paths, the completions and the scratch register."""
        m = Module()
        self._pass(m)
        self._complete(m)
        self._registers(m)
        return m

    def _pass(self, m: Module) -> None:
        device, memory, walk = self.device, self.memory, self.walk
        for name, member in memory.signature.members.items():
            ours, theirs = getattr(memory, name), getattr(device, name)
            m.d.comb += ours.eq(theirs) if member.flow is Out else theirs.eq(ours)
        aside = device.araddr[60]
        with m.If(aside):
            m.d.comb += [memory.arvalid.eq(0), device.arready.eq(walk.arready)]
        m.d.comb += [
            walk.arvalid.eq(device.arvalid & aside),
            walk.araddr.eq(device.araddr[:PA_BITS]),
            walk.aruser.eq(device.aruser),
            walk.arsize.eq(3),
        ]
        walk_id = Signal.like(device.rid)
        with m.If(walk.arvalid & walk.arready):
            m.d.sync += walk_id.eq(device.arid)
        with m.If(walk.rvalid & ~memory.rvalid):
            m.d.comb += [
                walk.rready.eq(device.rready),
                device.rvalid.eq(1),
                device.rid.eq(walk_id),
                device.rdata.eq(walk.rdata),
                device.rresp.eq(walk.rresp),
                device.rlast.eq(1),
            ]
        begin, end = self.observe_read_begin, self.observe_read_end
        m.d.comb += [
            begin.valid.eq(memory.arvalid & memory.arready),
            begin.payload.kind.eq(Event.USE_BEGIN),
            begin.payload.a.eq(device.araddr),
            end.valid.eq(memory.rvalid & memory.rready & memory.rlast),
            end.payload.kind.eq(Event.USE_END),
        ]

    def _complete(self, m: Module) -> None:
        turn = Signal(range(3))
        drain = Signal()
        m.d.sync += turn.eq(Mux(self.command.valid & (turn != 2), turn + 1, 0))
        taken = self.command.valid & self.command.ready
        refused = (self.command.payload.kind == CommandKind.RANGE) & (
            self.command.payload.last < self.command.payload.first
        )
        tag = Signal(16)
        invalidated = Signal()
        phase = Signal(Phase)
        m.d.comb += self.command.ready.eq(turn == 2)
        with m.If(taken):
            m.d.sync += [
                tag.eq(self.command.payload.tag),
                invalidated.eq(1),
                phase.eq(Mux(refused, Phase.REFUSED, Phase.INVALIDATED)),
            ]
        with m.Else():
            m.d.sync += invalidated.eq(0)
        m.d.sync += drain.eq(invalidated & (phase == Phase.INVALIDATED))
        drop_tag = Signal(16)
        m.d.sync += self.dropped.valid.eq(self.dropin.valid & self.dropin.ready)
        with m.If(self.dropin.valid):
            m.d.sync += drop_tag.eq(self.dropin.payload.tag)
        m.d.comb += [
            self.invalidated.valid.eq(invalidated),
            self.invalidated.payload.tag.eq(tag),
            self.invalidated.payload.phase.eq(phase),
            self.drained.valid.eq(drain),
            self.drained.payload.tag.eq(tag),
            self.drained.payload.phase.eq(Phase.DRAINED),
            self.dropin.ready.eq(1),
            self.dropped.payload.tag.eq(drop_tag),
            self.dropped.payload.taken.eq(drop_tag[0]),
            self.fault.valid.eq(self.resume.valid & self.resume.ready),
            self.fault.payload.place.eq(self.resume.payload.place),
            self.fault.payload.stalled.eq(self.resume.payload.retry),
            self.fault.payload.epoch.eq(drop_tag),
            self.fault.payload.cause.eq(Cause.LOAD_PAGE),
            self.resume.ready.eq(1),
            self.idle.eq(
                ~(
                    self.command.valid
                    | self.dropin.valid
                    | self.dropped.valid
                    | self.resume.valid
                    | invalidated
                    | drain
                    | self.csr.awvalid
                    | self.csr.arvalid
                )
            ),
        ]

    def _registers(self, m: Module) -> None:
        csr = self.csr
        scratch = Signal(64)
        both = csr.awvalid & csr.wvalid & ~csr.bvalid
        m.d.comb += [
            csr.awready.eq(both),
            csr.wready.eq(both),
            csr.arready.eq(~csr.rvalid),
            csr.rdata.eq(scratch),
        ]
        with m.If(both):
            m.d.sync += [csr.bvalid.eq(1), scratch.eq(csr.wdata)]
        with m.Elif(csr.bready):
            m.d.sync += csr.bvalid.eq(0)
        m.d.sync += csr.rvalid.eq((csr.arvalid & csr.arready) | (csr.rvalid & ~csr.rready))
