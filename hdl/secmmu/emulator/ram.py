"""The emulated memory's storage: block RAM on the FPGA, a Verilog module in simulation; same ports, same results."""

from typing import Any

from amaranth.hdl import C, ClockSignal, Instance, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from secmmu.layouts import WORD_BITS

__all__ = [
    "HostOp",
    "HostRequestLayout",
    "OnChipRam",
    "RamSignature",
    "ReadSignature",
    "SimulationRam",
    "WriteSignature",
]


class HostOp(enum.Enum, shape=3):
    """What the host does to the storage while the emulated clock stands still.

    ``READ``  take the word at ``address``
    ``WRITE`` store ``value`` at ``address``
    ``COPY``  copy ``count`` words from ``source`` to ``address``, ascending
    ``FILL``  store ``value`` in ``count`` words from ``address``
    ``SWAP``  take the word at ``address`` and store ``value``
    ``CAS``   take the word at ``address`` and store ``value`` if it equals ``expected``
    """

    READ = 0
    WRITE = 1
    COPY = 2
    FILL = 3
    SWAP = 4
    CAS = 5


class HostRequestLayout(data.StructLayout):
    """One host operation; addresses are word indices.

    Parameters
    ----------
    address_bits : int
        Width of a word index.
    """

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {
                "op": HostOp,
                "address": address_bits,
                "source": address_bits,
                "count": 32,
                "value": WORD_BITS,
                "expected": WORD_BITS,
            }
        )


class ReadSignature(wiring.Signature):
    """A read port, seen from its user: ``data`` follows ``en`` by one emulated cycle and stays until the next."""

    def __init__(self, address_bits: int) -> None:
        super().__init__({"en": Out(1), "address": Out(address_bits), "data": In(WORD_BITS)})


class WriteSignature(wiring.Signature):
    """A write port, seen from its user: stores the bytes named in ``strobe`` in the cycle ``en`` is 1."""

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {
                "en": Out(1),
                "address": Out(address_bits),
                "data": Out(WORD_BITS),
                "strobe": Out(WORD_BITS // 8),
            }
        )


class RamSignature(wiring.Signature):
    """Ports of the storage, seen from the storage.

    ``device``, ``walk`` and ``write`` act only in clocks with ``run`` = 1, the emulated cycles. A
    read sees the store of the same cycle. ``host`` acts at once; it is used only while ``run`` is
    0. ``host_data`` is the word that the last ``READ``, ``SWAP`` or ``CAS`` took, from the clock
    after its handshake on.

    Parameters
    ----------
    address_bits : int
        Width of a word index.
    """

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {
                "run": In(1),
                "device": In(ReadSignature(address_bits)),
                "walk": In(ReadSignature(address_bits)),
                "write": In(WriteSignature(address_bits)),
                "host": In(stream.Signature(HostRequestLayout(address_bits))),
                "host_data": Out(WORD_BITS),
            }
        )


class SimulationRam(wiring.Component):
    """The storage as the Verilog module ``secmmu_sim_memory`` (``sim_memory.v``): any host operation in one clock.

    Parameters
    ----------
    memory_bytes : int
        Size, a power of two.
    """

    host: stream.Interface
    host_data: Signal

    def __init__(self, memory_bytes: int) -> None:
        self.words = memory_bytes // 8
        self.address_bits = exact_log2(self.words)
        super().__init__(RamSignature(self.address_bits))

    def elaborate(self, platform: Any) -> Module:
        """Build the instance."""
        m = Module()
        request = self.host.payload
        m.submodules.memory = Instance(
            "secmmu_sim_memory",
            p_WORDS=self.words,
            p_ADDRESS_BITS=self.address_bits,
            i_clk=ClockSignal(),
            i_run=self.run,
            i_device_en=self.device.en,
            i_device_address=self.device.address,
            o_device_data=self.device.data,
            i_walk_en=self.walk.en,
            i_walk_address=self.walk.address,
            o_walk_data=self.walk.data,
            i_write_en=self.write.en,
            i_write_address=self.write.address,
            i_write_data=self.write.data,
            i_write_strobe=self.write.strobe,
            i_host_en=self.host.valid,
            i_host_op=request.op,
            i_host_address=request.address,
            i_host_source=request.source,
            i_host_count=request.count,
            i_host_value=request.value,
            i_host_expected=request.expected,
            o_host_data=self.host_data,
        )
        m.d.comb += self.host.ready.eq(1)
        return m


