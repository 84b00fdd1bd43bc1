"""The emulated memory's timing: a data port and a walk port, programmable, over one storage."""

from typing import Any

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from secmmu.axi import Axi4Signature
from secmmu.emulator.bursts import AccessSignature, TimingLayout
from secmmu.emulator.channels import ReadChannel, WriteChannel
from secmmu.emulator.monitor import ExclusiveSignature
from secmmu.emulator.ram import ReadSignature, WriteSignature
from secmmu.layouts import CYCLE_BITS, PA_BITS

__all__ = ["AxiMemory"]

_ADDRESS = ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "user")
_FIELDS = {
    "ar": _ADDRESS,
    "r": ("id", "data", "resp", "last"),
    "aw": _ADDRESS,
    "w": ("data", "strb", "last"),
    "b": ("id", "resp"),
}
"""Fields of each AXI channel."""
_STORE = ("en", "address", "data", "strobe")


class AxiMemory(wiring.Component):
    """The emulated memory without its storage: a data port and a walk port, see the channels for the timing.

    The storage has one write port: a store of the walk port waits for a cycle without one of the data port.

    Parameters
    ----------
    id_bits, asid_bits : int
        Widths of the data port's ids and of AxUSER.
    walk_bits : int
        Width of the walk port's ids.
    walk_writes : bool
        Whether the walk port writes, exclusively or not.
    memory_bytes : int
        Size, a power of two.

    Members
    -------
    data, walk : In(Axi4Signature)
        The two ports.
    timing : In(TimingLayout), cycle : In(64)
        The registers and the emulated cycle counter.
    data_read, walk_read : Out(ReadSignature), data_write : Out(WriteSignature)
        The storage's ports.
    exclusive : Out(ExclusiveSignature)
        Exclusive accesses of the walk port, for the monitor.
    read_access, write_access, walk_access : Out(AccessSignature)
        The beats of this cycle, for the sanitizer.
    idle : Out(1)
        1 when neither port has anything to do.
    """

    def __init__(
        self,
        *,
        id_bits: int,
        asid_bits: int,
        memory_bytes: int,
        walk_bits: int = 1,
        walk_writes: bool = False,
    ) -> None:
        bits = exact_log2(memory_bytes // 8)
        widths: dict[str, Any] = {"user_bits": asid_bits, "address_bits": bits}
        self._data_reads = ReadChannel(id_bits=id_bits, channel=0, **widths)
        self._data_writes = WriteChannel(id_bits=id_bits, channel=1, **widths)
        self._walk_reads = ReadChannel(id_bits=walk_bits, channel=2, monitored=True, **widths)
        self._walk_writes = (
            WriteChannel(id_bits=walk_bits, channel=3, monitored=True, **widths)
            if walk_writes
            else None
        )
        walk = Axi4Signature(
            addr_bits=PA_BITS, id_bits=walk_bits, user_bits=asid_bits, write=walk_writes
        )
        super().__init__(
            {
                "data": In(Axi4Signature(addr_bits=PA_BITS, id_bits=id_bits, user_bits=asid_bits)),
                "walk": In(walk),
                "timing": In(TimingLayout()),
                "cycle": In(CYCLE_BITS),
                "data_read": Out(ReadSignature(bits)),
                "walk_read": Out(ReadSignature(bits)),
                "data_write": Out(WriteSignature(bits)),
                "exclusive": Out(ExclusiveSignature(walk_bits, bits)),
                "read_access": Out(AccessSignature()),
                "write_access": Out(AccessSignature()),
                "walk_access": Out(AccessSignature()),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build the channels."""
        m = Module()
        m.submodules.data_reads = reads = self._data_reads
        m.submodules.data_writes = writes = self._data_writes
        m.submodules.walk_reads = walks = self._walk_reads
        channels: list[Any] = [reads, writes, walks]
        self._join(m, self.data, reads, "ar", "r")
        self._join(m, self.data, writes, "aw", "w", "b")
        self._join(m, self.walk, walks, "ar", "r")
        for ours, theirs in (
            (self.data_read, reads.read),
            (self.walk_read, walks.read),
            (self.read_access, reads.access),
            (self.walk_access, walks.access),
        ):
            wiring.connect(m, wiring.flipped(ours), theirs)
        self._copy(m, writes)
        m.d.comb += [
            self.exclusive.read.valid.eq(walks.exclusive),
            self.exclusive.read.id.eq(walks.access.payload.id),
            self.exclusive.read.address.eq(walks.read.address),
        ]
        if self._walk_writes is not None:
            m.submodules.walk_writes = updates = self._walk_writes
            channels.append(updates)
            self._join(m, self.walk, updates, "aw", "w", "b")
            self._update(m, writes, updates)
        for channel in channels:
            m.d.comb += [channel.timing.eq(self.timing), channel.cycle.eq(self.cycle)]
        m.d.comb += self.idle.eq(Cat(channel.idle for channel in channels).all())
        return m

    @staticmethod
    def _join(m: Module, outer: Any, channel: Any, *prefixes: str) -> None:
        """Join the parts of a port that a channel is about."""
        names = [
            prefix + name for prefix in prefixes for name in (*_FIELDS[prefix], "valid", "ready")
        ]
        members = channel.port.signature.flip().members
        for name in names:
            ours, theirs = getattr(outer, name), getattr(channel.port, name)
            m.d.comb += theirs.eq(ours) if members[name].flow is Out else ours.eq(theirs)

    def _copy(self, m: Module, writes: WriteChannel) -> None:
        """Give the store of ``writes`` to the storage and to the sanitizer."""
        m.d.comb += [
            *(getattr(self.data_write, name).eq(getattr(writes.write, name)) for name in _STORE),
            self.write_access.valid.eq(writes.access.valid),
            self.write_access.payload.eq(writes.access.payload),
        ]

    def _update(self, m: Module, writes: WriteChannel, updates: WriteChannel) -> None:
        """Let the walk port's stores through in cycles without one of the data port."""
        m.d.comb += [
            updates.blocked.eq(writes.write.en),
            updates.allowed.eq(self.exclusive.allowed),
            self.exclusive.write.valid.eq(updates.exclusive),
            self.exclusive.write.id.eq(updates.access.payload.id),
            self.exclusive.write.address.eq(updates.write.address),
        ]
        with m.If(~writes.write.en):
            self._copy(m, updates)
            m.d.comb += self.write_access.payload.walker.eq(1)
