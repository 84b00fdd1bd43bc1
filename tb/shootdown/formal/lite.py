"""Proofs about the register file's port: it keeps the rules of AXI4-Lite, and answers."""

from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from secmmu.config import SecmmuConfig
from secmmu.registers.counter_bank import CounterBank
from secmmu.registers.registers import Registers
from shootdown.formal.parts import with_parts
from shootdown.formal.rules import channel, so_far, stays
from shootdown.formal.spec import CONTEXTS

__all__ = ["LiteHarness"]

CONFIG = SecmmuConfig(asid_bits=1, contexts=CONTEXTS, observe=False)
ANSWERED_WITHIN = 6
"""Cycles from the handshake of a read, or from that of the later of AW and W, to the answer."""


class _PromptBank(CounterBank):
    """Answers at once, with 0: the real one takes a round of its pointer."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.done.eq(self.request)
        return m


_Registers: type[Registers] = with_parts(Registers, CounterBank=_PromptBank)


class _Hasty(Registers):
    """Takes B back that was not taken at once: the fault that the proof must find."""

    def elaborate(self, platform: object) -> Module:
        m: Module = _Registers.elaborate(self, platform)
        with m.If(self.csr.bvalid):
            m.d.sync += self.csr.bvalid.eq(0)
        return m


class LiteHarness(wiring.Component):
    """Any accesses, with any timing; data has few bits that are not 0, and counters are there at once.

    Asserted: an answer that is offered stays; B comes after AW and W, R after AR, each once, and within 6 cycles when
    no other access is in the way.

    Parameters
    ----------
    fault : str or None
        ``hasty``: the register file takes an answer back.
    """

    def __init__(self, fault: str | None) -> None:
        self.registers = _Hasty(CONFIG) if fault == "hasty" else _Registers(CONFIG)
        super().__init__(
            {
                "valid": In(3),
                "ready": In(2),
                "awaddr": In(12),
                "araddr": In(12),
                "wdata": In(8),
                "wstrb": In(2),
                "quiet": In(1),
                "left": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Drive the port, and assert."""
        m = Module()
        m.submodules.registers = registers = self.registers
        csr = registers.csr
        m.d.comb += [
            Cat(csr.awvalid, csr.wvalid, csr.arvalid).eq(self.valid),
            Cat(csr.bready, csr.rready).eq(self.ready),
            csr.awaddr.eq(self.awaddr),
            csr.araddr.eq(self.araddr),
            csr.wdata.eq(self.wdata),
            csr.wstrb.eq(Cat(self.wstrb[0], self.wstrb[1].replicate(7))),
            registers.quiet.eq(self.quiet),
            registers.left.eq(self.left),
            Assume(stays(m, csr.awvalid, csr.awready, csr.awaddr)),
            Assume(stays(m, csr.wvalid, csr.wready, Cat(csr.wdata, csr.wstrb))),
            Assume(stays(m, csr.arvalid, csr.arready, csr.araddr)),
        ]
        write = Cat(self._owed(m, name) for name in ("aw", "w"))
        read = self._owed(m, "ar")
        age = Signal(range(ANSWERED_WITHIN + 2))
        waits = (write.all() | read) & ~csr.bvalid & ~csr.rvalid
        m.d.sync += age.eq(Mux(waits, age + (age <= ANSWERED_WITHIN), 0))
        rules = [
            stays(m, csr.bvalid, csr.bready, csr.bresp),
            stays(m, csr.rvalid, csr.rready, channel(csr, "r", ("data", "resp"))),
            ~csr.bvalid | write.all(),
            ~csr.rvalid | read,
            age <= ANSWERED_WITHIN,
        ]
        m.d.comb += Assert(so_far(m, Cat(rules).all()))
        return m

    def _owed(self, m: Module, name: str) -> Value:
        """Return whether a beat of this channel was taken and is not answered."""
        csr, owed = self.registers.csr, Signal(name=f"owed_{name}")
        answers = (csr.rvalid & csr.rready) if name == "ar" else (csr.bvalid & csr.bready)
        taken = getattr(csr, f"{name}valid") & getattr(csr, f"{name}ready")
        m.d.sync += owed.eq((owed & ~answers) | taken)
        return owed
