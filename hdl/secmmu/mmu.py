"""The secondary MMU: the IP that stands between devices and memory."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.axi import Axi4LiteSignature, Axi4Signature
from secmmu.config import SecmmuConfig
from secmmu.datapath.datapath import Datapath, LaneSignature
from secmmu.internals import Outcome
from secmmu.invalidation.dropin import Dropin
from secmmu.invalidation.holds import Holds
from secmmu.invalidation.invalidation import Invalidation
from secmmu.layouts import (
    PA_BITS,
    VA_BITS,
    AccessArg,
    Cause,
    CommandKind,
    CommandLayout,
    CompletionLayout,
    DropinLayout,
    DroppedLayout,
    Event,
    FaultLayout,
    FillArg,
    ResumeLayout,
)
from secmmu.page_numbers import sign_extended
from secmmu.registers.contexts import Contexts
from secmmu.registers.registers import Registers
from secmmu.tlb.tlb import Tlb
from secmmu.walker.walker import Walker

__all__ = ["LANES", "Secmmu", "signature"]

LANES = ("walk", "walked", "fill", "kill", "read_begin", "read_end", "write_begin", "write_end")


def signature(config: SecmmuConfig) -> wiring.Signature:
    """Make the signature of an MMU of ``config``; what its members are is told there."""
    ids, users = config.id_bits, config.asid_bits
    members = {
        "device": In(Axi4Signature(addr_bits=VA_BITS, id_bits=ids, user_bits=users)),
        "memory": Out(Axi4Signature(addr_bits=PA_BITS, id_bits=ids, user_bits=users)),
        "walk": Out(
            Axi4Signature(
                addr_bits=PA_BITS,
                id_bits=config.walk_bits,
                user_bits=users,
                write=config.svadu,
            )
        ),
        "csr": In(Axi4LiteSignature(addr_bits=12)),
        "command": In(stream.Signature(CommandLayout())),
        "invalidated": Out(stream.Signature(CompletionLayout())),
        "drained": Out(stream.Signature(CompletionLayout())),
        "dropin": In(stream.Signature(DropinLayout())),
        "dropped": Out(stream.Signature(DroppedLayout())),
        "fault": Out(stream.Signature(FaultLayout())),
        "resume": In(stream.Signature(ResumeLayout())),
        "idle": Out(1),
    }
    if config.observe:
        members |= {f"observe_{name}": Out(LaneSignature()) for name in LANES}
    return wiring.Signature(members)


class Secmmu(wiring.Component):
    """Secondary MMU: AXI4 virtual in, AXI4 physical out, Sv39 to Sv57, with the invalidation protocol of docs/secmmu.md.

    One hit a cycle, in both directions together, leaves ``config.lookup_latency`` + 1 cycles after it came; misses are
    walked ``config.walks`` at once while hits of other ids go on.

    Everything is in the ``sync`` domain and may be frozen by an enable around the whole.

    Parameters
    ----------
    config : SecmmuConfig
        Geometry, widths, ``observe``, ``mutant``.

    Members
    -------
    device : In(Axi4Signature)
        Virtual addresses; AxUSER is the asid. A refused burst is answered SLVERR.
    memory : Out(Axi4Signature)
        Physical addresses; everything else as the device gave it, but writes are non-bufferable.
    walk : Out(Axi4Signature)
        Page-table reads, 8 bytes each; with ``svadu`` exclusive ones and writes. The id is the number of the walk.
    csr : In(Axi4LiteSignature)
        Registers and context table of :mod:`secmmu.csr`.
    command : In(stream of CommandLayout), invalidated, drained : Out(stream of CompletionLayout)
        Invalidation; see :class:`secmmu.invalidation.invalidation.Invalidation` for the cycles.
    dropin : In(stream of DropinLayout), dropped : Out(stream of DroppedLayout)
        Software-filled entries.
    fault : Out(stream of FaultLayout), resume : In(stream of ResumeLayout)
        Faults, each before its answer, and what becomes of those that stall.
    idle : Out(1)
        Nothing is in flight, walked, waited for or offered: without input nothing will change.
    observe_walk, observe_walked, observe_fill, observe_kill : Out(LaneSignature)
    observe_read_begin, observe_read_end, observe_write_begin, observe_write_end : Out(LaneSignature)
        With ``observe``: what happens in this cycle, ``valid`` and a ``payload`` of ObservationLayout.
    """

    device: wiring.PureInterface
    memory: wiring.PureInterface
    walk: wiring.PureInterface
    csr: wiring.PureInterface
    command: stream.Interface
    invalidated: stream.Interface
    drained: stream.Interface
    dropin: stream.Interface
    dropped: stream.Interface
    fault: stream.Interface
    resume: stream.Interface
    idle: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(signature(config))

    def elaborate(self, platform: object) -> Module:
        """Join the blocks."""
        m = Module()
        config = self.config
        self._datapath = m.submodules.datapath = Datapath(config)
        self._tlb = m.submodules.tlb = Tlb(config)
        self._walker = m.submodules.walker = Walker(config)
        self._holds = m.submodules.holds = Holds(config)
        self._dropin = m.submodules.dropin = Dropin(config)
        self._invalidation = m.submodules.invalidation = Invalidation(config)
        self._contexts = m.submodules.contexts = Contexts(config)
        self._registers = m.submodules.registers = Registers(config)
        self._join_ports(m)
        self._join_translation(m)
        self._join_invalidation(m)
        self._join_contexts(m)
        self._join_registers(m)
        self._count(m)
        if config.observe:
            self._observe_walks(m)
            self._observe_entries(m)
        return m

    def _join_ports(self, m: Module) -> None:
        """Give each port to its block."""
        flipped = wiring.flipped
        datapath, invalidation, dropin = self._datapath, self._invalidation, self._dropin
        wiring.connect(m, flipped(self.device), datapath.device)
        wiring.connect(m, datapath.memory, flipped(self.memory))
        wiring.connect(m, datapath.fault, flipped(self.fault))
        wiring.connect(m, flipped(self.resume), datapath.resume)
        wiring.connect(m, self._walker.bus, flipped(self.walk))
        wiring.connect(m, flipped(self.csr), self._registers.csr)
        wiring.connect(m, flipped(self.command), invalidation.command)
        wiring.connect(m, invalidation.invalidated, flipped(self.invalidated))
        wiring.connect(m, invalidation.drained, flipped(self.drained))
        wiring.connect(m, flipped(self.dropin), dropin.dropin)
        wiring.connect(m, dropin.dropped, flipped(self.dropped))
        if self.config.observe:
            for name in LANES[4:]:
                lane = f"observe_{name}"
                wiring.connect(m, getattr(datapath, lane), flipped(getattr(self, lane)))

    def _join_translation(self, m: Module) -> None:
        """Join the TLB and the walker to the datapath, and what fills the TLB to the holds."""
        tlb, walker, holds, dropin = self._tlb, self._walker, self._holds, self._dropin
        wiring.connect(m, self._datapath.lookup, tlb.lookup)
        wiring.connect(m, self._datapath.walk, walker.walk)
        wiring.connect(m, walker.fill, tlb.fill)
        wiring.connect(m, dropin.fill, tlb.dropin)
        wiring.connect(m, walker.span, holds.span)
        wiring.connect(m, dropin.hold, holds.dropin)

    def _join_invalidation(self, m: Module) -> None:
        """Apply commands everywhere; tell them what they must wait for."""
        invalidation, datapath, walker = self._invalidation, self._datapath, self._walker
        wiring.connect(m, invalidation.young, self._tlb.young)
        for block in (self._tlb, datapath, self._dropin):
            m.d.comb += block.kill.eq(invalidation.kill)
        for block in (self._tlb, walker, datapath):
            m.d.comb += block.coming.eq(invalidation.coming)
        m.d.comb += [
            self._tlb.asks.eq(invalidation.asks),
            walker.young.eq(invalidation.young.ask),
            self._holds.hold.eq(invalidation.hold),
            datapath.release.eq(self._holds.released),
            datapath.epoch.eq(invalidation.epoch),
            datapath.broken.eq(invalidation.broken),
            self._dropin.applied.eq(invalidation.applied),
            self._dropin.epoch.eq(invalidation.epoch),
            invalidation.closing.eq(datapath.closing),
            invalidation.busy_next.eq(datapath.busy_next),
            invalidation.owed.eq(walker.owed),
            invalidation.settled.eq(walker.settled),
        ]

    def _join_contexts(self, m: Module) -> None:
        """Give each reader of the context table its port."""
        contexts, datapath = self._contexts, self._datapath
        wiring.connect(m, self._registers.context, contexts.bus)
        m.d.comb += [
            contexts.lookup.en.eq(datapath.context_en),
            contexts.lookup.asid.eq(datapath.context_asid),
            datapath.row.eq(contexts.lookup.row),
            datapath.group.eq(contexts.group),
        ]
        for port, block in (
            (contexts.command, self._invalidation),
            (contexts.dropin, self._dropin),
        ):
            m.d.comb += [
                port.en.eq(block.context_en),
                port.asid.eq(block.context_asid),
                block.group.eq(port.row.global_group),
            ]

    def _join_registers(self, m: Module) -> None:
        """Join resets, time-out, fences and the clock; say whether anything goes on."""
        registers, datapath, walker = self._registers, self._datapath, self._walker
        invalidation, dropin = self._invalidation, self._dropin
        for block in (datapath, invalidation, dropin):
            m.d.comb += block.stop.eq(registers.stop)
        for block in (invalidation, walker, self._holds):
            m.d.comb += block.clear.eq(registers.clear)
        for block in (datapath, walker, invalidation):
            m.d.comb += block.now.eq(registers.now)
        m.d.comb += [
            invalidation.timeout.eq(registers.timeout),
            datapath.fenced.eq(registers.fenced),
            datapath.asked.eq(registers.unfence),
            walker.stuck.eq(invalidation.stuck),
            walker.asked.eq(registers.unfence),
            walker.fence.ready.eq(~datapath.fence.valid),
            registers.left.eq(datapath.left | walker.left),
            registers.fence.valid.eq(datapath.fence.valid | walker.fence.valid),
            registers.fence.asid.eq(
                Mux(datapath.fence.valid, datapath.fence.asid, walker.fence.payload)
            ),
            datapath.fences.eq(registers.fence.valid),
        ]
        asked = Signal()
        rests = Signal()
        quiet = datapath.none & walker.idle & invalidation.idle & dropin.idle
        m.d.comb += [
            asked.eq(
                (self.command.valid | self.dropin.valid | self.resume.valid)
                | (self.device.arvalid | self.device.awvalid | self.device.wvalid)
            ),
            self.idle.eq(rests & ~registers.busy & ~asked),
        ]
        # What was quiet, and was asked for nothing, is quiet still.
        m.d.sync += [registers.quiet.eq(quiet), rests.eq(quiet & ~asked)]

    def _count(self, m: Module) -> None:
        """Tell the counters and histograms what happens in this cycle."""
        events, done = self._registers.events, self._datapath.done
        invalidation, walker, dropped = self._invalidation, self._walker, self.dropped
        latencies = self._registers.latencies
        fault = self.fault.payload
        faulted = self.fault.valid & self.fault.ready
        answered = dropped.valid & dropped.ready
        m.d.comb += [
            events.accesses_reads.eq(done.read),
            events.accesses_writes.eq(done.write),
            events.tlb_hits.eq(done.hit),
            events.tlb_misses.eq(done.miss),
            events.cycles_stalled.eq(done.stalled),
            events.faults.eq(faulted),
            events.faults_stalled.eq(faulted & fault.stalled),
            events.commands.eq(invalidation.accepted),
            events.drains.eq(invalidation.latency.valid & ~invalidation.timed_out),
            events.timeouts.eq(invalidation.timed_out),
            events.filters_overflows.eq(self._tlb.overflowed | self._holds.overflowed),
            events.dropins_taken.eq(answered & dropped.payload.taken),
            events.dropins_refused.eq(answered & ~dropped.payload.taken),
            latencies.translation.eq(self._datapath.latency),
            latencies.walk.eq(walker.latency),
            latencies.shootdown.eq(invalidation.latency),
        ]
        for name, _ in walker.events.shape():
            m.d.comb += events[name].eq(walker.events[name])
        for cause in Cause:
            field = f"faults_{cause.name.lower()}"
            m.d.comb += events[field].eq(faulted & (fault.cause == cause))
        for kind in CommandKind:
            field = f"commands_{kind.name.lower()}"
            named = self.command.payload.kind == kind
            m.d.comb += events[field].eq(invalidation.accepted & named)

    def _observe_walks(self, m: Module) -> None:
        """Show the beginning and the end of walks."""
        began, ended = self._walker.began, self._walker.ended
        for lane, record in ((self.observe_walk, began), (self.observe_walked, ended)):
            arg = data.View(AccessArg(), lane.payload.arg)
            m.d.comb += [
                lane.valid.eq(record.valid),
                arg.asid.eq(record.asid),
                arg.id.eq(record.walk),
                arg.write.eq(record.write),
                lane.payload.a.eq(sign_extended(record.vpn)),
            ]
        m.d.comb += self.observe_walk.payload.kind.eq(Event.WALK)
        lane = self.observe_walked.payload
        with m.Switch(ended.outcome):
            with m.Case(Outcome.GRANTED):
                m.d.comb += [lane.kind.eq(Event.WALKED), lane.b.eq(ended.pte)]
            with m.Case(Outcome.PAGE_FAULT, Outcome.ACCESS_FAULT):
                page_fault = ended.outcome == Outcome.PAGE_FAULT
                m.d.comb += [
                    lane.kind.eq(Event.WALK_REFUSED),
                    data.View(AccessArg(), lane.arg).code.eq(_cause(ended.write, page_fault)),
                ]
            with m.Default():
                m.d.comb += lane.kind.eq(Event.WALK_KILLED)

    def _observe_entries(self, m: Module) -> None:
        """Show what becomes of TLB entries."""
        tlb = self._tlb
        fill, kill = self.observe_fill, self.observe_kill
        entry = tlb.fill_shown.entry.translation
        arg = data.View(FillArg(), fill.payload.arg)
        m.d.comb += [
            fill.valid.eq(tlb.filled),
            fill.payload.kind.eq(Event.FILL),
            arg.asid.eq(entry.asid),
            arg.entry.eq(tlb.fill_shown.index),
            # Svnapot is a grain of its own, but of level 0.
            arg.level.eq(Mux(entry.grain == 0, 0, entry.grain - 1)),
            fill.payload.a.eq(sign_extended(entry.vpn)),
            fill.payload.b.eq(tlb.fill_shown.pte),
            kill.valid.eq(tlb.died.any()),
            kill.payload.kind.eq(Event.KILL),
            kill.payload.arg.eq(tlb.died_base),
            kill.payload.b.eq(tlb.died),
        ]


def _cause(write: Value, page_fault: Value) -> Value:
    """Return the RISC-V exception code of a fault."""
    return Cause.LOAD_ACCESS.value + (write << 1) + (page_fault << 3)
