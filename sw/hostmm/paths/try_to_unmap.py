"""``try_to_unmap``: unmap a page everywhere so that it can be reclaimed (2.6.25-rc4, mm/rmap.c)."""

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostmm.errors import HostError
from hostmm.machine.locks import Acquire, Lock
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import Page
from hostmm.mm.pages import is_anon, page_remove_rmap, set_page_dirty
from hostmm.mm.pagetable import PTE_D, PTE_W, migration_entry, swap_entry
from hostmm.mm.rmap import AnonVma
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.ptes import (
    page_check_address,
    pte_unmap_unlock,
    ptep_clear_flush,
    ptep_clear_flush_young,
)
from hostmm.paths.rmap_walk import candidates, rmap_lock, rmap_section
from hostmm.paths.try_to_unmap_cluster import try_to_unmap_nonlinear
from hostmm.paths.unmap_batch import UnmapBatch
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["SwapResult", "try_to_unmap"]


class SwapResult(enum.IntEnum):
    """What became of the page: no PTE maps it; some still do, try again; one must not be unmapped now."""

    SUCCESS = 0
    AGAIN = 1
    FAIL = 2


@dataclass(frozen=True)
class _Way:
    """Under which name the path goes, whether the page is to move rather than to be reclaimed, and who flushes."""

    path: str
    migrates: bool = False
    batch: UnmapBatch | None = None


def try_to_unmap(
    machine: "Machine",
    page: Page,
    *,
    migration: bool = False,
    batch: UnmapBatch | None = None,
) -> Steps:
    """Unmap ``page`` wherever it is mapped; returns a :class:`SwapResult`.

    The caller holds the page lock and a reference of its own, so no reference dropped here is the last. An anonymous
    page is in the swap cache, unless it may be dropped (MADV_FREE) or ``migration`` leaves migration entries.
    Flushes that may wait are owed to ``batch``, if there is one.
    """
    assert page.lock.writer is machine.sched.current, "try_to_unmap needs the page lock"
    split = migration and machine.policy.has("try_to_migrate_one")
    way = _Way("try_to_migrate_one" if split else "try_to_unmap_one", migration, batch)
    mapping = page.mapping
    result = SwapResult.AGAIN
    if mapping is not None:
        with rmap_section(machine, mapping):
            result = yield from _unmap_mappings(machine, page, mapping, way)
    return result if page.mapcount else SwapResult.SUCCESS


def _unmap_mappings(
    machine: "Machine", page: Page, mapping: AnonVma | AddressSpace, way: _Way
) -> Steps:
    """Unmap the page from linear mappings, then sweep nonlinear ones, under the rmap lock."""
    yield Acquire(rmap_lock(mapping))
    result = yield from _walk(machine, page, mapping, way)
    if (
        isinstance(mapping, AddressSpace)
        and result is not SwapResult.FAIL
        and page.mapcount
        and mapping.nonlinear
        and not way.migrates
        and not (yield from try_to_unmap_nonlinear(machine, mapping, page.mapcount))
    ):
        result = SwapResult.FAIL
    machine.sched.release(rmap_lock(mapping))
    return result


def _walk(machine: "Machine", page: Page, mapping: AnonVma | AddressSpace, way: _Way) -> Steps:
    for vma, vpn in candidates(page, mapping):
        result = yield from _try_to_unmap_one(machine, page, vma, vpn, way)
        if result is SwapResult.FAIL or not page.mapcount:
            return result
    return SwapResult.AGAIN


def _try_to_unmap_one(machine: "Machine", page: Page, vma: Vma, vpn: int, way: _Way) -> Steps:
    notifiers, name = vma.mm.notifiers, way.path
    with machine.sched.path(name) as path:
        result = SwapResult.AGAIN
        yield from notifiers.at(name, Point.START, vpn)
        ptl = yield from page_check_address(machine, page, vma.mm, vpn)
        if ptl is None:
            yield from notifiers.at(name, Point.END, vpn)
            path.append(result)
            return result
        if (not way.migrates and (yield from _must_stay(machine, vma, vpn, name))) or not (
            yield from _unmap(machine, page, vma.mm, vpn, ptl, way)
        ):
            result = SwapResult.FAIL
        yield from pte_unmap_unlock(machine, ptl)
        if result is not SwapResult.FAIL:
            yield from notifiers.at(name, Point.UNLOCKED, vpn)
        yield from notifiers.at(name, Point.END, vpn)
        path.append(result)
        return result


def _must_stay(machine: "Machine", vma: Vma, vpn: int, name: str) -> Steps:
    """Whether the PTE is locked into memory, or was used since reclaim looked at it (where the policy asks)."""
    if vma.locked:
        return True
    if not machine.policy.rechecks_young:
        return False
    young = yield from ptep_clear_flush_young(machine, vma.mm, vpn)
    return bool(young | (yield from vma.mm.notifiers.at(name, Point.YOUNG, vpn)))


def _unmap(machine: "Machine", page: Page, mm: MmStruct, vpn: int, ptl: Lock, way: _Way) -> Steps:
    """Replace the PTE by what it becomes; returns False where the page was written since MADV_FREE, so it stays."""
    old = yield from ptep_clear_flush(machine, mm, vpn, ptl=ptl, batch=way.batch)
    place = mm.tables.place(vpn, ptl)
    yield from mm.notifiers.at(way.path, Point.CLEARED, vpn)
    if old & PTE_D and not machine.policy.unmap_forgets_dirty:
        set_page_dirty(machine, page)
    if page.lazyfree and page.dirty and not way.migrates:
        page.lazyfree = False
        yield "pte_write"
        mm.tables.set(place, old)
        return False
    if way.migrates:
        yield "pte_write"
        mm.tables.set(place, migration_entry(page.pfn, write=bool(old & PTE_W)))
    else:
        yield from _leave_entry(machine, page, mm, place)
    yield "rmap"
    page_remove_rmap(machine, page)
    yield "refcount"
    machine.frames.put(page)
    yield from mm.notifiers.at(way.path, Point.UNLOCKING, vpn)
    return True


def _leave_entry(machine: "Machine", page: Page, mm: MmStruct, vpn: int) -> Steps:
    """Put what leads back to the page into the cleared PTE, where there is such a thing, and count it out."""
    mm.add_rss(-1, anon=is_anon(page))
    if not is_anon(page) or page.lazyfree:
        return
    if page.swap_slot is None:
        raise HostError(f"frame {page.pfn:#x}: unmapped without a place in swap")
    machine.swap.duplicate(page.swap_slot)
    yield "pte_write"
    mm.tables.set(vpn, swap_entry(page.swap_slot))
