"""Soft-dirty: which pages were written since the last look (``clear_refs_write`` of fs/proc/task_mmu.c, 3.11 and later).

The sweep write-protects every page, so that the next write faults and sets the mark. A device that goes on writing
through what it cached would write unseen, hence the bracket (6733f9cb30ae), over the whole address space.
"""

from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire, Lock
from hostmm.machine.scheduler import Steps
from hostmm.mm.pagetable import PTE_SOFT_DIRTY, PTE_V, PTE_W
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.huge_split import split_huge_range
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.paths.tlb import LAST_VPN, flush_tlb_mm
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["clear_refs_write", "soft_dirty"]

_NAME = "clear_refs_write"


def soft_dirty(mm: MmStruct, vpn: int) -> bool:
    """Whether the page at ``vpn`` may have been written, or mapped, since the last sweep (bit 55 of pagemap)."""
    vma = mm.find_vma(vpn)
    return vma is not None and (vma.soft_dirty or bool(mm.tables.get(vpn) & PTE_SOFT_DIRTY))


def clear_refs_write(machine: "Machine", mm: MmStruct) -> Steps:
    """Forget every mark, write-protecting the pages (``echo 4 > clear_refs``). Takes mmap_sem exclusive.

    Raises
    ------
    HostError
        The policy's kernel has no such thing.
    """
    machine.policy.require(_NAME)
    yield "syscall"
    yield Acquire(mm.mmap_sem)
    with machine.sched.path(_NAME) as result:
        for vma in mm.vmas:
            vma.soft_dirty = False
        yield from mm.notifiers.at(_NAME, Point.START, 0, LAST_VPN)
        protected = 0
        for vma in mm.vmas:
            # Frames without struct page are not tracked, nor are huge pages of hugetlbfs.
            if not vma.pfnmap and not vma.hugetlb:
                protected += yield from _protect(machine, vma)
        yield from mm.notifiers.at(_NAME, Point.END, 0, LAST_VPN)
        yield from flush_tlb_mm(machine, mm)
        result.append(protected)
    machine.sched.release(mm.mmap_sem)


def _protect(machine: "Machine", vma: Vma) -> Steps:
    protected = 0
    yield from split_huge_range(machine, vma, vma.start, vma.end - 1)
    for low, high, lock in vma.mm.tables.leaves(vma.start, vma.end - 1):
        protected += yield from _protect_ptes(machine, vma, low, high, lock)
    return protected


def _protect_ptes(machine: "Machine", vma: Vma, low: int, high: int, lock: Lock) -> Steps:
    tables, protected = vma.mm.tables, 0
    yield Acquire(lock)
    for vpn, word in tables.entries(low, high):
        if word & PTE_V:
            yield "pte_clear"
            pte = tables.clear(vpn)
            yield "pte_write"
            tables.set(vpn, pte & ~(PTE_W | PTE_SOFT_DIRTY))
            protected += 1
    yield from pte_unmap_unlock(machine, lock)
    return protected
