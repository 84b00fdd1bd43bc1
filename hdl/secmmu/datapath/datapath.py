"""The datapath: from the device's port through the lookup to the memory's, and back."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.axi import Axi4Signature
from secmmu.config import SecmmuConfig
from secmmu.datapath.decide import Decide
from secmmu.datapath.flight import Source, changes_context
from secmmu.datapath.intake import Intake
from secmmu.datapath.output import Output
from secmmu.datapath.pipeline import Pipeline
from secmmu.datapath.read_return import ReadReturn
from secmmu.datapath.uses import Uses
from secmmu.datapath.waiters import Waiters
from secmmu.datapath.write_buffer import WriteBuffer
from secmmu.datapath.write_return import WriteReturn
from secmmu.internals import (
    GROUP_BITS,
    ContextLayout,
    KillLayout,
    LookupSignature,
    WalkSignature,
)
from secmmu.layouts import (
    EPOCH_BITS,
    PA_BITS,
    PAGE_BITS,
    VA_BITS,
    AccessArg,
    Event,
    FaultLayout,
    ObservationLayout,
    ResumeLayout,
)
from secmmu.registers.counters import AGE_BITS, LatencyLayout
from secmmu.registers.registers import FenceLayout

__all__ = ["Datapath", "LaneSignature"]

READ, WRITE = 0, 1
SHAPE = ("id", "len", "size", "burst", "lock", "cache", "prot")


class LaneSignature(wiring.Signature):
    """An observation lane, seen from the one who shows."""

    def __init__(self) -> None:
        super().__init__({"valid": Out(1), "payload": Out(ObservationLayout())})


class DoneLayout(data.StructLayout):
    """What ends in this cycle, for the counters: the first lookup of an access, and how; a use's way out.

    ``stalled``: the lookup pipeline stands still.
    """

    def __init__(self) -> None:
        super().__init__({"hit": 1, "miss": 1, "stalled": 1, "read": 1, "write": 1})


class Datapath(wiring.Component):
    """Everything that an access passes.

    A hit leaves ``config.lookup_latency`` + 1 cycles after it came, one a cycle in both directions together.

    Parameters
    ----------
    config : SecmmuConfig
        All parameters.

    Members
    -------
    device : In(Axi4Signature), memory : Out(Axi4Signature)
        The two sides.
    lookup : Out(LookupSignature), walk : Out(WalkSignature)
        The TLB and the walker.
    context_en : Out(1), context_asid : Out, row : In(ContextLayout), group : In(8)
        Reads a context row; it is there from the next cycle until the next read, its global group in the same cycle.
    coming, kill : In(KillLayout), release : In(1), epoch : In(64)
        The invalidation applied in the next cycle, and in this one; a hold is released; the count of commands.
    closing, busy_next : Out(use_slots + 1)
        Uses that the invalidation waits for; uses left. See :class:`secmmu.datapath.uses.Uses`.
    broken : In(use_slots + 1), fence : Out(FenceLayout)
        Uses whose writes are to be ended; whose asids are to be fenced off.
    fences : In(1), fenced : In(contexts), asked : In, left : Out(1)
        One more asid is, those that are fenced off; whether a use of asid ``asked`` is left.
    fault : Out(stream of FaultLayout), resume : In(stream of ResumeLayout)
        The host's side of faults.
    stop : In(1)
        Soft reset: take nothing, refuse what waits for the host.
    now : In(20), done : Out(DoneLayout), latency : Out(LatencyLayout)
        The clock, and what the counters count.
    none : Out(1)
        No access is inside and nothing of one is left.
    observe_read_begin, observe_read_end, observe_write_begin, observe_write_end : Out(LaneSignature)
        With ``observe``: uses.
    """

    device: wiring.PureInterface
    memory: wiring.PureInterface
    lookup: wiring.PureInterface
    walk: wiring.PureInterface
    context_en: Signal
    context_asid: Signal
    row: data.View
    group: Signal
    coming: data.View
    kill: data.View
    release: Signal
    epoch: Signal
    closing: Signal
    busy_next: Signal
    broken: Signal
    fence: data.View
    fences: Signal
    fenced: Signal
    asked: Signal
    left: Signal
    fault: stream.Interface
    resume: stream.Interface
    stop: Signal
    now: Signal
    done: data.View
    latency: data.View
    none: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        ids, users, slots = config.id_bits, config.asid_bits, config.use_slots + 1
        members = {
            "device": In(Axi4Signature(addr_bits=VA_BITS, id_bits=ids, user_bits=users)),
            "memory": Out(Axi4Signature(addr_bits=PA_BITS, id_bits=ids, user_bits=users)),
            "lookup": Out(LookupSignature(config)),
            "walk": Out(WalkSignature(config)),
            "context_en": Out(1),
            "context_asid": Out(config.asid_bits),
            "row": In(ContextLayout()),
            "group": In(GROUP_BITS),
            "coming": In(KillLayout(config)),
            "kill": In(KillLayout(config)),
            "release": In(1),
            "epoch": In(EPOCH_BITS),
            "closing": Out(slots),
            "busy_next": Out(slots),
            "broken": In(slots),
            "fence": Out(FenceLayout(config)),
            "fences": In(1),
            "fenced": In(config.contexts),
            "asked": In(config.asid_bits),
            "left": Out(1),
            "fault": Out(stream.Signature(FaultLayout())),
            "resume": In(stream.Signature(ResumeLayout())),
            "stop": In(1),
            "now": In(AGE_BITS),
            "done": Out(DoneLayout()),
            "latency": Out(LatencyLayout()),
            "none": Out(1),
        }
        if config.observe:
            lane = LaneSignature()
            members |= {
                f"observe_{kind}_{edge}": Out(lane)
                for kind in ("read", "write")
                for edge in ("begin", "end")
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """Join the blocks."""
        m = Module()
        config = self.config
        self._intake = m.submodules.intake = Intake(config)
        self._pipeline = m.submodules.pipeline = Pipeline(config)
        self._decide = m.submodules.decide = Decide(config)
        self._waiters = m.submodules.waiters = Waiters(config)
        self._uses = m.submodules.uses = Uses(config)
        self._reads = m.submodules.read_output = Output(config)
        self._writes = m.submodules.write_output = Output(config)
        self._read_return = m.submodules.read_return = ReadReturn(config)
        self._write_buffer = m.submodules.write_buffer = WriteBuffer(config)
        self._write_return = m.submodules.write_return = WriteReturn(config)
        self._join_lookup(m)
        self._join_waiters(m)
        self._join_uses(m)
        self._join_outputs(m)
        self._join_reads(m)
        self._join_writes(m)
        self._join_rest(m)
        return m

    def _join_lookup(self, m: Module) -> None:
        """Join intake, pipeline, TLB and context table to stage D."""
        intake, pipeline, decide = self._intake, self._pipeline, self._decide
        lookup, access = self.lookup, self._intake.enter.flight.access
        self._changes = Signal()
        m.d.sync += self._changes.eq(changes_context(self.coming))
        m.d.comb += [
            intake.advance.eq(decide.advance),
            intake.now.eq(self.now),
            pipeline.enter.eq(intake.enter),
            pipeline.advance.eq(decide.advance),
            pipeline.row.eq(self.row),
            pipeline.kill.eq(self.kill),
            pipeline.changes.eq(self._changes),
            pipeline.fenced.eq(self.fenced),
            pipeline.fences.eq(self.fences),
            lookup.advance.eq(decide.advance),
            lookup.en.eq(intake.enter.valid),
            lookup.asid.eq(access.asid),
            lookup.vpn.eq(access.addr[PAGE_BITS:]),
            lookup.group.eq(self.group),
            self.context_en.eq(decide.advance),
            self.context_asid.eq(access.asid),
            decide.last.eq(pipeline.last),
            decide.row.eq(pipeline.last_row),
            decide.outdated.eq(pipeline.outdated),
            decide.hit.eq(lookup.hit),
            decide.dies.eq(lookup.dies),
            decide.entry.eq(lookup.entry),
            decide.entry_free.eq(lookup.free),
            decide.answered.eq(self.walk.answered.bit_select(self.walk.select, 1)),
            decide.answer.eq(self.walk.answer),
            decide.killing.eq(self.kill.valid),
            decide.fenced.eq(pipeline.last_fenced),
        ]

    def _join_waiters(self, m: Module) -> None:
        """Join the waiters to stage D, the walker and the host."""
        intake, decide, waiters = self._intake, self._decide, self._waiters
        wiring.connect(m, waiters.again, intake.again)
        wiring.connect(m, waiters.answered_place, decide.answered_place)
        wiring.connect(m, waiters.walk, wiring.flipped(self.walk))
        wiring.connect(m, waiters.fault, wiring.flipped(self.fault))
        wiring.connect(m, wiring.flipped(self.resume), waiters.resume)
        starved, slotless = Signal(2), Signal()
        turns = Signal()
        m.d.sync += [
            starved.eq(waiters.starved),
            slotless.eq(waiters.slotless[WRITE]),
            turns.eq(waiters.turns),
        ]
        # While a write can get no slot reads go one at a time, so that they leave one free.
        reads_alone = slotless & ~intake.none[READ]
        m.d.comb += [
            waiters.decision.eq(decide.decision),
            waiters.last.eq(self._pipeline.last),
            waiters.row.eq(self._pipeline.last_row),
            waiters.epoch.eq(self.epoch),
            waiters.followed.eq(self._uses.followed),
            waiters.aside.eq(waiters.answered_place.valid),
            waiters.changes.eq(self._changes),
            waiters.release.eq(self.release),
            waiters.fences.eq(self.fences),
            waiters.output_free.eq(decide.output_free),
            waiters.room.eq(self._uses.room),
            waiters.stashed.eq(self._write_buffer.stashed),
            waiters.stop.eq(self.stop),
            decide.place_free.eq(waiters.place_free),
            decide.behind.eq(waiters.behind),
            decide.released.eq(waiters.released),
            decide.barred.eq(waiters.barred),
            decide.turns.eq(waiters.turns),
            intake.refused.eq(waiters.refused),
            intake.closed[READ].eq(self.stop | starved[READ] | reads_alone),
            intake.closed[WRITE].eq(self.stop | starved[WRITE] | turns),
        ]

    def _join_uses(self, m: Module) -> None:
        """Join the use slots to stage D and to the invalidations."""
        decide, uses, ahead = self._decide, self._uses, self._pipeline.ahead.flight
        flight, last, aside = decide.flight, self._pipeline.last, self._waiters.answered_place
        for page, of in ((uses.ahead, ahead), (uses.page, flight)):
            m.d.comb += [
                page.vpn.eq(of.access.addr[PAGE_BITS:]),
                page.asid.eq(of.access.asid),
                page.write.eq(of.write),
            ]
        m.d.comb += [
            uses.kill.eq(self.kill),
            uses.advance.eq(decide.advance),
            uses.aside.eq(aside.valid),
            uses.walk.eq(aside.walk),
            uses.same.eq(aside.same),
            uses.walk_write.eq(aside.flight.write),
            uses.given.eq(self.walk.request.valid & self.walk.request.ready),
            uses.given_walk.eq(self.walk.number),
            uses.begin.eq(decide.begin),
            uses.translation.eq(decide.chosen.translation),
            uses.free.eq(decide.free),
            uses.id.eq(flight.access.id),
            uses.len.eq(flight.access.len),
            uses.asked.eq(self.asked),
            decide.last_slot_free.eq(uses.matches | uses.room.bit_select(last.flight.write, 1)),
            decide.aside_slot_free.eq(uses.follows | uses.room.bit_select(aside.flight.write, 1)),
            self.closing.eq(uses.closing),
            self.busy_next.eq(uses.busy_next),
            self.left.eq(uses.left),
            uses.broken.eq(self.broken),
            self.fence.eq(uses.fence),
        ]

    def _join_outputs(self, m: Module) -> None:
        """Load the output registers when a use begins."""
        decide, intake = self._decide, self._intake
        for at, (channel, output, door) in enumerate(
            (("ar", self._reads, intake.read), ("aw", self._writes, intake.write))
        ):
            begins = Signal(name=f"begins_{channel}")
            m.d.comb += [
                begins.eq(decide.begin & (decide.flight.write == at)),
                intake.begun[at].eq(begins),
                decide.output_free[at].eq(output.free),
                output.load.eq(begins),
                output.access.eq(decide.flight.access),
                output.ppn.eq(decide.chosen.ppn),
                output.span.eq(decide.free),
                getattr(self.memory, f"{channel}valid").eq(output.valid),
                output.ready.eq(getattr(self.memory, f"{channel}ready")),
                getattr(self.memory, f"{channel}addr").eq(output.held_pa),
                getattr(self.memory, f"{channel}user").eq(output.held.asid),
                door.valid.eq(getattr(self.device, f"{channel}valid")),
                getattr(self.device, f"{channel}ready").eq(door.ready),
                door.payload.addr.eq(getattr(self.device, f"{channel}addr")),
                door.payload.asid.eq(getattr(self.device, f"{channel}user")),
            ]
            for field in SHAPE:
                held = output.held[field]
                if (at, field) == (WRITE, "cache"):
                    # Non-bufferable, so that B comes from the destination (docs/secmmu.md, point 9).
                    held = held & ~1
                m.d.comb += [
                    door.payload[field].eq(getattr(self.device, channel + field)),
                    getattr(self.memory, channel + field).eq(held),
                ]

    def _join_reads(self, m: Module) -> None:
        """Join R."""
        device, memory, back, end = self.device, self.memory, self._read_return, self._uses.read_end
        wiring.connect(m, self._waiters.read_refusal, back.refusal)
        m.d.comb += [
            back.memory.valid.eq(memory.rvalid),
            memory.rready.eq(back.memory.ready),
            device.rvalid.eq(back.device.valid),
            back.device.ready.eq(device.rready),
            back.outstanding.eq(self._uses.read_outstanding),
            end.valid.eq(memory.rvalid & memory.rready & memory.rlast),
            end.id.eq(memory.rid),
            self._intake.read_done.valid.eq(device.rvalid & device.rready & device.rlast),
            self._intake.read_done.id.eq(device.rid),
        ]
        for field in ("id", "data", "resp", "last"):
            m.d.comb += [
                back.memory.payload[field].eq(getattr(memory, f"r{field}")),
                getattr(device, f"r{field}").eq(back.device.payload[field]),
            ]
        if self.config.observe:
            self._observe_begin(m, self.observe_read_begin, self._reads, write=False)
            self._observe_end(m, self.observe_read_end, end, memory.rresp, write=False)

    def _join_writes(self, m: Module) -> None:
        """Join W and B."""
        device, memory, uses = self.device, self.memory, self._uses
        buffer, back, end = self._write_buffer, self._write_return, self._uses.write_end
        wiring.connect(m, self._waiters.write_refusal, back.refusal)
        wiring.connect(m, back.drop, buffer.drop)
        wiring.connect(m, buffer.swallowed, back.swallowed)
        self._route_data(m)
        m.d.comb += [
            buffer.device.valid.eq(device.wvalid),
            device.wready.eq(buffer.device.ready),
            memory.wvalid.eq(buffer.memory.valid),
            buffer.memory.ready.eq(memory.wready),
            back.begin.eq(uses.write_begun),
            back.position.eq(uses.write_position),
            buffer.position.eq(uses.write_position),
            back.oldest.eq(uses.write_oldest),
            back.outstanding.eq(uses.write_outstanding),
            back.spoiled.eq(buffer.spoiled),
            back.spoiled_position.eq(buffer.spoiled_position),
            back.memory.valid.eq(memory.bvalid),
            memory.bready.eq(back.memory.ready),
            device.bvalid.eq(back.device.valid),
            back.device.ready.eq(device.bready),
            end.valid.eq(memory.bvalid & memory.bready),
            end.id.eq(memory.bid),
            self._intake.write_done.valid.eq(device.bvalid & device.bready),
            self._intake.write_done.id.eq(device.bid),
        ]
        for field in ("data", "strb", "last"):
            m.d.comb += [
                buffer.device.payload[field].eq(getattr(device, f"w{field}")),
                getattr(memory, f"w{field}").eq(buffer.memory.payload[field]),
            ]
        for field in ("id", "resp"):
            m.d.comb += [
                back.memory.payload[field].eq(getattr(memory, f"b{field}")),
                getattr(device, f"b{field}").eq(back.device.payload[field]),
            ]
        if self.config.observe:
            self._observe_begin(m, self.observe_write_begin, self._writes, write=True)
            self._observe_end(m, self.observe_write_end, end, memory.bresp, write=True)

    def _route_data(self, m: Module) -> None:
        """Tell the write buffer what stage D decided for the data of a write."""
        decide, buffer, waiters = self._decide, self._write_buffer, self._waiters
        decision = decide.decision
        m.d.comb += [
            buffer.begun.valid.eq(decide.begin & decide.flight.write),
            buffer.begun.source.eq(Mux(decision.fresh, Source.DEVICE, waiters.source.as_value())),
            buffer.begun.stash.eq(waiters.stash),
            buffer.begun.len.eq(decide.flight.access.len),
            buffer.begun.slot.eq(self._uses.slot),
            buffer.len.eq(self._pipeline.last.flight.access.len),
            buffer.broken.eq(self.broken),
            buffer.busy_next.eq(self._uses.busy_next),
            buffer.puts_by.eq(
                decision.joins
                & self._pipeline.last.flight.write
                & (decision.source == Source.STASH)
            ),
            decide.stash_free.eq(buffer.stash_free),
            decide.stash.eq(buffer.stash),
        ]

    def _join_rest(self, m: Module) -> None:
        """Say what the counters count and whether anything is going on."""
        decide = self._decide
        m.d.comb += [
            self.done.hit.eq(decide.first_hit),
            self.done.miss.eq(decide.first_miss),
            self.done.stalled.eq(self._pipeline.last.valid & ~decide.advance),
            self.done.read.eq(self._intake.read.valid & self._intake.read.ready),
            self.done.write.eq(self._intake.write.valid & self._intake.write.ready),
            self.latency.valid.eq(decide.begin),
            self.latency.began.eq(decide.flight.born),
            self.none.eq(
                self._intake.none.all()
                & self._pipeline.none
                & self._waiters.none
                & self._uses.none
                & self._write_buffer.none
                & ~self._reads.valid
                & ~self._writes.valid
            ),
        ]

    def _observe_begin(
        self, m: Module, lane: wiring.PureInterface, output: Output, *, write: bool
    ) -> None:
        """Show the first cycle of each AxVALID on the memory side."""
        view = data.View(AccessArg(), lane.payload.arg)
        m.d.comb += [
            lane.valid.eq(output.first),
            lane.payload.kind.eq(Event.USE_BEGIN),
            view.asid.eq(output.held.asid),
            view.id.eq(output.held.id),
            view.write.eq(write),
            view.beats.eq(output.held.len + 1),
            lane.payload.a.eq(output.held.addr),
            lane.payload.b.eq(output.held_pa),
        ]

    def _observe_end(
        self,
        m: Module,
        lane: wiring.PureInterface,
        end: wiring.PureInterface,
        code: Value,
        *,
        write: bool,
    ) -> None:
        """Show the last R beat or the B of each burst on the memory side."""
        view = data.View(AccessArg(), lane.payload.arg)
        m.d.comb += [
            lane.valid.eq(end.valid),
            lane.payload.kind.eq(Event.USE_END),
            view.asid.eq(end.asid),
            view.id.eq(end.id),
            view.write.eq(write),
            view.code.eq(code),
            view.beats.eq(end.len + 1),
        ]
