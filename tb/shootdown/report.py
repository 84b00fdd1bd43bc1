"""What ``shootdown run`` prints: one table, the scenarios, and a verdict that can be quoted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from hostmm.policies import PATHS, SEED_PATHS
from hostmm.scenarios import SCENARIOS
from shootdown.measures import COST_TABLE, RTL
from shootdown.outcome import Outcome
from shootdown.results import Distribution, PathResult
from shootdown.verdict import print_verdict

__all__ = ["print_classes", "print_report", "print_scenarios", "print_table", "silent_paths"]

_BOTH = f"{COST_TABLE} + {RTL}"
_DASH = "-"


def _triple(samples: Distribution | None, scale: int = 1) -> str:
    if samples is None or not samples.n:
        return ""
    values = (samples.p50, samples.p99, samples.max)
    return " / ".join(_DASH if value is None else str(value * scale) for value in values)


def _kinds(path: PathResult, _cycle_ns: int) -> str:
    return f"{path.kinds.page} / {path.kinds.young} / {path.kinds.range}"


def _classes(path: PathResult, _cycle_ns: int) -> str:
    classes = path.shootdown_by_class
    named = (("none", classes.none), ("idle", classes.idle), ("in flight", classes.in_flight))
    return "\n".join(f"{name} {c.p50} ({c.n})" for name, c in named if c.n)


@dataclass(frozen=True)
class _Line:
    """One line of a path's block: its name, its mark, and how a cell is made."""

    name: str
    mark: str
    cell: Callable[[PathResult, int], str]


_LINES = (
    _Line("notifications: page / young / range", COST_TABLE, _kinds),
    _Line("shootdown, cycles: p50 / p99 / max", RTL, lambda p, _: _triple(p.shootdown_cycles)),
    _Line("shootdown, ns", RTL, lambda p, ns: _triple(p.shootdown_cycles, ns)),
    _Line("  p50 by class (samples)", RTL, _classes),
    _Line("  its floor, cycles", RTL, lambda p, _: _triple(p.floor_cycles)),
    _Line("PT lock held in a pass, ns", _BOTH, lambda p, _: _triple(p.ptl_hold_ns)),
    _Line("PT lock waited for in a pass, ns", _BOTH, lambda p, _: _triple(p.ptl_wait_ns)),
    _Line("rmap lock held, ns", _BOTH, lambda p, _: _triple(p.rmap_hold_ns)),
    _Line("rmap lock waited for, ns", _BOTH, lambda p, _: _triple(p.rmap_wait_ns)),
    _Line("clear to drained, ns", _BOTH, lambda p, _: _triple(p.clear_to_drained_ns)),
    _Line("unmap to free, ns", _BOTH, lambda p, _: _triple(p.unmap_to_free_ns)),
)


def _violations(outcome: Outcome, path: str) -> str:
    run = outcome.run
    expected = run.count_violations(path=path, expected=True)
    return f"{expected} / {run.count_violations(path=path, expected=False)}"


def print_table(console: Console, outcomes: Sequence[Outcome], cycle_ns: int) -> None:
    """Print the table: a block a path, a column a run; percentiles that lack samples are a dash."""
    table = Table(title="mm path x policy: p50 / p99 / max", title_justify="left")
    table.add_column("path and measure", no_wrap=True)
    for outcome in outcomes:
        cpus = outcome.config.cpus
        table.add_column(f"{outcome.config.policy}, {cpus} CPU{'s' * (cpus > 1)}", justify="right")
    table.add_column("from")
    for path in PATHS:
        if not any(path in outcome.run.paths for outcome in outcomes):
            continue
        table.add_section()
        table.add_row(f"[bold]{path}[/bold]")
        for line in _LINES:
            cells = [
                line.cell(outcome.run.paths[path], cycle_ns) if path in outcome.run.paths else ""
                for outcome in outcomes
            ]
            if any(cells):
                table.add_row(f"  {line.name}", *cells, line.mark)
        cells = [_violations(outcome, path) for outcome in outcomes]
        table.add_row("  violations: expected / unexpected", *cells, _BOTH)
    console.print(table)
    for outcome in outcomes:
        device, pages = outcome.run.device, outcome.run.pages
        console.print(
            f"{outcome.config.name}: device {device.accesses} bursts, {device.tlb_hits} hits, "
            f"{device.walks} walks, {device.faults} faults, {device.bytes} bytes; pages "
            f"{pages.allocated} allocated, {pages.reclaimed} reclaimed, {pages.written_back} written "
            f"back, {pages.freed} freed; {outcome.run.cycles} cycles in {outcome.run.wall_s:.1f} s",
            highlight=False,
        )


def print_scenarios(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print what each directed scenario showed, and whether that was expected."""
    table = Table(title="Directed scenarios on the RTL", title_justify="left")
    for column in ("scenario", "policy", "outcome", "expected", "first violation"):
        table.add_column(column)
    for outcome in outcomes:
        assert outcome.scenario is not None
        found = outcome.run.violations
        first = f"{found[0].invariant} in cycle {found[0].cycle}: {found[0].what}" if found else ""
        scenario = outcome.scenario
        verdict = "yes" if scenario.expected and not outcome.unexpected else "NO"
        table.add_row(scenario.name, scenario.policy, scenario.outcome, verdict, first)
    console.print(table)


def print_classes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print the shootdowns of each long scenario by class, against the floor that no hardware can beat."""
    table = Table(title="Shootdowns of the storm by class, cycles (RTL)", title_justify="left")
    for column in ("scenario", "policy", "class"):
        table.add_column(column)
    for column in ("samples", "p50 / p99 / max", "floor p50 / p99 / max"):
        table.add_column(column, justify="right")
    for outcome in outcomes:
        scenario = outcome.scenario
        if scenario is None or not SCENARIOS[scenario.name].long:
            continue
        for name, found in scenario.classes.items():
            cycles, floor = found.shootdown_cycles, found.floor_cycles
            cells = (name.replace("_", " "), str(cycles.n), _triple(cycles), _triple(floor))
            table.add_row(scenario.name, scenario.policy, *cells)
    if table.row_count:
        console.print(table)


def silent_paths(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Return (run, path) of the seed's paths that did not notify at all in a replay."""
    return [
        (outcome.config.name, path)
        for outcome in outcomes
        for path in SEED_PATHS
        if path not in outcome.run.paths or not outcome.run.paths[path].notifications
    ]


def print_report(
    console: Console, replays: Sequence[Outcome], scenarios: Sequence[Outcome], cycle_ns: int
) -> None:
    """Print everything."""
    if replays:
        print_table(console, replays, cycle_ns)
    if scenarios:
        print_scenarios(console, scenarios)
        print_classes(console, scenarios)
    print_verdict(console, replays, scenarios)
