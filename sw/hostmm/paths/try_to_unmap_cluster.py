"""``try_to_unmap_cluster``: unmap pages of a nonlinear mapping, up to 32 PTEs at a time (2.6.25-rc4, mm/rmap.c).

A nonlinear vma does not say which PTE maps which page, so reclaim sweeps it, unmapping whatever was not used lately
until as many PTEs are gone as the page it is after had.
"""

from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import Page
from hostmm.mm.pages import page_remove_rmap, set_page_dirty, vm_normal_page
from hostmm.mm.pagetable import PTE_D, PTE_V, file_entry
from hostmm.mm.space import Vma
from hostmm.paths.ptes import pte_unmap_unlock, ptep_clear_flush, ptep_clear_flush_young
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["CLUSTER_PAGES", "try_to_unmap_nonlinear"]

_NAME = "try_to_unmap_cluster"
CLUSTER_PAGES = 32


def try_to_unmap_nonlinear(machine: "Machine", file: AddressSpace, wanted: int) -> Steps:
    """Sweep the nonlinear mappings until ``wanted`` PTEs are gone; the caller holds the file's rmap lock.

    Each vma remembers in ``cursor`` (pages) how far it was swept; a sweep that finds too little forgets it.

    Returns
    -------
    bool
        False if every mapping is locked into memory.

    Raises
    ------
    HostError
        The policy's kernel has no nonlinear mappings.
    """
    machine.policy.require(_NAME)
    vmas = [vma for vma in file.nonlinear if not vma.locked]
    if not vmas:
        return False
    size = max(vma.end - vma.start for vma in vmas)
    size = -(-size // CLUSTER_PAGES) * CLUSTER_PAGES
    reach = max(vma.cursor for vma in vmas) or CLUSTER_PAGES
    while reach <= size:
        for vma in vmas:
            while vma.cursor < min(reach, vma.end - vma.start):
                start = vma.start + vma.cursor
                vma.cursor += CLUSTER_PAGES
                wanted -= yield from _try_to_unmap_cluster(machine, vma, start)
                if wanted <= 0:
                    return True
            vma.cursor = reach
        reach += CLUSTER_PAGES
    for vma in vmas:
        vma.cursor = 0
    return True


def _try_to_unmap_cluster(machine: "Machine", vma: Vma, vpn: int) -> Steps:
    """Unmap what is old in the aligned cluster around ``vpn``; returns how many PTEs."""
    mm = vma.mm
    with machine.sched.path(_NAME) as result:
        base = vpn // CLUSTER_PAGES * CLUSTER_PAGES
        first, last = max(base, vma.start), min(base + CLUSTER_PAGES, vma.end) - 1
        yield "walk_tables"
        ptl = mm.tables.lock(first)
        if ptl is None:
            return 0
        yield from mm.notifiers.at(_NAME, Point.START, first, last)
        yield Acquire(ptl)
        unmapped = 0
        for address in range(first, last + 1):
            if not mm.tables.get(address) & PTE_V:
                continue
            young = yield from ptep_clear_flush_young(machine, mm, address)
            if not young | (yield from mm.notifiers.at(_NAME, Point.YOUNG, address)):
                yield from _unmap(machine, vma, address)
                unmapped += 1
        yield from pte_unmap_unlock(machine, ptl)
        yield from mm.notifiers.at(_NAME, Point.END, first, last)
        result.append(unmapped)
        return unmapped


def _unmap(machine: "Machine", vma: Vma, vpn: int) -> Steps:
    """Unmap one page. It is not the one that the caller has pinned, so this may free it."""
    mm = vma.mm
    old = yield from ptep_clear_flush(machine, mm, vpn)
    page: Page | None = vm_normal_page(machine, vma, old)
    assert page is not None, "a nonlinear mapping has file pages only"
    yield from mm.notifiers.at(_NAME, Point.CLEARED, vpn)
    if page.index != vma.linear_index(vpn):
        yield "pte_write"
        mm.tables.set(vpn, file_entry(page.index))
    if old & PTE_D:
        set_page_dirty(machine, page)
    yield "rmap"
    page_remove_rmap(machine, page)
    yield "refcount"
    machine.frames.put(page)
    mm.add_rss(-1, anon=False)
