"""``migrate_vma``: a driver moves the pages of a range of addresses (mm/migrate_device.c, 4.14 and later).

``migrate_vma_collect`` turns the PTEs into migration entries under one bracket, carries their dirty bits to the pages
(fd35ca3d12cc) and flushes before it drops the page-table lock (60bae7370896). What is still mapped elsewhere is then
unmapped page by page; the copies come last. Here they go to other frames of the same memory.
"""

from typing import TYPE_CHECKING

from hostmm.callers.reclaim import alloc_page
from hostmm.machine.locks import Acquire, Lock
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import Page
from hostmm.mm.pages import is_anon, is_ksm, page_remove_rmap, set_page_dirty, vm_normal_page
from hostmm.mm.pagetable import PTE_D, PTE_V, PTE_W, migration_entry
from hostmm.mm.space import Vma
from hostmm.paths.huge_split import split_huge_range
from hostmm.paths.migrate import move_locked, put_back
from hostmm.paths.ptes import pte_unmap_unlock, ptep_clear_flush
from hostmm.paths.tlb import flush_tlb_range
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["migrate_vma"]

_WHOLE, _NAME = "migrate_vma", "migrate_vma_collect"


def migrate_vma(machine: "Machine", vma: Vma, first: int, last: int) -> Steps:
    """Move the pages ``first`` to ``last`` of ``vma`` to new frames; returns how many moved. Takes mmap_sem shared.

    A page that somebody has locked or holds (a pin, reclaim) stays where it is.

    Raises
    ------
    HostError
        The policy's kernel does not have it.
    """
    machine.policy.require(_NAME)
    yield Acquire(vma.mm.mmap_sem, shared=True)
    moved = 0
    with machine.sched.path(_WHOLE) as result:
        for page in (yield from _collect(machine, vma, first, last)):
            machine.lru.remove(page)
            new: Page = yield from alloc_page(machine, page.kind)
            # Nobody else knows it yet.
            yield Acquire(new.lock, ordered=False)
            done = yield from move_locked(machine, page, new)
            machine.sched.release(new.lock)
            machine.sched.release(page.lock)
            yield from put_back(machine, page, new, moved=done)
            moved += done
        result.append(moved)
    machine.sched.release(vma.mm.mmap_sem)
    return moved


def _collect(machine: "Machine", vma: Vma, first: int, last: int) -> Steps:
    """Return the pages that could be had, each locked, with a reference, and not mapped by ``vma`` any more."""
    mm, pages = vma.mm, list[Page]()
    with machine.sched.path(_NAME) as result:
        yield from split_huge_range(machine, vma, first, last)
        yield from mm.notifiers.at(_NAME, Point.START, first, last)
        for low, high, lock in mm.tables.leaves(first, last):
            pages += yield from _collect_ptes(machine, vma, low, high, lock)
        yield from mm.notifiers.at(_NAME, Point.END, first, last)
        result.append(len(pages))
    return pages


def _collect_ptes(machine: "Machine", vma: Vma, low: int, high: int, lock: Lock) -> Steps:
    pages: list[Page] = []
    yield Acquire(lock)
    for vpn, word in vma.mm.tables.entries(low, high):
        page = vm_normal_page(machine, vma, word) if word & PTE_V else None
        # What is on no LRU list is reclaim's or somebody else's to handle, or must not move.
        if page is None or not page.lru or is_ksm(page) or page.under_writeback:
            continue
        if machine.sched.trylock(page.lock):
            yield "refcount"
            machine.frames.get(page)
            yield from _unmap(machine, page, vma, vpn)
            pages.append(page)
    early = machine.policy.collects_flushed
    if pages and early:
        yield from flush_tlb_range(machine, vma.mm, low, high)
    yield from pte_unmap_unlock(machine, lock)
    if pages and not early:
        yield from flush_tlb_range(machine, vma.mm, low, high)
    return pages


def _unmap(machine: "Machine", page: Page, vma: Vma, vpn: int) -> Steps:
    if is_anon(page) and page.mapcount == 1:
        # It must not be pinned behind our back (anon_exclusive).
        old = yield from ptep_clear_flush(machine, vma.mm, vpn)
    else:
        yield "pte_clear"
        old = vma.mm.tables.clear(vpn)
    if old & PTE_D:
        set_page_dirty(machine, page)
    yield "pte_write"
    vma.mm.tables.set(vpn, migration_entry(page.pfn, write=bool(old & PTE_W)))
    yield "rmap"
    page_remove_rmap(machine, page)
    yield "refcount"
    machine.frames.put(page)
