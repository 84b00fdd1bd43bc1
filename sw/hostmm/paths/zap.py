"""Unmapping ranges: ``unmap_region`` (munmap), ``zap_page_range`` (madvise); docs/contract.md 1.7.

Until 2.6.26: START; per leaf table { PTL; per PTE: clear, dirty and young to the page, mapcount, queue the page;
unlock }; leave the reverse maps (munmap); flush the CPUs' TLBs; free; END: every page is freed inside the bracket.
From 2.6.27 on END stands behind the last table, so that the last pages are freed behind it; no PTE maps them any
more. Page tables stay until exit.
"""

from typing import TYPE_CHECKING

from hostmm.callers.vmas import unlink
from hostmm.machine.locks import Acquire, Lock
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import PAGE_WORDS, Page
from hostmm.mm.pages import (
    huge_pages,
    is_anon,
    migrating_page,
    page_remove_rmap,
    set_page_dirty,
    vm_normal_page,
)
from hostmm.mm.pagetable import (
    PTE_A,
    PTE_D,
    PTE_V,
    is_file_entry,
    is_migration_entry,
    is_swap_entry,
    pte_pfn,
    software_value,
)
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.gather import MmuGather
from hostmm.paths.huge_split import split_huge_pmd
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["free_swap_and_cache", "unmap_region", "zap_page_range", "zap_vma"]


def unmap_region(machine: "Machine", mm: MmStruct, vmas: list[Vma], first: int, last: int) -> Steps:
    """Unmap ``vmas``, already detached, that lie in ``first`` to ``last``; the caller holds mmap_sem exclusive."""
    inside = machine.policy.frees_inside
    with machine.sched.path("unmap_region") as result:
        yield from mm.notifiers.at("unmap_region", Point.START, first, last)
        gather = MmuGather(machine, mm, "unmap_region")
        for vma in vmas:
            yield from zap_vma(machine, vma, vma.start, vma.end - 1, gather)
        if not inside:
            yield from mm.notifiers.at("unmap_region", Point.END, first, last)
        for vma in vmas:
            yield from unlink(machine, vma)
        yield from gather.finish()
        if inside:
            yield from mm.notifiers.at("unmap_region", Point.END, first, last)
        result.append(gather.total)


def zap_page_range(
    machine: "Machine",
    vma: Vma,
    first: int,
    last: int,
    *,
    path: str = "zap_page_range",
    offsets: range | None = None,
) -> Steps:
    """Drop the pages ``first`` to ``last`` of ``vma``, which stays mapped; the caller holds mmap_sem, or its rmap lock.

    Parameters
    ----------
    path : str
        The mm path that this is part of.
    offsets : range or None
        Drop only these pages of the file that a nonlinear ``vma`` maps; None: whatever is there.
    """
    mm, inside = vma.mm, machine.policy.frees_inside
    with machine.sched.path(path) as result:
        yield from mm.notifiers.at(path, Point.START, first, last)
        gather = MmuGather(machine, mm, path)
        yield from zap_vma(machine, vma, first, last, gather, offsets)
        if not inside:
            yield from mm.notifiers.at(path, Point.END, first, last)
        yield from gather.finish()
        if inside:
            yield from mm.notifiers.at(path, Point.END, first, last)
        result.append(gather.total)


def zap_vma(
    machine: "Machine",
    vma: Vma,
    first: int,
    last: int,
    gather: MmuGather,
    offsets: range | None = None,
) -> Steps:
    """Clear every PTE of ``vma`` from ``first`` to ``last``; queue the pages, with their references."""
    for base in vma.mm.tables.huge_leaves(first, last):
        if first <= base and base + PAGE_WORDS - 1 <= last:
            yield from _zap_huge_pmd(machine, vma, base, gather)
        else:
            yield from split_huge_pmd(machine, vma, base)
    for low, high, lock in vma.mm.tables.leaves(first, last):
        start: int | None = low
        while start is not None:
            start = yield from _zap_ptes(machine, vma, start, high, lock, gather, offsets)


