"""I11: an upgrade is observable: an access that the PTE permits does not fault for ever."""

from collections import defaultdict

from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_R, PTE_U, PTE_V, PTE_W
from secmmu.layouts import Response
from shootdown.checks.violation import Finding, Findings
from shootdown.history import History
from shootdown.history.bursts import Burst

__all__ = ["check_upgrades", "count_upgrades"]

_REFUSED = Response.SLVERR.value
_ENDLESS = 3
"""Refusals in a row of an access that its PTE permits: the first may come of an entry that was right when it was made,
the second of a report that was on its way."""
_ENDLESS_SHADOWED = 16
"""The same, where the device walks tables of its own, which have to be filled first, over and over if need be."""
_READ = PTE_V | PTE_R | PTE_U | PTE_A
_WRITE = PTE_V | PTE_W | PTE_U | PTE_A | PTE_D


def check_upgrades(history: History) -> Findings:
    """Yield accesses that were refused again and again although the PTE had permitted them before they were issued.

    Where a callback takes the page away meanwhile, it is that which makes the device begin anew.
    """
    refused: dict[int, int] = defaultdict(int)
    last: dict[int, Burst] = {}
    for burst in history.bursts:
        before, last[burst.tag] = last.get(burst.tag), burst
        if burst.code != _REFUSED or _permitted_since(history, burst) is None:
            refused[burst.tag] = 0
            continue
        if before is not None and _taken_away(history, before, burst):
            refused[burst.tag] = 0
        refused[burst.tag] += 1
        shadowed = burst.mm in history.owners.shadowed
        if refused[burst.tag] == (_ENDLESS_SHADOWED if shadowed else _ENDLESS):
            yield _explain(history, burst, refused[burst.tag])


def _permitted_since(history: History, burst: Burst) -> int | None:
    """Row since which the PTE permits the access, if that is before the access was issued and held until it ended."""
    needed = _WRITE if burst.write else _READ
    since = None
    begin = history.rows.row_of_cycle(burst.issued)
    for change in history.changes_of.get((burst.mm, burst.vpn), []):
        if change.row >= burst.done:
            break
        permits = change.new & needed == needed
        if not permits:
            since = None
        elif since is None:
            since = change.row
    return since if since is not None and since < begin else None


def _taken_away(history: History, before: Burst, burst: Burst) -> bool:
    """Whether a callback's command was for the page between the issue of one burst and the end of another."""
    begin = history.rows.row_of_cycle(before.issued)
    for command in history.commands_before(burst.done):
        if command.accepted < begin:
            return False
        if command.callback and command.covers(burst.mm, burst.vpn):
            return True
    return False


def _explain(history: History, burst: Burst, times: int) -> Finding:
    rows = history.rows
    since = _permitted_since(history, burst)
    assert since is not None
    kind = "write" if burst.write else "read"
    what = (
        f"the device's {kind} of va {burst.va:#x} of mm {burst.mm} was refused {times} times in a row although its "
        f"PTE has permitted it since cycle {rows.cycle_of(since)}"
    )
    return Finding(
        "I11", rows.path_of(since), rows.cycle_of(burst.done), rows.thread_of(since), what, burst
    )


def count_upgrades(history: History) -> int:
    """Count PTEs that became writable while the device had an entry that was not."""
    return sum(
        any(
            entry.begin < change.row < entry.end and not entry.writable
            for entry in history.entries_of(change.mm, change.vpn)
        )
        for change in history.changes
        if change.upgrades
    )
