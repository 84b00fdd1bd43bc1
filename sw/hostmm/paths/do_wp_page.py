"""``do_wp_page``: a write to a present, read-only PTE (2.6.25-rc4, mm/memory.c)."""

from typing import TYPE_CHECKING

from hostmm.callers.reclaim import alloc_page
from hostmm.machine.locks import Acquire, Lock
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import Page
from hostmm.mm.pages import (
    is_anon,
    is_ksm,
    page_add_rmap,
    page_remove_rmap,
    set_page_dirty,
    vm_normal_page,
)
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_SOFT_DIRTY, PTE_W, pte_pfn
from hostmm.paths.ptes import anon_vma_prepare, pte_unmap_unlock, ptep_clear_flush, user_pte
from hostmm.paths.tlb import flush_tlb_range
from hostmm.policies import Point
from secmmu.layouts import FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine
    from hostmm.mm.space import MmStruct, Vma

__all__ = ["do_wp_page"]

_NAME = "do_wp_page"


def do_wp_page(
    machine: "Machine",
    mm: "MmStruct",
    vma: "Vma",
    vpn: int,
    *,
    ptl: Lock,
    pte: int,
    low: int = 0,
) -> Steps:
    """Make the page at ``vpn`` writable: in place where nobody else has it, else with a copy.

    Returns True after a copy. Where the PTE changes while the lock is dropped, nothing is done and the access
    faults again.

    Parameters
    ----------
    ptl : Lock
        The page-table lock, held by the caller; dropped on return.
    pte : int
        The PTE as the caller saw it under the lock (``orig_pte``).
    low : int
        Low bits of the fault address, which ``invalidate_page`` gets raw (review note S15).
    """
    with machine.sched.path(_NAME) as result:
        old = vm_normal_page(machine, vma, pte)
        if old is not None and is_anon(old):
            # A locked page may be on its way to swap; the kernel tries the lock and copies if it fails.
            reuse = not is_ksm(old) and not old.lock.held and machine.swap.can_share(old)
        else:
            reuse = old is not None and vma.shared and vma.write
        if not reuse:
            copied = yield from _copy(machine, mm, vma, vpn, ptl, pte, old, low)
        else:
            assert old is not None
            yield from _reuse(machine, mm, vma, vpn, ptl, pte, old)
            copied = False
        result.append(int(copied))
        return copied


def _reuse(
    machine: "Machine", mm: "MmStruct", vma: "Vma", vpn: int, ptl: Lock, pte: int, page: Page
) -> Steps:
    shared_file = None if is_anon(page) else vma.file
    if (
        shared_file is not None
        and not shared_file.tmpfs
        and not (yield from _page_mkwrite(machine, mm, vpn, ptl, pte, page))
    ):
        return
    if shared_file is not None:
        machine.frames.get(page)
    yield "flush_cache"
    yield "pte_write"
    mm.tables.set(vpn, mm.tables.get(vpn) | PTE_A | PTE_D | PTE_W | PTE_SOFT_DIRTY)
    yield from flush_tlb_range(machine, mm, vpn, vpn)
    yield from pte_unmap_unlock(machine, ptl)
    if shared_file is not None:
        yield Acquire(page.lock, shared=True)
        machine.sched.release(page.lock)
        set_page_dirty(machine, page)
        machine.frames.put(page)


def _page_mkwrite(
    machine: "Machine", mm: "MmStruct", vpn: int, ptl: Lock, pte: int, page: Page
) -> Steps:
    """Ask the file system, without the lock; returns whether the PTE is still the same."""
    machine.frames.get(page)
    machine.sched.release(ptl)
    yield "page_mkwrite"
    yield Acquire(ptl)
    same = mm.tables.get(vpn) == pte
    late = not machine.policy.cow_puts_locked and not same
    if not late:
        machine.frames.put(page)
    if not same:
        yield from pte_unmap_unlock(machine, ptl)
    if late:
        machine.frames.put(page)
    return same


def _copy(
    machine: "Machine",
    mm: "MmStruct",
    vma: "Vma",
    vpn: int,
    ptl: Lock,
    pte: int,
    old: Page | None,
    low: int,
) -> Steps:
    if old is not None:
        machine.frames.get(old)
    machine.sched.release(ptl)
    anon_vma_prepare(machine, vma)
    new: Page = yield from alloc_page(machine, FrameKind.USER)
    yield "copy_page"
    machine.copy_page(new.address, pte_pfn(pte) << 12, pfn=new.pfn)
    yield from mm.notifiers.at(_NAME, Point.START, vpn)
    yield Acquire(ptl)
    same = mm.tables.get(vpn) == pte
    notified = same and (old is not None or machine.policy.notifies_without_page)
    if same:
        yield from _switch(machine, mm, vma, vpn, old, new, notified, low)
    # Of a copied page both the mapping's reference and ours go; after a lost race, ours and the unused new page.
    dropped = [page for page in (old if same else new, old) if page is not None]
    locked = machine.policy.cow_puts_locked
    yield from _put(machine, dropped[:locked])
    if notified:
        yield from mm.notifiers.at(_NAME, Point.UNLOCKING, vpn, low=low)
    yield from pte_unmap_unlock(machine, ptl)
    if notified:
        yield from mm.notifiers.at(_NAME, Point.UNLOCKED, vpn, low=low)
    yield from mm.notifiers.at(_NAME, Point.END, vpn)
    yield from _put(machine, dropped[locked:])
    return same


def _switch(
    machine: "Machine",
    mm: "MmStruct",
    vma: "Vma",
    vpn: int,
    old: Page | None,
    new: Page,
    notified: bool,
    low: int,
) -> Steps:
    """Put the new page in the old one's place. 2.6.25-rc4 drops the old mapcount first (review note S3)."""
    policy = machine.policy
    if policy.cow_unmaps_first:
        yield from _unmap_old(machine, old)
    if old is None or not is_anon(old):
        mm.add_rss(0 if old is None else -1, anon=False)
        mm.add_rss(1, anon=True)
    yield from ptep_clear_flush(machine, mm, vpn)
    if notified:
        yield from mm.notifiers.at(_NAME, Point.CLEARED, vpn, low=low)
    if policy.cow_maps_first:
        yield from _map_new(machine, vma, vpn, new)
    word = user_pte(vma, new.pfn, write=vma.write, dirty=True)
    yield from mm.notifiers.at(_NAME, Point.REPLACING, vpn, pte=word)
    yield "pte_write"
    mm.tables.set(vpn, word)
    if not policy.cow_maps_first:
        yield from _map_new(machine, vma, vpn, new)
    if not policy.cow_unmaps_first:
        yield from _unmap_old(machine, old)


def _unmap_old(machine: "Machine", old: Page | None) -> Steps:
    if old is not None:
        yield "rmap"
        page_remove_rmap(machine, old)


def _map_new(machine: "Machine", vma: "Vma", vpn: int, new: Page) -> Steps:
    yield "lru"
    machine.lru.add(new, active=True)
    yield "rmap"
    new.mapping, new.index = vma.anon_vma, vma.linear_index(vpn)
    page_add_rmap(machine, new)


def _put(machine: "Machine", pages: list[Page]) -> Steps:
    for page in pages:
        yield "refcount"
        machine.frames.put(page)
