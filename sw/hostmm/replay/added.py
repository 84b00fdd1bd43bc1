"""What a trace of today cannot hold, added by options and reported: nonlinear mappings, execute-in-place files."""

import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from hostmm.callers.filemap import xip_file_write
from hostmm.callers.reclaim import pte_alloc
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import Row
from hostmm.mm.files import AddressSpace
from hostmm.mm.pagetable import PTE_V, file_entry
from hostmm.mm.space import Vma
from hostmm.paths.ptes import pte_unmap_unlock
from hostmm.paths.truncate import unmap_mapping_range
from hostmm.trace import PAGE_BYTES, Access, Mmap, Process, Trace, Window

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["NONLINEAR", "XIP", "choose_holes", "choose_nonlinear", "shuffle", "write_holes"]

NONLINEAR, XIP = 1, 2
"""``tag`` of an ADDED row."""

_MAP_SHARED = 1
_PROT_WRITE = 2


def choose_nonlinear(trace: Trace) -> int | None:
    """Return the file whose shared mappings in the first process become nonlinear, None if it has none.

    It is the last file that is mapped MAP_SHARED and writable, so that earlier ones stay linear.
    """
    files = [
        item.file
        for item in trace.processes[0].items
        if isinstance(item, Mmap) and item.flags & _MAP_SHARED and item.prot & _PROT_WRITE
    ]
    return next((file for file in reversed(files) if file is not None), None)


def choose_holes(trace: Trace, count: int) -> list[tuple[int, int]]:
    """Return up to ``count`` pages (file, offset) to make holes: the first process reads them often, nobody writes."""
    read: Counter[tuple[int, int]] = Counter()
    written: set[tuple[int, int]] = set()
    for process in trace.processes:
        _count_file_accesses(process, read if process is trace.processes[0] else Counter(), written)
    pages = [page for page in read if page not in written]
    pages.sort(key=lambda page: (-read[page], page))
    return pages[:count]


def _count_file_accesses(
    process: Process, read: Counter[tuple[int, int]], written: set[tuple[int, int]]
) -> None:
    """Count the windows in which each page of a private file mapping is read; note those that are written."""
    at: dict[int, tuple[int, int]] = {}
    for item in process.items:
        if isinstance(item, Mmap):
            first = item.addr // PAGE_BYTES
            for offset in range(item.length // PAGE_BYTES):
                at.pop(first + offset, None)
                if item.file is not None:
                    at[first + offset] = (item.file, item.offset_pages + offset)
                    if item.flags & _MAP_SHARED:
                        written.add(at[first + offset])
        elif isinstance(item, Window):
            for vpn, kinds in zip(item.pages.tolist(), item.kinds.tolist(), strict=True):
                page = at.get(vpn)
                if page is not None and kinds & Access.STORE:
                    written.add(page)
                elif page is not None:
                    read[page] += 1


def shuffle(machine: "Machine", vma: Vma, rng: random.Random) -> Steps:
    """Let the PTEs of a fresh nonlinear vma name its pages in another order (``remap_file_pages``)."""
    order = [vma.linear_index(vpn) for vpn in range(vma.start, vma.end)]
    rng.shuffle(order)
    yield "syscall"
    yield Acquire(vma.mm.mmap_sem)
    machine.sched.log(
        Row.ADDED, mm=vma.mm.number, vpn=vma.start, tag=NONLINEAR, a=vma.end - vma.start
    )
    for vpn, index in zip(range(vma.start, vma.end), order, strict=True):
        ptl = yield from pte_alloc(machine, vma.mm, vpn)
        yield Acquire(ptl)
        if index != vma.linear_index(vpn) and not vma.mm.tables.get(vpn) & PTE_V:
            yield "pte_write"
            vma.mm.tables.set(vpn, file_entry(index))
        yield from pte_unmap_unlock(machine, ptl)
    machine.sched.release(vma.mm.mmap_sem)


def write_holes(
    machine: "Machine",
    pages: list[tuple[AddressSpace, int]],
    *,
    period_ns: int,
    running: Callable[[], bool],
    wrote: Callable[[], None],
) -> Steps:
    """Play the program that writes into the holes and empties blocks again, visiting one every ``period_ns``.

    A hole is written if somebody maps it; a block becomes a hole again at the next visit.
    """
    for file, index in pages:
        machine.sched.log(Row.ADDED, tag=XIP, a=file.number, b=index)
    for file, index in itertools.cycle(pages):
        yield period_ns
        if not running():
            return
        if index not in file.holes:
            yield from _punch_hole(machine, file, index)
        elif _mapped(file, index):
            yield "syscall"
            yield from xip_file_write(machine, file, index)
            wrote()


def _mapped(file: AddressSpace, index: int) -> bool:
    vpns = ((vma, vma.vpn_of(index)) for vma in file.vmas)
    return any(vpn is not None and vma.mm.tables.get(vpn) & PTE_V for vma, vpn in vpns)


def _punch_hole(machine: "Machine", file: AddressSpace, index: int) -> Steps:
    """Take a block back: nobody finds the page any more, then it is unmapped, then freed (truncate)."""
    page = file.pages[index]
    yield "syscall"
    yield Acquire(page.lock)
    del file.pages[index]
    file.holes.add(index)
    yield from unmap_mapping_range(machine, file, index, index)
    machine.sched.release(page.lock)
    yield "free_page"
    machine.frames.put(page)
