"""I21: a late, duplicate or too large invalidation costs a walk, and nothing else."""

from bisect import bisect_right
from collections import defaultdict

from hostmm.machine.timeline import Notification, Row
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_V
from shootdown.checks.violation import Findings, at_row, by_nobody
from shootdown.history import NEVER, Callback, Entry, History

__all__ = ["check_spurious", "count_spurious"]

_ASKS = Notification.CLEAR_FLUSH_YOUNG


def check_spurious(history: History) -> Findings:
    """Yield signs of use and of change that a callback dropped, and accesses that an invalidation left hanging."""
    yield from _dropped(history)
    yield from _hanging(history)


def _by_thread(history: History) -> dict[int, list[Callback]]:
    found: dict[int, list[Callback]] = defaultdict(list)
    for callback in history.callbacks:
        found[callback.thread].append(callback)
    return found


def _dropped(history: History) -> Findings:
    """Yield accessed and dirty bits that a thread cleared inside a callback that was not about them."""
    callbacks = _by_thread(history)
    rows = history.rows
    for change in history.changes:
        callback = _around(callbacks.get(change.thread, []), change.row)
        if callback is None or change.old_pfn != change.new_pfn or change.old_pfn < 0:
            continue
        lost = change.old & ~change.new & (PTE_D if callback.kind is _ASKS else PTE_A | PTE_D)
        if lost:
            names = " and ".join(
                n for n, bit in (("accessed", PTE_A), ("dirty", PTE_D)) if lost & bit
            )
            what = f"{callback.kind.name.lower()} dropped the {names} bit of page {change.vpn:#x} of mm {change.mm}"
            yield at_row(history, "I21", change.row, what, callback)
    index = rows.of(Row.PAGE_DIRTY)
    for row, thread, pfn, tag in rows.take(index, "thread", "pfn", "tag"):
        callback = _around(callbacks.get(thread, []), row)
        if not tag and callback is not None:
            what = f"{callback.kind.name.lower()} cleared the dirty flag of frame {pfn:#x}"
            yield at_row(history, "I21", row, what, callback)


def _around(callbacks: list[Callback], row: int) -> Callback | None:
    """Return the callback of a thread, in order, that a row lies in."""
    place = bisect_right(callbacks, row, key=lambda callback: callback.begin)
    found = callbacks[place - 1] if place else None
    return found if found is not None and row < found.end else None


def _hanging(history: History) -> Findings:
    """Yield walks that met a command and never came to an end, in a run that did."""
    for walk in history.walks:
        if walk.doom is not None and walk.end == NEVER and walk.begin_cycle < _last_cycle(history):
            what = f"the walk of page {walk.vpn:#x} of asid {walk.asid} that command {walk.doom.tag} met never ended"
            yield by_nobody("I21", walk.doom.accepted_cycle, what, walk)


def _last_cycle(history: History) -> int:
    return history.rows.cycle_of(history.rows.count - 1)


def count_spurious(history: History) -> int:
    """Count entries killed by a command although their PTE stood as they had it."""
    return sum(entry.killed and _stands(history, entry) for entry in history.entries)


def _stands(history: History, entry: Entry) -> bool:
    word = history.word_at(entry.mm, entry.first, entry.end)
    frame = history.word_at(entry.mm, entry.first, entry.begin)
    return bool(word & PTE_V) and word >> 10 == frame >> 10
