"""The emulator's own registers (``csr.EMULATOR_REGISTERS``), reached by ``CSR_*`` messages with ``flags`` 1."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from secmmu.csr import EMULATOR_REGISTERS
from secmmu.emulator.bursts import TimingLayout
from secmmu.layouts import CYCLE_BITS, WORD_BITS

__all__ = ["RegisterSignature", "Registers"]

_LATENCY = 20
_LONGEST = 0xFFFF


class RegisterSignature(wiring.Signature):
    """Access to the registers, seen from the endpoint: data is read without a clock, written at the next edge."""

    def __init__(self) -> None:
        super().__init__(
            {
                "address": Out(12),
                "write": Out(1),
                "write_data": Out(WORD_BITS),
                "read_data": In(WORD_BITS),
            }
        )


class Registers(wiring.Component):
    """The register file.

    A value outside a register's range becomes the nearest one inside: latencies 1 to 65535,
    ``memory.jitter`` and ``memory.beat_gap`` up to 65535, ``dma.outstanding`` 1 to ``outstanding``.
    ``memory.seed`` keeps its low 32 bits. Reset values: latencies 20, ``dma.outstanding`` its
    maximum, all others 0. An address without a register reads 0.

    Parameters
    ----------
    outstanding : int
        Largest value of ``dma.outstanding``: the ids of one engine.

    Members
    -------
    access : In(RegisterSignature)
        From the endpoint.
    timing : Out(TimingLayout), warp : Out(1), limit : Out(16)
        To the memory, the endpoint and the DMA engines.
    cycle, bytes : In(64), pending : In(16)
        What the read-only registers show.
    """

    def __init__(self, *, outstanding: int) -> None:
        self._outstanding = outstanding
        super().__init__(
            {
                "access": In(RegisterSignature()),
                "timing": Out(
                    TimingLayout(), init={"read_latency": _LATENCY, "write_latency": _LATENCY}
                ),
                "warp": Out(1),
                "limit": Out(16, init=outstanding),
                "cycle": In(CYCLE_BITS),
                "bytes": In(64),
                "pending": In(16),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build one row of a switch a register."""
        m = Module()
        value = self.access.write_data
        small = Signal(16)
        positive = Signal(16)
        m.d.comb += [
            small.eq(Mux(value > _LONGEST, _LONGEST, value)),
            positive.eq(Mux(value == 0, 1, small)),
        ]
        writable = {
            "memory.read_latency": (self.timing.read_latency, positive),
            "memory.write_latency": (self.timing.write_latency, positive),
            "memory.jitter": (self.timing.jitter, small),
            "memory.beat_gap": (self.timing.beat_gap, small),
            "memory.seed": (self.timing.seed, value),
            "warp": (self.warp, value[0]),
            "dma.outstanding": (
                self.limit,
                Mux(positive > self._outstanding, self._outstanding, positive),
            ),
        }
        read_only = {"cycle": self.cycle, "dma.bytes": self.bytes, "dma.pending": self.pending}
        with m.Switch(self.access.address):
            for name, register in EMULATOR_REGISTERS.items():
                with m.Case(register.address):
                    if register.access == "ro":
                        m.d.comb += self.access.read_data.eq(read_only[name])
                    else:
                        target, new = writable[name]
                        m.d.comb += self.access.read_data.eq(target)
                        with m.If(self.access.write):
                            m.d.sync += target.eq(new)
        return m
