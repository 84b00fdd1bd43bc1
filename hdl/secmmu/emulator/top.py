"""The emulator: an MMU in its slot, the devices, the memory and the sanitizer, behind one pair of link streams."""

from typing import Any

from amaranth.hdl import EnableInserter, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from secmmu.axi import Axi4LiteSignature
from secmmu.config import EmulatorConfig
from secmmu.emulator.bursts import AccessSignature, TimingLayout
from secmmu.emulator.dma import Dma
from secmmu.emulator.endpoint import Endpoint
from secmmu.emulator.memory import AxiMemory
from secmmu.emulator.monitor import ExclusiveMonitor, ExclusiveSignature
from secmmu.emulator.observe import Collector, EventSignature
from secmmu.emulator.ram import OnChipRam, ReadSignature, SimulationRam, WriteSignature
from secmmu.emulator.registers import Registers
from secmmu.emulator.sanitizer import Sanitizer
from secmmu.layouts import (
    CYCLE_BITS,
    WORD_BITS,
    AccessArg,
    CommandLayout,
    DescriptorLayout,
    DropinLayout,
    Event,
    Phase,
    RecordLayout,
    ResumeLayout,
)
from secmmu.mmu import Secmmu

__all__ = ["LANES", "Emulated", "Emulator"]

_FROM_MMU = ("walk", "walked", "fill", "kill", "read_begin", "read_end", "write_begin", "write_end")
_FROM_DMA = ("load", "read_done", "write_done")
_FROM_SANITIZER = ("read_violation", "write_violation", "walk_violation")
_FROM_STREAMS = ("fault", "accepted", "invalidated", "drained", "dropped")

LANES = (
    "walk",
    "walked",
    "fill",
    "read_begin",
    "write_begin",
    "read_violation",
    "write_violation",
    "walk_violation",
    "load",
    "read_done",
    "write_done",
    "read_end",
    "write_end",
    "fault",
    "accepted",
    "kill",
    "invalidated",
    "drained",
    "dropped",
)
"""Sources of events, in the order in which the events of one cycle are recorded.

What happens in the cycle of a command's handshake counts as before it, hence ``accepted`` comes
late; what the command does (``kill``, ``invalidated``, ``drained``) comes after it.
"""


