"""KSM: two pages of equal content become one that is write-protected (mm/ksm.c from 2.6.32 on; docs/contract.md 1.11).

A page is first write-protected, so that its content stands still, then compared, then replaced by the merged one. The
merged page (``PageKsm``) is on no LRU list, as in 2.6.32, so reclaim and migration never see it; a write copies it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Fetch, Steps
from hostmm.machine.timeline import LockClass
from hostmm.mm.frames import PAGE_WORDS, Page
from hostmm.mm.pages import (
    is_anon,
    is_ksm,
    page_add_rmap,
    page_remove_rmap,
    set_page_dirty,
    vm_normal_page,
)
from hostmm.mm.pagetable import PTE_D, PTE_V, PTE_W
from hostmm.mm.rmap import StableNode
from hostmm.mm.space import MmStruct
from hostmm.paths.huge_split import split_huge_range
from hostmm.paths.ptes import (
    page_check_address,
    pte_lock,
    pte_unmap_unlock,
    ptep_clear_flush,
    user_pte,
)
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["RmapItem", "try_to_merge_two_pages"]

_PROTECT, _REPLACE = "write_protect_page", "replace_page"


@dataclass(frozen=True)
class RmapItem:
    """A page of an address space that may be merged (``struct rmap_item``)."""

    mm: MmStruct
    vpn: int


def try_to_merge_two_pages(machine: "Machine", item: RmapItem, other: RmapItem) -> Steps:
    """Make both places map one page, if their content is equal; returns whether they do (ksmd's step).

    The page of ``other`` becomes the merged one, unless it is one already. Takes mmap_sem shared, one after the other.

    Raises
    ------
    HostError
        The policy's kernel has no KSM.
    """
    machine.policy.require(_PROTECT)
    merged = yield from _stabilise(machine, other)
    if merged is None:
        return False
    done = yield from _merge_one(machine, item, merged)
    machine.frames.put(merged)
    return done


def _stabilise(machine: "Machine", item: RmapItem) -> Steps:
    """Return the KSM page at a place, with a reference, making one of an anonymous page; None if that cannot be."""
    yield Acquire(item.mm.mmap_sem, shared=True)
    page = yield from _follow(machine, item)
    if page is not None and not is_ksm(page):
        yield Acquire(page.lock)
        if (yield from _write_protect_page(machine, page, item)) is None:
            machine.sched.release(page.lock)
            machine.frames.put(page)
            page = None
        else:
            machine.swap.drop(page)
            page.lazyfree = False
            lock = machine.new_lock("stable node", LockClass.RMAP, key="anon_vma")
            page.mapping = StableNode(lock)
            machine.lru.remove(page)
            machine.sched.release(page.lock)
    machine.sched.release(item.mm.mmap_sem)
    return page


def _merge_one(machine: "Machine", item: RmapItem, merged: Page) -> Steps:
    """Put the merged page in the place of an equal one (``try_to_merge_one_page``); returns whether it is there."""
    yield Acquire(item.mm.mmap_sem, shared=True)
    page = yield from _follow(machine, item)
    done = page is merged
    if page is not None and page is not merged:
        yield Acquire(page.lock)
        pte = yield from _write_protect_page(machine, page, item)
        if pte is not None and (yield from _identical(page, merged)):
            done = yield from _replace_page(machine, page, merged, item, pte)
        machine.sched.release(page.lock)
    if page is not None:
        machine.frames.put(page)
    machine.sched.release(item.mm.mmap_sem)
    return done


def _follow(machine: "Machine", item: RmapItem) -> Steps:
    """Take a reference to the anonymous page at a place; None where there is none (``get_mergeable_page``)."""
    yield "walk_tables"
    vma = item.mm.find_vma(item.vpn)
    if vma is None or vma.hugetlb:
        return None
    yield from split_huge_range(machine, vma, item.vpn, item.vpn)
    ptl = yield from pte_lock(machine, item.mm, item.vpn)
    if ptl is None:
        return None
    pte = item.mm.tables.get(item.vpn)
    page = vm_normal_page(machine, vma, pte) if pte & PTE_V else None
    if page is not None and (not is_anon(page) or machine.swap.count(page)):
        page = None
    if page is not None:
        machine.frames.get(page)
    yield from pte_unmap_unlock(machine, ptl)
    return page


def _identical(page: Page, other: Page) -> Steps:
    """Compare two pages as the memory has them now (``pages_identical``)."""
    yield "copy_page"
    first = yield Fetch(page.address, PAGE_WORDS)
    second = yield Fetch(other.address, PAGE_WORDS)
    return first == second


def _write_protect_page(machine: "Machine", page: Page, item: RmapItem) -> Steps:
    """Make the one PTE of a locked page read-only and clean; returns it, None if it is gone or somebody holds the page."""
    mm, vpn = item.mm, item.vpn
    with machine.sched.path(_PROTECT) as result:
        yield from mm.notifiers.at(_PROTECT, Point.START, vpn)
        protected = None
        ptl = yield from page_check_address(machine, page, mm, vpn)
        if ptl is not None:
            protected = mm.tables.get(vpn)
            if protected & (PTE_W | PTE_D):
                protected = yield from _protect_pte(machine, page, item)
            yield from pte_unmap_unlock(machine, ptl)
        yield from mm.notifiers.at(_PROTECT, Point.END, vpn)
        result.append(protected is not None)
        return protected


def _protect_pte(machine: "Machine", page: Page, item: RmapItem) -> Steps:
    mm, vpn = item.mm, item.vpn
    old = yield from ptep_clear_flush(machine, mm, vpn)
    yield from mm.notifiers.at(_PROTECT, Point.CLEARED, vpn)
    # Whoever else refers to it may be a device that goes on writing (O_DIRECT, a pin): then it must stay writable.
    cached = page.swap_slot is not None
    if page.mapcount + 1 + cached != page.refcount:
        yield "pte_write"
        mm.tables.set(vpn, old)
        return None
    if old & PTE_D:
        set_page_dirty(machine, page)
    word: int = old & ~(PTE_W | PTE_D)
    yield from mm.notifiers.at(_PROTECT, Point.REPLACING, vpn, pte=word)
    yield "pte_write"
    mm.tables.set(vpn, word)
    return word


def _replace_page(machine: "Machine", page: Page, merged: Page, item: RmapItem, pte: int) -> Steps:
    """Let the PTE map the merged page, if it is still ``pte``; returns whether it does."""
    mm, vpn = item.mm, item.vpn
    vma = mm.find_vma(vpn)
    assert vma is not None, "mmap_sem is held"
    with machine.sched.path(_REPLACE) as result:
        yield from mm.notifiers.at(_REPLACE, Point.START, vpn)
        ptl = yield from page_check_address(machine, page, mm, vpn)
        same = ptl is not None and mm.tables.get(vpn) == pte
        if same:
            yield "refcount"
            machine.frames.get(merged)
            yield "rmap"
            page_add_rmap(machine, merged)
            yield from ptep_clear_flush(machine, mm, vpn)
            yield from mm.notifiers.at(_REPLACE, Point.CLEARED, vpn)
            word = user_pte(vma, merged.pfn, write=False, dirty=False)
            yield from mm.notifiers.at(_REPLACE, Point.REPLACING, vpn, pte=word)
            yield "pte_write"
            mm.tables.set(vpn, word)
            yield "rmap"
            page_remove_rmap(machine, page)
            if not page.mapcount:
                machine.swap.drop(page)
            yield "refcount"
            machine.frames.put(page)
        if ptl is not None:
            yield from pte_unmap_unlock(machine, ptl)
        yield from mm.notifiers.at(_REPLACE, Point.END, vpn)
        result.append(same)
        return same
