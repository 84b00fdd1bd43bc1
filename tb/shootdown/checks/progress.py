"""I22: progress: faults retry as often as something changed, callbacks cost what they are worth."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable

from hostmm.machine.timeline import Row
from secmmu.layouts import Response
from shootdown.checks.violation import (
    NO_PATH,
    Finding,
    Findings,
    Violation,
    at_row,
    by_nobody,
    judge,
)
from shootdown.history import NEVER, Callback, History
from shootdown.history.bursts import Burst

__all__ = [
    "MOST_COMMANDS",
    "MOST_NS",
    "STUCK",
    "check_progress",
    "count_progress",
    "stuck_for_ever",
]

STUCK = "I22"
"""What a run breaks whose threads wait for ever."""
_NOBODY = (NO_PATH, NO_PATH)
_REFUSED = Response.SLVERR.value
_SLACK = 3
"""Refusals without a visible reason: the first fault, and reports that crossed with their repair."""
_SLACK_SHADOWED = 16
"""The same, where the device walks tables of its own: whatever changes meanwhile makes their filling begin anew."""
MOST_COMMANDS = 512
"""Commands in one callback: what arm-smmu-v3 sends before it invalidates everything (d5afb4b47e13)."""
MOST_NS = 100_000_000
"""Longest callback: a tenth of a second, the time-out of AMD's driver."""


def check_progress(history: History) -> Findings:
    """Yield accesses that are refused without end, faults that nobody finished, and callbacks that cost too much."""
    yield from _retries(history)
    yield from _unfinished(history)
    for callback in history.callbacks:
        yield from _cost(history, callback)


def _retries(history: History) -> Findings:
    """Yield accesses refused more often than the PTE changed, or a command hit the page, since the first time."""
    tries: dict[int, list[Burst]] = defaultdict(list)
    for burst in history.bursts:
        if burst.code != _REFUSED:
            tries.pop(burst.tag, None)
            continue
        mine = tries[burst.tag]
        if mine and (mine[0].mm, mine[0].va) != (burst.mm, burst.va):
            mine.clear()
        mine.append(burst)
        reasons = _reasons(history, mine[0], burst)
        slack = _SLACK_SHADOWED if burst.mm in history.owners.shadowed else _SLACK
        if len(mine) == reasons + slack + 1:
            what = (
                f"the access to va {burst.va:#x} of mm {burst.mm} was refused {len(mine)} times, while its page "
                f"changed {reasons} times"
            )
            yield by_nobody("I22", history.rows.cycle_of(burst.done), what, burst)


def _reasons(history: History, first: Burst, last: Burst) -> int:
    """Count changes of the PTE, and commands over the page, from the issue of one burst to the end of another."""
    begin = history.rows.row_of_cycle(first.issued)
    changes = history.changes_of.get((first.mm, first.vpn), [])
    low = bisect_left(changes, begin, key=lambda change: change.row)
    high = bisect_left(changes, last.done, key=lambda change: change.row)
    hits = 0
    for command in history.commands_before(last.done):
        if command.accepted < begin:
            break
        hits += command.covers(first.mm, first.vpn)
    return high - low + hits


def _unfinished(history: History) -> Findings:
    """Yield device faults whose handling had begun when everything ended (a bracket without an end)."""
    rows = history.rows
    open_faults: dict[tuple[int, int, int], int] = {}
    index = rows.of(Row.FAULT_BEGIN, Row.FAULT_END)
    for row, kind, thread, mm, vpn in rows.take(index, "kind", "thread", "mm", "vpn"):
        if kind == Row.FAULT_BEGIN:
            open_faults[thread, mm, vpn] = row
        else:
            open_faults.pop((thread, mm, vpn), None)
    for (_, mm, vpn), row in open_faults.items():
        yield at_row(
            history,
            "I22",
            row,
            f"the fault at page {vpn:#x} of mm {mm} was never handled to its end",
        )


def _cost(history: History, callback: Callback) -> Findings:
    rows = history.rows
    call = f"{callback.kind.name.lower()} of pages {callback.first:#x} to {callback.last:#x} of mm {callback.mm}"
    if len(callback.commands) > MOST_COMMANDS:
        what = f"{call} sent {len(callback.commands)} commands; {MOST_COMMANDS} are the most"
        yield at_row(history, "I22", callback.begin, what, callback)
    if callback.end == NEVER:
        yield at_row(history, "I22", callback.begin, f"{call} never returned", callback)
        return
    ns = int(rows["ns"][callback.end] - rows["ns"][callback.begin])
    if ns > MOST_NS:
        yield at_row(
            history, "I22", callback.end, f"{call} took {ns} ns; {MOST_NS} are the most", callback
        )


def stuck_for_ever(history: History, waiting: str, found: Iterable[Violation]) -> Violation:
    """Return the violation of a run that cannot go on, where nothing else tells of it.

    Who has left a bracket open (I13), as ``found`` says, is to blame: a device waits for its end.
    """
    last = history.rows.cycle_of(len(history.rows["cycle"]) - 1)
    path, thread = min(((v.path, v.thread) for v in found if v.invariant == "I13"), default=_NOBODY)
    return judge(history, Finding(STUCK, path, last, thread, waiting))


def count_progress(history: History) -> int:
    """Count refused accesses and callbacks."""
    return sum(burst.code == _REFUSED for burst in history.bursts) + len(history.callbacks)
