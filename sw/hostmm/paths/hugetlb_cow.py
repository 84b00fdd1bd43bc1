"""``hugetlb_cow``: a write to a huge page that is shared copies it (mm/hugetlb.c; review note S16).

Until 2.6.34 nobody is told: neither #v9 nor the seed has the call. By 3.6 it stands in a bracket.
"""

from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire, Lock
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import PAGE_WORDS, Page
from hostmm.mm.pages import (
    huge_page_add_rmap,
    huge_page_remove_rmap,
    huge_pages,
    is_anon,
)
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_W, pte_pfn
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.ptes import anon_vma_prepare, pte_unmap_unlock, user_pte
from hostmm.paths.tlb import flush_tlb_range
from hostmm.policies import Point
from secmmu.layouts import FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["alloc_huge_page", "hugetlb_cow"]

_NAME = "hugetlb_cow"
_ORDER = 9


def alloc_huge_page(machine: "Machine") -> Steps:
    """Return the 512 pages of a new huge page.

    Raises
    ------
    HostError
        There are not as many contiguous frames; the kernel kills the process.
    """
    yield "alloc_page"
    return machine.frames.alloc_block(FrameKind.USER, _ORDER)


def hugetlb_cow(
    machine: "Machine", mm: MmStruct, vma: Vma, base: int, *, ptl: Lock, leaf: int
) -> Steps:
    """Make the huge page at ``base`` writable: in place where nobody else has it, else with a copy.

    Returns True after a copy. ``ptl`` is held by the caller, who has seen ``leaf`` under it; it is dropped on return.
    """
    with machine.sched.path(_NAME) as result:
        old = huge_pages(machine, machine.frames.pages[pte_pfn(leaf)])
        copied = not (vma.shared or (is_anon(old[0]) and old[0].refcount == 1))
        if copied:
            yield from _copy(machine, mm, vma, base, ptl, leaf, old)
        else:
            yield "pte_write"
            mm.tables.set_huge(base, mm.tables.huge(base) | PTE_A | PTE_D | PTE_W)
            yield from flush_tlb_range(machine, mm, base, base + PAGE_WORDS - 1)
            yield from pte_unmap_unlock(machine, ptl)
        result.append(copied)
        return copied


def _copy(
    machine: "Machine",
    mm: MmStruct,
    vma: Vma,
    base: int,
    ptl: Lock,
    leaf: int,
    old: list[Page],
) -> Steps:
    last = base + PAGE_WORDS - 1
    machine.frames.get(old[0])
    machine.sched.release(ptl)
    anon_vma_prepare(machine, vma)
    new: list[Page] = yield from alloc_huge_page(machine)
    for source, copy in zip(old, new, strict=True):
        yield "copy_page"
        machine.copy_page(copy.address, source.address, pfn=copy.pfn)
    yield from mm.notifiers.at(_NAME, Point.START, base, last)
    yield Acquire(ptl)
    # Faults keep out, truncation does not.
    same = pte_pfn(mm.tables.huge(base)) == pte_pfn(leaf)
    if same:
        yield from _switch(machine, mm, vma, base, old, new)
    # Of a copied page the mapping's reference and ours go; after a lost race, ours and the unused new page.
    dropped = [*(old if same else new), old[0]]
    # Without a bracket they go before the lock does.
    early = machine.policy.call(_NAME, Point.END) is None
    if early:
        _put(machine, dropped)
    yield from pte_unmap_unlock(machine, ptl)
    yield from mm.notifiers.at(_NAME, Point.END, base, last)
    if not early:
        _put(machine, dropped)


def _switch(
    machine: "Machine", mm: MmStruct, vma: Vma, base: int, old: list[Page], new: list[Page]
) -> Steps:
    last = base + PAGE_WORDS - 1
    yield "pte_clear"
    mm.tables.clear_huge(base)
    yield from flush_tlb_range(machine, mm, base, last)
    yield from mm.notifiers.at(_NAME, Point.CLEARED, base, last)
    yield "pte_write"
    mm.tables.set_huge(base, user_pte(vma, new[0].pfn, write=vma.write, dirty=True))
    yield "rmap"
    if not is_anon(old[0]):
        mm.add_rss(-PAGE_WORDS, anon=False)
        mm.add_rss(PAGE_WORDS, anon=True)
    huge_page_remove_rmap(machine, old)
    for offset, page in enumerate(new):
        page.mapping, page.index = vma.anon_vma, vma.linear_index(base + offset)
    huge_page_add_rmap(machine, new)


def _put(machine: "Machine", pages: list[Page]) -> None:
    for page in pages:
        machine.frames.put(page)
