"""Page faults of CPUs and of the device: ``handle_mm_fault`` and what it leads to (2.6.25-rc4, mm/memory.c).

There is no zero page: an anonymous read fault allocates. A and D bits are software's for the device (Svade): an
access that finds them clear faults, and the fault sets them.
"""

import enum
from typing import TYPE_CHECKING

from hostmm.callers.filefaults import do_file_fault
from hostmm.callers.hugetlb import hugetlb_fault
from hostmm.callers.reclaim import alloc_page, pte_alloc
from hostmm.errors import HostError
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import Row
from hostmm.mm.frames import Page
from hostmm.mm.pages import migrating_page, page_add_rmap
from hostmm.mm.pagetable import (
    PTE_A,
    PTE_D,
    PTE_R,
    PTE_SOFT_DIRTY,
    PTE_U,
    PTE_V,
    PTE_W,
    is_file_entry,
    is_migration_entry,
    is_swap_entry,
    pte_pfn,
    software_value,
)
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.do_wp_page import do_wp_page
from hostmm.paths.ptes import anon_vma_prepare, pte_lock, pte_unmap_unlock, user_pte
from secmmu.layouts import FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["FaultResult", "handle_mm_fault", "touch"]


class FaultResult(enum.Enum):
    """Whether the access may be tried again, or is not allowed at all."""

    OK = 0
    SEGV = 1


def touch(machine: "Machine", mm: MmStruct, vpn: int, *, write: bool, low: int = 0) -> Steps:
    """Translate one CPU access, faulting as often as needed; returns the PTE, None for a segmentation fault.

    ``low`` are the low bits of its address, with which it faults (x86's CR2).

    Sets A (and D for a write) as the CPU's walker does, notifying nobody. No time passes between the translation
    and the return, so a store that the caller makes at once cannot race an unmap.
    """
    needed = PTE_V | PTE_U | (PTE_W if write else PTE_R)
    used = PTE_A | (PTE_D if write else 0)
    while True:
        pte = mm.tables.get(vpn)
        if pte & needed == needed:
            if pte & used != used:
                pte |= used
                mm.tables.mark(vpn, used)
            return pte
        result = yield from handle_mm_fault(machine, mm, vpn, write=write, low=low)
        if result is FaultResult.SEGV:
            return None


def handle_mm_fault(
    machine: "Machine", mm: MmStruct, vpn: int, *, write: bool, device: bool = False, low: int = 0
) -> Steps:
    """Handle one fault, ``low`` bytes into the page; returns a :class:`FaultResult`. Takes mmap_sem shared.

    OK does not promise that the access succeeds: where the PTE changed meanwhile, it faults again.
    """
    row = {"mm": mm.number, "vpn": vpn, "tag": int(device), "a": int(write)}
    machine.sched.log(Row.FAULT_BEGIN, **row)
    yield "fault_entry"
    yield Acquire(mm.mmap_sem, shared=True)
    yield "vma_lookup"
    vma = mm.find_vma(vpn)
    if vma is None or not (vma.write or (vma.read and not write)):
        result = FaultResult.SEGV
    else:
        yield from _handle_pte_fault(machine, mm, vma, vpn, write, low)
        result = FaultResult.OK
    machine.sched.release(mm.mmap_sem)
    yield "fault_exit"
    machine.sched.log(Row.FAULT_END, **row)
    return result


def _handle_pte_fault(
    machine: "Machine", mm: MmStruct, vma: Vma, vpn: int, write: bool, low: int
) -> Steps:
    if vma.hugetlb:
        yield from hugetlb_fault(machine, mm, vma, vpn, write=write)
        return
    yield from pte_alloc(machine, mm, vpn)
    yield "pte_read"
    pte = mm.tables.get(vpn)
    if pte & PTE_V and not pte & PTE_U:
        yield from _numa_fault(machine, mm, vpn)
    elif pte & PTE_V:
        yield from _upgrade(machine, mm, vma, vpn, pte, write, low)
    elif is_swap_entry(pte):
        yield from _do_swap_page(machine, mm, vma, vpn, pte, write, low)
    elif is_migration_entry(pte):
        yield from _migration_entry_wait(machine, pte)
    elif is_file_entry(pte):
        yield from do_file_fault(machine, mm, vma, vpn, pte, software_value(pte), write)
    elif vma.pfnmap:
        yield from _do_no_pfn(machine, mm, vma, vpn, pte, write)
    elif vma.file is not None:
        yield from do_file_fault(machine, mm, vma, vpn, pte, vma.linear_index(vpn), write)
    else:
        yield from _do_anonymous_page(machine, mm, vma, vpn, pte)


def _numa_fault(machine: "Machine", mm: MmStruct, vpn: int) -> Steps:
    """Wait for who has closed a page to move it; open it again if it was left closed (``do_numa_page``)."""
    page = machine.frames.pages[pte_pfn(mm.tables.huge(vpn) or mm.tables.get(vpn))]
    yield Acquire(page.lock, shared=True)
    machine.sched.release(page.lock)
    ptl = yield from pte_lock(machine, mm, vpn)
    if ptl is None:
        return
    pte = mm.tables.get(vpn)
    if not mm.tables.huge(vpn) and not pte & PTE_U:
        yield "pte_write"
        mm.tables.set(vpn, pte | PTE_U)
    yield from pte_unmap_unlock(machine, ptl)


