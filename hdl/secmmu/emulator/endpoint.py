"""The hardware end of the link: takes messages, performs each before the next, and grants emulated time."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.axi import Axi4LiteSignature
from secmmu.emulator.ram import HostOp, HostRequestLayout
from secmmu.emulator.registers import RegisterSignature
from secmmu.emulator.sanitizer import TagWriteSignature
from secmmu.layouts import (
    CYCLE_BITS,
    WORD_BITS,
    CommandLayout,
    DescriptorLayout,
    DropinLayout,
    Event,
    HeaderLayout,
    Op,
    RecordLayout,
    ResumeLayout,
)

__all__ = ["Endpoint"]

_PAYLOAD_WORDS = 4
_EMULATOR_REGISTERS = 1

_HOST_OPS = {
    Op.MEM_COPY: HostOp.COPY,
    Op.MEM_FILL: HostOp.FILL,
    Op.MEM_SWAP: HostOp.SWAP,
    Op.MEM_CAS: HostOp.CAS,
}


class Endpoint(wiring.Component):
    """Performs link messages (:class:`secmmu.layouts.Op`); runs on every clock.

    The emulated part runs only while ``enable`` is 1 and only in the clocks in which the collector
    grants ``run``. A payload word that a message does not have reads as 0, one too many is ignored,
    and so is an unknown message.

    ============  ==========================================================================================
    state         what happens
    ============  ==========================================================================================
    Header        takes a header
    Payload       takes ``count`` payload words and keeps four; the first word of a MEM_WRITE leads to Store
    Store         each further word of a MEM_WRITE goes into the memory
    Perform       instant messages are done here, others are sent on
    Block         COPY, FILL, SWAP, CAS until the storage has finished; then Exchanged or Header
    Exchanged     SWAPPED record
    Read-Even     MEM_READ: takes a word,
    Read-Odd      ... the one after it,
    Read-Record   ... and makes a READ_DATA record; until ``arg`` words are read
    Bus-Write     emulated time runs until the MMU answers on B
    Bus-Read      emulated time runs until the MMU answers on R
    Register      CSR_DATA record
    Command       emulated time runs until the MMU takes the command
    Descriptor    emulated time runs until the engine's queue takes the descriptor
    Dropin        emulated time runs until the MMU takes the drop-in
    Resume        emulated time runs until the MMU takes the resume
    Advance       emulated time runs or is skipped until the target or a record in the mask
    Advanced      ADVANCED record
    ============  ==========================================================================================

    An ADVANCE ends before another cycle is begun, so a record that ends it has the cycle stamp
    before that of ADVANCED. It ends at once if such a record was stored since the last ADVANCED
    one.

    Parameters
    ----------
    address_bits : int
        Width of a word index of the memory; addresses wrap.
    frame_bits : int
        Width of a frame number.

    Members
    -------
    request : In(stream of 64 bits)
        Link words.
    records : Out(stream of RecordLayout)
        The endpoint's own records; ``enable`` is 0 then.
    enable : Out(1), run : In(1), busy : In(1), quiet : In(1), clear : Out(1), seen : In(32)
        See :class:`secmmu.emulator.observe.Collector`.
    cycle : In(64)
        The emulated cycle counter.
    idle : In(1), warp : In(1)
        Nothing emulated is busy; register ``warp``.
    skip : Out(1), target : Out(64)
        The cycle counter becomes ``target``, without a ``run``.
    host : Out(stream of HostRequestLayout), host_data : In(64)
        To the storage.
    tag : Out(TagWriteSignature), registers : Out(RegisterSignature)
        To the sanitizer and the emulator's registers.
    csr : Out(Axi4LiteSignature), command : Out(stream of CommandLayout), dropin : Out(stream of DropinLayout), resume :
    Out(stream of ResumeLayout)
        To the MMU; all move only in clocks with ``run``.
    descriptor : Out(stream of DescriptorLayout)
        To the DMA engines; moves only in clocks with ``run``.
    """

    request: stream.Interface
    records: stream.Interface
    host: stream.Interface
    command: stream.Interface
    descriptor: stream.Interface
    dropin: stream.Interface
    resume: stream.Interface

    def __init__(self, *, address_bits: int, frame_bits: int) -> None:
        super().__init__(
            {
                "request": In(stream.Signature(WORD_BITS)),
                "records": Out(stream.Signature(RecordLayout())),
                "enable": Out(1),
                "run": In(1),
                "busy": In(1),
                "quiet": In(1),
                "clear": Out(1),
                "seen": In(32),
                "cycle": In(CYCLE_BITS),
                "idle": In(1),
                "warp": In(1),
                "skip": Out(1),
                "target": Out(CYCLE_BITS),
                "host": Out(stream.Signature(HostRequestLayout(address_bits))),
                "host_data": In(WORD_BITS),
                "tag": Out(TagWriteSignature(frame_bits)),
                "registers": Out(RegisterSignature()),
                "csr": Out(Axi4LiteSignature(addr_bits=12)),
                "command": Out(stream.Signature(CommandLayout())),
                "descriptor": Out(stream.Signature(DescriptorLayout())),
                "dropin": Out(stream.Signature(DropinLayout())),
                "resume": Out(stream.Signature(ResumeLayout())),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build the state machine."""
        m = Module()
        self._header = Signal(HeaderLayout())
        self._payload = Signal(data.ArrayLayout(WORD_BITS, _PAYLOAD_WORDS))
        self._word = Signal(16)
        self._bus_value = Signal(WORD_BITS)
        self._clocks = Signal(64)
        self._settled = Signal()
        m.d.sync += self._clocks.eq(self._clocks + 1)
        # One ordinary idle cycle goes before a skip, so that a design whose idle falls a cycle late
        # is not cut off.
        with m.If(self.run):
            m.d.sync += self._settled.eq(self.idle & self.quiet)
        self._drive(m)
        with m.FSM():
            self._take(m)
            self._perform(m)
            self._memory(m)
            self._bus(m)
            self._streams(m)
            self._advance(m)
        return m

    def _drive(self, m: Module) -> None:
        """Make what leaves the endpoint of the message that is being performed."""
        header, payload = self._header, self._payload
        bits = len(self.host.payload.address)
        m.d.comb += [
            self.records.payload.cycle.eq(self.cycle),
            self.host.payload.address.eq(payload[0][3 : 3 + bits]),
            self.host.payload.source.eq(payload[1][3 : 3 + bits]),
            self.host.payload.count.eq(header.arg),
            self.host.payload.value.eq(Mux(header.op == Op.MEM_CAS, payload[2], payload[1])),
            self.host.payload.expected.eq(payload[1]),
            self.tag.frame.eq(payload[0]),
            self.tag.tag.eq(payload[1]),
            self.registers.address.eq(header.arg),
            self.registers.write_data.eq(payload[0]),
            self.command.payload.eq(payload.as_value()),
            self.descriptor.payload.eq(payload.as_value()),
            self.dropin.payload.eq(payload.as_value()),
            self.resume.payload.eq(payload.as_value()),
            self.target.eq(payload[0]),
            self.csr.awaddr.eq(header.arg),
            self.csr.araddr.eq(header.arg),
            self.csr.wdata.eq(payload[0]),
            self.csr.wstrb.eq(0xFF),
        ]

    def _take(self, m: Module) -> None:
        request, header = self.request, self._header
        bits = len(self.host.payload.address)
        with m.State("Header"):
            m.d.comb += request.ready.eq(1)
            with m.If(request.valid):
                arriving = data.View(HeaderLayout(), request.payload)
                m.d.sync += [header.eq(arriving), self._payload.as_value().eq(0), self._word.eq(0)]
                m.next = "Perform"
                with m.If(arriving.count != 0):
                    m.next = "Payload"
        with m.State("Payload"):
            m.d.comb += request.ready.eq(1)
            with m.If(request.valid):
                m.d.sync += self._word.eq(self._word + 1)
                with m.If(self._word < _PAYLOAD_WORDS):
                    m.d.sync += self._payload[self._word[:2]].eq(request.payload)
                with m.If(self._word + 1 == header.count):
                    m.next = "Perform"
                with m.Elif(header.op == Op.MEM_WRITE):
                    m.next = "Store"
        with m.State("Store"):
            m.d.comb += [
                self.host.valid.eq(request.valid),
                self.host.payload.op.eq(HostOp.WRITE),
                self.host.payload.address.eq(self._payload[0][3 : 3 + bits] + self._word - 1),
                self.host.payload.value.eq(request.payload),
                request.ready.eq(self.host.ready),
            ]
            with m.If(request.valid & request.ready):
                m.d.sync += self._word.eq(self._word + 1)
                with m.If(self._word + 1 == header.count):
                    m.next = "Header"

    def _perform(self, m: Module) -> None:
        header = self._header
        with m.State("Perform"):
            m.next = "Header"
            with m.Switch(header.op):
                with m.Case(Op.MEM_READ), m.If(header.arg != 0):
                    m.next = "Read-Even"
                with m.Case(*_HOST_OPS):
                    m.next = "Block"
                with m.Case(Op.CSR_WRITE):
                    m.d.comb += self.registers.write.eq(header.flags == _EMULATOR_REGISTERS)
                    with m.If(header.flags != _EMULATOR_REGISTERS):
                        m.next = "Bus-Write"
                with m.Case(Op.CSR_READ):
                    m.next = "Bus-Read"
                    with m.If(header.flags == _EMULATOR_REGISTERS):
                        m.d.sync += self._bus_value.eq(self.registers.read_data)
                        m.next = "Register"
                with m.Case(Op.COMMAND):
                    m.next = "Command"
                with m.Case(Op.DESCRIPTOR):
                    m.next = "Descriptor"
                with m.Case(Op.DROPIN):
                    m.next = "Dropin"
                with m.Case(Op.RESUME):
                    m.next = "Resume"
                with m.Case(Op.TAG):
                    m.d.comb += self.tag.valid.eq(1)
                with m.Case(Op.ADVANCE):
                    m.next = "Advance"

    def _memory(self, m: Module) -> None:
        """Memory messages but MEM_WRITE."""
        header, request = self._header, self.host.payload
        bits = len(request.address)
        index = Signal(32)
        even = Signal(WORD_BITS)
        with m.State("Block"):
            m.d.comb += self.host.valid.eq(1)
            with m.Switch(header.op):
                for op, host_op in _HOST_OPS.items():
                    with m.Case(op):
                        m.d.comb += request.op.eq(host_op)
            with m.If(self.host.ready):
                m.next = "Header"
                with m.If((header.op == Op.MEM_SWAP) | (header.op == Op.MEM_CAS)):
                    m.next = "Exchanged"
        with m.State("Exchanged"):
            self._record(m, Event.SWAPPED, arg=0, a=self._payload[0], b=self.host_data)
        for odd, (state, following) in enumerate(
            (("Read-Even", "Read-Odd"), ("Read-Odd", "Read-Record"))
        ):
            with m.State(state):
                m.d.comb += [
                    self.host.valid.eq(1),
                    request.op.eq(HostOp.READ),
                    request.address.eq(self._payload[0][3 : 3 + bits] + index + odd),
                ]
                with m.If(self.host.ready):
                    m.d.sync += even.eq(self.host_data)
                    m.next = following
        with m.State("Read-Record"):
            last = index + 2 >= header.arg
            second = Mux(index + 1 < header.arg, self.host_data, 0)
            self._record(m, Event.READ_DATA, arg=index, a=even, b=second)
            with m.If(self.records.ready):
                m.d.sync += index.eq(Mux(last, 0, index + 2))
                with m.If(~last):
                    m.next = "Read-Even"

    def _record(self, m: Module, kind: Event, **fields: Any) -> None:
        """Offer a record in this state and leave for the next message when it is taken."""
        payload = self.records.payload
        m.d.comb += [self.records.valid.eq(1), payload.kind.eq(kind)]
        m.d.comb += [payload[name].eq(value) for name, value in fields.items()]
        with m.If(self.records.ready):
            m.next = "Header"

    def _bus(self, m: Module) -> None:
        """Reach the MMU's registers over AXI4-Lite; make the record of a register read."""
        csr = self.csr
        address_done = Signal()
        data_done = Signal()
        with m.State("Bus-Write"):
            m.d.comb += [
                self.enable.eq(1),
                csr.awvalid.eq(~address_done),
                csr.wvalid.eq(~data_done),
                csr.bready.eq(1),
            ]
            with m.If(self.run):
                answered = csr.bvalid
                m.d.sync += [
                    address_done.eq((address_done | csr.awready) & ~answered),
                    data_done.eq((data_done | csr.wready) & ~answered),
                ]
                with m.If(answered):
                    m.next = "Header"
        with m.State("Bus-Read"):
            m.d.comb += [self.enable.eq(1), csr.arvalid.eq(~address_done), csr.rready.eq(1)]
            with m.If(self.run):
                m.d.sync += address_done.eq((address_done | csr.arready) & ~csr.rvalid)
                with m.If(csr.rvalid):
                    m.d.sync += self._bus_value.eq(csr.rdata)
                    m.next = "Register"
        with m.State("Register"):
            self._record(m, Event.CSR_DATA, arg=self._header.arg, b=self._bus_value)

    def _streams(self, m: Module) -> None:
        """Let emulated time run until the stream takes what the message carries."""
        for state, target in (
            ("Command", self.command),
            ("Descriptor", self.descriptor),
            ("Dropin", self.dropin),
            ("Resume", self.resume),
        ):
            with m.State(state):
                m.d.comb += [self.enable.eq(1), target.valid.eq(1)]
                with m.If(self.run & target.ready):
                    m.next = "Header"

    def _advance(self, m: Module) -> None:
        stopped = (self.seen & self._header.arg) != 0
        over = ~self.busy & (stopped | (self.cycle >= self.target))
        with m.State("Advance"):
            m.d.comb += [
                self.skip.eq(self.warp & self.idle & self.quiet & self._settled & ~over),
                self.enable.eq(~over & ~self.skip),
            ]
            with m.If(over):
                m.next = "Advanced"
        with m.State("Advanced"):
            # An ADVANCE that names no kind leaves what was seen to the next one that does.
            m.d.comb += self.clear.eq(self.records.ready & (self._header.arg != 0))
            self._record(m, Event.ADVANCED, arg=stopped, a=self._clocks, b=0)
