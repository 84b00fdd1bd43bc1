"""The figures of the secondary MMU beside what must be reached and what the best open RTL does."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import msgspec

from secmmu.config import PRESETS, SecmmuConfig
from shootdown.bench.fpga import Fit
from shootdown.cases.figure_bench import CONFIG_ENV, FIGURES_FILE, LATENCY_ENV
from shootdown.errors import SimulationError, UsageError
from shootdown.simulators.designs import secmmu_design
from shootdown.simulators.simulate import SKIPPED, build, read_results, run

__all__ = ["LATENCIES", "SETUPS", "Figure", "fpga_figures", "measure", "sweep_figure"]

LATENCIES = (20, 100)
PEER = "zero-day-labs/riscv-iommu 18ad30a, measured in simulation, IOTLB of 16"
PEER_FPGA = "zero-day-labs/riscv-iommu 18ad30a, IOTLB of 4, same flow"

SETUPS = {
    "tiny": PRESETS["tiny"],
    "default": PRESETS["default"],
    "64 entries": dataclasses.replace(PRESETS["default"], tlb_sets=16),
}
"""What is measured: the presets, and the smallest set-associative TLB of the range promised."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured figure.

    Parameters
    ----------
    name, setup : str
        What, of which configuration.
    latency : int or None
        Memory latency in cycles, where it matters.
    relation : str
        How ``measured`` must stand to ``target``.
    target, measured : float
        In ``unit``.
    peer : str
        The best open RTL's figure, as text; empty where there is none.
    """

    name: str
    setup: str
    latency: int | None
    relation: Literal["<=", ">="]
    target: float
    measured: float
    unit: str
    peer: str

    @property
    def passed(self) -> bool:
        """Whether the target is reached."""
        if self.relation == "<=":
            return self.measured <= self.target
        return self.measured >= self.target


@dataclasses.dataclass(frozen=True)
class _Target:
    """What a figure must reach; ``setups`` are those that it is promised for."""

    relation: Literal["<=", ">="]
    value: Callable[[SecmmuConfig, int], float]
    unit: str
    peer: Callable[[int], str]
    setups: tuple[str, ...] = ("default",)


def _rate(value: Callable[[SecmmuConfig, int], float], peer: Callable[[int], str]) -> _Target:
    return _Target(">=", value, "a cycle", peer)


_EVERY = tuple(SETUPS)

_TARGETS = {
    "hit latency": _Target(
        "<=", lambda config, _: 4 if config.tlb_sets else 2, "cycles", lambda _: "2", _EVERY
    ),
    "hit throughput, reads": _rate(lambda *_: 0.99, lambda _: "0.333"),
    "hit throughput, writes": _rate(lambda *_: 0.99, lambda _: "0.333"),
    "hit throughput, mixed": _rate(lambda *_: 0.99, lambda _: "0.333"),
    "hits under misses": _rate(lambda *_: 0.95, lambda _: "0 (blocked)"),
    "miss latency, warm": _Target(
        "<=",
        lambda _, latency: latency + 10,
        "cycles",
        lambda latency: f"{3 * latency + 6}",
        _EVERY,
    ),
    "miss latency, cold": _Target(
        "<=",
        lambda _, latency: 3 * latency + 14,
        "cycles",
        lambda latency: f"{3 * latency + 6}",
        _EVERY,
    ),
    "miss throughput": _rate(
        lambda _, latency: 8 / (latency + 12), lambda latency: f"{1 / (3 * latency + 7):.4f}"
    ),
    "accept to invalidated": _Target(
        "<=", lambda *_: 5, "cycles", lambda latency: f"{latency + 5}", _EVERY
    ),
    "accept to drained": _Target(
        "<=", lambda *_: 6, "cycles", lambda latency: f"{2.5 * latency + 12:.0f}", _EVERY
    ),
    "last use to drained": _Target("<=", lambda *_: 3, "cycles", lambda _: "does not wait", _EVERY),
    "hundred pages": _Target(
        "<=", lambda *_: 115, "cycles", lambda latency: {20: "2447", 100: "10607"}[latency]
    ),
    "hits beside invalidations": _rate(lambda *_: 0.95, lambda _: ""),
    "entries lost": _Target("<=", lambda *_: 0, "entries", lambda _: ""),
}


def measure(
    setup: str, latency: int, folder: Path, cases: Sequence[str] | None = None
) -> list[Figure]:
    """Measure one setup at one memory latency, on Verilator.

    Parameters
    ----------
    setup : str
        One of :data:`SETUPS`.
    latency : int
        In cycles.
    folder : Path
        For the simulation's log and results.
    cases : sequence of str, optional
        Which of ``figure_cases``; all by default.

    Raises
    ------
    SimulationError
        A case failed.
    """
    config = SETUPS[setup]
    built = build(secmmu_design(config), "verilator")
    (folder / FIGURES_FILE).unlink(missing_ok=True)
    results = run(
        built,
        "shootdown.cases.figure_cases",
        cases=cases,
        seed=1,
        env={CONFIG_ENV: json.dumps(dataclasses.asdict(config)), LATENCY_ENV: str(latency)},
        out=folder,
        timeout_s=1800,
    )
    for result in results:
        if not result.passed:
            raise SimulationError(f"{result.name} of {setup}: {result.message.splitlines()[-1]}")
    measured = {}
    for line in (folder / FIGURES_FILE).read_text().splitlines():
        row = json.loads(line)
        measured[row["name"]] = row["value"]
    return [
        Figure(
            name=name,
            setup=setup,
            latency=latency,
            relation=target.relation,
            target=target.value(config, latency),
            measured=measured[name],
            unit=target.unit,
            peer=target.peer(latency),
        )
        for name, target in _TARGETS.items()
        if name in measured and setup in target.setups
    ]


def fpga_figures(fits: Sequence[Fit]) -> list[Figure]:
    """Turn what ``shootdown fpga --json`` wrote into figures."""
    figures = []
    for fit in fits:
        clock = {"tiny": 120.0, "default": 115.0}.get(fit.name)
        if clock is not None:
            name = (
                "clock, ECP5-85F -6" if fit.routed else "clock, ECP5-85F -6 (not routed: estimate)"
            )
            figures.append(_fpga(name, fit, ">=", clock, fit.best_mhz, "MHz", "37"))
        if fit.name == "tiny":
            figures.append(_fpga("LUT4, all included", fit, "<=", 8000, fit.luts, "LUT4", "12764"))
    return figures


def sweep_figure(report: Path) -> Figure:
    """Count the cases of the sweep that met a stale use, a wrong address, an early *drained* or a hang.

    Parameters
    ----------
    report : Path
        What ``make sweep`` wrote, as JUnit XML.

    Raises
    ------
    UsageError
        It cannot be read, is no such report, or tells of no case.
    """
    try:
        cases = read_results(report)
    except OSError as error:
        raise UsageError(f"cannot read {report}: {error.strerror}") from None
    except ElementTree.ParseError as error:
        raise UsageError(f"{report} is no JUnit report: {error}") from None
    ran = [case for case in cases if case.message != SKIPPED]
    if not ran:
        raise UsageError(f"{report} tells of no case that ran: make sweep writes one that does")
    return Figure(
        name="failed of the sweep",
        setup=f"{len(ran)} cases",
        latency=None,
        relation="<=",
        target=0,
        measured=sum(not case.passed for case in ran),
        unit="cases",
        peer="45 of 330 stale, 41 of 160 wrong, 2 of 330 hung",
    )


def _fpga(
    name: str,
    fit: Fit,
    relation: Literal["<=", ">="],
    target: float,
    measured: float,
    unit: str,
    peer: str,
) -> Figure:
    return Figure(
        name=name,
        setup=fit.name,
        latency=None,
        relation=relation,
        target=target,
        measured=measured,
        unit=unit,
        peer=peer,
    )
