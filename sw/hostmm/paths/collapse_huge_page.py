"""``collapse_huge_page``: khugepaged puts one 2 MiB leaf in the place of a table of PTEs (mm/khugepaged.c, from 2.6.38).

The table is taken out of the page tables under a bracket, so that no walker reaches its PTEs any more; then the pages
are copied at leisure, and the table is kept for a later split. Unlike the kernel it does not lock each page: with the
table gone, mmap_sem exclusive and the page off the LRU list, nobody else comes to it.
"""

from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire, Lock
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import PAGE_WORDS, Page
from hostmm.mm.pages import is_anon, is_ksm, page_add_rmap, page_remove_rmap, vm_normal_page
from hostmm.mm.pagetable import PTE_V, huge_base
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.ptes import pte_unmap_unlock, user_pte
from hostmm.paths.tlb import flush_tlb_range
from hostmm.policies import Point
from secmmu.layouts import FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["HUGE_ORDER", "collapse_huge_page"]

_NAME = "collapse_huge_page"
HUGE_ORDER = 9


def collapse_huge_page(machine: "Machine", mm: MmStruct, vpn: int) -> Steps:
    """Map the 2 MiB around ``vpn`` by one leaf, filling what is not there with zeros; returns whether it could be done.

    It cannot where a page is shared, pinned, in swap or on its way there, or where no 512 contiguous frames are free.

    Raises
    ------
    HostError
        The policy's kernel has no huge pages.
    """
    machine.policy.require(_NAME)
    yield "alloc_page"
    if not machine.frames.has_block(HUGE_ORDER):
        return False
    new = machine.frames.alloc_block(FrameKind.USER, HUGE_ORDER)
    base = huge_base(vpn)
    yield Acquire(mm.mmap_sem)
    vma = mm.find_vma(base)
    done = False
    if vma is not None and _suitable(vma, base):
        done = yield from _collapse(machine, vma, base, new)
    machine.sched.release(mm.mmap_sem)
    if not done:
        for page in new:
            machine.frames.put(page)
    return done


def _suitable(vma: Vma, base: int) -> bool:
    """Whether the vma is anonymous, covers the range, and has a table of PTEs there (``hugepage_vma_check``)."""
    tables = vma.mm.tables
    anonymous = vma.file is None and vma.anon_vma is not None and not vma.pfnmap
    covers = vma.end >= base + PAGE_WORDS
    return anonymous and covers and not tables.huge(base) and tables.lock(base) is not None


def _collapse(machine: "Machine", vma: Vma, base: int, new: list[Page]) -> Steps:
    tables, notifiers, last = vma.mm.tables, vma.mm.notifiers, base + PAGE_WORDS - 1
    ptl, pmd_lock = tables.lock(base), tables.pmd_lock(base)
    assert ptl is not None
    assert vma.anon_vma is not None
    with machine.sched.path(_NAME) as result:
        yield Acquire(vma.anon_vma.lock)
        yield from notifiers.at(_NAME, Point.START, base, last)
        yield Acquire(pmd_lock)
        yield "pte_clear"
        table = tables.take_table(base)
        yield from flush_tlb_range(machine, vma.mm, base, last)
        yield from pte_unmap_unlock(machine, pmd_lock)
        yield from notifiers.at(_NAME, Point.END, base, last)
        old = yield from _isolate(machine, vma, table, ptl)
        if old is None:
            yield Acquire(pmd_lock)
            tables.put_table(base, table)
            yield from pte_unmap_unlock(machine, pmd_lock)
            machine.sched.release(vma.anon_vma.lock)
            return False
        machine.sched.release(vma.anon_vma.lock)
        yield from _copy(machine, table, ptl, old, new)
        yield from _map(machine, vma, base, table, new, old.count(None))
        result.append(1)
        return True


def _isolate(machine: "Machine", vma: Vma, table: int, ptl: Lock) -> Steps:
    """Take the pages of a table off the LRU list; returns them, None for empty PTEs, or None if one cannot be had."""
    pages: list[Page | None] = []
    yield Acquire(ptl)
    for word in vma.mm.tables.taken(table):
        if not word:
            pages.append(None)
            continue
        yield "pte_read"
        page = vm_normal_page(machine, vma, word) if word & PTE_V else None
        if page is None or not _is_ours(page):
            for isolated in filter(None, pages):
                machine.lru.add(isolated, active=isolated.active)
            yield from pte_unmap_unlock(machine, ptl)
            return None
        machine.lru.remove(page)
        pages.append(page)
    yield from pte_unmap_unlock(machine, ptl)
    return pages


def _is_ours(page: Page) -> bool:
    """Whether the one PTE, and swap's cache at most, refer to an anonymous page that nobody works on."""
    alone = page.mapcount == 1 and page.refcount == 1 + (page.swap_slot is not None)
    idle = page.lru and not page.lock.held and not page.under_writeback
    return is_anon(page) and not is_ksm(page) and alone and idle and not page.lazyfree


def _copy(
    machine: "Machine", table: int, ptl: Lock, old: list[Page | None], new: list[Page]
) -> Steps:
    """Copy each page, or zeros, and drop it with its PTE (``__collapse_huge_page_copy``)."""
    for page, copy in zip(old, new, strict=True):
        if page is None:
            yield "zero_page"
            machine.fill_page(copy, 0)
            continue
        yield "copy_page"
        machine.copy_page(copy.address, page.address, pfn=copy.pfn)
        yield Acquire(ptl)
        yield "rmap"
        page_remove_rmap(machine, page)
        yield from pte_unmap_unlock(machine, ptl)
        yield "free_page"
        machine.swap.drop(page)
        machine.frames.put(page)


def _map(machine: "Machine", vma: Vma, base: int, table: int, new: list[Page], added: int) -> Steps:
    """Set the leaf; the table, empty now, is kept for the day when it is split."""
    tables, lock = vma.mm.tables, vma.mm.tables.pmd_lock(base)
    yield Acquire(lock)
    yield "rmap"
    for offset, page in enumerate(new):
        page.mapping, page.index = vma.anon_vma, vma.linear_index(base + offset)
        page_add_rmap(machine, page)
    vma.mm.add_rss(added, anon=True)
    new[0].huge = True
    machine.lru.add(new[0], active=True)
    yield "pte_write"
    tables.fill_taken(table, [0] * PAGE_WORDS)
    tables.set_huge(base, user_pte(vma, new[0].pfn, write=vma.write, dirty=True))
    tables.deposit(base, table)
    yield from pte_unmap_unlock(machine, lock)
