"""What paths do with a ``struct page``: mapcount, dirty flag, and which PTEs have one at all.

The sanitizer's rights need no call from a path: the page table and the notifier chain keep them
(:mod:`hostmm.mm.rights`).
"""

from typing import TYPE_CHECKING

from hostmm.errors import HostError
from hostmm.machine.timeline import Row
from hostmm.mm.frames import PAGE_WORDS, Page
from hostmm.mm.pagetable import PTE_V, pte_pfn, software_value
from hostmm.mm.rmap import AnonVma, StableNode

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine
    from hostmm.mm.space import Vma

__all__ = [
    "clear_page_dirty",
    "huge_page_add_rmap",
    "huge_page_remove_rmap",
    "huge_pages",
    "is_anon",
    "is_ksm",
    "migrating_page",
    "page_add_rmap",
    "page_remove_rmap",
    "set_page_dirty",
    "vm_normal_page",
]


def is_anon(page: Page) -> bool:
    """Whether the page belongs to an anonymous mapping (``PageAnon``)."""
    return isinstance(page.mapping, AnonVma)


def is_ksm(page: Page) -> bool:
    """Whether the page was merged by KSM (``PageKsm``); it is anonymous, too."""
    return isinstance(page.mapping, StableNode)


def page_add_rmap(machine: "Machine", page: Page) -> None:
    """One more PTE maps the page (``page_add_anon_rmap``, ``page_add_file_rmap``)."""
    page.mapcount += 1
    _log_mapcount(machine, page, up=True)


def page_remove_rmap(machine: "Machine", page: Page) -> None:
    """One PTE less maps the page.

    Raises
    ------
    HostError
        None did.
    """
    if page.mapcount == 0:
        raise HostError(f"frame {page.pfn:#x}: mapcount would become negative")
    page.mapcount -= 1
    _log_mapcount(machine, page, up=False)


def _log_mapcount(machine: "Machine", page: Page, *, up: bool) -> None:
    row = {"pfn": page.pfn, "tag": int(up), "a": page.mapcount, "c": int(is_anon(page))}
    machine.sched.log(Row.MAPCOUNT, **row)


def set_page_dirty(machine: "Machine", page: Page) -> bool:
    """Set PG_dirty; return whether it was clear."""
    changed = not page.dirty
    page.dirty = True
    machine.sched.log(Row.PAGE_DIRTY, pfn=page.pfn, tag=1, a=int(changed))
    return changed


def clear_page_dirty(machine: "Machine", page: Page) -> bool:
    """Clear PG_dirty; return whether it was set (``TestClearPageDirty``)."""
    changed = page.dirty
    page.dirty = False
    machine.sched.log(Row.PAGE_DIRTY, pfn=page.pfn, tag=0, a=int(changed))
    return changed


def huge_pages(machine: "Machine", head: Page) -> list[Page]:
    """Return the 512 pages of a huge page, of which ``head`` is the first."""
    return [machine.frames.pages[head.pfn + offset] for offset in range(PAGE_WORDS)]


def huge_page_add_rmap(machine: "Machine", pages: list[Page]) -> None:
    """One more 2 MiB leaf maps these pages."""
    for page in pages:
        page_add_rmap(machine, page)


def huge_page_remove_rmap(machine: "Machine", pages: list[Page]) -> None:
    """One 2 MiB leaf less maps these pages."""
    for page in pages:
        page_remove_rmap(machine, page)


def migrating_page(machine: "Machine", entry: int) -> Page:
    """Return the page that a migration entry stands for; it is locked until the entry is gone."""
    return machine.frames.pages[software_value(entry) >> 1]


def vm_normal_page(machine: "Machine", vma: "Vma", pte: int) -> Page | None:
    """Return the ``struct page`` behind a present PTE, None where there is none.

    In a VM_PFNMAP vma only the pages that copy-on-write has put there have one; the kernel knows them by a frame
    number that is not the linear one, which is the same set.
    """
    assert pte & PTE_V, "a page is looked up for a present PTE"
    page = machine.frames.pages[pte_pfn(pte)]
    if vma.pfnmap and not is_anon(page):
        return None
    return page
