"""What a comparison measured, policy by policy: one row for the runs of a setting that differ in their seed alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from hostmm.policies import PATHS
from shootdown.report.comparison import END_TO_END, costs_of, setting_of
from shootdown.report.markdown import markdown_table
from shootdown.report.results import Distribution, EndToEnd, PathResult
from shootdown.run.outcome import Outcome

__all__ = ["COLUMNS", "PATH_COLUMNS", "markdown", "path_rows", "rows"]

_Source: TypeAlias = EndToEnd | PathResult

_HEADS = {
    "ptl_hold_ns": "PT lock held",
    "ptl_wait_ns": "PT lock waited for",
    "rmap_hold_ns": "rmap lock held",
    "rmap_wait_ns": "rmap lock waited for",
    "cpu_fault_ns": "CPU fault",
    "device_fault_ns": "device fault",
    "reclaim_ns": "reclaim of a page",
    "shootdown_cycles": "shootdown",
}
_PATH_HEADS = {
    **dict(list(_HEADS.items())[:4]),
    "notified_ns": "callbacks of a pass",
    "clear_to_drained_ns": "clear to drained",
    "shootdown_cycles": "shootdown",
}
_SUMS = {"ptl_wait_ns": "ptl_waited_ns", "rmap_wait_ns": "rmap_waited_ns"}
_CYCLES = ("shootdown_cycles",)
_WHERE = ("trace", "device", "CPUs", "costs")
COLUMNS = (*_WHERE, "policy", *_HEADS.values())
"""Times are p50 / p99 in us, shootdowns in cycles, each the middle over the seeds; of waits there is the sum, too."""
PATH_COLUMNS = (*_WHERE, "path", "policy", *_PATH_HEADS.values())
"""The same path by path, of passes that notify."""
assert set(_HEADS) == set(END_TO_END)


def rows(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each row about whole runs, in the order of the runs."""
    for mine in _groups(outcomes, by_policy=True):
        sources = [outcome.run.end_to_end for outcome in mine]
        yield (*_where(mine), mine[0].config.policy, *(_cell(sources, n, _SUMS) for n in _HEADS))


def path_rows(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each row about a path that notified, setting by setting, path by path."""
    for setting in _groups(outcomes, by_policy=False):
        policies = _groups(setting, by_policy=True)
        for path in PATHS:
            for mine in policies:
                found = [o.run.paths[path] for o in mine if path in o.run.paths]
                if len(found) == len(mine) and any(one.notifications for one in found):
                    cells = (_cell(found, name, {}) for name in _PATH_HEADS)
                    yield (*_where(mine), path, mine[0].config.policy, *cells)


def _groups(outcomes: Sequence[Outcome], *, by_policy: bool) -> list[list[Outcome]]:
    """Put together what differs in the seed alone, or in the policy too."""
    groups: dict[tuple[object, ...], list[Outcome]] = {}
    for outcome in outcomes:
        policy = outcome.config.policy if by_policy else None
        groups.setdefault((setting_of(outcome), costs_of(outcome), policy), []).append(outcome)
    return list(groups.values())


def _where(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    setting, costs = setting_of(outcomes[0]), costs_of(outcomes[0])
    return setting.trace, setting.subscriber, str(setting.cpus), costs.name


def _cell(sources: Sequence[_Source], name: str, sums: Mapping[str, str]) -> str:
    found: list[Distribution | None] = [getattr(source, name) for source in sources]
    text = " / ".join(
        _shown(name, [getattr(one, percentile) if one else None for one in found])
        for percentile in ("p50", "p99")
    )
    if name in sums:
        text += f" (sum {_shown(name, [getattr(source, sums[name]) for source in sources])})"
    return text


def _shown(name: str, values: Sequence[int | None]) -> str:
    """Print the middle of one value a seed; nothing where a seed has too few samples."""
    known = sorted(value for value in values if value is not None)
    if len(known) < len(values):
        return "-"
    middle = known[len(known) // 2]
    return str(middle) if name in _CYCLES else f"{middle / 1000:.2f}"


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Return both tables as a page has them."""
    whole = markdown_table(COLUMNS, rows(outcomes))
    return f"{whole}\n\n{markdown_table(PATH_COLUMNS, path_rows(outcomes))}\n"
