"""hugetlbfs: files whose pages are 2 MiB, mapped by 2 MiB leaves (mm/hugetlb.c).

A huge page is 512 pages whose counts move together; none of them is on an LRU list, so they are neither reclaimed nor
migrated. A private mapping begins with the file's page, read-only, and copies it at the first write.
"""

from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import PAGE_WORDS, Page
from hostmm.mm.pages import huge_page_add_rmap, huge_pages
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_W, huge_base
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.hugetlb_cow import alloc_huge_page, hugetlb_cow
from hostmm.paths.ptes import pte_unmap_unlock, user_pte

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["hugetlb_fault"]


def hugetlb_fault(machine: "Machine", mm: MmStruct, vma: Vma, vpn: int, *, write: bool) -> Steps:
    """Map the huge page around ``vpn``, or give its leaf what the access wants; the caller holds mmap_sem."""
    base = huge_base(vpn)
    # One fault at a time, lest two allocate the last huge page (hugetlb_instantiation_mutex).
    yield Acquire(machine.hugetlb_mutex)
    lock = mm.tables.pmd_lock(base)
    if not mm.tables.huge(base):
        yield from _no_page(machine, mm, vma, base)
    yield Acquire(lock)
    leaf = mm.tables.huge(base)
    if leaf and write and not leaf & PTE_W:
        yield from hugetlb_cow(machine, mm, vma, base, ptl=lock, leaf=leaf)
    else:
        if leaf:
            yield "pte_write"
            mm.tables.mark(base, PTE_A | (PTE_D if write else 0))
        yield from pte_unmap_unlock(machine, lock)
    machine.sched.release(machine.hugetlb_mutex)


def _no_page(machine: "Machine", mm: MmStruct, vma: Vma, base: int) -> Steps:
    """Map the file's huge page; a private mapping gets it read-only (``hugetlb_no_page``)."""
    assert vma.file is not None
    index = vma.linear_index(base)
    yield "page_cache"
    pages = yield from _find_or_add(machine, vma.file, index)
    writable = vma.shared and vma.write
    lock = mm.tables.pmd_lock(base)
    yield Acquire(lock)
    yield "rmap"
    for page in pages:
        machine.frames.get(page)
    huge_page_add_rmap(machine, pages)
    mm.add_rss(PAGE_WORDS, anon=False)
    yield "pte_write"
    mm.tables.set_huge(base, user_pte(vma, pages[0].pfn, write=writable, dirty=writable))
    yield from pte_unmap_unlock(machine, lock)


def _find_or_add(machine: "Machine", file: AddressSpace, index: int) -> Steps:
    """Return the pages of the file's huge page at page offset ``index``, zeros where it is new."""
    head: Page | None = file.pages.get(index)
    if head is not None:
        return huge_pages(machine, head)
    pages = yield from alloc_huge_page(machine)
    for offset, page in enumerate(pages):
        yield "zero_page"
        machine.fill_page(page, 0)
        page.mapping, page.index = file, index + offset
        file.pages[index + offset] = page
    return pages