def _migration_entry_wait(machine: "Machine", pte: int) -> Steps:
    """Wait until the page has moved, then fault again; the wait does not keep the page (from 5.19 on)."""
    page = migrating_page(machine, pte)
    yield Acquire(page.lock, shared=True)
    machine.sched.release(page.lock)


def _upgrade(
    machine: "Machine", mm: MmStruct, vma: Vma, vpn: int, pte: int, write: bool, low: int
) -> Steps:
    """Give a present PTE the bits that the access wants, by copying if it must."""
    ptl = yield from pte_lock(machine, mm, vpn)
    if ptl is None:
        return
    if mm.tables.get(vpn) == pte and write and not pte & PTE_W:
        yield from do_wp_page(machine, mm, vma, vpn, ptl=ptl, pte=pte, low=low)
        return
    wanted = pte | PTE_A | (PTE_D if write else 0)
    if mm.tables.get(vpn) == pte and wanted != pte:
        yield "pte_write"
        # The CPU's walker may have set A or D since.
        mm.tables.mark(vpn, wanted & (PTE_A | PTE_D))
    yield from pte_unmap_unlock(machine, ptl)


def _do_anonymous_page(machine: "Machine", mm: MmStruct, vma: Vma, vpn: int, pte: int) -> Steps:
    anon_vma_prepare(machine, vma)
    page: Page = yield from alloc_page(machine, FrameKind.USER)
    yield "zero_page"
    machine.fill_page(page, 0)
    ptl = mm.tables.lock(vpn)
    assert ptl is not None
    yield Acquire(ptl)
    same = mm.tables.get(vpn) == pte
    if same:
        yield "lru"
        machine.lru.add(page, active=True)
        page.mapping, page.index = vma.anon_vma, vma.linear_index(vpn)
        page_add_rmap(machine, page)
        mm.add_rss(1, anon=True)
        yield "pte_write"
        mm.tables.set(vpn, user_pte(vma, page.pfn, write=vma.write, dirty=True))
    yield from pte_unmap_unlock(machine, ptl)
    if not same:
        machine.frames.put(page)


def _do_no_pfn(
    machine: "Machine", mm: MmStruct, vma: Vma, vpn: int, pte: int, write: bool
) -> Steps:
    """Map a frame that has no ``struct page``; a private mapping gets it read-only, and copies at the write."""
    if vma.linear_index(vpn) not in machine.frames.pages:
        raise HostError(f"vpn {vpn:#x}: its driver has taken the raw frame back")
    ptl = mm.tables.lock(vpn)
    assert ptl is not None
    yield Acquire(ptl)
    if mm.tables.get(vpn) == pte:
        writable = vma.shared and vma.write
        yield "pte_write"
        mm.tables.set(
            vpn,
            user_pte(vma, vma.linear_index(vpn), write=writable, dirty=write and writable),
        )
    yield from pte_unmap_unlock(machine, ptl)


def _do_swap_page(
    machine: "Machine", mm: MmStruct, vma: Vma, vpn: int, pte: int, write: bool, low: int
) -> Steps:
    slot = software_value(pte)
    page = yield from _swapin(machine, mm, vpn, pte)
    if page is None:
        return
    ptl = mm.tables.lock(vpn)
    assert ptl is not None
    yield Acquire(ptl)
    if mm.tables.get(vpn) != pte:
        yield from pte_unmap_unlock(machine, ptl)
        machine.sched.release(page.lock)
        machine.frames.put(page)
        return
    writable = write and machine.swap.can_share(page)
    # The swap entry does not say whether the page was soft-dirty, so it counts as such.
    new = user_pte(vma, page.pfn, write=writable, dirty=writable) | PTE_SOFT_DIRTY
    yield "pte_write"
    mm.tables.set(vpn, new)
    yield "rmap"
    if page.mapping is None:
        page.mapping, page.index = anon_vma_prepare(machine, vma), vma.linear_index(vpn)
    page_add_rmap(machine, page)
    mm.add_rss(1, anon=True)
    machine.swap.free(slot)
    machine.sched.release(page.lock)
    if write and not writable:
        new = mm.tables.get(vpn)
        yield from do_wp_page(machine, mm, vma, vpn, ptl=ptl, pte=new, low=low)
    else:
        yield from pte_unmap_unlock(machine, ptl)


def _swapin(machine: "Machine", mm: MmStruct, vpn: int, pte: int) -> Steps:
    """Return the page of a swap entry, locked and with a reference; None if the entry changed meanwhile."""
    slot = software_value(pte)
    yield "page_cache"
    page = machine.swap.cache.get(slot)
    if page is not None:
        machine.frames.get(page)
        yield Acquire(page.lock)
        if page.swap_slot == slot:
            return page
        machine.sched.release(page.lock)
        machine.frames.put(page)
        return None
    fresh: Page = yield from alloc_page(machine, FrameKind.USER)
    if mm.tables.get(vpn) != pte or slot in machine.swap.cache:
        machine.frames.put(fresh)
        return None
    machine.swap.add_to_cache(fresh, slot)
    machine.lru.add(fresh, active=True)
    yield Acquire(fresh.lock)
    yield "io_submit"
    yield "io_read"
    machine.copy_page(fresh.address, machine.swap.address(slot), pfn=fresh.pfn)
    return fresh
