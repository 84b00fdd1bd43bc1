"""The mm system calls that a replay makes, as steps of the calling thread. Ranges are vpns, ``last`` inclusive."""

from typing import TYPE_CHECKING

from hostmm.callers.reclaim import reserve_frames
from hostmm.callers.vmas import detach, isolate_range, link, move_vma
from hostmm.callers.writeback import write_range
from hostmm.errors import HostError
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import PAGE_WORDS
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.exit_mmap import exit_mmap
from hostmm.paths.fork import dup_mmap
from hostmm.paths.madvise_free import madvise_free_single_vma
from hostmm.paths.mprotect import change_protection
from hostmm.paths.mremap import move_page_tables
from hostmm.paths.zap import unmap_region, zap_page_range

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = [
    "brk",
    "execve",
    "exit_process",
    "fork",
    "madvise_dontneed",
    "madvise_free",
    "mmap",
    "mprotect",
    "mremap",
    "msync",
    "munmap",
]


def mmap(machine: "Machine", mm: MmStruct, vma: Vma) -> Steps:
    """Map ``vma``, unmapping whatever was in its place (MAP_FIXED).

    Raises
    ------
    HostError
        It maps a hugetlbfs file, and is no multiple of 2 MiB.
    """
    if vma.hugetlb and any(page % PAGE_WORDS for page in (vma.start, vma.end, vma.pgoff)):
        raise HostError(f"vpn {vma.start:#x}: a hugetlbfs mapping is a multiple of 2 MiB")
    yield "syscall"
    yield Acquire(mm.mmap_sem)
    yield from _unmap(machine, mm, vma.start, vma.end - 1)
    yield from link(machine, vma)
    machine.sched.release(mm.mmap_sem)


def munmap(machine: "Machine", mm: MmStruct, first: int, last: int) -> Steps:
    """Unmap a range, which may hold gaps."""
    yield "syscall"
    yield Acquire(mm.mmap_sem)
    yield from _unmap(machine, mm, first, last)
    machine.sched.release(mm.mmap_sem)


def _unmap(machine: "Machine", mm: MmStruct, first: int, last: int) -> Steps:
    """``do_munmap``: the caller holds mmap_sem exclusive."""
    yield "vma_lookup"
    vmas = yield from isolate_range(machine, mm, first, last)
    if vmas:
        detach(mm, vmas)
        yield from unmap_region(machine, mm, vmas, first, last)


def mprotect(
    machine: "Machine", mm: MmStruct, first: int, last: int, *, read: bool, write: bool
) -> Steps:
    """Change the rights of a range."""
    yield "syscall"
    yield Acquire(mm.mmap_sem)
    for vma in (yield from isolate_range(machine, mm, first, last)):
        if (vma.read, vma.write) != (read, write):
            vma.read, vma.write = read, write
            yield from change_protection(machine, vma, vma.start, vma.end - 1)
    machine.sched.release(mm.mmap_sem)


def mremap(
    machine: "Machine", mm: MmStruct, old: int, old_pages: int, new: int, new_pages: int
) -> Steps:
    """Resize the mapping at ``old``, or move it to ``new``, where whatever was there goes first."""
    yield "syscall"
    yield Acquire(mm.mmap_sem)
    if old == new:
        yield from _resize(machine, mm, old, old_pages, new_pages)
    else:
        yield from _unmap(machine, mm, new, new + new_pages - 1)
        if new_pages < old_pages:
            yield from _unmap(machine, mm, old + new_pages, old + old_pages - 1)
        yield from _move(machine, mm, old, min(old_pages, new_pages), new, new_pages)
    machine.sched.release(mm.mmap_sem)


def _resize(machine: "Machine", mm: MmStruct, start: int, old_pages: int, new_pages: int) -> Steps:
    if new_pages < old_pages:
        yield from _unmap(machine, mm, start + new_pages, start + old_pages - 1)
        return
    vma = mm.find_vma(start + old_pages - 1)
    if vma is not None:
        yield "vma_lookup"
        vma.end = start + new_pages


