"""``madvise_free_single_vma``: pages whose content need not be kept (MADV_FREE; mm/madvise.c from 4.5 on).

They become clean and old and stay mapped. Reclaim drops them unless somebody has written them since; so whoever
caches that they are dirty must hear of it.
"""

from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire, Lock
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import PAGE_WORDS, Page
from hostmm.mm.pages import clear_page_dirty, huge_pages, is_anon, vm_normal_page
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_V, is_swap_entry, pte_pfn, software_value
from hostmm.mm.space import Vma
from hostmm.paths.gather import MmuGather
from hostmm.paths.huge_split import split_huge_pmd
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.paths.zap import free_swap_and_cache
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["madvise_free_single_vma"]

_NAME = "madvise_free_single_vma"


def madvise_free_single_vma(machine: "Machine", vma: Vma, first: int, last: int) -> Steps:
    """Mark the anonymous pages ``first`` to ``last`` of ``vma`` as not needed; the caller holds mmap_sem."""
    machine.policy.require(_NAME)
    mm = vma.mm
    with machine.sched.path(_NAME) as result:
        gather, marked = MmuGather(machine, mm, _NAME), 0
        yield from mm.notifiers.at(_NAME, Point.START, first, last)
        for base in mm.tables.huge_leaves(first, last):
            if first <= base and base + PAGE_WORDS - 1 <= last:
                marked += yield from _mark_huge_pmd(machine, vma, base, gather)
            else:
                yield from split_huge_pmd(machine, vma, base)
        for low, high, lock in mm.tables.leaves(first, last):
            marked += yield from _mark_ptes(machine, vma, low, high, lock, gather)
        yield from mm.notifiers.at(_NAME, Point.END, first, last)
        yield from gather.finish()
        result.append(marked)


def _mark_huge_pmd(machine: "Machine", vma: Vma, base: int, gather: MmuGather) -> Steps:
    """Make a 2 MiB leaf clean and old as a whole (``madvise_free_huge_pmd``); returns how many pages were marked."""
    tables, marked = vma.mm.tables, 0
    lock = tables.pmd_lock(base)
    yield Acquire(lock)
    leaf = tables.huge(base)
    pages = huge_pages(machine, machine.frames.pages[pte_pfn(leaf)]) if leaf else []
    if pages and all(_forget(machine, page) for page in pages):
        if leaf & (PTE_A | PTE_D):
            yield "pte_clear"
            tables.clear_huge(base, leaves=not machine.policy.zeroes_huge_free)
            yield "pte_write"
            tables.set_huge(base, leaf & ~(PTE_A | PTE_D))
            gather.cleared(base, base + PAGE_WORDS - 1)
        yield "lru"
        for page in pages:
            page.lazyfree, page.referenced = True, False
        machine.lru.add(pages[0], active=False)
        marked = PAGE_WORDS
    yield from pte_unmap_unlock(machine, lock)
    return marked


def _mark_ptes(
    machine: "Machine", vma: Vma, low: int, high: int, lock: Lock, gather: MmuGather
) -> Steps:
    tables, marked = vma.mm.tables, 0
    yield Acquire(lock)
    for vpn, word in tables.entries(low, high):
        if is_swap_entry(word):
            yield "pte_clear"
            tables.clear(vpn)
            free_swap_and_cache(machine, software_value(word))
        page = vm_normal_page(machine, vma, word) if word & PTE_V else None
        if page is None or not _forget(machine, page):
            continue
        if tables.get(vpn) & (PTE_A | PTE_D):
            yield "pte_clear"
            pte = tables.clear(vpn)
            yield "pte_write"
            tables.set(vpn, pte & ~(PTE_A | PTE_D))
            gather.cleared(vpn, vpn)
        yield "lru"
        page.lazyfree, page.referenced = True, False
        machine.lru.add(page, active=False)
        marked += 1
    yield from pte_unmap_unlock(machine, lock)
    return marked


def _forget(machine: "Machine", page: Page) -> bool:
    """Drop the content that swap has of a page; returns whether this mapping may decide about it alone."""
    if not is_anon(page) or page.mapcount != 1:
        return False
    if page.swap_slot is not None or page.dirty:
        if page.lock.held or (page.swap_slot is not None and not machine.swap.drop(page)):
            return False
        clear_page_dirty(machine, page)
    return True
