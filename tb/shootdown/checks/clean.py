"""I7: no device write is lost when a page is written out."""

from bisect import bisect_left
from collections import defaultdict

from hostmm.machine.timeline import Row
from shootdown.checks.violation import Finding, Findings
from shootdown.history import History, Use

__all__ = ["check_clean"]


def check_clean(history: History) -> Findings:
    """Yield device writes that end after the page's content was taken, through a translation taken away before.

    Such a write is in nobody's way if it finds the page dirty again: it will be written out once more.
    """
    writes: dict[int, list[Use]] = defaultdict(list)
    for use in history.uses:
        if use.write:
            writes[use.pfn].append(use)
    if not writes:
        return
    rows = history.rows
    downgrades, dirty = _downgrades(history), _dirty_rows(history)
    for row, pfn in history.written_out:
        for use in writes.get(pfn, ()):
            if use.end <= row or use.entry is None:
                continue
            taken_away = downgrades.get((use.mm, use.vpn), ())
            place = bisect_left(taken_away, use.entry.begin)
            stale = place < len(taken_away) and taken_away[place] < row
            if stale and not _is_dirty(dirty.get(pfn, []), use.end):
                yield Finding(
                    "I7",
                    rows.path_of(taken_away[place]),
                    rows.cycle_of(row),
                    rows.thread_of(row),
                    f"the content of frame {pfn:#x} was taken for the store before the {use.name}, "
                    f"which ended in cycle {use.end_cycle} and left the page clean",
                    use,
                )


def _downgrades(history: History) -> dict[tuple[int, int], list[int]]:
    """Rows at which a writable PTE of (mm, vpn) was cleared or made read-only, ascending."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for change in history.changes:
        if change.loses_write:
            found[change.mm, change.vpn].append(change.row)
    return found


def _dirty_rows(history: History) -> dict[int, list[tuple[int, int]]]:
    rows = history.rows
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, pfn, tag in rows.take(rows.of(Row.PAGE_DIRTY), "pfn", "tag"):
        found[pfn].append((row, tag))
    return found


def _is_dirty(changes: list[tuple[int, int]], row: int) -> bool:
    place = bisect_left(changes, (row, 0))
    return place > 0 and changes[place - 1][1] == 1
