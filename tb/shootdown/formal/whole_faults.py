"""Faults of the whole MMU that its proofs must find."""

from typing import Any

from amaranth.hdl import Const, Module

from secmmu.datapath.datapath import Datapath
from secmmu.datapath.intake import Intake
from secmmu.datapath.output import Output
from secmmu.datapath.read_return import ReadReturn
from secmmu.datapath.waiters import Waiters
from secmmu.datapath.write_buffer import WriteBuffer
from secmmu.datapath.write_return import WriteReturn
from secmmu.invalidation.invalidation import Invalidation
from shootdown.formal.parts import with_parts

__all__ = ["FAULTS", "faulty"]


class _Impatient(Output):
    """Takes an address back that was not taken at once."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        with m.If(~self.load):
            m.d.sync += self.valid.eq(0)
        return m


class _Curt(ReadReturn):
    """Says of every beat that it is the last."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.device.payload.last.eq(1)
        return m


class _Hurried(WriteReturn):
    """Answers a refused write before its data has come."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        with m.If(self.refusal.valid):
            m.d.comb += [
                self.device.valid.eq(1),
                self.device.payload.id.eq(self.refusal.payload.id),
            ]
        return m


class _Forward(WriteBuffer):
    """Passes data on whose address has not gone."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.memory.valid.eq(self.device.valid)
        return m


class _Shy(Invalidation):
    """Takes an answer back when another command comes."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        with m.If(self.accepted):
            m.d.comb += self.drained.valid.eq(0)
        return m


class _Forgetful(Waiters):
    """Never looks up again what has waited."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.again.valid.eq(0)
        return m


def _in_datapath(**parts: Any) -> dict[str, Any]:
    return {"Datapath": with_parts(Datapath, **parts)}


FAULTS: dict[str, dict[str, Any]] = {
    "impatient": _in_datapath(Output=_Impatient),
    "crossing": _in_datapath(Intake=with_parts(Intake, _crosses=lambda _access: Const(0, 1))),
    "curt": _in_datapath(ReadReturn=_Curt),
    "hurried": _in_datapath(WriteReturn=_Hurried),
    "forward": _in_datapath(WriteBuffer=_Forward),
    "shy": {"Invalidation": _Shy},
    "forgetful": _in_datapath(Waiters=_Forgetful),
}
"""What stands in for parts of the MMU, by the name of the fault.

``impatient``  an address that the memory does not take at once is taken back
``crossing``   a burst that leaves its page is not noticed
``curt``       every beat of R is the last
``hurried``    a refused write is answered before its data has come
``forward``    data goes to the memory before its address
``shy``        DRAINED is taken back when another command comes
``forgetful``  what waits is not looked up again
"""


def faulty(fault: str | None) -> dict[str, Any]:
    """Return the parts that make the fault; none for None, or for what the RTL's configuration names."""
    return {} if fault is None else FAULTS.get(fault, {})
