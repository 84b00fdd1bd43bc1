"""What a comparison measured, policy by policy: one row for the runs of a setting that differ in their seed alone."""

from collections.abc import Iterator, Sequence

from shootdown.comparison import END_TO_END, costs_of, setting_of
from shootdown.outcome import Outcome
from shootdown.results import Distribution

__all__ = ["COLUMNS", "markdown", "rows"]

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
_SUMS = {"ptl_wait_ns": "ptl_waited_ns", "rmap_wait_ns": "rmap_waited_ns"}
_CYCLES = ("shootdown_cycles",)
COLUMNS = ("trace", "device", "CPUs", "costs", "policy", *_HEADS.values())
"""Times are p50 / p99 in us, shootdowns in cycles, each the middle over the seeds; of waits there is the sum, too."""
assert set(_HEADS) == set(END_TO_END)


def rows(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each row, in the order of the runs."""
    groups: dict[tuple[object, ...], list[Outcome]] = {}
    for outcome in outcomes:
        key = (setting_of(outcome), costs_of(outcome), outcome.config.policy)
        groups.setdefault(key, []).append(outcome)
    for mine in groups.values():
        setting, costs = setting_of(mine[0]), costs_of(mine[0])
        where = (setting.trace, setting.subscriber, str(setting.cpus), costs.name)
        yield (*where, mine[0].config.policy, *(_cell(mine, name) for name in _HEADS))


def _cell(outcomes: Sequence[Outcome], name: str) -> str:
    found: list[Distribution] = [getattr(outcome.run.end_to_end, name) for outcome in outcomes]
    text = " / ".join(_shown(name, [getattr(one, p) for one in found]) for p in ("p50", "p99"))
    if name in _SUMS:
        total = _shown(name, [getattr(outcome.run.end_to_end, _SUMS[name]) for outcome in outcomes])
        text += f" (sum {total})"
    return text


def _shown(name: str, values: Sequence[int | None]) -> str:
    """Print the middle of one value a seed; nothing where a seed has too few samples."""
    known = sorted(value for value in values if value is not None)
    if len(known) < len(values):
        return "-"
    middle = known[len(known) // 2]
    return str(middle) if name in _CYCLES else f"{middle / 1000:.2f}"


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Return the table as a page has it."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows(outcomes)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
