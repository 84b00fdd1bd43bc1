"""Truncation: pages of a file leave every mapping, then the page cache (``vmtruncate``; docs/contract.md 1.7).

There is no mmap_sem here: what keeps the vmas in place is the file's rmap lock, so that until it became a mutex no
callback may sleep.
"""

from typing import TYPE_CHECKING

from hostmm.errors import HostError
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import PAGE_WORDS, Page
from hostmm.paths.zap import zap_page_range

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["truncate_page", "truncate_range", "unmap_mapping_range"]

_NAME = "unmap_mapping_range"


def unmap_mapping_range(machine: "Machine", file: AddressSpace, first: int, last: int) -> Steps:
    """Unmap pages ``first`` to ``last`` of a file (offsets) wherever they are mapped."""
    yield Acquire(file.i_mmap_lock)
    for vma in list(file.vmas):
        low = max(vma.start, vma.start + first - vma.pgoff)
        high = min(vma.end - 1, vma.start + last - vma.pgoff)
        if low <= high:
            yield from zap_page_range(machine, vma, low, high, path=_NAME)
    for vma in list(file.nonlinear):
        # Any PTE of it may map one of the pages.
        yield from zap_page_range(
            machine, vma, vma.start, vma.end - 1, path=_NAME, offsets=range(first, last + 1)
        )
    machine.sched.release(file.i_mmap_lock)


def truncate_page(machine: "Machine", file: AddressSpace, index: int) -> Steps:
    """Drop one page from the page cache, unmapping it first where a fault has mapped it again (``truncate_complete_page``).

    Returns whether there was one.
    """
    while (page := file.pages.get(index)) is not None:
        machine.frames.get(page)
        yield Acquire(page.lock)
        # It may have moved to another frame while the lock was waited for.
        dropped = file.pages.get(index) is page
        if dropped:
            yield from _drop(machine, file, index, page)
        machine.sched.release(page.lock)
        yield "free_page"
        machine.frames.put(page)
        if dropped:
            return True
    return False


def _drop(machine: "Machine", file: AddressSpace, index: int, page: Page) -> Steps:
    while page.under_writeback:
        yield "io_wait"
    if page.mapcount:
        yield from unmap_mapping_range(machine, file, index, index)
    yield "page_cache"
    del file.pages[index]
    file.slots.pop(index, None)
    page.mapping, page.dirty = None, False
    machine.frames.put(page)


def truncate_range(machine: "Machine", file: AddressSpace, first: int, last: int) -> Steps:
    """Drop pages ``first`` to ``last`` of a file with their content; returns how many were cached.

    As for a hole punched into it: a later fault finds a page as it was when the file was made.

    Raises
    ------
    HostError
        The file's pages are 2 MiB, and the range cuts one.
    """
    if file.hugetlb and (first % PAGE_WORDS or (last + 1) % PAGE_WORDS):
        raise HostError(f"file {file.name}: a hugetlbfs file is truncated at 2 MiB only")
    yield from unmap_mapping_range(machine, file, first, last)
    dropped = 0
    for index in range(first, last + 1):
        dropped += yield from truncate_page(machine, file, index)
    return dropped
