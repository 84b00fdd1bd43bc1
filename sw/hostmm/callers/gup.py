"""Pins: a device that has no notifier keeps a reference to every page that it uses (``get_user_pages``, mm/gup.c)."""

from typing import TYPE_CHECKING

from hostmm.callers.faults import FaultResult, handle_mm_fault
from hostmm.errors import HostError
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import Page
from hostmm.mm.pages import set_page_dirty, vm_normal_page
from hostmm.mm.pagetable import PTE_D, PTE_R, PTE_U, PTE_V, PTE_W
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.ptes import pte_lock, pte_unmap_unlock

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["get_user_page", "put_user_page"]

_NAME = "get_user_pages"


def get_user_page(machine: "Machine", mm: MmStruct, vpn: int, *, write: bool) -> Steps:
    """Pin the page at ``vpn``, faulting as often as needed; returns the Page, None where no access is permitted.

    While it is pinned its frame is not freed, whatever becomes of the mapping: unmapping, copy-on-write and fork may
    leave the device with a page that the address space no longer has. Give it back with :func:`put_user_page`.
    A page without ``struct page`` is refused, as the kernel refuses VM_PFNMAP. May sleep.
    """
    with machine.sched.path(_NAME) as result:
        while True:
            yield Acquire(mm.mmap_sem, shared=True)
            vma, page = mm.find_vma(vpn), None
            refused = vma is None or vma.pfnmap
            if vma is not None and not refused:
                page = yield from _follow_page(machine, mm, vma, vpn, write)
            machine.sched.release(mm.mmap_sem)
            if refused:
                return None
            if page is not None:
                result.append(1)
                return page
            fault = yield from handle_mm_fault(machine, mm, vpn, write=write)
            if fault is FaultResult.SEGV:
                return None


def _follow_page(machine: "Machine", mm: MmStruct, vma: Vma, vpn: int, write: bool) -> Steps:
    """Take a reference to what the PTE maps, if it permits the access (``follow_page`` with FOLL_GET)."""
    needed = PTE_V | PTE_U | (PTE_W if write else PTE_R)
    yield "walk_tables"
    ptl = yield from pte_lock(machine, mm, vpn)
    if ptl is None:
        return None
    pte, page = mm.tables.get(vpn), None
    if pte & needed == needed:
        page = vm_normal_page(machine, vma, pte)
        assert page is not None, "the vma is not VM_PFNMAP"
        yield "refcount"
        machine.frames.get(page)
        page.pins += 1
        # What the device does with it is not seen, so it is presumed (FOLL_TOUCH).
        if write and not mm.tables.get(vpn) & PTE_D:
            set_page_dirty(machine, page)
        machine.lru.accessed(page)
    yield from pte_unmap_unlock(machine, ptl)
    return page


def put_user_page(machine: "Machine", page: Page, *, dirty: bool) -> Steps:
    """Give a pinned page back; ``dirty`` says that the device may have written it (``unpin_user_pages_dirty_lock``).

    Raises
    ------
    HostError
        The page is not pinned.
    """
    if not page.pins:
        raise HostError(f"frame {page.pfn:#x} is not pinned")
    if dirty:
        yield Acquire(page.lock)
        set_page_dirty(machine, page)
        machine.sched.release(page.lock)
    yield "refcount"
    page.pins -= 1
    machine.frames.put(page)