def _zap_huge_pmd(machine: "Machine", vma: Vma, base: int, gather: MmuGather) -> Steps:
    """Clear a 2 MiB leaf as a whole, and free the table that was kept for it, if one was."""
    tables = vma.mm.tables
    lock = tables.pmd_lock(base)
    yield Acquire(lock)
    if tables.huge(base):
        yield "pte_clear"
        leaf = tables.clear_huge(base)
        gather.cleared(base, base + PAGE_WORDS - 1)
        pages = huge_pages(machine, machine.frames.pages[pte_pfn(leaf)])
        for page in pages:
            yield from _unmap_page(machine, page, leaf)
            gather.queue(page)
        vma.mm.add_rss(-PAGE_WORDS, anon=is_anon(pages[0]))
        if not vma.hugetlb:
            tables.free_taken(tables.withdraw(base))
    yield from pte_unmap_unlock(machine, lock)


def _zap_ptes(
    machine: "Machine",
    vma: Vma,
    first: int,
    last: int,
    lock: Lock,
    gather: MmuGather,
    offsets: range | None,
) -> Steps:
    """Zap under one leaf table; returns the vpn to go on at, after the gather was full, or None."""
    dirty, left, gone = False, None, [0, 0]
    yield Acquire(lock)
    for vpn, word in vma.mm.tables.entries(first, last):
        if gather.full:
            left = vpn
            break
        if offsets is not None and _offset(machine, vma, word) not in offsets:
            continue
        page, pte = yield from _zap_pte(machine, vma, vpn, gather)
        if is_migration_entry(pte):
            gone[is_anon(migrating_page(machine, pte))] += 1
        if page is not None:
            dirty |= bool(pte & PTE_D) and not is_anon(page)
            gone[is_anon(page)] += 1
    for anon in (False, True):
        vma.mm.add_rss(-gone[anon], anon=bool(anon))
    # Whoever cleans the page next must not find a CPU that still writes through its TLB (I7).
    early = dirty and machine.policy.flushes_dirty_locked
    # Nor whoever owns frames without struct page find no PTE, and free what a TLB still has.
    early |= vma.pfnmap and machine.policy.flushes_pfnmap_locked
    if early:
        yield from gather.flush()
    yield from pte_unmap_unlock(machine, lock)
    if early or left is not None:
        yield from gather.finish()
    return left


def _offset(machine: "Machine", vma: Vma, word: int) -> int | None:
    """Page offset in its file of what a PTE of a nonlinear vma names."""
    if is_file_entry(word):
        return software_value(word)
    page = vm_normal_page(machine, vma, word) if word & PTE_V else None
    return None if page is None else page.index


def _zap_pte(machine: "Machine", vma: Vma, vpn: int, gather: MmuGather) -> Steps:
    """Clear one PTE; returns (the page that it mapped or None, the old word)."""
    yield "pte_clear"
    pte = vma.mm.tables.clear(vpn)
    if is_swap_entry(pte):
        free_swap_and_cache(machine, software_value(pte))
    if not pte & PTE_V:
        return None, pte
    gather.cleared(vpn, vpn)
    page = vm_normal_page(machine, vma, pte)
    if page is not None:
        yield from _unmap_page(machine, page, pte)
        gather.queue(page)
    return page, pte


def _unmap_page(machine: "Machine", page: Page, pte: int) -> Steps:
    if not is_anon(page):
        if pte & PTE_D:
            set_page_dirty(machine, page)
        if pte & PTE_A:
            machine.lru.accessed(page)
    yield "rmap"
    page_remove_rmap(machine, page)


def free_swap_and_cache(machine: "Machine", slot: int) -> None:
    """Drop a PTE's use of a swap slot, and the cached page with it if nobody else wants it."""
    page = machine.swap.cache.get(slot)
    machine.swap.free(slot)
    if page is None or page.lock.held or page.under_writeback:
        return
    if page.refcount == 1 and not machine.swap.count(page):
        machine.swap.delete_from_cache(page)
