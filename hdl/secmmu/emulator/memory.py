"""The emulated memory's timing: a data port and a walk port, programmable, over one storage."""

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from secmmu.axi import Axi4Signature
from secmmu.emulator.bursts import AccessSignature, TimingLayout
from secmmu.emulator.channels import ReadChannel, WriteChannel
from secmmu.emulator.ram import ReadSignature, WriteSignature
from secmmu.layouts import CYCLE_BITS, PA_BITS

__all__ = ["AxiMemory"]


class AxiMemory(wiring.Component):
    """The emulated memory without its storage: a data port and a walk port, see the channels for the timing.

    Parameters
    ----------
    id_bits, asid_bits : int
        Widths of the data port's ids and of AxUSER.
    memory_bytes : int
        Size, a power of two.

    Members
    -------
    data, walk : In(Axi4Signature)
        The two ports; ``walk`` only reads.
    timing : In(TimingLayout), cycle : In(64)
        The registers and the emulated cycle counter.
    data_read, walk_read : Out(ReadSignature), data_write : Out(WriteSignature)
        The storage's ports.
    read_access, write_access, walk_access : Out(AccessSignature)
        The beats of this cycle, for the sanitizer.
    idle : Out(1)
        1 when neither port has anything to do.
    """

    def __init__(self, *, id_bits: int, asid_bits: int, memory_bytes: int) -> None:
        bits = exact_log2(memory_bytes // 8)
        widths = {"user_bits": asid_bits, "address_bits": bits}
        self._data_reads = ReadChannel(id_bits=id_bits, channel=0, **widths)
        self._data_writes = WriteChannel(id_bits=id_bits, channel=1, **widths)
        self._walk_reads = ReadChannel(id_bits=1, channel=2, **widths)
        super().__init__(
            {
                "data": In(Axi4Signature(addr_bits=PA_BITS, id_bits=id_bits, user_bits=asid_bits)),
                "walk": In(
                    Axi4Signature(addr_bits=PA_BITS, id_bits=1, user_bits=asid_bits, write=False)
                ),
                "timing": In(TimingLayout()),
                "cycle": In(CYCLE_BITS),
                "data_read": Out(ReadSignature(bits)),
                "walk_read": Out(ReadSignature(bits)),
                "data_write": Out(WriteSignature(bits)),
                "read_access": Out(AccessSignature()),
                "write_access": Out(AccessSignature()),
                "walk_access": Out(AccessSignature()),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build the three channels."""
        m = Module()
        m.submodules.data_reads = reads = self._data_reads
        m.submodules.data_writes = writes = self._data_writes
        m.submodules.walk_reads = walks = self._walk_reads
        for channel in (reads, writes, walks):
            m.d.comb += [channel.timing.eq(self.timing), channel.cycle.eq(self.cycle)]
        for name, member in reads.port.signature.flip().members.items():
            ours, theirs = getattr(self.data, name), getattr(reads.port, name)
            m.d.comb += theirs.eq(ours) if member.flow is Out else ours.eq(theirs)
        for name, member in writes.port.signature.flip().members.items():
            if name.startswith(("aw", "w", "b")):
                ours, theirs = getattr(self.data, name), getattr(writes.port, name)
                m.d.comb += theirs.eq(ours) if member.flow is Out else ours.eq(theirs)
        wiring.connect(m, walks.port, wiring.flipped(self.walk))
        for ours, theirs in (
            (self.data_read, reads.read),
            (self.walk_read, walks.read),
            (self.data_write, writes.write),
            (self.read_access, reads.access),
            (self.write_access, writes.access),
            (self.walk_access, walks.access),
        ):
            wiring.connect(m, wiring.flipped(ours), theirs)
        m.d.comb += self.idle.eq(reads.idle & writes.idle & walks.idle)
        return m
