"""Scanning the LRU lists: age active pages, free inactive ones (mm/vmscan.c of 2.6.25).

An inactive page is locked, tested with ``page_referenced``, put into the swap cache (anonymous), unmapped with
``try_to_unmap``, written out when dirty, and freed when nobody but the cache refers to it. Dirty pages are written
a batch at a time and freed when the I/O is done. Unlike the kernel, mapped pages are aged whatever the swappiness,
and in the last priorities a page is taken even if it was referenced, so that a scan of a few hundred frames ends.
Page locks are tried, never waited for: ``ordered=False``.
"""

from typing import TYPE_CHECKING

from hostmm.callers.writeback import submit_page
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import Page
from hostmm.mm.pages import clear_page_dirty, is_anon
from hostmm.paths.huge_split import split_huge_page
from hostmm.paths.page_referenced import page_referenced
from hostmm.paths.try_to_unmap import SwapResult, try_to_unmap
from hostmm.paths.unmap_batch import UnmapBatch

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["PRIORITIES", "shrink", "shrink_page"]

PRIORITIES = 12
"""Scans before reclaim gives up for now (``DEF_PRIORITY``); they count down to 0."""
_MERCILESS = 3
_BATCH = 32
"""Pages of a scan at a low priority (``SWAP_CLUSTER_MAX``; less on a small machine)."""


def shrink(machine: "Machine", priority: int) -> Steps:
    """Age a batch of active pages and try to free a batch of inactive ones; returns how many frames were freed."""
    least = min(_BATCH, max(4, machine.frames.total // 32))
    if machine.lru.active > machine.lru.inactive:
        yield from _shrink_active(machine, max(least, machine.lru.active >> priority))
    freed, written, batch = 0, [], UnmapBatch(machine)
    count = max(least, machine.lru.inactive >> priority)
    for page in _isolate(machine, active=False, count=count):
        yield "lru"
        verdict = yield from _try_to_free(machine, page, batch, merciless=priority <= _MERCILESS)
        freed += verdict == "freed"
        if verdict == "written":
            written.append(page)
    yield from batch.finish()
    if written:
        yield "io_wait"
    for page in written:
        page.under_writeback = False
        yield "lru"
        freed += yield from _free_written(machine, page, batch)
    return freed


def shrink_page(machine: "Machine", page: Page) -> Steps:
    """Try to free one page, as if a scan of the inactive list had come to it; returns whether it did."""
    machine.lru.remove(page)
    machine.frames.get(page)
    batch = UnmapBatch(machine)
    verdict = yield from _try_to_free(machine, page, batch, merciless=False)
    yield from batch.finish()
    if verdict != "written":
        return verdict == "freed"
    yield "io_wait"
    page.under_writeback = False
    return (yield from _free_written(machine, page, batch))


def _isolate(machine: "Machine", *, active: bool, count: int) -> list[Page]:
    """Take pages off the LRU, with a reference each."""
    pages = machine.lru.isolate(active=active, count=count)
    for page in pages:
        machine.frames.get(page)
    return pages


def _put_back(machine: "Machine", page: Page, *, active: bool) -> None:
    machine.lru.add(page, active=active)
    machine.frames.put(page)


def _shrink_active(machine: "Machine", count: int) -> Steps:
    """Move pages that nobody used since the last look to the inactive list (``shrink_active_list``)."""
    for page in _isolate(machine, active=True, count=count):
        yield "lru"
        used = page.lock.held
        if page.mapcount and not used:
            yield Acquire(page.lock, ordered=False)
            used = bool((yield from page_referenced(machine, page)))
            machine.sched.release(page.lock)
        _put_back(machine, page, active=used)


def _try_to_free(machine: "Machine", page: Page, batch: UnmapBatch, *, merciless: bool) -> Steps:
    """One page of ``shrink_page_list``; returns "freed", "written" (its I/O has begun) or "kept"."""
    if page.lock.held or page.under_writeback:
        _put_back(machine, page, active=False)
        return "kept"
    yield Acquire(page.lock, ordered=False)
    referenced = bool((yield from page_referenced(machine, page)))
    if referenced and page.mapcount and not merciless:
        verdict = SwapResult.FAIL
    else:
        verdict = yield from _unmap(machine, page, batch)
    if verdict is not SwapResult.SUCCESS:
        machine.sched.release(page.lock)
        _put_back(machine, page, active=verdict is SwapResult.FAIL)
        return "kept"
    if page.dirty:
        yield from batch.flush_dirty()
        yield from _page_out(machine, page)
        return "written"
    return "freed" if _remove_mapping(machine, page, batch) else "kept"


def _unmap(machine: "Machine", page: Page, batch: UnmapBatch) -> Steps:
    """Give the page a place to go to, and make nobody map it."""
    if page.huge:
        yield from split_huge_page(machine, page)
    if is_anon(page) and page.swap_slot is None and not page.lazyfree:
        if not page.mapcount:
            # Whoever unmapped it last is about to drop the last reference but ours.
            return SwapResult.AGAIN
        yield "page_cache"
        machine.swap.add_to_swap(page)
    if not page.mapcount:
        return SwapResult.SUCCESS
    return (yield from try_to_unmap(machine, page, batch=batch))


def _page_out(machine: "Machine", page: Page) -> Steps:
    """Begin the write of a dirty, unmapped, locked page, and unlock it (``pageout``)."""
    clear_page_dirty(machine, page)
    if isinstance(page.mapping, AddressSpace):
        yield from submit_page(machine, page)
        return
    assert page.swap_slot is not None
    page.under_writeback = True
    yield "io_submit"
    machine.copy_page(machine.swap.address(page.swap_slot), page.address, pfn=page.pfn)
    machine.sched.release(page.lock)


def _free_written(machine: "Machine", page: Page, batch: UnmapBatch) -> Steps:
    """Free a page whose I/O is done, unless somebody uses it again; returns whether it was freed."""
    if page.lock.held or page.mapcount or page.dirty:
        _put_back(machine, page, active=bool(page.mapcount))
        return False
    yield Acquire(page.lock, ordered=False)
    return _remove_mapping(machine, page, batch)


def _remove_mapping(machine: "Machine", page: Page, batch: UnmapBatch) -> bool:
    """Take a clean, unmapped, locked page out of its cache and free it, if only the cache and we refer to it."""
    cached = page.swap_slot is not None or isinstance(page.mapping, AddressSpace)
    kept = not cached and not page.lazyfree
    if page.dirty or page.mapcount or kept or page.refcount != 1 + cached:
        machine.sched.release(page.lock)
        _put_back(machine, page, active=bool(page.mapcount))
        return False
    if page.swap_slot is not None:
        machine.swap.remove_mapping(page)
    elif not page.lazyfree:
        assert isinstance(page.mapping, AddressSpace)
        del page.mapping.pages[page.index]
        machine.frames.put(page)
    machine.sched.release(page.lock)
    batch.free(page)
    return True
