"""``mremap``: move page-table entries to another place (docs/contract.md 1.9)."""

from typing import TYPE_CHECKING

from hostmm.locks import Acquire
from hostmm.mm.space import Vma
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.policies import Point
from hostmm.reclaim import pte_alloc
from hostmm.scheduler import Steps

if TYPE_CHECKING:
    from hostmm.machine import Machine

__all__ = ["move_page_tables"]

_EXTENT_PAGES = 64
"""``LATENCY_LIMIT`` of mm/mremap.c."""


def move_page_tables(machine: "Machine", old: Vma, new: Vma, pages: int) -> Steps:
    """Move the first ``pages`` PTEs of ``old`` to ``new``, in extents; the caller holds mmap_sem exclusive."""
    offset = new.start - old.start
    vpn, end = old.start, old.start + pages
    while vpn < end:
        # An extent lies within one leaf table on either side.
        room = min(512 - vpn % 512, 512 - (vpn + offset) % 512, _EXTENT_PAGES)
        last = min(vpn + room, end) - 1
        if old.mm.tables.lock(vpn) is not None:
            yield from pte_alloc(machine, old.mm, vpn + offset)
            yield from _move_ptes(machine, old, vpn, last, offset)
        vpn = last + 1


def _move_ptes(machine: "Machine", vma: Vma, first: int, last: int, offset: int) -> Steps:
    mm = vma.mm
    with machine.sched.path("mremap") as result:
        yield from mm.notifiers.at("mremap", Point.START, first, last)
        source, destination = mm.tables.lock(first), mm.tables.lock(first + offset)
        assert source is not None
        assert destination is not None
        if vma.file is not None:
            yield Acquire(vma.file.i_mmap_lock)
        yield Acquire(source)
        if destination is not source:
            yield Acquire(destination)
        moved = 0
        for vpn, _ in mm.tables.entries(first, last):
            yield "pte_clear"
            pte = mm.tables.clear(vpn)
            yield machine.costs.flush_tlb_ns(mm.cpus)
            yield "pte_write"
            mm.tables.set(vpn + offset, pte)
            moved += 1
        if destination is not source:
            machine.sched.release(destination)
        yield from pte_unmap_unlock(machine, source)
        if vma.file is not None:
            machine.sched.release(vma.file.i_mmap_lock)
        yield from mm.notifiers.at("mremap", Point.END, first, last)
        result.append(moved)
