"""Splitting a 2 MiB leaf into PTEs (mm/huge_memory.c; docs/contract.md 1.14).

Until 4.4 ``split_huge_page`` marks the leaf as splitting, under a bracket and the reverse map's lock, and fills the
table that was kept for this without another; from then on ``__split_huge_pmd`` clears it, fills the table and
publishes it inside one bracket. Either way the range is the whole 2 MiB. Unlike the kernel, the pages are base pages
afterwards for everybody, and paths that could change a whole leaf in place (mprotect, fork) split it first.
"""

from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import PAGE_WORDS, Page
from hostmm.mm.pagetable import PTE_SPLITTING, huge_base, huge_words, pte_pfn
from hostmm.mm.rmap import AnonVma
from hostmm.mm.space import Vma
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.paths.rmap_walk import candidates
from hostmm.paths.tlb import flush_tlb_range
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["split_huge_page", "split_huge_pmd", "split_huge_range"]

_PAGE, _PMD = "split_huge_page", "__split_huge_pmd"


def split_huge_range(machine: "Machine", vma: Vma, first: int, last: int) -> Steps:
    """Split every 2 MiB leaf that holds a page from ``first`` to ``last``; the caller holds mmap_sem."""
    for base in vma.mm.tables.huge_leaves(first, last):
        yield from split_huge_pmd(machine, vma, base)


def split_huge_pmd(machine: "Machine", vma: Vma, vpn: int) -> Steps:
    """Split the 2 MiB leaf over ``vpn``, if there is one; the caller holds mmap_sem and no lock of a reverse map."""
    base = huge_base(vpn)
    if machine.policy.has(_PMD):
        yield from _split_at_once(machine, vma, base)
        return
    assert vma.anon_vma is not None, "a 2 MiB leaf that may be split is anonymous"
    yield Acquire(vma.anon_vma.lock)
    yield from _split_marked(machine, vma, base)
    machine.sched.release(vma.anon_vma.lock)


def split_huge_page(machine: "Machine", page: Page) -> Steps:
    """Split whatever maps a huge page as a whole, for reclaim or migration; ``page`` is its first, locked."""
    mapping = page.mapping
    assert isinstance(mapping, AnonVma)
    yield Acquire(mapping.lock)
    for vma, vpn in candidates(page, mapping):
        if pte_pfn(vma.mm.tables.huge(vpn)) == page.pfn:
            split = _split_at_once if machine.policy.has(_PMD) else _split_marked
            yield from split(machine, vma, vpn)
    machine.sched.release(mapping.lock)


def _split_marked(machine: "Machine", vma: Vma, base: int) -> Steps:
    tables, notifiers, last = vma.mm.tables, vma.mm.notifiers, base + PAGE_WORDS - 1
    lock = tables.pmd_lock(base)
    with machine.sched.path(_PAGE) as result:
        yield from notifiers.at(_PAGE, Point.START, base, last)
        yield Acquire(lock)
        leaf = tables.huge(base)
        if leaf:
            yield "pte_write"
            tables.mark(base, PTE_SPLITTING)
            yield from flush_tlb_range(machine, vma.mm, base, last)
        yield from pte_unmap_unlock(machine, lock)
        yield from notifiers.at(_PAGE, Point.END, base, last)
        yield Acquire(lock)
        if tables.huge(base):
            yield "pte_clear"
            leaf = tables.clear_huge(base)
            yield from flush_tlb_range(machine, vma.mm, base, last)
            yield from _populate(machine, vma, base, leaf)
            result.append(1)
        yield from pte_unmap_unlock(machine, lock)


def _split_at_once(machine: "Machine", vma: Vma, base: int) -> Steps:
    tables, notifiers, last = vma.mm.tables, vma.mm.notifiers, base + PAGE_WORDS - 1
    lock = tables.pmd_lock(base)
    with machine.sched.path(_PMD) as result:
        yield from notifiers.at(_PMD, Point.START, base, last)
        yield Acquire(lock)
        if tables.huge(base):
            yield "pte_clear"
            leaf = tables.clear_huge(base)
            yield from flush_tlb_range(machine, vma.mm, base, last)
            yield from notifiers.at(_PMD, Point.CLEARED, base, last)
            yield from _populate(machine, vma, base, leaf)
            result.append(1)
        yield from pte_unmap_unlock(machine, lock)
        yield from notifiers.at(_PMD, Point.END, base, last)


def _populate(machine: "Machine", vma: Vma, base: int, leaf: int) -> Steps:
    """Fill the table that was kept and put it in the leaf's place; its pages are each on the LRU list from now on."""
    tables = vma.mm.tables
    table = tables.withdraw(base)
    yield PAGE_WORDS * machine.costs.ns("pte_write")
    tables.fill_taken(table, huge_words(leaf & ~PTE_SPLITTING))
    tables.put_table(base, table)
    head = machine.frames.pages[pte_pfn(leaf)]
    head.huge = False
    for offset in range(1, PAGE_WORDS):
        machine.lru.add(machine.frames.pages[head.pfn + offset], active=head.active)
