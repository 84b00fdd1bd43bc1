"""``mremap``: move page-table entries to another place (docs/contract.md 1.9)."""

from typing import TYPE_CHECKING

from hostmm.callers.reclaim import pte_alloc
from hostmm.callers.vmas import rmap_locks
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import PAGE_WORDS
from hostmm.mm.space import Vma
from hostmm.paths.huge_split import split_huge_range
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.paths.tlb import flush_tlb_range
from hostmm.policies import Move, Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["move_page_tables"]

_NAME = "mremap"
_EXTENT_PAGES = 64
"""``LATENCY_LIMIT`` of mm/mremap.c."""


def move_page_tables(machine: "Machine", old: Vma, new: Vma, pages: int) -> Steps:
    """Move the first ``pages`` PTEs of ``old`` to ``new``, in extents; the caller holds mmap_sem exclusive."""
    mm, first, last = old.mm, old.start, old.start + pages - 1
    if machine.policy.move is Move.EXTENT:
        yield from _move_extents(machine, old, new, pages)
        return
    with machine.sched.path(_NAME) as result:
        yield from mm.notifiers.at(_NAME, Point.START, first, last)
        moved = yield from _move_extents(machine, old, new, pages)
        if moved and machine.policy.move is Move.LATE:
            yield from flush_tlb_range(machine, mm, first, last)
        yield from mm.notifiers.at(_NAME, Point.END, first, last)
        result.append(moved)


def _move_extents(machine: "Machine", old: Vma, new: Vma, pages: int) -> Steps:
    """Move extent by extent; returns how many PTEs."""
    offset, moved = new.start - old.start, 0
    vpn, end = old.start, old.start + pages
    while vpn < end:
        if _can_move_whole(machine, old, vpn, end, offset):
            yield from _move_whole(machine, old, vpn, offset)
            moved += PAGE_WORDS
            vpn += PAGE_WORDS
            continue
        # An extent lies within one leaf table on either side.
        room = min(512 - vpn % 512, 512 - (vpn + offset) % 512, _EXTENT_PAGES)
        last = min(vpn + room, end) - 1
        yield from split_huge_range(machine, old, vpn, last)
        if old.mm.tables.lock(vpn) is not None:
            yield from pte_alloc(machine, old.mm, vpn + offset)
            if machine.policy.move is Move.EXTENT:
                moved += yield from _move_bracketed(machine, old, vpn, last, offset)
            else:
                moved += yield from _move_ptes(machine, old, vpn, last, offset)
        vpn = last + 1
    return moved


def _can_move_whole(machine: "Machine", vma: Vma, vpn: int, end: int, offset: int) -> bool:
    """Whether a 2 MiB leaf, or where the policy does that a whole table of PTEs, can be moved to an empty place."""
    tables = vma.mm.tables
    aligned = vpn % PAGE_WORDS == offset % PAGE_WORDS == 0 and vpn + PAGE_WORDS <= end
    if not aligned or tables.lock(vpn + offset) is not None:
        return False
    return bool(tables.huge(vpn)) or (machine.policy.moves_tables and tables.lock(vpn) is not None)


def _move_whole(machine: "Machine", vma: Vma, vpn: int, offset: int) -> Steps:
    """Move one 2 MiB entry (``move_huge_pmd``, ``move_normal_pmd``); a table only under the rmap locks (97113eb39fa7)."""
    tables = vma.mm.tables
    locked = machine.policy.moves_tables and machine.policy.moves_under_rmap
    rmaps = rmap_locks(vma) if locked else []
    locks = dict.fromkeys((tables.pmd_lock(vpn), tables.pmd_lock(vpn + offset)))
    for lock in rmaps:
        yield Acquire(lock)
    for index, lock in enumerate(locks):
        # mmap_sem, held exclusive, lets nobody else hold two of them.
        yield Acquire(lock, ordered=not index)
    yield "pte_clear"
    leaf = tables.huge(vpn)
    table = tables.withdraw(vpn) if leaf else tables.take_table(vpn)
    if leaf:
        tables.clear_huge(vpn)
    yield "pte_write"
    if leaf:
        tables.set_huge(vpn + offset, leaf)
        tables.deposit(vpn + offset, table)
    else:
        tables.put_table(vpn + offset, table)
    if machine.policy.move is Move.LOCKED:
        yield from flush_tlb_range(machine, vma.mm, vpn, vpn + PAGE_WORDS - 1)
    for lock in reversed([*rmaps, *locks]):
        machine.sched.release(lock)


def _move_bracketed(machine: "Machine", vma: Vma, first: int, last: int, offset: int) -> Steps:
    with machine.sched.path(_NAME) as result:
        yield from vma.mm.notifiers.at(_NAME, Point.START, first, last)
        moved = yield from _move_ptes(machine, vma, first, last, offset)
        yield from vma.mm.notifiers.at(_NAME, Point.END, first, last)
        result.append(moved)
        return moved


def _move_ptes(machine: "Machine", vma: Vma, first: int, last: int, offset: int) -> Steps:
    """Move one extent under the locks of both its tables; returns how many PTEs."""
    mm = vma.mm
    source, destination = mm.tables.lock(first), mm.tables.lock(first + offset)
    assert source is not None
    assert destination is not None
    if vma.file is not None:
        yield Acquire(vma.file.i_mmap_lock)
    yield Acquire(source)
    if destination is not source:
        # mmap_sem, held exclusive, lets nobody else hold two of them.
        yield Acquire(destination, ordered=False)
    moved = yield from _move_each(machine, vma, first, last, offset)
    if moved and machine.policy.move is Move.LOCKED:
        yield from flush_tlb_range(machine, mm, first, last)
    if destination is not source:
        machine.sched.release(destination)
    yield from pte_unmap_unlock(machine, source)
    if vma.file is not None:
        machine.sched.release(vma.file.i_mmap_lock)
    return moved


def _move_each(machine: "Machine", vma: Vma, first: int, last: int, offset: int) -> Steps:
    tables, moved = vma.mm.tables, 0
    for vpn, _ in tables.entries(first, last):
        yield "pte_clear"
        pte = tables.clear(vpn)
        if machine.policy.move is Move.EXTENT:
            yield from flush_tlb_range(machine, vma.mm, vpn, vpn)
        yield "pte_write"
        tables.set(vpn + offset, pte)
        moved += 1
    return moved