class OnChipRam(wiring.Component):
    """The storage as block RAM: READ and WRITE take one clock, SWAP and CAS two, FILL n, COPY n + 1 for n words.

    The host shares the device's read port; the word that the device has read is kept aside for that
    time.

    Parameters
    ----------
    memory_bytes : int
        Size, a power of two.
    """

    host: stream.Interface
    host_data: Signal

    def __init__(self, memory_bytes: int) -> None:
        self.words = memory_bytes // 8
        self.address_bits = exact_log2(self.words)
        super().__init__(RamSignature(self.address_bits))

    def elaborate(self, platform: Any) -> Module:
        """Build the memory and share its ports."""
        m = Module()
        m.submodules.storage = storage = Memory(shape=WORD_BITS, depth=self.words, init=[])
        self._write = storage.write_port(granularity=8)
        self._read = storage.read_port(transparent_for=(self._write,))
        walk = storage.read_port(transparent_for=(self._write,))
        m.d.comb += [
            walk.addr.eq(self.walk.address),
            walk.en.eq(self.walk.en & self.run),
            self.walk.data.eq(walk.data),
            self.host_data.eq(self._read.data),
        ]
        self._keep_device_word(m)
        with m.If(self.run):
            m.d.comb += [
                self._read.addr.eq(self.device.address),
                self._read.en.eq(self.device.en),
                self._write.addr.eq(self.write.address),
                self._write.data.eq(self.write.data),
                self._write.en.eq(Mux(self.write.en, self.write.strobe, 0)),
            ]
        with m.Elif(self.host.valid):
            self._perform(m)
        return m

    def _keep_device_word(self, m: Module) -> None:
        """Show the device the word of its last read, also after the host has used the port."""
        fresh = Signal()
        kept = Signal(WORD_BITS)
        m.d.sync += fresh.eq(self.run & self.device.en)
        with m.If(fresh):
            m.d.sync += kept.eq(self._read.data)
        m.d.comb += self.device.data.eq(Mux(fresh, self._read.data, kept))

    def _perform(self, m: Module) -> None:
        """Do one clock of a host operation; ``done`` words are finished, ``taken`` says the old word is at hand."""
        request = self.host.payload
        taken = Signal()
        done = Signal(32)
        last = Signal()
        index = done[: self.address_bits]
        all_bytes = C(0xFF, 8)
        m.d.comb += [
            last.eq(done + 1 >= request.count),
            self._read.addr.eq(request.address),
            self._write.addr.eq(request.address),
            self._write.data.eq(request.value),
        ]
        with m.Switch(request.op):
            with m.Case(HostOp.READ):
                m.d.comb += [self._read.en.eq(1), self.host.ready.eq(1)]
            with m.Case(HostOp.WRITE):
                m.d.comb += [self._write.en.eq(all_bytes), self.host.ready.eq(1)]
            with m.Case(HostOp.SWAP, HostOp.CAS):
                m.d.comb += [self._read.en.eq(~taken), self.host.ready.eq(taken)]
                m.d.sync += taken.eq(~taken)
                with m.If(
                    taken & ((request.op == HostOp.SWAP) | (self._read.data == request.expected))
                ):
                    m.d.comb += self._write.en.eq(all_bytes)
            with m.Case(HostOp.FILL):
                m.d.comb += [
                    self._write.addr.eq(request.address + index),
                    self._write.en.eq(Mux(request.count == 0, 0, all_bytes)),
                    self.host.ready.eq(last),
                ]
                m.d.sync += done.eq(Mux(last, 0, done + 1))
            with m.Case(HostOp.COPY):
                # The port is transparent, so a word read in the clock it is written is the new one:
                # ascending.
                m.d.comb += [
                    self._read.addr.eq(request.source + index + taken),
                    self._read.en.eq(1),
                    self._write.addr.eq(request.address + index),
                    self._write.data.eq(self._read.data),
                    self._write.en.eq(Mux(taken & (request.count != 0), all_bytes, 0)),
                    self.host.ready.eq(taken & last),
                ]
                m.d.sync += taken.eq(~(taken & last))
                with m.If(taken):
                    m.d.sync += done.eq(Mux(last, 0, done + 1))
