"""``mprotect``: change what the PTEs of a range permit (docs/contract.md 1.8)."""

from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire, Lock
from hostmm.machine.scheduler import Steps
from hostmm.mm.pagetable import (
    PTE_D,
    PTE_R,
    PTE_SOFT_DIRTY,
    PTE_U,
    PTE_V,
    PTE_W,
    PTE_X,
    is_migration_entry,
    migration_entry,
    software_value,
)
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.huge_split import split_huge_range
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.paths.tlb import flush_tlb_range
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["change_protection", "modified"]

_NAME = "mprotect"


def modified(vma: Vma, pte: int) -> int:
    """Return a present PTE with the rights of its vma (``pte_modify``); frame, A and D stay.

    A private page stays read-only until a write fault has decided about copying; so does a clean page of a shared
    file whose dirty pages are accounted, and one whose first write since a sweep is to be seen (soft-dirty).
    PROT_NONE is an execute-only supervisor leaf: present, and closed to CPU and device alike.
    """
    pte &= ~(PTE_R | PTE_W | PTE_X | PTE_U)
    if not vma.read and not vma.write:
        return pte | PTE_X
    accounted = vma.file is not None and not vma.file.tmpfs
    tracked = not vma.soft_dirty and not pte & PTE_SOFT_DIRTY
    if vma.write and vma.shared and (pte & PTE_D or not accounted) and not tracked:
        pte |= PTE_W
    return pte | PTE_R | PTE_U


def change_protection(machine: "Machine", vma: Vma, first: int, last: int) -> Steps:
    """Give the present PTEs of ``first`` to ``last`` the vma's rights; the caller holds mmap_sem exclusive.

    A lazy policy opens its bracket at the first table that is there, and closes it before it flushes.
    """
    mm, lazy = vma.mm, machine.policy.protect_is_lazy
    with machine.sched.path(_NAME) as result:
        changed, begin = 0, None if lazy else first
        if begin is not None:
            yield from mm.notifiers.at(_NAME, Point.START, begin, last)
        if not vma.hugetlb:
            yield from split_huge_range(machine, vma, first, last)
        for low, high, lock in mm.tables.leaves(first, last):
            if begin is None:
                begin = low
                yield from mm.notifiers.at(_NAME, Point.START, begin, last)
            changed += yield from _change_ptes(machine, vma, low, high, lock)
        for base in mm.tables.huge_leaves(first, last):
            if begin is None:
                begin = base
                yield from mm.notifiers.at(_NAME, Point.START, begin, last)
            changed += yield from _change_huge(machine, vma, base)
        if changed or not lazy:
            if lazy:
                yield from _close(mm, begin, last)
            yield from flush_tlb_range(machine, mm, first, last)
        if not (lazy and changed):
            yield from _close(mm, begin, last)
        result.append(changed)


def _close(mm: MmStruct, begin: int | None, last: int) -> Steps:
    """Close the bracket, if one was opened."""
    if begin is not None:
        yield from mm.notifiers.at(_NAME, Point.END, begin, last)


def _change_huge(machine: "Machine", vma: Vma, base: int) -> Steps:
    """Change the leaf of a huge page (``hugetlb_change_protection``); returns how many: truncation may have come first."""
    tables = vma.mm.tables
    lock = tables.pmd_lock(base)
    yield Acquire(lock)
    there = bool(tables.huge(base))
    if there:
        yield "pte_clear"
        leaf = tables.clear_huge(base)
        yield "pte_write"
        tables.set_huge(base, modified(vma, leaf))
    yield from pte_unmap_unlock(machine, lock)
    return int(there)


def _change_ptes(machine: "Machine", vma: Vma, low: int, high: int, lock: Lock) -> Steps:
    """Change the present PTEs under one leaf table; returns how many."""
    tables, changed = vma.mm.tables, 0
    yield Acquire(lock)
    for vpn, word in tables.entries(low, high):
        if word & PTE_V:
            yield "pte_clear"
            pte = tables.clear(vpn)
            yield "pte_write"
            tables.set(vpn, modified(vma, pte))
            changed += 1
        elif is_migration_entry(word) and not vma.write:
            yield "pte_write"
            tables.set(vpn, migration_entry(software_value(word) >> 1, write=False))
    yield from pte_unmap_unlock(machine, lock)
    return changed
