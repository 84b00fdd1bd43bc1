"""The register file: identity, control, time-out, fences, counters, histograms and the context table, over AXI4-Lite."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from secmmu.axi import Axi4LiteSignature
from secmmu.config import SecmmuConfig
from secmmu.csr import (
    BUCKETS,
    COUNTER_BASE,
    COUNTERS,
    DESIGN,
    HISTOGRAM_BASE,
    HISTOGRAMS,
    REGISTERS,
    VERSION,
    Register,
)
from secmmu.internals import ContextLayout
from secmmu.layouts import WORD_BITS, Response
from secmmu.registers.counter_bank import CounterBank
from secmmu.registers.counters import AGE_BITS, LatencyLayout

__all__ = ["ContextBusSignature", "EventsLayout", "FenceLayout", "LatenciesLayout", "Registers"]

ADDRESS_BITS = 12
COUNTER_BITS = 9
"""Address bits of the room for counters, and of that for histograms."""
BYTE_BITS = exact_log2(WORD_BITS // 8)


def _field(name: str) -> str:
    return name.removeprefix("mmu.").replace(".", "_")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


class EventsLayout(data.StructLayout):
    """Whether each counted event happens in this cycle, by the part of the counter's name after ``mmu.``."""

    def __init__(self) -> None:
        super().__init__({_field(name): 1 for name in COUNTERS})


class LatenciesLayout(data.StructLayout):
    """What ends in this cycle, one :class:`secmmu.registers.counters.LatencyLayout` a histogram: translation, walk, shootdown."""

    def __init__(self) -> None:
        super().__init__({_last(name): LatencyLayout() for name in HISTOGRAMS})


class FenceLayout(data.StructLayout):
    """An asid that is to be fenced off.

    Parameters
    ----------
    config : SecmmuConfig
        ``contexts``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"valid": 1, "asid": config.context_bits})


class ContextBusSignature(wiring.Signature):
    """The register bus' way to the context table, seen from the bus.

    Parameters
    ----------
    config : SecmmuConfig
        ``contexts``.

    Members
    -------
    asid : Out
        The row; it stays while anything happens to it.
    strobes : Out(8), word : Out(ContextLayout)
        Writes these bytes of it now.
    en : Out(1), row : In(ContextLayout)
        Reads it: ``row`` is there from the next cycle until the next ``en``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "asid": Out(config.context_bits),
                "strobes": Out(WORD_BITS // 8),
                "word": Out(ContextLayout()),
                "en": Out(1),
                "row": In(ContextLayout()),
            }
        )


