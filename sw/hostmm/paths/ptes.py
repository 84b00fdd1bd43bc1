"""Steps on single PTEs that several paths share. Time is spent first, then the step takes effect at once."""

from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire, Lock
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import LockClass, Row
from hostmm.mm.frames import Page
from hostmm.mm.pagetable import (
    PTE_A,
    PTE_D,
    PTE_R,
    PTE_SOFT_DIRTY,
    PTE_V,
    PTE_W,
    make_pte,
    pte_pfn,
)
from hostmm.mm.rmap import AnonVma
from hostmm.paths.tlb import flush_tlb_range

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine
    from hostmm.mm.space import MmStruct, Vma
    from hostmm.paths.unmap_batch import UnmapBatch

__all__ = [
    "anon_vma_prepare",
    "page_check_address",
    "pte_lock",
    "pte_unmap_unlock",
    "ptep_clear_flush",
    "ptep_clear_flush_young",
    "user_pte",
]


def user_pte(vma: "Vma", pfn: int, *, write: bool, dirty: bool) -> int:
    """Return a young PTE of ``vma``; Sv39 has no write-only pages, so a writable vma is readable."""
    bits = PTE_A | (PTE_R if vma.read or vma.write else 0)
    return make_pte(pfn, bits | (PTE_W if write else 0) | (PTE_D | PTE_SOFT_DIRTY if dirty else 0))


def pte_unmap_unlock(machine: "Machine", ptl: Lock) -> Steps:
    """Drop the page-table lock for good: behind it stands the step that scenarios stop a thread at."""
    yield "unlock"
    machine.sched.release(ptl)
    yield "unlocked"


def ptep_clear_flush(
    machine: "Machine",
    mm: "MmStruct",
    vpn: int,
    *,
    ptl: Lock | None = None,
    batch: "UnmapBatch | None" = None,
) -> Steps:
    """Clear the PTE and flush the CPUs' TLBs, or owe that to ``batch``; returns the old word. The lock over it is held.

    Who gives that lock reaches the PTE through its table, wherever mremap has put it meanwhile (97113eb39fa7).
    """
    yield "flush_cache"
    machine.sched.log(Row.CACHE_FLUSH, mm=mm.number, vpn=vpn)
    yield "pte_clear"
    old = mm.tables.clear(vpn if ptl is None else mm.tables.place(vpn, ptl))
    if batch is not None and batch.defers(mm):
        yield from batch.add(mm, old)
    else:
        yield from flush_tlb_range(machine, mm, vpn, vpn)
    return old


def ptep_clear_flush_young(machine: "Machine", mm: "MmStruct", vpn: int) -> Steps:
    """Test and clear the accessed bit, flush the CPUs' TLBs if it was set; returns whether it was."""
    yield "pte_read"
    pte = mm.tables.get(vpn)
    if not pte & PTE_A:
        return False
    mm.tables.mark(vpn, clear=PTE_A)
    yield machine.costs.flush_tlb_ns(mm.cpus)
    # x86 does not flush here, so 6.6 has nothing to tell; the cost is that of kernels that do.
    machine.sched.log(Row.CPU_FLUSH, mm=mm.number, vpn=vpn, tag=1, a=vpn)
    return True


def page_check_address(machine: "Machine", page: Page, mm: "MmStruct", vpn: int) -> Steps:
    """Look whether ``vpn`` maps ``page``; returns the page-table lock, held, or None."""
    yield "walk_tables"
    ptl = yield from pte_lock(machine, mm, vpn)
    if ptl is None:
        return None
    pte = mm.tables.get(vpn)
    if pte & PTE_V and pte_pfn(pte) == page.pfn:
        return ptl
    machine.sched.release(ptl)
    return None


def pte_lock(machine: "Machine", mm: "MmStruct", vpn: int) -> Steps:
    """Take the lock over a present PTE, or over the 2 MiB leaf that it is part of; returns it, or None if there is none."""
    # Without the lock first: most reverse-map candidates do not map the page.
    while (ptl := mm.tables.lock(vpn)) is not None and mm.tables.get(vpn) & PTE_V:
        yield Acquire(ptl)
        # The leaf may have been split while it was waited for.
        if mm.tables.lock(vpn) is ptl:
            return ptl
        machine.sched.release(ptl)
    return None


def anon_vma_prepare(machine: "Machine", vma: "Vma") -> AnonVma:
    """Return the vma's ``anon_vma``, made at the first anonymous page."""
    if vma.anon_vma is None:
        vma.anon_vma = AnonVma(
            machine.new_lock("anon_vma lock", LockClass.RMAP, key="anon_vma"), [vma]
        )
    return vma.anon_vma
