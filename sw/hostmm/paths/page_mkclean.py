"""``page_mkclean``: write-protect and clean every shared PTE of a file page before it is written out (2.6.25-rc4)."""

from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import Page
from hostmm.mm.pagetable import PTE_D, PTE_W
from hostmm.mm.space import MmStruct
from hostmm.paths.ptes import page_check_address, pte_unmap_unlock, ptep_clear_flush
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["page_mkclean"]

_NAME = "page_mkclean_one"


def page_mkclean(machine: "Machine", page: Page) -> Steps:
    """Return how many PTEs were dirty or writable; the caller holds the page lock.

    Every device write through an old translation has ended when it returns (I7).
    """
    assert page.lock.writer is machine.sched.current, "page_mkclean needs the page lock"
    mapping = page.mapping
    if not page.mapcount or not isinstance(mapping, AddressSpace):
        return 0
    cleaned = 0
    yield Acquire(mapping.i_mmap_lock)
    for vma in list(mapping.vmas):
        vpn = vma.vpn_of(page.index)
        if vma.shared and vpn is not None:
            cleaned += yield from _page_mkclean_one(machine, page, vma.mm, vpn)
    machine.sched.release(mapping.i_mmap_lock)
    return cleaned


def _page_mkclean_one(machine: "Machine", page: Page, mm: MmStruct, vpn: int) -> Steps:
    with machine.sched.path(_NAME) as result:
        yield from mm.notifiers.at(_NAME, Point.START, vpn)
        ptl = yield from page_check_address(machine, page, mm, vpn)
        if ptl is None:
            yield from mm.notifiers.at(_NAME, Point.END, vpn)
            return 0
        cleaned = int(bool(mm.tables.get(vpn) & (PTE_D | PTE_W)))
        if cleaned:
            old = yield from ptep_clear_flush(machine, mm, vpn)
            yield from mm.notifiers.at(_NAME, Point.CLEARED, vpn)
            yield "pte_write"
            mm.tables.set(vpn, old & ~(PTE_D | PTE_W))
            yield from mm.notifiers.at(_NAME, Point.UNLOCKING, vpn)
        yield from pte_unmap_unlock(machine, ptl)
        if cleaned:
            yield from mm.notifiers.at(_NAME, Point.UNLOCKED, vpn)
        yield from mm.notifiers.at(_NAME, Point.END, vpn)
        result.append(cleaned)
        return cleaned
