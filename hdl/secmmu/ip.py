"""The secondary MMU as a block for other people's systems: flat ports under the names that vendor tools look for."""

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.emit import to_verilog
from secmmu.layouts import GRAIN_SHIFTS, Cause, CommandKind, Phase
from secmmu.mmu import Secmmu

__all__ = ["WAIVERS", "Ip", "ip_verilog"]

_BUSES = {"device": "s_axi", "memory": "m_axi", "walk": "m_axi_walk", "csr": "s_axil"}
"""Port of the MMU: prefix of its signals."""
_BYTE = 8

_HEAD = """\
// secmmu, a secondary MMU. Made by "shootdown verilog"; do not edit.
// Parameters of hdl/secmmu/config.py:
//
{parameters}
//
//   s_axi       device side, virtual addresses, asid in AxUSER      m_axi       memory side, physical addresses
//   s_axil      registers                                           m_axi_walk  page tables
//   s_axis_*, m_axis_*: commands, drop-ins, resumes; their answers, faults. TDATA holds, from bit 0:
//
{streams}
//
{values}
//
// SystemVerilog (always_comb), whatever the file is called. One clock; aresetn is active low and synchronous to it.
//
// Waived for the linter, in this file alone:
{waivers}
"""


WAIVERS = {
    "CASEINCOMPLETE": "what no case names was assigned before the case",
    "DECLFILENAME": "one file holds all modules",
    "INITIALDLY": "starts the processes that read constants alone, which Icarus 11 does not",
    "PROCASSINIT": "registers hold their reset value from the start, as an FPGA's do",
    "UNUSEDSIGNAL": "fields that a block is handed whole and needs in part; padding of TDATA",
    "WIDTHEXPAND": "the back end leaves the extension of operands to the language",
    "WIDTHTRUNC": "the back end leaves the truncation of results to the language",
}
"""Warnings of ``verilator -Wall`` that the text waives for itself, and why each means nothing here."""


class Ip(wiring.Component):
    """:class:`secmmu.mmu.Secmmu` between flat ports.

    Parameters
    ----------
    config : SecmmuConfig
        All but ``observe``.

    Members
    -------
    aclk, aresetn : In(1)
        The clock; the reset, active low and synchronous.
    s_axi_* : In, m_axi_*, m_axi_walk_* : Out, s_axil_* : In
        The AXI ports ``device``, ``memory``, ``walk``, ``csr``.
    s_axis_NAME_*, m_axis_NAME_*
        The streams: TVALID, TREADY, and TDATA of whole bytes.
    idle : Out(1)
        As of the MMU.
    """

    aclk: Signal
    aresetn: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self._mmu = Secmmu(config)
        members: dict[str, wiring.Member] = {"aclk": In(1), "aresetn": In(1)}
        for name, member in self._mmu.signature.members.items():
            if name in _BUSES:
                members |= self._bus(name, member)
            elif name != "idle":
                members |= self._stream(name, member)
        super().__init__(members | {"idle": Out(1)})

    @staticmethod
    def _bus(name: str, member: wiring.Member) -> dict[str, wiring.Member]:
        return {
            f"{_BUSES[name]}_{part}": In(inner.shape) if inner.flow is In else Out(inner.shape)
            for part, inner in member.signature.members.items()
        }

    @staticmethod
    def _stream(name: str, member: wiring.Member) -> dict[str, wiring.Member]:
        parts = member.signature.members
        prefix = _stream_prefix(name, member)
        bits = -(-_width(parts["payload"]) // _BYTE) * _BYTE
        forward, back = (In, Out) if member.flow is In else (Out, In)
        return {
            f"{prefix}_tdata": forward(bits),
            f"{prefix}_tvalid": forward(1),
            f"{prefix}_tready": back(1),
        }

    def elaborate(self, platform: Any) -> Module:
        """Join each flat port to its part of the MMU."""
        m = Module()
        domain = ClockDomain("sync")
        m.domains += domain
        m.submodules.mmu = mmu = self._mmu
        m.d.comb += [
            ClockSignal().eq(self.aclk),
            domain.rst.eq(~self.aresetn),
            self.idle.eq(mmu.idle),
        ]
        for name, member in mmu.signature.members.items():
            port = getattr(mmu, name)
            if name in _BUSES:
                for part, inner in member.signature.members.items():
                    self._join(m, f"{_BUSES[name]}_{part}", getattr(port, part), inner.flow is In)
            elif name != "idle":
                prefix, inward = _stream_prefix(name, member), member.flow is In
                self._join(m, f"{prefix}_tdata", _bits(port.payload), inward)
                self._join(m, f"{prefix}_tvalid", port.valid, inward)
                self._join(m, f"{prefix}_tready", port.ready, not inward)
        return m

    def _join(self, m: Module, flat: str, inner: Any, inward: bool) -> None:
        outer = getattr(self, flat)
        m.d.comb += inner.eq(outer) if inward else outer.eq(inner)


def ip_verilog(config: SecmmuConfig) -> str:
    """Return the block as Verilog, its module called ``secmmu``.

    Raises
    ------
    ValueError
        ``observe`` is on: the lanes are for simulation.
    """
    if config.observe:
        raise ValueError("observe must be off in a block for other systems")
    component = Ip(config)
    parameters = "\n".join(
        f"//   {name} = {value}"
        for name, value in vars(config).items()
        if name not in ("observe", "mutant")
    )
    waivers = (f"/* verilator lint_off {name} */ // {why}" for name, why in WAIVERS.items())
    head = _HEAD.format(
        parameters=parameters,
        streams="\n".join(_stream_notes(component)),
        values="\n".join(_value_notes()),
        waivers="\n".join(waivers),
    )
    return head + to_verilog(component, name="secmmu")


def _stream_notes(component: Ip) -> list[str]:
    """Say which bits of each stream's TDATA hold what."""
    lines = []
    for name, member in component._mmu.signature.members.items():
        if name in _BUSES or name == "idle":
            continue
        fields = [
            f"{field} [{place.offset + place.width - 1}:{place.offset}]"
            for field, place in member.signature.members["payload"].shape
            if not field.startswith("_")
        ]
        lines.append(f"//   {_stream_prefix(name, member)}: {', '.join(fields)}")
    return lines


def _value_notes() -> Iterator[str]:
    """Say what the values of the streams' fields mean."""
    for name, values in (("kind", CommandKind), ("phase", Phase), ("cause", Cause)):
        yield f"//   {name}: {', '.join(f'{value.value} {value.name}' for value in values)}"
    sizes = (f"{number} {_size(12 + shift)}" for number, shift in enumerate(GRAIN_SHIFTS))
    yield f"//   grain: {', '.join(sizes)}"


def _size(bits: int) -> str:
    unit, rest = divmod(bits, 10)
    return f"{1 << rest} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"


def _stream_prefix(name: str, member: wiring.Member) -> str:
    return f"{'s' if member.flow is In else 'm'}_axis_{name}"


def _width(member: wiring.Member) -> int:
    return len(_bits(Signal(member.shape)))


def _bits(payload: Any) -> Any:
    return payload.as_value() if hasattr(payload, "as_value") else payload