class Emulated(wiring.Component):
    """The part that lives in emulated time: MMU, DMA engines and memory timing. Its clock is enabled from outside.

    Parameters
    ----------
    config : EmulatorConfig
        All parameters.
    mmu : Component
        What stands in the slot (:class:`secmmu.emulator.slot.MmuSlotSignature`).

    Members
    -------
    csr : In(Axi4LiteSignature), command : In(stream of CommandLayout), dropin : In(stream of DropinLayout), resume :
    In(stream of ResumeLayout), descriptor : In(stream of DescriptorLayout)
        From the endpoint.
    timing : In(TimingLayout), limit : In(16), cycle : In(64)
        Registers and the cycle counter.
    data_read, walk_read : Out(ReadSignature), data_write : Out(WriteSignature)
        To the storage.
    exclusive : Out(ExclusiveSignature)
        To the monitor.
    read_access, write_access, walk_access : Out(AccessSignature)
        To the sanitizer.
    walk, fill, ... : Out(EventSignature)
        Those of :data:`LANES` that arise here.
    idle : Out(1)
        Nothing is busy; the state would not change without input.
    bytes : Out(64), pending : Out(16)
        What the DMA registers show.
    """

    command: stream.Interface
    dropin: stream.Interface
    resume: stream.Interface
    descriptor: stream.Interface

    def __init__(self, config: EmulatorConfig, mmu: Any) -> None:
        self._mmu = mmu
        self._observe = config.mmu.observe
        self._dma = Dma(config)
        self._memory = AxiMemory(
            id_bits=config.mmu.id_bits,
            asid_bits=config.mmu.asid_bits,
            memory_bytes=config.memory_bytes,
            walk_bits=config.mmu.walk_bits,
            walk_writes=config.mmu.svadu,
        )
        bits = exact_log2(config.memory_bytes // 8)
        members: dict[str, Any] = {
            "csr": In(Axi4LiteSignature(addr_bits=12)),
            "command": In(stream.Signature(CommandLayout())),
            "dropin": In(stream.Signature(DropinLayout())),
            "resume": In(stream.Signature(ResumeLayout())),
            "descriptor": In(stream.Signature(DescriptorLayout())),
            "timing": In(TimingLayout()),
            "limit": In(16),
            "cycle": In(CYCLE_BITS),
            "data_read": Out(ReadSignature(bits)),
            "walk_read": Out(ReadSignature(bits)),
            "data_write": Out(WriteSignature(bits)),
            "exclusive": Out(ExclusiveSignature(config.mmu.walk_bits, bits)),
            "idle": Out(1),
            "bytes": Out(64),
            "pending": Out(16),
        }
        members |= {f"{name}_access": Out(AccessSignature()) for name in ("read", "write", "walk")}
        members |= {name: Out(EventSignature()) for name in _FROM_MMU + _FROM_DMA + _FROM_STREAMS}
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        """Connect the MMU, the engines and the memory, and name their events."""
        m = Module()
        m.submodules.mmu = mmu = self._mmu
        m.submodules.dma = dma = self._dma
        m.submodules.memory = memory = self._memory
        m.d.comb += [
            dma.cycle.eq(self.cycle),
            dma.limit.eq(self.limit),
            memory.cycle.eq(self.cycle),
            memory.timing.eq(self.timing),
            self.idle.eq(mmu.idle & dma.idle & memory.idle),
            self.bytes.eq(dma.bytes),
            self.pending.eq(dma.pending),
        ]
        wiring.connect(m, dma.device, mmu.device)
        wiring.connect(m, mmu.memory, memory.data)
        wiring.connect(m, mmu.walk, memory.walk)
        for outer, inner in (
            (self.csr, mmu.csr),
            (self.command, mmu.command),
            (self.dropin, mmu.dropin),
            (self.resume, mmu.resume),
            (self.descriptor, dma.descriptor),
            *((getattr(self, name), getattr(dma, name)) for name in _FROM_DMA),
            *(
                (getattr(self, name), getattr(memory, name))
                for name in ("data_read", "walk_read", "data_write", "exclusive")
            ),
            *(
                (getattr(self, name), getattr(memory, name))
                for name in ("read_access", "write_access", "walk_access")
            ),
        ):
            wiring.connect(m, wiring.flipped(outer), inner)
        if self._observe:
            for name in _FROM_MMU:
                self._show_observation(m, getattr(self, name), getattr(mmu, f"observe_{name}"))
        self._show_command(m)
        for name in ("invalidated", "drained"):
            self._show_completion(m, getattr(mmu, name), getattr(self, name))
        self._show_dropped(m, mmu.dropped)
        self._show_fault(m, mmu.fault)
        return m

    @staticmethod
    def _show_observation(m: Module, lane: Any, observation: Any) -> None:
        m.d.comb += lane.valid.eq(observation.valid)
        m.d.comb += [
            lane.payload[name].eq(observation.payload[name]) for name in ("kind", "arg", "a", "b")
        ]

    def _show_command(self, m: Module) -> None:
        command, event = self.command.payload, self.accepted.payload
        m.d.comb += [
            self.accepted.valid.eq(self.command.valid & self.command.ready),
            event.kind.eq(Event.ACCEPTED),
            event.tag.eq(command.tag),
            event.arg.eq(command.kind),
            event.a.eq(command.first),
            event.b.eq(command.last),
        ]

    @staticmethod
    def _show_completion(m: Module, completion: stream.Interface, lane: Any) -> None:
        event = lane.payload
        m.d.comb += [
            completion.ready.eq(1),
            lane.valid.eq(completion.valid),
            event.tag.eq(completion.payload.tag),
            event.arg.eq(completion.payload.young),
        ]
        with m.Switch(completion.payload.phase):
            for phase in Phase:
                with m.Case(phase):
                    m.d.comb += event.kind.eq(Event[phase.name])

    def _show_dropped(self, m: Module, dropped: stream.Interface) -> None:
        event = self.dropped.payload
        m.d.comb += [
            dropped.ready.eq(1),
            self.dropped.valid.eq(dropped.valid),
            event.kind.eq(Event.DROPPED),
            event.tag.eq(dropped.payload.tag),
            event.arg.eq(dropped.payload.taken),
        ]

    def _show_fault(self, m: Module, fault: stream.Interface) -> None:
        event = self.fault.payload
        arg = Signal(AccessArg())
        fields = ("asid", "id", "write", "stalled")
        m.d.comb += [arg[name].eq(fault.payload[name]) for name in fields]
        m.d.comb += [
            fault.ready.eq(1),
            arg.code.eq(fault.payload.cause),
            self.fault.valid.eq(fault.valid),
            event.kind.eq(Event.FAULT),
            event.tag.eq(Mux(fault.payload.stalled, fault.payload.place, 0)),
            event.arg.eq(arg),
            event.a.eq(fault.payload.va),
            event.b.eq(fault.payload.epoch),
        ]


class Emulator(wiring.Component):
    """The FPGA top. The host sees two streams: messages in, records out.

    :class:`Emulated` lives in emulated time, which the endpoint spends; the link, the storage's
    host port and the records live on every clock. Nothing that the emulated part can see depends on
    how long it stood still.

    Parameters
    ----------
    config : EmulatorConfig
        All parameters.
    mmu : Component, optional
        What stands in the slot (:class:`secmmu.emulator.slot.MmuSlotSignature`);
        :class:`secmmu.mmu.Secmmu` if None.

    Members
    -------
    request : In(stream of 64 bits)
        Link words, see :class:`secmmu.layouts.Op`.
    records : Out(stream of RecordLayout)
        Records, see :class:`secmmu.layouts.Event`; in cycle order, those of one cycle in the order
        of :data:`LANES`.
    cycle : Out(64)
        The emulated cycle counter.
    """

    request: stream.Interface
    records: stream.Interface
    cycle: Signal

    def __init__(self, config: EmulatorConfig, *, mmu: wiring.Component | None = None) -> None:
        self._config = config
        self._mmu = mmu
        super().__init__(
            {
                "request": In(stream.Signature(WORD_BITS)),
                "records": Out(stream.Signature(RecordLayout())),
                "cycle": Out(CYCLE_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Connect the emulated part with what runs on every clock."""
        m = Module()
        config = self._config
        ram = (
            SimulationRam(config.memory_bytes)
            if config.external_memory
            else OnChipRam(config.memory_bytes)
        )
        mmu = Secmmu(config.mmu) if self._mmu is None else self._mmu
        run = Signal()
        emulated = Emulated(config, mmu)
        m.submodules.emulated = EnableInserter(run)(emulated)
        m.submodules.ram = ram
        m.submodules.sanitizer = sanitizer = Sanitizer(
            frames=config.frames, external=config.external_memory
        )
        m.submodules.monitor = monitor = ExclusiveMonitor(
            id_bits=config.mmu.walk_bits, address_bits=ram.address_bits
        )
        m.submodules.registers = registers = Registers(outstanding=config.outstanding)
        m.submodules.collector = collector = Collector(len(LANES))
        m.submodules.endpoint = endpoint = Endpoint(
            address_bits=ram.address_bits, frame_bits=exact_log2(config.frames)
        )
        m.d.comb += [run.eq(collector.run), ram.run.eq(run)]
        self._count_cycles(m, run, endpoint)
        self._connect_registers(m, registers, emulated, endpoint)
        self._connect_collector(m, collector, emulated, sanitizer, endpoint)
        for outer, inner in (
            (endpoint.host, ram.host),
            (endpoint.tag, sanitizer.update),
            (endpoint.registers, registers.access),
            (endpoint.csr, emulated.csr),
            (endpoint.command, emulated.command),
            (endpoint.dropin, emulated.dropin),
            (endpoint.resume, emulated.resume),
            (endpoint.descriptor, emulated.descriptor),
            (emulated.data_read, ram.device),
            (emulated.walk_read, ram.walk),
            (emulated.data_write, ram.write),
            (emulated.exclusive, monitor.access),
            (emulated.read_access, sanitizer.read),
            (emulated.write_access, sanitizer.write),
            (emulated.walk_access, sanitizer.walk),
            (wiring.flipped(self.request), endpoint.request),
            (wiring.flipped(self.records), collector.records),
        ):
            wiring.connect(m, outer, inner)
        m.d.comb += [
            endpoint.host_data.eq(ram.host_data),
            monitor.run.eq(run),
            monitor.stores.eq(emulated.data_write.en),
            monitor.address.eq(emulated.data_write.address),
            monitor.host_valid.eq(endpoint.host.valid),
            monitor.host.eq(endpoint.host.payload),
        ]
        return m

    def _count_cycles(self, m: Module, run: Signal, endpoint: Endpoint) -> None:
        m.d.comb += endpoint.cycle.eq(self.cycle)
        with m.If(run):
            m.d.sync += self.cycle.eq(self.cycle + 1)
        with m.Elif(endpoint.skip):
            m.d.sync += self.cycle.eq(endpoint.target)

    def _connect_registers(
        self, m: Module, registers: Registers, emulated: Emulated, endpoint: Endpoint
    ) -> None:
        m.d.comb += [
            emulated.timing.eq(registers.timing),
            emulated.limit.eq(registers.limit),
            emulated.cycle.eq(self.cycle),
            registers.cycle.eq(self.cycle),
            registers.bytes.eq(emulated.bytes),
            registers.pending.eq(emulated.pending),
            endpoint.warp.eq(registers.warp),
            endpoint.idle.eq(emulated.idle),
        ]

    def _connect_collector(
        self,
        m: Module,
        collector: Collector,
        emulated: Emulated,
        sanitizer: Sanitizer,
        endpoint: Endpoint,
    ) -> None:
        for lane, name in zip(collector.lanes, LANES, strict=True):
            wiring.connect(
                m, getattr(sanitizer if name in _FROM_SANITIZER else emulated, name), lane
            )
        wiring.connect(m, endpoint.records, collector.direct)
        m.d.comb += [
            collector.cycle.eq(self.cycle),
            collector.enable.eq(endpoint.enable),
            collector.clear.eq(endpoint.clear),
            endpoint.run.eq(collector.run),
            endpoint.busy.eq(collector.busy),
            endpoint.quiet.eq(collector.quiet),
            endpoint.seen.eq(collector.seen),
        ]