class Registers(wiring.Component):
    """The registers of :data:`secmmu.csr.REGISTERS`.

    Address, data and answer channels are registered. A write takes effect two cycles after the later one of its AW and
    W was taken, its B follows in the next cycle. A read is answered in a fixed number of cycles. Writes to read-only
    registers do nothing; a write-only one reads 0; an address without a register answers SLVERR.

    Parameters
    ----------
    config : SecmmuConfig
        All parameters.

    Members
    -------
    csr : In(Axi4LiteSignature)
        The bus.
    context : Out(ContextBusSignature)
        To the context table.
    events : In(EventsLayout), latencies : In(LatenciesLayout)
        What happens, and what ends, in this cycle.
    now : Out(20)
        The clock that latencies are measured with; it counts cycles.
    timeout : Out(32)
        Cycles after which a command is given up; 0 means never.
    fence : In(FenceLayout)
        Fences an asid off.
    fenced : Out(contexts)
        Those fenced off.
    unfence : Out, left : In(1)
        The asid that software wants unfenced, and whether a use of it is left, in the same cycle; read in the cycle
        after ``unfence`` has changed.
    quiet : In(1)
        Nothing was in flight, walked or waited for in the cycle before.
    stop : Out(1)
        A soft reset is going on: nothing new may begin.
    clear : Out(1)
        Its last cycle, everything having been quiet: clear.
    busy : Out(1)
        A register access is going on, something of an earlier cycle is being counted, or the counters are being cleared
        after a reset.
    """

    csr: wiring.PureInterface
    context: wiring.PureInterface
    events: data.View
    latencies: data.View
    now: Signal
    timeout: Signal
    fence: data.View
    fenced: Signal
    unfence: Signal
    left: Signal
    quiet: Signal
    stop: Signal
    clear: Signal
    busy: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "csr": In(Axi4LiteSignature(addr_bits=ADDRESS_BITS)),
                "context": Out(ContextBusSignature(config)),
                "events": In(EventsLayout()),
                "latencies": In(LatenciesLayout()),
                "now": Out(AGE_BITS),
                "timeout": Out(32),
                "fence": In(FenceLayout(config)),
                "fenced": Out(config.contexts),
                "unfence": Out(config.context_bits),
                "left": In(1),
                "quiet": In(1),
                "stop": Out(1),
                "clear": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the bus and what it reaches."""
        m = Module()
        csr = self.csr
        self._address = Signal(ADDRESS_BITS)
        m.submodules.bank = self._bank = CounterBank(
            [_field(name) for name in COUNTERS],
            [_last(name) for name in HISTOGRAMS],
            observe=self.config.observe,
        )
        stopped = Signal()
        m.d.sync += [
            self.now.eq(self.now + 1),
            self._bank.events.eq(self.events),
            # Quiet is what was while nothing more could begin.
            stopped.eq(self.stop),
            self.clear.eq(self.stop & stopped & self.quiet & ~self.clear),
        ]
        m.d.comb += [
            self._bank.now.eq(self.now),
            self._bank.latencies.eq(self.latencies),
        ]
        with m.If(self.clear):
            m.d.sync += self.stop.eq(0)
        aw_valid, awaddr = self._slot(m, "aw", csr.awaddr)
        w_valid, (wdata, wstrb) = self._slot(m, "w", csr.wdata, csr.wstrb)
        ar_valid, araddr = self._slot(m, "ar", csr.araddr)
        m.d.comb += self.busy.eq(
            csr.awvalid
            | csr.wvalid
            | csr.arvalid
            | aw_valid
            | w_valid
            | ar_valid
            | self.stop
            | self._bank.busy
            | self._bank.happening
        )
        with m.FSM():
            with m.State("Idle"):
                with m.If(aw_valid & w_valid):
                    m.d.sync += self._address.eq(awaddr[0])
                    m.next = "Write"
                with m.Elif(ar_valid):
                    m.d.sync += self._address.eq(araddr[0])
                    m.next = "Look"
            self._write(m, wdata, wstrb)
            with m.State("Written"), m.If(csr.bready):
                m.d.sync += [csr.bvalid.eq(0), aw_valid.eq(0), w_valid.eq(0)]
                m.next = "Idle"
            self._read(m)
            with m.State("Answered"), m.If(csr.rready):
                m.d.sync += [csr.rvalid.eq(0), ar_valid.eq(0)]
                m.next = "Idle"
        with m.If(self.fence.valid):
            m.d.sync += self.fenced.bit_select(self.fence.asid, 1).eq(1)
        return m

    def _slot(self, m: Module, channel: str, *fields: Signal) -> tuple[Signal, list[Signal]]:
        """Take one beat of ``channel`` and keep it until its ``valid`` is cleared."""
        valid = Signal(name=f"{channel}_taken")
        kept = [Signal.like(field, name=f"{channel}_kept") for field in fields]
        m.d.comb += getattr(self.csr, f"{channel}ready").eq(~valid)
        with m.If(getattr(self.csr, f"{channel}valid") & ~valid):
            m.d.sync += [
                valid.eq(1),
                *(to.eq(field) for to, field in zip(kept, fields, strict=True)),
            ]
        return valid, kept

    def _is(self, name: str) -> Value:
        """Whether the access is of register ``name``, any of them if there are several."""
        low, count = REGISTERS[name].address, REGISTERS[name].count
        if name == "context":
            count = self.config.contexts
        # All of several have an address aligned to their size.
        bits = exact_log2(count) + BYTE_BITS
        return self._address[bits:] == low >> bits

    def _is_counted(self, base: int, count: int) -> Value:
        """Whether the access is of one of ``count`` words from ``base`` on."""
        index = self._address[BYTE_BITS:COUNTER_BITS]
        return (self._address[COUNTER_BITS:] == base >> COUNTER_BITS) & (index < count)

    def _is_counter(self) -> Value:
        return self._is_counted(COUNTER_BASE, len(COUNTERS)) | self._is_counted(
            HISTOGRAM_BASE, len(HISTOGRAMS) * BUCKETS
        )

    def _write(self, m: Module, word: Signal, strobes: Signal) -> None:
        """Perform a write in its state ``Write``; what needs an answer is judged in the next."""
        unfencing = Signal()
        inside = Signal()
        context = self.context
        m.d.comb += [
            context.asid.eq(self._address[BYTE_BITS:]),
            context.word.eq(_masked(word, REGISTERS["context"])),
            unfencing.eq(self._is("mmu.unfence") & strobes[0]),
            inside.eq(word[:8] < self.config.contexts),
        ]
        with m.State("Write"):
            m.next = "Judge"
            m.d.sync += self.unfence.eq(word)
            m.d.comb += context.strobes.eq(Mux(self._is("context"), strobes, 0))
            with m.If(self._is("control") & strobes[0] & word[0]):
                m.d.sync += self.stop.eq(1)
            for byte in range(4):
                with m.If(self._is("mmu.timeout") & strobes[byte]):
                    m.d.sync += self.timeout.word_select(byte, 8).eq(word.word_select(byte, 8))
        with m.State("Judge"):
            m.next = "Written"
            refused = Signal()
            m.d.comb += refused.eq(unfencing & (self.left | ~inside))
            with m.If(unfencing & ~refused):
                m.d.sync += self.fenced.bit_select(self.unfence, 1).eq(0)
            m.d.sync += [
                self.csr.bvalid.eq(1),
                self.csr.bresp.eq(Mux(self._exists() & ~refused, Response.OKAY, Response.SLVERR)),
            ]

    def _exists(self) -> Value:
        others = (name for name in REGISTERS if name not in {**COUNTERS, **HISTOGRAMS})
        return self._is_counter() | Cat(self._is(name) for name in others).any()

    def _read(self, m: Module) -> None:
        """Perform a read: look the word up, latch it, answer."""
        csr, bank = self.csr, self._bank
        counting = Signal()
        asking = Signal()
        index = self._address[BYTE_BITS:COUNTER_BITS]
        bucketed = self._address[COUNTER_BITS:] == HISTOGRAM_BASE >> COUNTER_BITS
        m.d.comb += [
            bank.index.eq(index + Mux(bucketed, bank.place(0), 0)),
            bank.request.eq(asking),
        ]
        word = self._word(m)
        with m.State("Look"):
            m.d.comb += self.context.en.eq(1)
            m.d.sync += [
                counting.eq(self._is_counter()),
                asking.eq(self._is_counter()),
                csr.rresp.eq(Mux(self._exists(), Response.OKAY, Response.SLVERR)),
            ]
            m.next = "Read"
        with m.State("Read"):
            m.d.sync += csr.rdata.eq(Mux(counting, bank.value, word))
            with m.If(~counting | bank.done):
                m.d.sync += [csr.rvalid.eq(1), asking.eq(0)]
                m.next = "Answered"

    def _word(self, m: Module) -> Value:
        """Choose the word of the register that is read, but for the counters."""
        config = self.config
        features = REGISTERS["features"]
        built = {field.name: int(getattr(config, field.name)) for field in features.fields}
        index = self._address[BYTE_BITS:]
        every_fence = Cat(self.fenced, Const(0, 4 * WORD_BITS - config.contexts))
        values: dict[str, ValueLike] = {
            "identity": REGISTERS["identity"].pack(design=DESIGN, version=VERSION),
            "control": self.stop,
            "status": self.quiet,
            "features": features.pack(**built),
            "mmu.timeout": self.timeout,
            "mmu.fenced": every_fence.word_select(index[:2], WORD_BITS),
            "context": self.context.row.as_value(),
        }
        words = []
        for name, value in values.items():
            chosen = Signal(name=f"chosen_{name.replace('.', '_')}")
            # Decoded before it is used, and only one is ever set: no wide word waits for an address.
            m.d.sync += chosen.eq(self._is(name))
            words.append(Mux(chosen, value, 0))
        return reduce(or_, words)


def _masked(word: Signal, register: Register) -> Value:
    """Return ``word`` without the bits that ``register`` does not have."""
    return word & Const(sum(field.mask for field in register.fields), WORD_BITS)
