"""What ``shootdown run`` prints: one table, the scenarios, and a verdict that can be quoted."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from hostmm.policies import PATHS, SEED_PATHS
from hostmm.scenarios import find
from shootdown.report.measures import MEASURES
from shootdown.report.results import Distribution, PathResult
from shootdown.report.verdict import print_verdict
from shootdown.run.outcome import Outcome

__all__ = ["print_classes", "print_report", "print_scenarios", "print_table", "silent_paths"]

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
    return "\n".join(f"{name} {_triple(c)} ({c.n})" for name, c in named if c.n)


def _distribution(field: str) -> Callable[[PathResult, int], str]:
    return lambda path, _cycle_ns: _triple(getattr(path, field))


def _cycles_and_ns(path: PathResult, cycle_ns: int) -> str:
    cycles, ns = _triple(path.shootdown_cycles), _triple(path.shootdown_cycles, cycle_ns)
    return f"{cycles}\n{ns} ns" if cycles else ""


_CELLS: dict[str, Callable[[PathResult, int], str]] = {
    name: _distribution(name) for name in MEASURES if name != "violations"
} | {
    "notifications": _kinds,
    "shootdown_cycles": _cycles_and_ns,
    "shootdown_by_class": _classes,
}
"""How the cell of each measure is made."""


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
        for name, cell in _CELLS.items():
            cells = [
                cell(outcome.run.paths[path], cycle_ns) if path in outcome.run.paths else ""
                for outcome in outcomes
            ]
            if any(cells):
                table.add_row(f"  {MEASURES[name].what}", *cells, MEASURES[name].label)
        cells = [_violations(outcome, path) for outcome in outcomes]
        violations = MEASURES["violations"]
        table.add_row(f"  {violations.what}", *cells, violations.label)
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
    table = Table(title="Directed scenarios", title_justify="left")
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
        if scenario is None or not find(outcome.config.scenario or "").long:
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