def _move(
    machine: "Machine", mm: MmStruct, old: int, pages: int, new: int, new_pages: int
) -> Steps:
    """Move what lies at ``old``; the last vma grows to the new length."""
    vmas = yield from isolate_range(machine, mm, old, old + pages - 1)
    if any(vma.hugetlb for vma in vmas):
        raise HostError(f"vpn {old:#x}: a hugetlbfs mapping is not moved")
    for vma in vmas:
        start = vma.start - old + new
        end = new + new_pages if vma is vmas[-1] else vma.end - old + new
        moved = yield from move_vma(machine, vma, start, end)
        yield from move_page_tables(machine, vma, moved, vma.end - vma.start)
    yield from _unmap(machine, mm, old, old + pages - 1)


def madvise_dontneed(machine: "Machine", mm: MmStruct, first: int, last: int) -> Steps:
    """Drop the pages of a range; faults in it go on meanwhile (mmap_sem is shared)."""
    yield "syscall"
    yield Acquire(mm.mmap_sem, shared=True)
    for vma in mm.overlapping(first, last):
        if not vma.locked and not vma.pfnmap and not vma.hugetlb:
            yield from zap_page_range(machine, vma, max(first, vma.start), min(last, vma.end - 1))
    machine.sched.release(mm.mmap_sem)


def madvise_free(machine: "Machine", mm: MmStruct, first: int, last: int) -> Steps:
    """Let the private anonymous pages of a range be dropped when memory is short (mmap_sem is shared)."""
    yield "syscall"
    yield Acquire(mm.mmap_sem, shared=True)
    for vma in mm.overlapping(first, last):
        if vma.file is None and not vma.shared and not vma.locked and not vma.pfnmap:
            low, high = max(first, vma.start), min(last, vma.end - 1)
            yield from madvise_free_single_vma(machine, vma, low, high)
    machine.sched.release(mm.mmap_sem)


def brk(machine: "Machine", mm: MmStruct, start: int, end: int) -> Steps:
    """Make the heap span pages ``start`` to ``end - 1``."""
    yield "syscall"
    yield Acquire(mm.mmap_sem)
    now = max((vma.end for vma in mm.vmas if vma.heap), default=start)
    if end < now:
        yield from _unmap(machine, mm, end, now - 1)
    elif end > now:
        top = mm.find_vma(now - 1)
        yield from _unmap(machine, mm, now, end - 1)
        if top is not None and top.heap and top.read and top.write:
            top.end = end
        else:
            yield from link(machine, Vma(mm, now, end, True, True, pgoff=now, heap=True))
    machine.sched.release(mm.mmap_sem)


def msync(machine: "Machine", mm: MmStruct, first: int, last: int) -> Steps:
    """Write the dirty pages of the shared file mappings in a range and wait (MS_SYNC)."""
    yield "syscall"
    yield Acquire(mm.mmap_sem, shared=True)
    spans: list[tuple[AddressSpace, int, int]] = [
        (
            vma.file,
            vma.linear_index(max(first, vma.start)),
            vma.linear_index(min(last, vma.end - 1)),
        )
        for vma in mm.overlapping(first, last)
        if vma.shared and vma.file is not None
    ]
    machine.sched.release(mm.mmap_sem)
    for file, low, high in spans:
        yield from write_range(machine, file, low, high)


def fork(machine: "Machine", mm: MmStruct) -> Steps:
    """Copy the address space; returns the child's, None where there is no memory for it."""
    yield "syscall"
    yield from reserve_frames(machine, 1)
    return (yield from dup_mmap(machine, mm))


def execve(machine: "Machine", mm: MmStruct) -> Steps:
    """Replace the address space by an empty one; returns it."""
    yield "syscall"
    yield from reserve_frames(machine, 1)
    fresh = machine.new_mm()
    fresh.cpus = mm.cpus
    yield from exit_mmap(machine, mm)
    return fresh


def exit_process(machine: "Machine", mm: MmStruct) -> Steps:
    """End the process and its address space."""
    yield "syscall"
    yield from exit_mmap(machine, mm)
