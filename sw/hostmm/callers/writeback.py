"""Writeback of shared file pages: pdflush, ``write_page``, what msync needs (mm/page-writeback.c of 2.6.25)."""

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire, Signal, Wait
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import Row
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import Page
from hostmm.mm.pages import clear_page_dirty, set_page_dirty
from hostmm.paths.page_mkclean import page_mkclean

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["Writeback", "pdflush", "pdflush_timer", "submit_page", "write_page", "write_range"]

_BATCH = 16


class Writeback:
    """When dirty file pages are written.

    Parameters
    ----------
    total : int
        Frames of the machine.
    dirty_fraction : float
        Share of them that may hold dirty file pages before pdflush writes (``dirty_background_ratio``).
    period_ns : int
        pdflush writes all that is dirty this often, too (``dirty_writeback_centisecs``, scaled to short runs).
    """

    def __init__(
        self, total: int, *, dirty_fraction: float = 0.1, period_ns: int = 2_000_000
    ) -> None:
        self.threshold = max(4, round(total * dirty_fraction))
        self.period_ns = period_ns
        self.stopping = False
        self.written = 0
        self.bell = Signal("work for pdflush")

    def balance(self, machine: "Machine") -> None:
        """Wake pdflush if too much is dirty (``balance_dirty_pages``); a writer calls it after a fault."""
        if not self.bell.fired and len(dirty_pages(machine.files)) > self.threshold:
            machine.sched.fire(self.bell)

    def stop(self, machine: "Machine") -> None:
        """Let pdflush end."""
        self.stopping = True
        if not self.bell.fired:
            machine.sched.fire(self.bell)


def dirty_pages(files: Iterable[AddressSpace]) -> list[Page]:
    """Return the dirty pages of files that are written to a disk."""
    return [
        page
        for file in files
        if not file.tmpfs
        for page in list(file.pages.values())
        if page.dirty and not page.under_writeback
    ]


def _clear_page_dirty_for_io(machine: "Machine", page: Page) -> Steps:
    """Clean PTEs and page; returns whether the page was dirty, so is to be written now. It is locked.

    A write between the cleaning of the PTEs and the test of PG_dirty is not lost: page_mkclean's verdict makes the
    page dirty first (review note S8).
    """
    if page.mapcount and (yield from page_mkclean(machine, page)):
        set_page_dirty(machine, page)
    return clear_page_dirty(machine, page)


def submit_page(machine: "Machine", page: Page) -> Steps:
    """Begin the write of a locked file page whose dirty flag has been cleared, and unlock it.

    A page of a tmpfs file goes to its place in swap, which is no writeback.
    """
    file = page.mapping
    assert isinstance(file, AddressSpace)
    page.under_writeback = True
    yield "io_submit"
    if page.index not in file.slots:
        file.slots[page.index] = machine.new_slot()
    slot = file.slots[page.index]
    if not file.tmpfs:
        machine.sched.log(Row.WRITEBACK, pfn=page.pfn, a=slot)
        machine.writeback.written += 1
    machine.copy_page(slot, page.address, pfn=page.pfn)
    machine.sched.release(page.lock)


def write_page(machine: "Machine", page: Page) -> Steps:
    """Write a dirty page of a file and wait until it is on the disk. The caller has a reference."""
    yield from _write_pages(machine, [page], sync=True)


class _Begin(enum.Enum):
    """What became of an attempt to write a page: begun, nothing to write, being written already."""

    BEGUN = enum.auto()
    CLEAN = enum.auto()
    BUSY = enum.auto()


def _begin(machine: "Machine", page: Page) -> Steps:
    yield Acquire(page.lock)
    result = _Begin.BUSY if page.under_writeback else _Begin.CLEAN
    cached = isinstance(page.mapping, AddressSpace) and page.dirty and not page.under_writeback
    if cached and (yield from _clear_page_dirty_for_io(machine, page)):
        yield from submit_page(machine, page)
        return _Begin.BEGUN
    machine.sched.release(page.lock)
    return result


def _write_pages(machine: "Machine", pages: list[Page], *, sync: bool) -> Steps:
    """Write pages in batches, and wait for each batch; ``sync``: and for pages that others are writing."""
    for start in range(0, len(pages), _BATCH):
        batch = [page for page in pages[start : start + _BATCH] if _alive(machine, page)]
        for page in batch:
            machine.frames.get(page)
        begun: list[Page] = []
        for page in batch:
            while (result := (yield from _begin(machine, page))) is _Begin.BUSY and sync:
                # Who writes it may wait for a page of ours.
                yield from _end(begun)
                yield "io_wait"
            if result is _Begin.BEGUN:
                begun.append(page)
        yield from _end(begun)
        for page in batch:
            machine.frames.put(page)


def _end(begun: list[Page]) -> Steps:
    """Wait for the disk (``end_page_writeback``)."""
    if begun:
        yield "io_wait"
    for page in begun:
        page.under_writeback = False
    begun.clear()


def _alive(machine: "Machine", page: Page) -> bool:
    return machine.frames.pages.get(page.pfn) is page


def write_range(machine: "Machine", file: AddressSpace, first: int, last: int) -> Steps:
    """Write the dirty pages ``first`` to ``last`` of a file and wait until they are on the disk (MS_SYNC)."""
    pages = [
        page
        for index, page in sorted(file.pages.items())
        if first <= index <= last and (page.dirty or page.under_writeback)
    ]
    yield from _write_pages(machine, [] if file.tmpfs else pages, sync=True)


def pdflush(machine: "Machine") -> Steps:
    """Write dirty pages, as a thread of its own, until :meth:`Writeback.stop`."""
    writeback = machine.writeback
    while not writeback.stopping:
        yield Wait(writeback.bell)
        if writeback.stopping:
            return
        writeback.bell = Signal("work for pdflush")
        yield from _write_pages(machine, dirty_pages(machine.files), sync=False)


def pdflush_timer(machine: "Machine") -> Steps:
    """Wake pdflush periodically (``wb_kupdate``)."""
    writeback = machine.writeback
    while not writeback.stopping:
        yield writeback.period_ns
        if not writeback.bell.fired:
            machine.sched.fire(writeback.bell)
