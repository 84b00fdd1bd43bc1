"""Faults on file mappings: linear and nonlinear, private and shared, and holes of execute-in-place files."""

from typing import TYPE_CHECKING

from hostmm.callers.filemap import filemap_fault, xip_file_write, xip_sparse_page
from hostmm.callers.reclaim import alloc_page
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import Page
from hostmm.mm.pages import page_add_rmap, set_page_dirty
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.ptes import anon_vma_prepare, pte_unmap_unlock, user_pte
from secmmu.layouts import FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["do_file_fault"]


def do_file_fault(
    machine: "Machine", mm: MmStruct, vma: Vma, vpn: int, pte: int, index: int, write: bool
) -> Steps:
    """Map page ``index`` of the vma's file, or a private copy of it (``__do_fault``).

    Parameters
    ----------
    pte : int
        The PTE as the caller saw it: 0 or a file entry. If it has changed, nothing is done.
    """
    file = vma.file
    assert file is not None, "the vma maps a file"
    if index in file.holes and vma.shared:
        # It may be written later without a fault that tells (VM_MAYWRITE), and the sparse page must not be.
        yield from xip_file_write(machine, file, index)
    hole = index in file.holes
    page: Page = yield from (
        xip_sparse_page(machine) if hole else filemap_fault(machine, file, index)
    )
    copy: Page | None = None
    mappable = True
    if write and not vma.shared:
        copy = yield from _private_copy(machine, vma, page)
    elif write and not file.tmpfs:
        mappable = yield from _page_mkwrite(machine, file, index, page)
    mapped = mappable and (yield from _map(machine, mm, vma, vpn, pte, page, copy, write))
    if not hole:
        machine.sched.release(page.lock)
    if mapped and write and copy is None:
        set_page_dirty(machine, page)
    if not mapped or copy is not None:
        machine.frames.put(page)
    if copy is not None and not mapped:
        machine.frames.put(copy)


def _private_copy(machine: "Machine", vma: Vma, page: Page) -> Steps:
    anon_vma_prepare(machine, vma)
    copy: Page = yield from alloc_page(machine, FrameKind.USER)
    yield "copy_page"
    machine.copy_page(copy.address, page.address, pfn=copy.pfn)
    return copy


def _page_mkwrite(machine: "Machine", file: AddressSpace, index: int, page: Page) -> Steps:
    """Ask the file system, without the page lock; returns whether the file still has the page."""
    machine.sched.release(page.lock)
    yield "page_mkwrite"
    yield Acquire(page.lock)
    return file.pages.get(index) is page


def _map(
    machine: "Machine",
    mm: MmStruct,
    vma: Vma,
    vpn: int,
    pte: int,
    page: Page,
    copy: Page | None,
    write: bool,
) -> Steps:
    """Set the PTE if it is still what it was; returns whether."""
    ptl = mm.tables.lock(vpn)
    assert ptl is not None
    assert vma.file is not None
    yield Acquire(ptl)
    same = mm.tables.get(vpn) == pte
    if same:
        # Where dirty pages are counted, the first write to a shared page must fault (vma_wants_writenotify).
        # So must the first write since a sweep of soft-dirty marks.
        unseen = vma.shared and vma.file.tmpfs and vma.soft_dirty
        writable = vma.write and (write or unseen)
        target = copy or page
        yield "pte_write"
        mm.tables.set(vpn, user_pte(vma, target.pfn, write=writable, dirty=write))
        yield "rmap"
        if copy is not None:
            machine.lru.add(copy, active=True)
            copy.mapping, copy.index = vma.anon_vma, vma.linear_index(vpn)
        page_add_rmap(machine, target)
        mm.add_rss(1, anon=copy is not None)
    yield from pte_unmap_unlock(machine, ptl)
    return same
