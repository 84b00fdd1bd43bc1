"""The register file: identity, control, status, event counters and the context table, over AXI4-Lite."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from secmmu.axi import Axi4LiteSignature
from secmmu.config import SecmmuConfig
from secmmu.contexts import ContextReadSignature, Contexts
from secmmu.csr import CONTEXT_BASE, CONTEXT_STRIDE, REGISTERS
from secmmu.internals import ContextLayout
from secmmu.layouts import WORD_BITS, Response

__all__ = ["Registers"]

IDENTITY = 0x5ECC_0001
ADDRESS_BITS = 12
EVENT_BITS = 2


class EventsLayout(data.StructLayout):
    """How often each counted event happens in this cycle, by the part of the counter's name after ``mmu.``."""

    def __init__(self) -> None:
        super().__init__({_field(name): EVENT_BITS for name in _counters()})


class Registers(wiring.Component):
    """The registers of :data:`secmmu.csr.REGISTERS`.

    A write takes effect in the cycle in which AW and W are both taken; its B is offered in the next. A read is
    answered two cycles after AR. Writes to read-only registers do nothing; an address without a register
    answers SLVERR.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``.

    Members
    -------
    csr : In(Axi4LiteSignature)
        The bus.
    events : In(EventsLayout)
        What happens in this cycle.
    read, write, command : In(ContextReadSignature)
        Readers of the context table.
    quiet : In(1)
        Nothing is in flight, walked or waited for.
    stop : Out(1)
        A soft reset is going on: nothing new may begin.
    clear : Out(1)
        Its last cycle, everything being quiet: clear.
    busy : Out(1)
        A register access is going on.
    """

    csr: wiring.PureInterface
    events: data.View
    read: wiring.PureInterface
    write: wiring.PureInterface
    command: wiring.PureInterface
    quiet: Signal
    stop: Signal
    clear: Signal
    busy: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "csr": In(Axi4LiteSignature(addr_bits=ADDRESS_BITS)),
                "events": In(EventsLayout()),
                "read": In(ContextReadSignature(config)),
                "write": In(ContextReadSignature(config)),
                "command": In(ContextReadSignature(config)),
                "quiet": In(1),
                "stop": Out(1),
                "clear": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the counters, the context table and the two bus directions."""
        m = Module()
        csr = self.csr
        values = {
            "identity": IDENTITY,
            "control": self.stop,
            "status": self.quiet,
        }
        for name in _counters():
            count = Signal(WORD_BITS, name=f"count_{_field(name)}")
            m.d.sync += count.eq(count + self.events[_field(name)])
            values[name] = count
        values["mmu.timeout"] = timeout = Signal(WORD_BITS)

        writes = Signal()
        write_ok = Signal()
        m.d.comb += [
            writes.eq(csr.awvalid & csr.wvalid & (~csr.bvalid | csr.bready)),
            csr.awready.eq(writes),
            csr.wready.eq(writes),
            write_ok.eq(self._exists(csr.awaddr)),
        ]
        with m.If(csr.bready):
            m.d.sync += csr.bvalid.eq(0)
        with m.If(writes):
            m.d.sync += [
                csr.bvalid.eq(1),
                csr.bresp.eq(Mux(write_ok, Response.OKAY, Response.SLVERR)),
            ]

        row = self._build_contexts(m, writes)
        self._read_bus(m, values, row)
        m.d.comb += [
            self.clear.eq(self.stop & self.quiet),
            self.busy.eq(
                csr.awvalid | csr.wvalid | csr.bvalid | csr.arvalid | csr.rvalid | self.stop
            ),
        ]
        for byte in range(WORD_BITS // 8):
            lane = slice(8 * byte, 8 * byte + 8)
            selected = csr.awaddr[3:] == REGISTERS["mmu.timeout"].address >> 3
            with m.If(writes & selected & csr.wstrb[byte]):
                m.d.sync += timeout[lane].eq(csr.wdata[lane])
        control = REGISTERS["control"].address
        with m.If(writes & (csr.awaddr[3:] == control >> 3) & csr.wstrb[0] & csr.wdata[0]):
            m.d.sync += self.stop.eq(1)
        with m.Elif(self.clear):
            m.d.sync += self.stop.eq(0)
        return m

    def _is_context(self, address: Signal) -> Value:
        top = CONTEXT_BASE + self.config.contexts * CONTEXT_STRIDE
        return (address >= CONTEXT_BASE) & (address < top)

    def _exists(self, address: Signal) -> Value:
        known = Cat(address[3:] == register.address >> 3 for register in REGISTERS.values()).any()
        return known | self._is_context(address)

    def _build_contexts(self, m: Module, writes: Signal) -> Value:
        """Build the context table; return the row that the bus reads, one cycle after its AR."""
        csr = self.csr
        m.submodules.contexts = contexts = Contexts(self.config)
        shift = exact_log2(CONTEXT_STRIDE)
        unused = ContextLayout().const({"_0": -1}).as_bits()
        m.d.comb += [
            contexts.strobes.eq(Mux(writes & self._is_context(csr.awaddr), csr.wstrb, 0)),
            contexts.asid.eq(csr.awaddr[shift:]),
            contexts.word.eq(csr.wdata & ~Const(unused, WORD_BITS)),
            contexts.bus.en.eq(csr.arvalid & csr.arready),
            contexts.bus.asid.eq(csr.araddr[shift:]),
        ]
        for name in ("read", "write", "command"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(contexts, name))
        return contexts.bus.row.as_value()

    def _read_bus(self, m: Module, values: dict[str, ValueLike], row: Value) -> None:
        """Answer reads: the register's word is latched in the cycle after its AR."""
        csr = self.csr
        address = Signal(ADDRESS_BITS)
        word = Signal(WORD_BITS)
        with m.Switch(address[3:]):
            for name, register in REGISTERS.items():
                with m.Case(register.address >> 3):
                    m.d.comb += word.eq(values[name])
            with m.Default():
                m.d.comb += word.eq(Mux(self._is_context(address), row, 0))
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += csr.arready.eq(1)
                with m.If(csr.arvalid):
                    m.d.sync += address.eq(csr.araddr)
                    m.next = "Read"
            with m.State("Read"):
                m.d.sync += [
                    csr.rvalid.eq(1),
                    csr.rdata.eq(word),
                    csr.rresp.eq(Mux(self._exists(address), Response.OKAY, Response.SLVERR)),
                ]
                m.next = "Answer"
            with m.State("Answer"), m.If(csr.rready):
                m.d.sync += csr.rvalid.eq(0)
                m.next = "Idle"


def _counters() -> list[str]:
    """Return the names of the event counters."""
    return [
        name for name, row in REGISTERS.items() if name.startswith("mmu.") and row.access == "ro"
    ]


def _field(name: str) -> str:
    return name.removeprefix("mmu.").replace(".", "_")
