"""Changing the list of vmas. What an rmap walk could see changes under the locks of the reverse maps."""

from typing import TYPE_CHECKING

from hostmm.errors import HostError
from hostmm.machine.locks import Acquire, Lock
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import PAGE_WORDS
from hostmm.mm.space import MmStruct, Vma

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = [
    "copy_vma",
    "detach",
    "isolate_range",
    "link",
    "move_vma",
    "rmap_locks",
    "split",
    "unlink",
]


def rmap_locks(vma: Vma) -> list[Lock]:
    """Return the locks of the reverse maps that hold ``vma``, in the kernel's order."""
    locks = [vma.file.i_mmap_lock] if vma.file is not None else []
    return locks + ([vma.anon_vma.lock] if vma.anon_vma is not None else [])


def _enter(vma: Vma) -> None:
    """Put a vma into the reverse maps of its file and of its anonymous pages."""
    if vma.file is not None:
        (vma.file.nonlinear if vma.nonlinear else vma.file.vmas).append(vma)
    if vma.anon_vma is not None:
        vma.anon_vma.vmas.append(vma)


def link(machine: "Machine", vma: Vma) -> Steps:
    """Add a new vma to its address space and to the reverse maps (``vma_link``)."""
    locks = rmap_locks(vma)
    for lock in locks:
        yield Acquire(lock)
    _enter(vma)
    vma.mm.insert(vma)
    for lock in reversed(locks):
        machine.sched.release(lock)


def unlink(machine: "Machine", vma: Vma) -> Steps:
    """Take a vma out of the reverse maps (``anon_vma_unlink``, ``unlink_file_vma``)."""
    locks = rmap_locks(vma)
    for lock in locks:
        yield Acquire(lock)
    if vma.file is not None:
        (vma.file.nonlinear if vma.nonlinear else vma.file.vmas).remove(vma)
    if vma.anon_vma is not None:
        vma.anon_vma.vmas.remove(vma)
    for lock in reversed(locks):
        machine.sched.release(lock)


def copy_vma(vma: Vma, mm: MmStruct, start: int, end: int, pgoff: int) -> Vma:
    """Return a vma with the same attributes for other pages; it is in no list yet."""
    return Vma(
        mm,
        start,
        end,
        vma.read,
        vma.write,
        shared=vma.shared,
        locked=vma.locked,
        pfnmap=vma.pfnmap,
        nonlinear=vma.nonlinear,
        file=vma.file,
        pgoff=pgoff,
        anon_vma=vma.anon_vma,
        heap=vma.heap,
        soft_dirty=vma.soft_dirty,
    )


def split(machine: "Machine", vma: Vma, at: int) -> Steps:
    """Split ``vma`` at page ``at`` (``split_vma``); it keeps the lower half."""
    locks = rmap_locks(vma)
    for lock in locks:
        yield Acquire(lock)
    upper = copy_vma(vma, vma.mm, at, vma.end, vma.linear_index(at))
    vma.end = at
    _enter(upper)
    vma.mm.insert(upper)
    for lock in reversed(locks):
        machine.sched.release(lock)


def isolate_range(machine: "Machine", mm: MmStruct, first: int, last: int) -> Steps:
    """Split vmas so that each lies inside or outside ``first`` to ``last``; return those inside, by address."""
    for edge in (first, last + 1):
        vma = mm.find_vma(edge)
        if vma is not None and vma.start < edge:
            if vma.hugetlb and edge % PAGE_WORDS:
                raise HostError(f"vpn {edge:#x}: a hugetlbfs mapping is split at 2 MiB only")
            yield from split(machine, vma, edge)
    return list(mm.overlapping(first, last))


def detach(mm: MmStruct, vmas: list[Vma]) -> None:
    """Take vmas out of the address space, so that no fault finds them; the reverse maps keep them."""
    for vma in vmas:
        mm.vmas.remove(vma)


def move_vma(machine: "Machine", vma: Vma, start: int, end: int) -> Steps:
    """Make the vma at another place that maps what ``vma`` maps (``copy_vma`` of the kernel); return it."""
    moved = copy_vma(vma, vma.mm, start, end, vma.pgoff)
    moved.soft_dirty = True
    yield from link(machine, moved)
    return moved
