"""``mremap``: move page-table entries to another place (docs/contract.md 1.9)."""

from typing import TYPE_CHECKING

from hostmm.locks import Acquire
from hostmm.mm.space import Vma
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.paths.tlb import flush_tlb_range
from hostmm.policies import Move, Point
from hostmm.reclaim import pte_alloc
from hostmm.scheduler import Steps

if TYPE_CHECKING:
    from hostmm.machine import Machine

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
        # An extent lies within one leaf table on either side.
        room = min(512 - vpn % 512, 512 - (vpn + offset) % 512, _EXTENT_PAGES)
        last = min(vpn + room, end) - 1
        if old.mm.tables.lock(vpn) is not None:
            yield from pte_alloc(machine, old.mm, vpn + offset)
            if machine.policy.move is Move.EXTENT:
                moved += yield from _move_bracketed(machine, old, vpn, last, offset)
            else:
                moved += yield from _move_ptes(machine, old, vpn, last, offset)
        vpn = last + 1
    return moved


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
