"""The exclusive monitor of the emulated memory: whether a word has changed since an exclusive read."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from secmmu.emulator.ram import HostOp, HostRequestLayout

__all__ = ["ExclusiveMonitor", "ExclusiveSignature"]


class _PlaceLayout(data.StructLayout):
    """An exclusive access to a word."""

    def __init__(self, id_bits: int, address_bits: int) -> None:
        super().__init__({"valid": 1, "id": id_bits, "address": address_bits})


class ExclusiveSignature(wiring.Signature):
    """Exclusive accesses, seen from the memory's ports.

    Parameters
    ----------
    id_bits, address_bits : int
        Widths of an id and of a word index.

    Members
    -------
    read : Out
        This word is sampled now by an exclusive read.
    write : Out
        This word would be stored now by an exclusive write;
    allowed : In(1)
        ... and may be, in the same cycle.
    """

    def __init__(self, id_bits: int, address_bits: int) -> None:
        place = _PlaceLayout(id_bits, address_bits)
        super().__init__({"read": Out(place), "write": Out(place), "allowed": In(1)})


class ExclusiveMonitor(wiring.Component):
    """One word for each id, from its exclusive read until anything is stored there (Arm IHI 0022, A7.2).

    Parameters
    ----------
    id_bits, address_bits : int
        Widths of an id and of a word index.

    Members
    -------
    run : In(1)
        The emulated part does a cycle in this clock.
    access : In(ExclusiveSignature)
        Exclusive accesses of this cycle.
    stores : In(1), address : In
        A word is stored in this cycle, exclusively or not.
    host_valid : In(1), host : In(HostRequestLayout)
        What the host does to the storage while ``run`` is 0.
    """

    run: Signal
    access: wiring.PureInterface
    stores: Signal
    address: Signal
    host_valid: Signal
    host: data.View

    def __init__(self, *, id_bits: int, address_bits: int) -> None:
        self._ids = 1 << id_bits
        self._address_bits = address_bits
        super().__init__(
            {
                "run": In(1),
                "access": In(ExclusiveSignature(id_bits, address_bits)),
                "stores": In(1),
                "address": In(address_bits),
                "host_valid": In(1),
                "host": In(HostRequestLayout(address_bits)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build a word and its comparisons for each id."""
        m = Module()
        host = self.host
        several = (host.op == HostOp.COPY) | (host.op == HostOp.FILL)
        read, write = self.access.read, self.access.write
        for number in range(self._ids):
            armed = Signal(name=f"armed_{number}")
            word = Signal(self._address_bits, name=f"word_{number}")
            behind = Signal(self._address_bits, name=f"behind_{number}")
            hit = Signal(name=f"hit_{number}")
            # An address wraps at the end of the memory, and so does what a block covers.
            m.d.comb += [
                behind.eq(word - host.address),
                hit.eq(
                    (host.op != HostOp.READ) & ((behind == 0) | (several & (behind < host.count)))
                ),
            ]
            with m.If(write.id == number):
                m.d.comb += self.access.allowed.eq(armed & (word == write.address))
            with m.If(self.run):
                with m.If(self.stores & (word == self.address)):
                    m.d.sync += armed.eq(0)
                # A read sees the store of the same cycle.
                with m.If(read.valid & (read.id == number)):
                    m.d.sync += [armed.eq(1), word.eq(read.address)]
            with m.Elif(self.host_valid & hit):
                m.d.sync += armed.eq(0)
        return m
