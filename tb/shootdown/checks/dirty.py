"""I8: what was written is known to the page before its last mapping goes, and is saved before the page goes."""

from bisect import bisect_left
from collections import defaultdict

from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import PTE_D
from shootdown.checks.reclaim import RECLAIM_PATHS
from shootdown.checks.violation import Findings, at_row
from shootdown.history import NEVER, History, PteChange, Use

__all__ = ["check_dirty", "count_dirty_unmaps"]


def check_dirty(history: History) -> Findings:
    """Yield dirty PTEs dropped without telling the page, and reclaimed pages with stores that nobody saved."""
    yield from _forgotten(history)
    yield from _unsaved(history)


def _dirty_unmaps(history: History) -> dict[tuple[int, int], PteChange]:
    """Dirty PTEs that a path took away, by (span, pfn)."""
    return {
        (change.span, change.old_pfn): change
        for change in history.changes
        if change.unmaps and change.old & PTE_D and change.span
    }


def _forgotten(history: History) -> Findings:
    """File pages that are clean when the mapping through which they were dirtied is dropped."""
    rows = history.rows
    unmaps, dirty = _dirty_unmaps(history), dict[int, int]()
    index = rows.of(Row.MAPCOUNT, Row.PAGE_DIRTY, Row.ALLOC)
    names = ("kind", "span", "pfn", "tag", "c")
    for row, kind, span, pfn, tag, anonymous in rows.take(index, *names):
        if kind == Row.ALLOC:
            dirty[pfn] = 0
        elif kind == Row.PAGE_DIRTY:
            dirty[pfn] = tag
        elif not tag and not anonymous and not dirty.get(pfn):
            change = unmaps.get((span, pfn))
            if change is not None and change.row < row:
                what = (
                    f"frame {pfn:#x} is clean when the dirty PTE of page {change.vpn:#x} of mm {change.mm} "
                    "no longer counts"
                )
                yield at_row(history, "I8", row, what)


def _unsaved(history: History) -> Findings:
    """Frames that reclaim frees although something was stored in them since their content was saved."""
    rows = history.rows
    stores = _stores(history)
    saved: dict[int, int] = {}
    unmapped: dict[int, PteChange] = {
        change.row: change for change in history.changes if change.unmaps
    }
    last: dict[int, PteChange] = {}
    written_out = dict(history.written_out)
    index = rows.of(Row.ALLOC, Row.COPY, Row.PTE_CLEAR, Row.RECLAIMED)
    for row, kind, pfn in rows.take(index, "kind", "pfn"):
        if kind == Row.ALLOC:
            saved[pfn] = row
            last.pop(pfn, None)
        elif row in written_out:
            saved[pfn] = row
        elif row in unmapped:
            last[pfn] = unmapped[row]
        elif kind == Row.RECLAIMED and pfn in last:
            done = stores.get(pfn, [])
            place = bisect_left(done, row, key=_row)
            when, use = done[place - 1] if place else (-1, None)
            lost = when > saved.get(pfn, -1)
            # What its owner unmapped is nobody's any more.
            if lost and rows.paths[last[pfn].path] in RECLAIM_PATHS:
                what = (
                    f"frame {pfn:#x} is reclaimed although the store of cycle {rows.cycle_of(when)} "
                    "was never saved"
                )
                yield at_row(history, "I8", row, what, use)


_Store = tuple[int, Use | None]
"""(row, the device's write that ended there, None where a CPU stored)."""


def _row(store: _Store) -> int:
    return store[0]


def _stores(history: History) -> dict[int, list[_Store]]:
    """Return when something was stored, by frame, ascending."""
    found: dict[int, list[_Store]] = defaultdict(list)
    rows = history.rows
    for row, pfn in rows.take(rows.of(Row.STORE), "pfn"):
        found[pfn].append((row, None))
    for use in history.uses:
        if use.write and use.end != NEVER and use.code == 0:
            found[use.pfn].append((use.end, use))
    for places in found.values():
        places.sort(key=_row)
    return found


def count_dirty_unmaps(history: History) -> int:
    """Count dirty PTEs that a path took away."""
    return len(_dirty_unmaps(history))
