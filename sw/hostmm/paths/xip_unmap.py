"""``__xip_unmap``: a hole of an execute-in-place file gets a block (2.6.25-rc4, mm/filemap_xip.c)."""

from typing import TYPE_CHECKING

from hostmm.errors import HostError
from hostmm.machine.locks import Acquire, Lock
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import Page
from hostmm.mm.pages import page_remove_rmap
from hostmm.mm.pagetable import PTE_D
from hostmm.mm.space import MmStruct
from hostmm.paths.ptes import page_check_address, pte_unmap_unlock, ptep_clear_flush
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["xip_unmap"]

_NAME = "__xip_unmap"


def xip_unmap(machine: "Machine", file: AddressSpace, index: int) -> Steps:
    """Unmap the shared sparse page from every mapping of the hole at ``index``; returns how many mapped it.

    Raises
    ------
    HostError
        A PTE of the sparse page is dirty: somebody has written into every hole of every file. Or the policy's
        kernel has no such path.
    """
    machine.policy.require(_NAME)
    page = machine.sparse_page
    if page is None:
        return 0
    with machine.sched.path(_NAME) as result:
        unmapped = 0
        yield Acquire(file.i_mmap_lock)
        for vma in list(file.vmas):
            vpn = vma.vpn_of(index)
            if vpn is None:
                continue
            yield from vma.mm.notifiers.at(_NAME, Point.START, vpn)
            ptl = yield from page_check_address(machine, page, vma.mm, vpn)
            if ptl is not None:
                yield from _unmap_one(machine, page, vma.mm, vpn, ptl)
                unmapped += 1
            yield from vma.mm.notifiers.at(_NAME, Point.END, vpn)
        machine.sched.release(file.i_mmap_lock)
        result.append(unmapped)
        return unmapped


def _unmap_one(machine: "Machine", page: Page, mm: MmStruct, vpn: int, ptl: Lock) -> Steps:
    old = yield from ptep_clear_flush(machine, mm, vpn)
    yield from mm.notifiers.at(_NAME, Point.CLEARED, vpn)
    yield "rmap"
    page_remove_rmap(machine, page)
    mm.add_rss(-1, anon=False)
    if old & PTE_D:
        raise HostError(f"frame {page.pfn:#x}: the sparse page has been written at vpn {vpn:#x}")
    yield from pte_unmap_unlock(machine, ptl)
    yield from mm.notifiers.at(_NAME, Point.UNLOCKED, vpn)
    yield "refcount"
    machine.frames.put(page)
