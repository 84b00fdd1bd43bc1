"""The context table: one row per asid, written over the register bus, read by the datapath and by commands."""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import GROUP_BITS, ContextLayout
from secmmu.layouts import WORD_BITS
from secmmu.registers.registers import ContextBusSignature

__all__ = ["ContextReadSignature", "Contexts"]

BYTES = WORD_BITS // 8


class ContextReadSignature(wiring.Signature):
    """A reader of the context table, seen from the reader.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``.

    Members
    -------
    en : Out(1), asid : Out
        Read this row now.
    row : In(ContextLayout)
        The row, from the next cycle until the next ``en``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"en": Out(1), "asid": Out(config.asid_bits), "row": In(ContextLayout())})


class Contexts(wiring.Component):
    """Rows in a memory. One not written since the reset, or beyond the table, has mode 0 and a global group of its own.

    The register bus reads a copy, so that the fast memory has few ports.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``, ``contexts``.

    Members
    -------
    bus : In(ContextBusSignature)
        The register bus; a reader in the cycle of its write gets what was there before.
    lookup, command, dropin : In(ContextReadSignature)
        The readers: accesses, commands and drop-ins. What mode 0 leaves without meaning need not be 0 for them.
    group : Out(8)
        Global group of ``lookup.asid``, in the same cycle: the TLB wants it that early. Means nothing where the row has
        mode 0.
    """

    bus: wiring.PureInterface
    lookup: wiring.PureInterface
    command: wiring.PureInterface
    dropin: wiring.PureInterface
    group: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "bus": In(ContextBusSignature(config)),
                "lookup": In(ContextReadSignature(config)),
                "command": In(ContextReadSignature(config)),
                "dropin": In(ContextReadSignature(config)),
                "group": Out(GROUP_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the memory, and the default that stands for the rows not written since the reset."""
        m = Module()
        bus = self.bus
        rows = memory.Memory(shape=WORD_BITS, depth=self.config.contexts, init=[])
        shown = memory.Memory(
            shape=WORD_BITS,
            depth=self.config.contexts,
            init=[],
            attrs={"ram_style": "block"},
        )
        m.submodules.rows, m.submodules.shown = rows, shown
        # A reset does not reach the memory: what was written before it must not show.
        known = Signal(self.config.contexts)
        fresh = Signal(ContextLayout())
        first = ~known.bit_select(bus.asid, 1)
        word = Signal(WORD_BITS)
        m.d.comb += fresh.global_group.eq(bus.asid)
        for byte in range(BYTES):
            lane = slice(8 * byte, 8 * byte + 8)
            given, default = bus.word.as_value()[lane], fresh.as_value()[lane]
            m.d.comb += word[lane].eq(Mux(bus.strobes[byte], given, default))
        for copy in (rows, shown):
            writer = copy.write_port(granularity=8)
            m.d.comb += [
                writer.addr.eq(bus.asid),
                writer.data.eq(word),
                writer.en.eq(Mux(bus.strobes.any() & first, Const(-1, BYTES), bus.strobes)),
            ]
        with m.If(bus.strobes.any()):
            m.d.sync += known.bit_select(bus.asid, 1).eq(1)
        for port in (self.lookup, self.command, self.dropin, bus):
            # Beyond the table there is no bit, and its memory's row is that of another asid.
            there = known.bit_select(port.asid, 1)
            if port is bus:
                self._show(m, shown, there)
            else:
                row = self._read(m, port, rows, there)
                if port is self.lookup:
                    m.d.comb += self.group.eq(row.global_group)
        return m

    def _read(
        self, m: Module, port: wiring.PureInterface, rows: memory.Memory, there: Value
    ) -> data.View:
        """Give a reader its row, or the default: chosen before it is registered, since much is decided with it.

        Return what the memory has.
        """
        reader = rows.read_port(domain="comb")
        row = data.View(ContextLayout(), reader.data)
        m.d.comb += reader.addr.eq(port.asid)
        with m.If(port.en):
            m.d.sync += [
                port.row.root_ppn.eq(row.root_ppn),
                port.row.global_group.eq(Mux(there, row.global_group, port.asid)),
                port.row.stall.eq(row.stall & there),
                port.row.mode.eq(Mux(there, row.mode, 0)),
            ]
        return row

    def _show(self, m: Module, shown: memory.Memory, there: Value) -> None:
        """Give the register bus its row, or the default."""
        bus, reader = self.bus, shown.read_port()
        fresh, written = Signal(ContextLayout()), Signal()
        m.d.comb += [reader.en.eq(bus.en), reader.addr.eq(bus.asid)]
        with m.If(bus.en):
            m.d.sync += [fresh.global_group.eq(bus.asid), written.eq(there)]
        m.d.comb += bus.row.eq(Mux(written, reader.data, fresh))
