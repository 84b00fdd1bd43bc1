"""Unmapping ranges: ``unmap_region`` (munmap), ``zap_page_range`` (madvise, truncate); 2.6.25-rc4, #v11's brackets.

Order (docs/contract.md 1.7): START; per leaf table { PTL; per PTE: clear, dirty and young to the page, mapcount,
queue the page; unlock }; leave the reverse maps (munmap); flush the CPUs' TLBs; free; END. So every page is freed
inside the bracket. Page tables stay until exit.
"""

from typing import TYPE_CHECKING

from hostmm.locks import Acquire
from hostmm.mm.frames import Page
from hostmm.mm.pages import is_anon, page_remove_rmap, set_page_dirty, vm_normal_page
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_V, is_swap_entry, software_value
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.policies import Point
from hostmm.scheduler import Steps
from hostmm.vmas import unlink

if TYPE_CHECKING:
    from hostmm.machine import Machine

__all__ = ["free_gathered", "unmap_region", "zap_page_range", "zap_vma"]


def unmap_region(machine: "Machine", mm: MmStruct, vmas: list[Vma], first: int, last: int) -> Steps:
    """Unmap ``vmas``, already detached, that lie in ``first`` to ``last``; the caller holds mmap_sem exclusive."""
    with machine.sched.path("unmap_region") as result:
        yield from mm.notifiers.at("unmap_region", Point.START, first, last)
        gathered: list[Page] = []
        for vma in vmas:
            yield from zap_vma(machine, vma, vma.start, vma.end - 1, gathered)
        for vma in vmas:
            yield from unlink(machine, vma)
        yield from free_gathered(machine, mm, gathered)
        yield from mm.notifiers.at("unmap_region", Point.END, first, last)
        result.append(len(gathered))


def zap_page_range(machine: "Machine", vma: Vma, first: int, last: int) -> Steps:
    """Drop the pages ``first`` to ``last`` of ``vma``, which stays mapped; the caller holds mmap_sem."""
    mm = vma.mm
    with machine.sched.path("zap_page_range") as result:
        yield from mm.notifiers.at("zap_page_range", Point.START, first, last)
        gathered: list[Page] = []
        yield from zap_vma(machine, vma, first, last, gathered)
        yield from free_gathered(machine, mm, gathered)
        yield from mm.notifiers.at("zap_page_range", Point.END, first, last)
        result.append(len(gathered))


def zap_vma(machine: "Machine", vma: Vma, first: int, last: int, gathered: list[Page]) -> Steps:
    """Clear every PTE of ``vma`` from ``first`` to ``last``; queue the pages in ``gathered``, with their references."""
    for low, high, lock in vma.mm.tables.leaves(first, last):
        yield Acquire(lock)
        for vpn, _ in vma.mm.tables.entries(low, high):
            yield "pte_clear"
            pte = vma.mm.tables.clear(vpn)
            if pte & PTE_V:
                page = vm_normal_page(machine, vma, pte)
                if page is not None:
                    yield from _unmap_page(machine, page, pte)
                    gathered.append(page)
            elif is_swap_entry(pte):
                _free_swap_and_cache(machine, software_value(pte))
        yield from pte_unmap_unlock(machine, lock)


def _unmap_page(machine: "Machine", page: Page, pte: int) -> Steps:
    if not is_anon(page):
        if pte & PTE_D:
            set_page_dirty(machine, page)
        if pte & PTE_A:
            machine.lru.accessed(page)
    yield "rmap"
    page_remove_rmap(machine, page)


def _free_swap_and_cache(machine: "Machine", slot: int) -> None:
    """Drop a PTE's use of a swap slot, and the cached page with it if nobody else wants it."""
    page = machine.swap.cache.get(slot)
    machine.swap.free(slot)
    if page is None or page.lock.held or page.under_writeback:
        return
    if page.refcount == 1 and not machine.swap.count(page):
        machine.swap.delete_from_cache(page)


def free_gathered(machine: "Machine", mm: MmStruct, gathered: list[Page]) -> Steps:
    """Flush the CPUs' TLBs, then drop the queued references (``tlb_finish_mmu``)."""
    if gathered:
        yield machine.costs.flush_tlb_ns(mm.cpus)
    for page in gathered:
        yield "free_page"
        # Who holds the page lock is reclaim, which frees the page itself when it finds it unused.
        if not page.lock.held and not page.under_writeback:
            machine.swap.remove_exclusive(page)
        machine.frames.put(page)
