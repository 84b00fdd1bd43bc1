"""The page cache: find a file's page, or read it from the store."""

from typing import TYPE_CHECKING

from hostmm.callers.reclaim import alloc_page
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import Page
from hostmm.paths.xip_unmap import xip_unmap
from secmmu.layouts import FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["filemap_fault", "original_content", "xip_file_write", "xip_sparse_page"]


def original_content(file: AddressSpace, index: int) -> int:
    """Return the word that fills a page of a file nobody has written yet: different for every page."""
    return 1 << 62 | file.number << 32 | index


def filemap_fault(machine: "Machine", file: AddressSpace, index: int) -> Steps:
    """Return the page at ``index``, locked and with a reference for the caller; reads it if it is not cached."""
    while True:
        yield "page_cache"
        page = file.pages.get(index)
        if page is None:
            page = yield from _add_to_page_cache(machine, file, index)
            if page is not None:
                return page
            continue
        machine.frames.get(page)
        yield Acquire(page.lock)
        if file.pages.get(index) is page:
            return page
        # It was dropped while the lock was waited for.
        machine.sched.release(page.lock)
        machine.frames.put(page)


def _add_to_page_cache(machine: "Machine", file: AddressSpace, index: int) -> Steps:
    """Read a page in; returns it as :func:`filemap_fault` does, None if another thread was faster."""
    page: Page = yield from alloc_page(machine, FrameKind.USER)
    if index in file.pages:
        machine.frames.put(page)
        return None
    page.mapping, page.index = file, index
    machine.frames.get(page)
    file.pages[index] = page
    machine.lru.add(page, active=False)
    yield Acquire(page.lock)
    slot = file.slots.get(index)
    if slot is None and file.tmpfs:
        yield "zero_page"
        machine.fill_page(page, 0)
        return page
    yield "io_submit"
    yield "io_read"
    if slot is None:
        machine.fill_page(page, original_content(file, index))
    else:
        machine.copy_page(page.address, slot, pfn=page.pfn)
    return page


def xip_sparse_page(machine: "Machine") -> Steps:
    """Return the page of zeros that every hole maps, with a reference for the caller (``__xip_sparse_page``)."""
    if machine.sparse_page is None:
        page: Page = yield from alloc_page(machine, FrameKind.USER)
        if machine.sparse_page is None:
            machine.fill_page(page, 0)
            machine.sparse_page = page
        else:
            machine.frames.put(page)
    machine.frames.get(machine.sparse_page)
    return machine.sparse_page


def xip_file_write(machine: "Machine", file: AddressSpace, index: int) -> Steps:
    """Write a page of an execute-in-place file that is a hole: allocate its block, unmap the hole, store the data.

    Such pages are the storage itself, so they are on no LRU list and stay until the file goes.
    """
    page: Page = yield from alloc_page(machine, FrameKind.USER)
    if index not in file.holes:
        machine.frames.put(page)
        return
    machine.fill_page(page, 0)
    page.mapping, page.index = file, index
    file.pages[index] = page
    file.holes.remove(index)
    yield from xip_unmap(machine, file, index)
    yield "copy_page"
    machine.fill_page(page, machine.next_version())
