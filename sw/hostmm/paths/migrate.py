"""Migration: a page moves to another frame (mm/migrate.c; docs/contract.md 1.12).

Every PTE becomes a migration entry, with the notifications of ``try_to_unmap_one``; the content is copied behind the
last of them (I25), when no CPU and no device can write it; then the entries become PTEs of the new page, of which
nobody is told, as nothing was there.
"""

from contextlib import nullcontext
from typing import TYPE_CHECKING

from hostmm.callers.reclaim import alloc_page
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import Page
from hostmm.mm.pages import (
    clear_page_dirty,
    is_anon,
    is_ksm,
    page_add_rmap,
    set_page_dirty,
)
from hostmm.mm.pagetable import PTE_SOFT_DIRTY, PTE_W, is_migration_entry, make_pte, software_value
from hostmm.mm.space import Vma
from hostmm.paths.huge_split import split_huge_page
from hostmm.paths.mprotect import modified
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.paths.rmap_walk import candidates, rmap_lock, rmap_section
from hostmm.paths.try_to_unmap import try_to_unmap

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["migrate_page", "move_locked", "put_back", "unmap_and_move"]


def migrate_page(machine: "Machine", page: Page) -> Steps:
    """Move a page of the LRU lists to a new frame; returns whether it moved, its old frame free.

    A page that somebody else holds (a pin, a fault under way) stays, and so does one merged by KSM.
    """
    if not page.lru or is_ksm(page):
        return False
    machine.frames.get(page)
    machine.lru.remove(page)
    new: Page = yield from alloc_page(machine, page.kind)
    moved: bool = yield from unmap_and_move(machine, page, new)
    yield from put_back(machine, page, new, moved=moved)
    return moved


def unmap_and_move(machine: "Machine", page: Page, new: Page) -> Steps:
    """Move the content and the mappings of an isolated page to ``new``; returns whether it could be done."""
    with machine.sched.path("unmap_and_move") as result:
        yield Acquire(page.lock)
        while page.under_writeback:
            yield "io_wait"
        if page.huge:
            yield from split_huge_page(machine, page)
        # Nobody else knows it yet.
        yield Acquire(new.lock, ordered=False)
        moved = yield from move_locked(machine, page, new)
        machine.sched.release(new.lock)
        machine.sched.release(page.lock)
        result.append(moved)
        return moved


def move_locked(machine: "Machine", page: Page, new: Page) -> Steps:
    """Unmap what is still mapped, copy, and map again; both pages are locked. Returns whether the page moved."""
    # An anon_vma must not go while nothing is mapped; it has no reference count until rmap locks sleep.
    old_kernel = is_anon(page) and not machine.policy.rmap_sleeps
    with machine.sched.rcu_read() if old_kernel else nullcontext():
        if page.mapcount:
            yield from try_to_unmap(machine, page, migration=True)
        moved = yield from _move_to_new_page(machine, page, new)
        yield from _remove_migration_ptes(machine, page, new if moved else page)
        if moved:
            page.mapping = None
    return moved


def put_back(machine: "Machine", page: Page, new: Page, *, moved: bool) -> Steps:
    """Put whichever page has the content on the LRU list again, and drop the references of the move."""
    machine.lru.add(new if moved else page, active=page.active)
    for done in (page, new):
        yield "refcount"
        machine.frames.put(done)


def _move_to_new_page(machine: "Machine", page: Page, new: Page) -> Steps:
    """Put ``new`` in the place of an unmapped page and copy it; returns False if somebody else refers to the page."""
    yield "page_cache"
    cached = page.swap_slot is not None or isinstance(page.mapping, AddressSpace)
    if page.mapcount or page.mapping is None or page.refcount != 1 + cached:
        return False
    new.mapping, new.index = page.mapping, page.index
    new.referenced, new.lazyfree = page.referenced, page.lazyfree
    if page.swap_slot is not None:
        machine.swap.move(page, new)
    elif isinstance(page.mapping, AddressSpace):
        machine.frames.get(new)
        page.mapping.pages[page.index] = new
        machine.frames.put(page)
    yield "copy_page"
    machine.copy_page(new.address, page.address, pfn=new.pfn)
    if clear_page_dirty(machine, page):
        set_page_dirty(machine, new)
    return True


def _remove_migration_ptes(machine: "Machine", old: Page, new: Page) -> Steps:
    """Turn every migration entry of ``old`` into a PTE of ``new``, which is ``old`` where nothing moved."""
    mapping = new.mapping
    if mapping is None:
        return
    with rmap_section(machine, mapping):
        yield Acquire(rmap_lock(mapping))
        for vma, vpn in candidates(new, mapping):
            yield from _remove_migration_pte(machine, old, new, vma, vpn)
        machine.sched.release(rmap_lock(mapping))


def _remove_migration_pte(machine: "Machine", old: Page, new: Page, vma: Vma, vpn: int) -> Steps:
    with machine.sched.path("remove_migration_pte") as result:
        yield "walk_tables"
        tables = vma.mm.tables
        ptl = tables.lock(vpn)
        if ptl is None:
            return
        yield Acquire(ptl)
        entry = tables.get(vpn)
        if is_migration_entry(entry) and software_value(entry) >> 1 == old.pfn:
            yield "refcount"
            machine.frames.get(new)
            yield "pte_write"
            write = PTE_W if software_value(entry) & 1 else 0
            # The entry does not say whether the page was soft-dirty, so it counts as such.
            tables.set(vpn, modified(vma, make_pte(new.pfn, PTE_SOFT_DIRTY)) | write)
            yield "rmap"
            page_add_rmap(machine, new)
            result.append(1)
        yield from pte_unmap_unlock(machine, ptl)
