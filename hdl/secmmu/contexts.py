"""The context table: one row per asid, written over the register bus, read by the translators."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import ContextLayout
from secmmu.layouts import WORD_BITS

__all__ = ["Contexts"]

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
    """Rows in a memory. After a reset every row refuses all accesses and is a global group of its own.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``.

    Members
    -------
    strobes : In(8), asid : In, word : In(ContextLayout)
        Write these bytes of a row now; a reader of the same cycle gets them.
    read, write, command, bus : In(ContextReadSignature)
        The readers.
    """

    strobes: Signal
    asid: Signal
    word: data.View
    read: wiring.PureInterface
    write: wiring.PureInterface
    command: wiring.PureInterface
    bus: wiring.PureInterface

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "strobes": In(BYTES),
                "asid": In(config.asid_bits),
                "word": In(ContextLayout()),
                "read": In(ContextReadSignature(config)),
                "write": In(ContextReadSignature(config)),
                "command": In(ContextReadSignature(config)),
                "bus": In(ContextReadSignature(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the memory, and the default that stands for the rows not written since the reset."""
        m = Module()
        config = self.config
        m.submodules.rows = rows = memory.Memory(shape=WORD_BITS, depth=config.contexts, init=[])
        # A reset does not reach the memory: what was written before it must not show.
        known = Signal(config.contexts)
        fresh = Signal(ContextLayout())
        writer = rows.write_port(granularity=8)
        first = ~known.bit_select(self.asid, 1)
        m.d.comb += [
            fresh.global_group.eq(self.asid),
            writer.addr.eq(self.asid),
            writer.en.eq(Mux(self.strobes.any() & first, Const(-1, BYTES), self.strobes)),
        ]
        for byte in range(BYTES):
            lane = slice(8 * byte, 8 * byte + 8)
            given, default = self.word.as_value()[lane], fresh.as_value()[lane]
            m.d.comb += writer.data[lane].eq(Mux(self.strobes[byte], given, default))
        with m.If(self.strobes.any()):
            m.d.sync += known.bit_select(self.asid, 1).eq(1)
        for port in (self.read, self.write, self.command, self.bus):
            reader = rows.read_port(transparent_for=(writer,))
            asid = Signal(config.asid_bits)
            written = Signal()
            m.d.comb += [reader.en.eq(port.en), reader.addr.eq(port.asid)]
            with m.If(port.en):
                beside = self.strobes.any() & (self.asid == port.asid)
                m.d.sync += [
                    asid.eq(port.asid),
                    written.eq(known.bit_select(port.asid, 1) | beside),
                ]
            with m.If(written):
                m.d.comb += port.row.eq(reader.data)
            with m.Else():
                m.d.comb += port.row.global_group.eq(asid)
        return m
