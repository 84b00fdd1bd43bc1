"""``copy_hugetlb_page_range``: fork of a mapping of huge pages, which is told of from 3.15 on (e8569dd299db)."""

from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import PAGE_WORDS
from hostmm.mm.pages import huge_page_add_rmap, huge_pages, is_anon
from hostmm.mm.pagetable import PTE_A, PTE_W, pte_pfn
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["copy_hugetlb_page_range"]

_NAME = "copy_hugetlb_page_range"


def copy_hugetlb_page_range(machine: "Machine", vma: Vma, child: MmStruct) -> Steps:
    """Let the child map the parent's huge pages, write-protecting what may be copied on write."""
    parent, first, last = vma.mm, vma.start, vma.end - 1
    with machine.sched.path(_NAME) as result:
        if vma.cow:
            yield from parent.notifiers.at(_NAME, Point.START, first, last)
        copied = 0
        for base in parent.tables.huge_leaves(first, last):
            copied += yield from _copy_leaf(machine, vma, child, base)
        if vma.cow:
            yield from parent.notifiers.at(_NAME, Point.END, first, last)
        result.append(copied)


def _copy_leaf(machine: "Machine", vma: Vma, child: MmStruct, base: int) -> Steps:
    """Copy one leaf; returns whether it was still there: truncation waits for no fork."""
    tables = vma.mm.tables
    target, source = child.tables.pmd_lock(base), tables.pmd_lock(base)
    yield Acquire(target)
    # The child's first, always (SINGLE_DEPTH_NESTING).
    yield Acquire(source, ordered=False)
    leaf = tables.huge(base)
    if vma.cow and leaf & PTE_W:
        yield "pte_write"
        leaf &= ~PTE_W
        tables.set_huge(base, leaf)
    if leaf:
        yield from _share(machine, child, base, leaf)
    machine.sched.release(source)
    yield from pte_unmap_unlock(machine, target)
    return bool(leaf)


def _share(machine: "Machine", child: MmStruct, base: int, leaf: int) -> Steps:
    """Let the child map what the parent's leaf maps."""
    pages = huge_pages(machine, machine.frames.pages[pte_pfn(leaf)])
    yield "refcount"
    for page in pages:
        machine.frames.get(page)
    huge_page_add_rmap(machine, pages)
    child.add_rss(PAGE_WORDS, anon=is_anon(pages[0]))
    yield "pte_write"
    child.tables.set_huge(base, leaf & ~PTE_A)
