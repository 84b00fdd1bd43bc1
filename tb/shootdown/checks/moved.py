"""I25 and I26: pages that move: migration copies behind the last writer, mremap lets go of the old place first."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from hostmm.machine.timeline import LockClass, Row
from secmmu.layouts import PAGE_BITS
from shootdown.checks.violation import Findings, at_row
from shootdown.history import NEVER, History, PteChange

__all__ = ["check_migration", "check_mremap", "count_migrations", "count_moves"]

_WHOLE = "migrate_misplaced_transhuge_page"
_MIGRATIONS = ("unmap_and_move", "migrate_vma", "collapse_huge_page", _WHOLE)
"""Paths that copy a page which takes the old one's place; the last one may find afterwards that it must not."""
_MREMAP = "mremap"


def check_migration(history: History) -> Findings:
    """I25: yield stores into a page that end after a migration has copied it, while it is still that page."""
    rows = history.rows
    stores: dict[int, list[int]] = defaultdict(list)
    for row, pfn in rows.take(rows.of(Row.STORE), "pfn"):
        stores[pfn].append(row)
    for row, source in _copies(history):
        freed = history.frees_of.get(source, [])
        place = bisect_left(freed, row)
        end = freed[place] if place < len(freed) else NEVER
        for use in history.uses:
            if (
                use.write
                and use.code == 0
                and use.pfn == source
                and use.begin < end
                and row < use.end
            ):
                when = "in flight" if use.begin < row else "to come"
                what = f"frame {source:#x} was copied by a migration with the {use.name} {when}"
                yield at_row(
                    history, "I25", row, what, use, cycle=max(use.begin_cycle, rows.cycle_of(row))
                )
        done = stores[source]
        place = bisect_left(done, row)
        if place < len(done) and done[place] < end:
            what = f"frame {source:#x} was copied by a migration, and a CPU stored in it after that"
            yield at_row(history, "I25", row, what, cycle=rows.cycle_of(done[place]))


def _copies(history: History) -> Iterator[tuple[int, int]]:
    """Yield (row, source frame) of each page that a migration copied."""
    rows = history.rows
    for row, path, span, source in rows.take(rows.of(Row.COPY), "path", "span", "b"):
        name, done = rows.paths[path], history.passes.get(span)
        in_vain = name == _WHOLE and done is not None and done.end != NEVER and not done.result
        if name in _MIGRATIONS and not in_vain:
            yield row, source >> PAGE_BITS


def check_mremap(history: History) -> Findings:
    """I26: yield what can still reach a moved page by its old address when the lock of its new place is dropped."""
    unlocks, flushes = _unlocks(history), _flushes(history)
    for old, new in _moves(history):
        behind = unlocks.get(new.thread, [])
        place = bisect_left(behind, new.row)
        if place == len(behind):
            continue
        row = behind[place]
        page = f"page {old.vpn:#x} of mm {old.mm}"
        flushed = flushes.get(old.mm, [])
        inside = flushed[bisect_left(flushed, (old.row, 0, 0)) : bisect_left(flushed, (row, 0, 0))]
        if not any(first <= old.vpn <= last for _, first, last in inside):
            what = f"{page} has moved, and the lock of its new place is dropped before the CPUs' TLBs are flushed"
            yield at_row(history, "I26", row, what)
        yield from _device(history, old, row, page)


def _device(history: History, old: PteChange, row: int, page: str) -> Findings:
    rows = history.rows
    for entry in history.entries_of(old.mm, old.vpn):
        old_one = entry.translates(old.vpn, old.old_pfn) and entry.begin < old.row
        reached = entry.hits_behind(row) and not history.owners.is_idle(entry.asid, row)
        if old_one and reached and entry.end_cycle > rows.cycle_of(row):
            what = f"{page} has moved, and TLB entry {entry.index} has it when the lock of its new place is dropped"
            yield at_row(history, "I26", row, what, entry)
    for use in history.uses_of.get((old.mm, old.vpn), ()):
        if use.pfn == old.old_pfn and use.begin < old.row and use.end > row:
            what = f"{page} has moved, and the {use.name} is in flight when the lock of its new place is dropped"
            yield at_row(history, "I26", row, what, use)


def _moves(history: History) -> Iterator[tuple[PteChange, PteChange]]:
    """Yield (the clear at the old place, the set at the new one) of each present PTE that mremap moved."""
    cleared: dict[tuple[int, int], PteChange] = {}
    for change in history.changes:
        if history.rows.paths[change.path] != _MREMAP:
            continue
        if change.unmaps:
            cleared[change.span, change.old_pfn] = change
        elif change.maps:
            old = cleared.pop((change.span, change.new_pfn), None)
            if old is not None:
                yield old, change


def _unlocks(history: History) -> dict[int, list[int]]:
    """Rows at which each thread dropped a page-table lock; of two, mremap drops that of the new place first."""
    rows = history.rows
    index = rows.of(Row.UNLOCK)
    index = index[rows["tag"][index] == LockClass.PTL]
    found: dict[int, list[int]] = defaultdict(list)
    for row, thread in rows.take(index, "thread"):
        found[thread].append(row)
    return found


def _flushes(history: History) -> dict[int, list[tuple[int, int, int]]]:
    """(row, first page, last page) of each flush of the CPUs' TLBs of an address space."""
    rows = history.rows
    found: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for row, mm, vpn, last, tag in rows.take(rows.of(Row.CPU_FLUSH), "mm", "vpn", "a", "tag"):
        if not tag:
            found[mm].append((row, vpn, last))
    return found


def count_migrations(history: History) -> int:
    """Count pages that a migration copied."""
    return sum(1 for _ in _copies(history))


def count_moves(history: History) -> int:
    """Count present PTEs that mremap moved."""
    return sum(1 for _ in _moves(history))
