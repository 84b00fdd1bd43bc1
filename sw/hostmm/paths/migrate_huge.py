"""``migrate_misplaced_transhuge_page``: NUMA balancing moves a 2 MiB leaf whole (mm/migrate.c, 3.8 to 5.13).

The leaf is closed first (the kernel's PROT_NONE; here the supervisor's, as its rights are not lost), in mprotect's
bracket; whoever faults on it then waits for the page lock. So the copy, which comes next, meets no writer. A second
bracket surrounds the switch to the new page (f714f4f20e59).
"""

from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import PAGE_WORDS, Page
from hostmm.mm.pages import (
    clear_page_dirty,
    huge_page_add_rmap,
    huge_page_remove_rmap,
    huge_pages,
    set_page_dirty,
)
from hostmm.mm.pagetable import PTE_U, make_pte, pte_pfn
from hostmm.mm.space import Vma
from hostmm.paths.hugetlb_cow import alloc_huge_page
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.paths.tlb import flush_tlb_range
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["migrate_misplaced_transhuge_page"]

_NAME = "migrate_misplaced_transhuge_page"
_HINT = "mprotect"
_FLAGS = (1 << 10) - 1
"""Bits of a PTE below the frame."""


def migrate_misplaced_transhuge_page(machine: "Machine", vma: Vma, base: int) -> Steps:
    """Move the 2 MiB leaf at ``base`` to a new huge page; returns whether it moved. The caller holds mmap_sem.

    A page that somebody else holds (a pin) stays where it is.
    """
    machine.policy.require(_NAME)
    head = machine.frames.pages[pte_pfn(vma.mm.tables.huge(base))]
    yield Acquire(head.lock)
    leaf, old = yield from _hint(machine, vma, base, head)
    moved = False
    if old:
        machine.lru.remove(head)
        with machine.sched.path(_NAME) as result:
            new = yield from alloc_huge_page(machine)
            for source, copy in zip(old, new, strict=True):
                yield "copy_page"
                machine.copy_page(copy.address, source.address, pfn=copy.pfn)
            moved = yield from _bracketed_switch(machine, vma, base, leaf, old, new)
            result.append(moved)
        machine.lru.add(new[0] if moved else head, active=head.active)
        # Of what has moved the mapping's reference, too.
        for page in [*old, *(old if moved else new)]:
            yield "free_page"
            machine.frames.put(page)
    machine.sched.release(head.lock)
    return moved


def _hint(machine: "Machine", vma: Vma, base: int, head: Page) -> Steps:
    """Close a 2 MiB leaf to CPU and device alike (``change_huge_pmd``).

    Returns (the leaf as it was, the pages that begin with ``head``, each with a reference: who unmaps them meanwhile
    must not free them; empty where the leaf is another or gone).
    """
    tables, notifiers, last = vma.mm.tables, vma.mm.notifiers, base + PAGE_WORDS - 1
    lock, old = tables.pmd_lock(base), list[Page]()
    with machine.sched.path(_HINT):
        yield from notifiers.at(_HINT, Point.START, base, last)
        yield Acquire(lock)
        leaf = tables.huge(base)
        if leaf:
            yield "pte_clear"
            tables.clear_huge(base, leaves=True)
            yield "pte_write"
            tables.set_huge(base, leaf & ~PTE_U)
        if leaf and pte_pfn(leaf) == head.pfn:
            old = huge_pages(machine, head)
            for page in old:
                machine.frames.get(page)
        yield from pte_unmap_unlock(machine, lock)
        yield from notifiers.at(_HINT, Point.END, base, last)
        yield from flush_tlb_range(machine, vma.mm, base, last)
    return leaf, old


def _bracketed_switch(
    machine: "Machine", vma: Vma, base: int, leaf: int, old: list[Page], new: list[Page]
) -> Steps:
    tables, notifiers, last = vma.mm.tables, vma.mm.notifiers, base + PAGE_WORDS - 1
    lock = tables.pmd_lock(base)
    yield from notifiers.at(_NAME, Point.START, base, last)
    yield Acquire(lock)
    same = pte_pfn(tables.huge(base)) == old[0].pfn
    moved = same and all(page.refcount == 2 for page in old)
    if same:
        yield "pte_clear"
        tables.clear_huge(base, leaves=True)
        yield from flush_tlb_range(machine, vma.mm, base, last)
        yield from notifiers.at(_NAME, Point.CLEARED, base, last)
        yield "pte_write"
        tables.set_huge(base, make_pte(new[0].pfn, leaf & _FLAGS) if moved else leaf)
    if moved:
        yield "rmap"
        _take_over(machine, old, new)
    yield from pte_unmap_unlock(machine, lock)
    yield from notifiers.at(_NAME, Point.END, base, last)
    return moved


def _take_over(machine: "Machine", old: list[Page], new: list[Page]) -> None:
    """Make the new page what the old one was, in the reverse map and for reclaim."""
    for page, copy in zip(old, new, strict=True):
        copy.mapping, copy.index = page.mapping, page.index
        copy.referenced, copy.lazyfree = page.referenced, page.lazyfree
        if page.dirty:
            clear_page_dirty(machine, page)
            set_page_dirty(machine, copy)
    new[0].huge, old[0].huge = True, False
    huge_page_add_rmap(machine, new)
    huge_page_remove_rmap(machine, old)
