"""The verdict: which invariants each policy kept and broke, where, and what the move did to the locks."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console

from hostmm.policies import SEED_PATHS
from shootdown.checks import INVARIANTS
from shootdown.checks.expectations import cells, reason
from shootdown.report.results import Distribution, PathResult, ViolationResult
from shootdown.run.outcome import Outcome

__all__ = ["print_verdict"]

_BEFORE, _AFTER = "v9", "seed"
_FIGURES = (
    ("PT lock held in a notifying pass, p50", "ptl_hold_ns", "p50"),
    ("PT lock waited for in one, p99", "ptl_wait_ns", "p99"),
    ("rmap lock held, p50", "rmap_hold_ns", "p50"),
    ("rmap lock waited for, p99", "rmap_wait_ns", "p99"),
)
_MOVED_PERCENT = 10
"""A lock counts as relieved when its hold fell by more than this, and as not when it changed by less."""


def print_verdict(
    console: Console, replays: Sequence[Outcome], scenarios: Sequence[Outcome]
) -> None:
    """Print which invariants each policy kept and broke, where, and what the move did to the locks."""
    console.print("[bold]Verdict[/bold]")
    for policy in dict.fromkeys(outcome.config.policy for outcome in (*replays, *scenarios)):
        for line in _policy_verdict(policy, replays, scenarios):
            console.print(line, highlight=False)
    for line in _lock_verdict(replays):
        console.print(line, highlight=False)


def _policy_verdict(
    policy: str, replays: Sequence[Outcome], scenarios: Sequence[Outcome]
) -> Iterator[str]:
    mine = [outcome for outcome in (*replays, *scenarios) if outcome.config.policy == policy]
    broken = [(v, outcome) for outcome in mine for v in outcome.run.violations]
    notified = sum(p.notifications for outcome in mine for p in outcome.run.paths.values())
    yield f"{policy}: {notified} notifications in {len(mine)} {'runs' if len(mine) > 1 else 'run'}."
    yield from _kept(policy, mine, {(v.invariant, v.path) for v, _ in broken})
    groups: dict[tuple[str, str, bool], list[tuple[ViolationResult, Outcome]]] = {}
    for violation, outcome in broken:
        key = violation.invariant, violation.path, violation.expected
        groups.setdefault(key, []).append((violation, outcome))
    for (invariant, path, excused), cases in groups.items():
        first, outcome = cases[0]
        why = reason(policy, invariant, path, first.kinds) if excused else None
        text = f"expected: {why}" if why else f"UNEXPECTED: {first.what}"
        yield (
            f"{policy}: broke {invariant} on {path} {len(cases)} times, first in cycle {first.cycle} "
            f"of {outcome.config.name} ({text})"
        )


def _kept(policy: str, mine: Sequence[Outcome], broken: set[tuple[str, str]]) -> Iterator[str]:
    """Say what held, with how many things it could have failed on, and what says nothing."""
    tried = Counter[str]()
    for outcome in mine:
        tried.update(outcome.examined)
    kinds = {kind for outcome in mine for kind in outcome.kinds}
    # A path that tells nobody at all says nothing of the others.
    hidden = [
        cell
        for cell in cells(policy, kinds)
        if not cell.lasting
        and not any(
            cell.invariant == i and cell.allows(path, kinds, lasting=False) for i, path in broken
        )
    ]
    without = {invariant for invariant, _ in broken} | {cell.invariant for cell in hidden}
    kept = [f"{name} ({tried[name]})" for name in INVARIANTS if tried[name] and name not in without]
    yield f"{policy}: kept (things examined): {', '.join(kept) or 'nothing'}."
    idle = [name for name in INVARIANTS if not tried[name] and name not in without]
    if idle:
        yield f"{policy}: not exercised: {', '.join(idle)}."
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell in hidden:
        where = ", ".join(cell.paths) or "any path"
        reasons.setdefault((where, cell.why), []).append(cell.invariant)
    for (where, why), names in reasons.items():
        yield f"{policy}: {', '.join(names)} on {where} did not show, though it can ({why})."


def _figure(paths: Mapping[str, PathResult], path: str, field: str, percentile: str) -> int | None:
    samples: Distribution | None = getattr(paths[path], field) if path in paths else None
    value: int | None = getattr(samples, percentile) if samples else None
    return value


def _lock_verdict(replays: Sequence[Outcome]) -> Iterator[str]:
    by_run = {(o.config.policy, o.config.cpus): o.run.paths for o in replays}
    for cpus in dict.fromkeys(outcome.config.cpus for outcome in replays):
        before, after = by_run.get((_BEFORE, cpus)), by_run.get((_AFTER, cpus))
        if before is not None and after is not None:
            yield from _lock_changes(cpus, before, after)
    if replays:
        yield "One seed claims no more than itself: make compare says which differences survive."


def _lock_changes(
    cpus: int, before: Mapping[str, PathResult], after: Mapping[str, PathResult]
) -> Iterator[str]:
    title = f"{cpus} CPU{'s' * (cpus > 1)}, {_BEFORE} to {_AFTER}, ns"
    for name, field, percentile in _FIGURES:
        changes = []
        for path in SEED_PATHS:
            old = _figure(before, path, field, percentile)
            new = _figure(after, path, field, percentile)
            if old is not None and new is not None:
                changes.append(f"{path} {old} to {new}")
        yield f"{title}: {name}: {'; '.join(changes) or 'too few samples'}."
    moved = [path for path in SEED_PATHS if _only_moved(path, before, after)]
    if moved:
        yield (
            f"{title}: on {', '.join(moved)} the PT lock was held for less, but the rmap lock is still held across "
            f"the call, within {_MOVED_PERCENT} % as long as before: there the wait has moved to the rmap lock."
        )


def _only_moved(
    path: str, before: Mapping[str, PathResult], after: Mapping[str, PathResult]
) -> bool:
    """Whether the page-table lock was relieved and the reverse-map lock was not."""
    ptl = [_figure(paths, path, "ptl_hold_ns", "p50") for paths in (before, after)]
    rmap = [_figure(paths, path, "rmap_hold_ns", "p50") for paths in (before, after)]
    if not (ptl[0] and ptl[1] and rmap[0] and rmap[1]):
        return False
    relieved = 100 * (ptl[0] - ptl[1]) > _MOVED_PERCENT * ptl[0]
    return relieved and 100 * abs(rmap[0] - rmap[1]) < _MOVED_PERCENT * rmap[0]
