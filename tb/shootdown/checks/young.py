"""I9: a sign of use is neither lost nor stolen: it reaches the decision about that page, and comes before it."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from hostmm.machine.timeline import LockClass, Notification, Row
from hostmm.mm.pagetable import PTE_A, PTE_V, is_migration_entry, pte_pfn
from shootdown.checks.reclaim import RECLAIM_PATHS, YOUNG_PATHS
from shootdown.checks.violation import Findings, at_row
from shootdown.history import NEVER, Callback, History, PteChange, Use, last_before

__all__ = ["check_young", "count_young_decisions"]

_CFY = Notification.CLEAR_FLUSH_YOUNG


def check_young(history: History) -> Findings:
    """Yield signs of use that no decision heard of, pages unmapped in spite of one, and answers for another page."""
    yield from _unheard(history)
    yield from _stolen(history)
    yield from _misplaced(history)


def _answers(history: History) -> Iterator[tuple[int, int, int, int]]:
    """Yield (row, span, mm, vpn) of each sign of use that was taken: an accessed bit cleared, a device's answer."""
    paths = history.rows.paths
    for change in history.changes:
        asks = paths[change.path] in YOUNG_PATHS and change.old_pfn == change.new_pfn >= 0
        if asks and change.old & PTE_A and not change.new & PTE_A:
            yield change.row, change.span, change.mm, change.vpn
    for callback in history.callbacks:
        if callback.kind is _CFY and callback.result and callback.end != NEVER:
            yield callback.end, callback.span, callback.mm, callback.first


def _unheard(history: History) -> Findings:
    """Signs of use that were cleared and then left out of the result."""
    unmaps: dict[tuple[int, int, int], int] = {}
    for change in history.changes:
        if change.unmaps:
            unmaps[change.span, change.mm, change.vpn] = change.row
    for row, span, mm, vpn in _answers(history):
        done = history.passes.get(span)
        if done is None or done.end == NEVER:
            continue
        path = history.rows.paths[done.path]
        if path in RECLAIM_PATHS:
            if unmaps.get((span, mm, vpn), -1) > row:
                what = f"page {vpn:#x} of mm {mm} was found young and unmapped all the same"
                yield at_row(history, "I9", unmaps[span, mm, vpn], what)
        elif path in YOUNG_PATHS and not done.result:
            what = f"page {vpn:#x} of mm {mm} was young, and the answer is that it was not"
            yield at_row(history, "I9", done.end, what)


def _decisions(history: History) -> Iterator[tuple[PteChange, int]]:
    """Yield each PTE that reclaim took away, with the row at which its pass had the page-table lock.

    Migration unmaps by the same path, and decides nothing.
    """
    rows = history.rows
    index = rows.of(Row.LOCK)
    index = index[rows["tag"][index] == LockClass.PTL]
    locked: dict[int, list[int]] = defaultdict(list)
    for row, span in rows.take(index, "span"):
        locked[span].append(row)
    moved = {(c.span, c.mm, c.vpn) for c in history.changes if is_migration_entry(c.new)}
    for change in history.changes:
        if (change.span, change.mm, change.vpn) in moved:
            continue
        if change.unmaps and rows.paths[change.path] in RECLAIM_PATHS:
            held = locked.get(change.span, [])
            place = bisect_left(held, change.row)
            yield change, held[place - 1] if place else history.passes[change.span].begin


def _stolen(history: History) -> Findings:
    """Pages that reclaim unmapped although they had been used since anybody last asked.

    What happens while the page-table lock is held is too late for any question.
    """
    looks = _looks(history)
    for change, locked in _decisions(history):
        key = change.mm, change.vpn
        place = f"page {change.vpn:#x} of mm {change.mm} was unmapped although"
        since = _set_accessed(history, change)
        if since is not None and since < locked:
            cycle = history.rows.cycle_of(since)
            what = f"{place} its accessed bit had been set since cycle {cycle}"
            yield at_row(history, "I9", change.row, what)
            continue
        asked = max(last_before(looks.get(key, ()), locked, -1), _mapped(history, change))
        use = _last_use(history, change, locked)
        if use is not None and use.begin > asked:
            what = f"{place} the {use.name} began in cycle {use.begin_cycle}, after anybody asked"
            yield at_row(history, "I9", change.row, what, use)


def _looks(history: History) -> dict[tuple[int, int], list[int]]:
    """Rows at which a device had answered whether it used (mm, vpn), ascending."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for callback in history.callbacks:
        if callback.kind is _CFY and callback.end != NEVER:
            found[callback.mm, callback.first].append(callback.end)
    for rows in found.values():
        rows.sort()
    return found


def _mapped(history: History, change: PteChange) -> int:
    """Row at which the frame was mapped where ``change`` takes it away."""
    changes = history.changes_of[change.mm, change.vpn]
    earlier = [c for c in changes if c.row < change.row and c.maps]
    return earlier[-1].row if earlier else -1


def _set_accessed(history: History, change: PteChange) -> int | None:
    """Row since which the PTE that was taken away had its accessed bit.

    None where it had none, or has it from the fault that mapped the page.
    """
    if not change.old & PTE_A:
        return None
    changes = history.changes_of[change.mm, change.vpn]
    setters = [c for c in changes if c.row < change.row and c.new & PTE_A and not c.old & PTE_A]
    return setters[-1].row if setters and not setters[-1].maps else None


def _last_use(history: History, change: PteChange, before: int) -> Use | None:
    uses = history.uses_of.get((change.mm, change.vpn), [])
    place = bisect_left(uses, before, key=lambda use: use.begin)
    mine = (use for use in reversed(uses[:place]) if use.pfn == change.old_pfn)
    return next((use for use in mine if _can_tell(history, use, before)), None)


def _can_tell(history: History, use: Use, row: int) -> bool:
    """Whether anybody can be asked about a use at a row.

    The device's subscriber is still there, and has a method for it (an interval has none).
    """
    known = [s for s in history.subscriptions if s.mm == use.mm]
    return not known or any(
        s.has(_CFY) and row < s.removed and history.owners.looks_after(s.mm, s.number, use.asid)
        for s in known
    )


def _misplaced(history: History) -> Findings:
    """Young queries that are about another page than the pass looked at (review note S11)."""
    rows = history.rows
    index = rows.of(Row.LOCK)
    index = index[rows["tag"][index] == LockClass.PTL]
    locked = {span: row for row, span in reversed(list(rows.take(index, "span")))}
    for callback in history.callbacks:
        if callback.kind is _CFY and callback.result and callback.span in locked:
            yield from _another_page(history, callback, locked[callback.span])


def _another_page(history: History, callback: Callback, locked: int) -> Findings:
    words = [history.word_at(callback.mm, callback.first, row) for row in (locked, callback.begin)]
    old, new = (pte_pfn(word) if word & PTE_V else -1 for word in words)
    if old != new:
        what = f"the young answer for page {callback.first:#x} of mm {callback.mm} is about another frame"
        yield at_row(history, "I9", callback.end, what, callback)


def count_young_decisions(history: History) -> int:
    """Count PTEs that reclaim took away, and signs of use that were taken."""
    return sum(1 for _ in _decisions(history)) + sum(1 for _ in _answers(history))
