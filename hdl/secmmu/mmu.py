"""The secondary MMU: the IP that stands between devices and memory."""

from amaranth.hdl import Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.axi import Axi4LiteSignature, Axi4Signature
from secmmu.config import SecmmuConfig
from secmmu.holds import Holds
from secmmu.internals import sign_extended
from secmmu.invalidation import Invalidation
from secmmu.layouts import (
    PA_BITS,
    VA_BITS,
    AccessArg,
    CommandLayout,
    CompletionLayout,
    Event,
    FaultLayout,
    FillArg,
    ObservationLayout,
)
from secmmu.read_return import ReadReturn
from secmmu.registers import Registers
from secmmu.tlb import Tlb
from secmmu.translate import Translator
from secmmu.uses import Uses
from secmmu.walker import Walker
from secmmu.write_return import WriteReturn

__all__ = ["Secmmu"]

LANES = ("walk", "fill", "kill", "read_begin", "read_end", "write_begin", "write_end")


class Secmmu(wiring.Component):
    """Secondary MMU: AXI4 virtual in, AXI4 physical out, Sv39, with the invalidation protocol of docs/secmmu.md.

    A hit leaves three cycles after it came and each direction takes one burst every second cycle; misses are
    walked one at a time, and a direction waits for its own. Bursts are passed through: any number of ids, up to
    eight bursts of an id outstanding in each direction, at most ``use_slots`` translations in flight.

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
        Page-table reads, 8 bytes each; no writes.
    csr : In(Axi4LiteSignature)
        Registers and context table of :mod:`secmmu.csr`.
    command : In(stream of CommandLayout), completion : Out(stream of CompletionLayout)
        Invalidation; see :class:`secmmu.invalidation.Invalidation` for the cycles.
    fault : Out(stream of FaultLayout)
        Refused bursts, each before its answer.
    idle : Out(1)
        Nothing is in flight, walked, waited for or offered: without input nothing will change.
    observe_walk, observe_fill, observe_kill : Out
    observe_read_begin, observe_read_end, observe_write_begin, observe_write_end : Out
        With ``observe``: what happens in this cycle, ``valid`` and a ``payload`` of ObservationLayout.
    """

    device: wiring.PureInterface
    memory: wiring.PureInterface
    walk: wiring.PureInterface
    csr: wiring.PureInterface
    command: stream.Interface
    completion: stream.Interface
    fault: stream.Interface
    idle: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        ids, users = config.id_bits, config.asid_bits
        members = {
            "device": In(Axi4Signature(addr_bits=VA_BITS, id_bits=ids, user_bits=users)),
            "memory": Out(Axi4Signature(addr_bits=PA_BITS, id_bits=ids, user_bits=users)),
            "walk": Out(
                Axi4Signature(addr_bits=PA_BITS, id_bits=1, user_bits=config.asid_bits, write=False)
            ),
            "csr": In(Axi4LiteSignature(addr_bits=12)),
            "command": In(stream.Signature(CommandLayout())),
            "completion": Out(stream.Signature(CompletionLayout())),
            "fault": Out(stream.Signature(FaultLayout())),
            "idle": Out(1),
        }
        if config.observe:
            lane = wiring.Signature({"valid": Out(1), "payload": Out(ObservationLayout())})
            members |= {f"observe_{name}": Out(lane) for name in LANES}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """Join the blocks."""
        m = Module()
        config = self.config
        m.submodules.tlb = tlb = Tlb(config)
        m.submodules.walker = walker = Walker(config)
        m.submodules.holds = holds = Holds(config)
        m.submodules.uses = uses = Uses(config)
        m.submodules.invalidation = invalidation = Invalidation(config)
        m.submodules.registers = registers = Registers(config)
        m.submodules.reader = reader = Translator(config, write=False)
        m.submodules.writer = writer = Translator(config, write=True)
        m.submodules.read_return = read_return = ReadReturn(config)
        m.submodules.write_return = write_return = WriteReturn(config)

        flipped = wiring.flipped
        wiring.connect(m, walker.fill, tlb.fill)
        wiring.connect(m, walker.hold, holds.fill)
        wiring.connect(m, walker.bus, flipped(self.walk))
        wiring.connect(m, registers.csr, flipped(self.csr))
        wiring.connect(m, invalidation.command, flipped(self.command))
        wiring.connect(m, invalidation.completion, flipped(self.completion))
        for name, translator in (("read", reader), ("write", writer)):
            wiring.connect(m, translator.lookup, getattr(tlb, name))
            wiring.connect(m, translator.walk, getattr(walker, name))
            wiring.connect(m, translator.hold, getattr(holds, name))
            wiring.connect(m, translator.use, getattr(uses, name))
            context = getattr(registers, name)
            m.d.comb += [
                context.en.eq(translator.lookup.en),
                context.asid.eq(translator.lookup.asid),
                translator.context.eq(context.row),
                translator.kill.eq(invalidation.kill),
                translator.released.eq(holds.released),
                translator.stop.eq(registers.stop),
            ]
        wiring.connect(m, reader.refusal, read_return.refusal)
        wiring.connect(m, writer.refusal, write_return.refusal)
        m.d.comb += [
            tlb.kill.eq(invalidation.kill),
            walker.kill.eq(invalidation.kill),
            uses.kill.eq(invalidation.kill),
            holds.hold.eq(invalidation.hold),
            holds.clear.eq(registers.clear),
            invalidation.clear.eq(registers.clear),
            invalidation.stop.eq(registers.stop),
            invalidation.closing.eq(uses.closing),
            invalidation.busy_next.eq(uses.busy_next),
            invalidation.walk_owed.eq(walker.owed),
            invalidation.walk_retired.eq(walker.retired),
            invalidation.tlb_showing.eq(tlb.showing),
            registers.command.en.eq(invalidation.context_en),
            registers.command.asid.eq(invalidation.context_asid),
            invalidation.group.eq(registers.command.row.global_group),
            read_return.none.eq(uses.read_none),
            write_return.none.eq(uses.write_none),
            write_return.begin.eq(writer.use.valid & writer.use.ready),
            registers.quiet.eq(
                reader.idle & writer.idle & walker.idle & uses.none & invalidation.idle
            ),
            self.idle.eq(
                registers.quiet
                & ~registers.busy
                & ~self.command.valid
                & ~(self.device.arvalid | self.device.awvalid | self.device.wvalid)
            ),
        ]
        self._join_reads(m, reader, read_return, uses)
        self._join_writes(m, writer, write_return, uses)
        self._join_faults(m, reader.fault, writer.fault)
        self._count(m, registers, reader, writer)
        m.d.comb += [
            registers.events.walks.eq(walker.begun),
            registers.events.walks_killed.eq(walker.killed),
            registers.events.commands.eq(invalidation.accepted),
            registers.events.filters_overflows.eq(holds.overflowed),
        ]
        if config.observe:
            self._observe_translations(m, walker, tlb)
        return m

    def _join_addresses(self, m: Module, channel: str, translator: Translator) -> None:
        """Join the address channel ``channel`` (``ar`` or ``aw``) of device and memory to its translator."""
        device, memory = self.device, self.memory
        m.d.comb += [
            translator.access.valid.eq(getattr(device, f"{channel}valid")),
            getattr(device, f"{channel}ready").eq(translator.access.ready),
            getattr(memory, f"{channel}valid").eq(translator.memory.valid),
            translator.memory.ready.eq(getattr(memory, f"{channel}ready")),
            translator.access.payload.asid.eq(getattr(device, f"{channel}user")),
            getattr(memory, f"{channel}user").eq(translator.memory.payload.asid),
        ]
        for field in ("addr", "id", "len", "size", "burst", "lock", "cache", "prot"):
            m.d.comb += [
                translator.access.payload[field].eq(getattr(device, channel + field)),
                getattr(memory, channel + field).eq(translator.memory.payload[field]),
            ]

    def _join_reads(self, m: Module, reader: Translator, back: ReadReturn, uses: Uses) -> None:
        """Join AR and R."""
        device, memory = self.device, self.memory
        self._join_addresses(m, "ar", reader)
        m.d.comb += [
            back.memory.valid.eq(memory.rvalid),
            memory.rready.eq(back.memory.ready),
            device.rvalid.eq(back.device.valid),
            back.device.ready.eq(device.rready),
            uses.read_end.valid.eq(memory.rvalid & memory.rready & memory.rlast),
            uses.read_end.id.eq(memory.rid),
        ]
        for field in ("id", "data", "resp", "last"):
            m.d.comb += [
                back.memory.payload[field].eq(getattr(memory, f"r{field}")),
                getattr(device, f"r{field}").eq(back.device.payload[field]),
            ]
        if self.config.observe:
            self._observe_begin(m, self.observe_read_begin, reader, write=False)
            self._observe_end(m, self.observe_read_end, uses.read_end, memory.rresp, write=False)

    def _join_writes(self, m: Module, writer: Translator, back: WriteReturn, uses: Uses) -> None:
        """Join AW, W and B."""
        device, memory = self.device, self.memory
        self._join_addresses(m, "aw", writer)
        m.d.comb += [
            back.device_data.valid.eq(device.wvalid),
            device.wready.eq(back.device_data.ready),
            memory.wvalid.eq(back.memory_data.valid),
            back.memory_data.ready.eq(memory.wready),
            back.memory_response.valid.eq(memory.bvalid),
            memory.bready.eq(back.memory_response.ready),
            device.bvalid.eq(back.device_response.valid),
            back.device_response.ready.eq(device.bready),
            uses.write_end.valid.eq(memory.bvalid & memory.bready),
            uses.write_end.id.eq(memory.bid),
        ]
        for field in ("data", "strb", "last"):
            m.d.comb += [
                back.device_data.payload[field].eq(getattr(device, f"w{field}")),
                getattr(memory, f"w{field}").eq(back.memory_data.payload[field]),
            ]
        for field in ("id", "resp"):
            m.d.comb += [
                back.memory_response.payload[field].eq(getattr(memory, f"b{field}")),
                getattr(device, f"b{field}").eq(back.device_response.payload[field]),
            ]
        if self.config.observe:
            self._observe_begin(m, self.observe_write_begin, writer, write=True)
            self._observe_end(m, self.observe_write_end, uses.write_end, memory.bresp, write=True)

    def _join_faults(self, m: Module, read: stream.Interface, write: stream.Interface) -> None:
        """Offer the faults of both directions on the one port, reads first; what is offered stays."""
        waiting = Signal()
        chooses_write = Signal()
        m.d.comb += [
            chooses_write.eq(write.valid & (waiting | ~read.valid)),
            self.fault.valid.eq(read.valid | write.valid),
            self.fault.payload.eq(
                Mux(chooses_write, write.payload.as_value(), read.payload.as_value())
            ),
            read.ready.eq(self.fault.ready & ~chooses_write),
            write.ready.eq(self.fault.ready & chooses_write),
        ]
        m.d.sync += waiting.eq(chooses_write & ~self.fault.ready)

    def _count(
        self, m: Module, registers: Registers, reader: Translator, writer: Translator
    ) -> None:
        """Count the accesses, lookups and faults of this cycle."""
        events, device = registers.events, self.device
        m.d.comb += [
            events.accesses_reads.eq(device.arvalid & device.arready),
            events.accesses_writes.eq(device.awvalid & device.awready),
            events.tlb_hits.eq(reader.hit + writer.hit),
            events.tlb_misses.eq(reader.miss + writer.miss),
            events.faults.eq(
                (reader.fault.valid & reader.fault.ready)
                + (writer.fault.valid & writer.fault.ready)
            ),
        ]

    def _observe_begin(
        self, m: Module, lane: wiring.PureInterface, translator: Translator, *, write: bool
    ) -> None:
        """Show the first cycle of each AxVALID on the memory side."""
        beat = translator.memory
        waited = Signal(name=f"waited_{'aw' if write else 'ar'}")
        m.d.sync += waited.eq(beat.valid & ~beat.ready)
        arg = {
            "asid": beat.payload.asid,
            "id": beat.payload.id,
            "write": write,
            "beats": beat.payload.len + 1,
        }
        self._observe(
            m,
            lane,
            beat.valid & ~waited,
            Event.USE_BEGIN,
            AccessArg(),
            arg,
            a=translator.va,
            b=beat.payload.addr,
        )

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
        arg = {"asid": end.asid, "id": end.id, "write": write, "code": code, "beats": end.len + 1}
        self._observe(m, lane, end.valid, Event.USE_END, AccessArg(), arg)

    def _observe_translations(self, m: Module, walker: Walker, tlb: Tlb) -> None:
        """Show walks, fills and what invalidations kill."""
        subject, entry = walker.subject, walker.fill.entry.translation
        page = sign_extended(subject.vpn)
        arg = {
            "asid": subject.asid,
            "id": subject.id,
            "write": walker.writing,
            "beats": subject.beats,
        }
        kind = Mux(walker.begun, Event.WALK, Event.WALK_KILLED)
        self._observe(
            m, self.observe_walk, walker.begun | walker.killed, kind, AccessArg(), arg, a=page
        )
        self._observe(
            m,
            self.observe_fill,
            walker.fill.en,
            Event.FILL,
            FillArg(),
            {"asid": subject.asid, "entry": walker.fill.index, "level": entry.level},
            a=sign_extended(entry.vpn),
            b=walker.pte,
        )
        lane = self.observe_kill.payload
        m.d.comb += [
            self.observe_kill.valid.eq(tlb.died.any()),
            lane.kind.eq(Event.KILL),
            lane.arg.eq(tlb.died_base),
            lane.b.eq(tlb.died),
        ]

    def _observe(
        self,
        m: Module,
        lane: wiring.PureInterface,
        valid: Value,
        kind: ValueLike,
        layout: data.Layout,
        arg: dict[str, ValueLike],
        *,
        a: ValueLike = 0,
        b: ValueLike = 0,
    ) -> None:
        """Drive one observation lane; ``arg`` is packed by ``layout``."""
        view = data.View(layout, lane.payload.arg)
        m.d.comb += [
            lane.valid.eq(valid),
            lane.payload.kind.eq(kind),
            lane.payload.a.eq(a),
            lane.payload.b.eq(b),
        ]
        m.d.comb += [view[field].eq(value) for field, value in arg.items()]
