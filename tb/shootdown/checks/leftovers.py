"""I1: unmapping leaves nothing behind: what a range mapped when its unmapping began is gone when that returns."""

from bisect import bisect_left
from collections import defaultdict

from hostmm.machine.timeline import Notification
from hostmm.mm.pagetable import PTE_V
from shootdown.checks.violation import Findings, at_row
from shootdown.history import NEVER, History, PteChange

__all__ = ["check_leftovers"]

_PATHS = ("unmap_region", "zap_page_range")


def check_leftovers(history: History) -> Findings:
    """Yield pages that a path which unmaps a range, and tells of it, has passed over."""
    rows = history.rows
    known: dict[int, list[int]] = defaultdict(list)
    for mm, vpn in sorted(history.changes_of):
        known[mm].append(vpn)
    for span, done in history.passes.items():
        path = rows.paths[done.path]
        if path not in _PATHS or done.end == NEVER:
            continue
        calls = history.callbacks_of.get(span, ())
        start = next((call for call in calls if call.kind is Notification.RANGE_START), None)
        if start is None:
            continue
        vpns = known[start.mm]
        for vpn in vpns[bisect_left(vpns, start.first) : bisect_left(vpns, start.last + 1)]:
            if _passed_over(history, start.mm, vpn, span):
                pages = f"pages {start.first:#x} to {start.last:#x} of mm {start.mm}"
                what = f"{path} of {pages} returned and left page {vpn:#x} mapped as it was"
                yield at_row(history, "I1", done.end, what)


def _passed_over(history: History, mm: int, vpn: int, span: int) -> bool:
    """Whether a page had the same frame all the time; nothing for a moment of somebody else's change counts as that."""
    done = history.passes[span]
    changes = history.changes_of[mm, vpn]
    low = bisect_left(changes, done.begin, key=lambda change: change.row)
    high = bisect_left(changes, done.end, key=lambda change: change.row)
    before, after = _frame(changes, low), _frame(changes, high)
    return (
        before is not None
        and before == after
        and all(
            changes[place].span != span and _frame(changes, place + 1) == before
            for place in range(low, high)
        )
    )


def _frame(changes: list[PteChange], count: int) -> int | None:
    """Return the frame that stands behind so many changes, or that the pass which took it away will put back."""
    if not count:
        return None
    last = changes[count - 1]
    if last.new & PTE_V:
        return last.new_pfn
    if not last.unmaps or count == len(changes):
        return None
    back = changes[count]
    return last.old_pfn if back.span == last.span and back.new_pfn == last.old_pfn else None
