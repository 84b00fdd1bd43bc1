"""``mprotect``: change what the PTEs of a range permit (docs/contract.md 1.8)."""

from typing import TYPE_CHECKING

from hostmm.locks import Acquire
from hostmm.mm.pagetable import PTE_D, PTE_R, PTE_U, PTE_V, PTE_W, PTE_X
from hostmm.mm.space import Vma
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.policies import Point
from hostmm.scheduler import Steps

if TYPE_CHECKING:
    from hostmm.machine import Machine

__all__ = ["change_protection", "modified"]


def modified(vma: Vma, pte: int) -> int:
    """Return a present PTE with the rights of its vma (``pte_modify``); frame, A and D stay.

    A private page stays read-only until a write fault has decided about copying; so does a clean page of a shared
    file whose dirty pages are accounted. PROT_NONE is an execute-only supervisor leaf: present, and closed to
    CPU and device alike.
    """
    pte &= ~(PTE_R | PTE_W | PTE_X | PTE_U)
    if not vma.read and not vma.write:
        return pte | PTE_X
    accounted = vma.file is not None and not vma.file.tmpfs
    if vma.write and vma.shared and (pte & PTE_D or not accounted):
        pte |= PTE_W
    return pte | PTE_R | PTE_U


def change_protection(machine: "Machine", vma: Vma, first: int, last: int) -> Steps:
    """Give the present PTEs of ``first`` to ``last`` the vma's rights; the caller holds mmap_sem exclusive."""
    mm = vma.mm
    with machine.sched.path("mprotect") as result:
        yield from mm.notifiers.at("mprotect", Point.START, first, last)
        changed = 0
        for low, high, lock in mm.tables.leaves(first, last):
            yield Acquire(lock)
            for vpn, word in mm.tables.entries(low, high):
                if word & PTE_V:
                    yield "pte_clear"
                    pte = mm.tables.clear(vpn)
                    yield "pte_write"
                    mm.tables.set(vpn, modified(vma, pte))
                    changed += 1
            yield from pte_unmap_unlock(machine, lock)
        yield machine.costs.flush_tlb_ns(mm.cpus)
        yield from mm.notifiers.at("mprotect", Point.END, first, last)
        result.append(changed)
