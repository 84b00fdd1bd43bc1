"""``mmu_gather``: pages that unmapping a range has queued until the CPUs' TLBs are flushed (asm-generic/tlb.h)."""

from typing import TYPE_CHECKING

from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import Page
from hostmm.paths.tlb import flush_tlb_range

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine
    from hostmm.mm.space import MmStruct

__all__ = ["MmuGather"]


class MmuGather:
    """Pages with the reference of the PTE that mapped them, and the range that is still to be flushed.

    Parameters
    ----------
    machine : Machine
    mm : MmStruct
    path : str or None
        The mm path whose ``FLUSHED`` point each flush is; None where nobody listens any more.

    Attributes
    ----------
    total : int
        Pages queued so far.
    """

    def __init__(self, machine: "Machine", mm: "MmStruct", path: str | None) -> None:
        self._machine = machine
        self._mm = mm
        self._path = path
        self._pages: list[Page] = []
        self._span: tuple[int, int] | None = None
        self.total = 0

    @property
    def full(self) -> bool:
        """Whether the pages must be freed before more are queued."""
        limit = self._machine.policy.gather_pages
        return limit is not None and len(self._pages) >= limit

    def cleared(self, first: int, last: int) -> None:
        """Note that present PTEs were cleared (``tlb_remove_tlb_entry``)."""
        low, high = self._span or (first, last)
        self._span = min(low, first), max(high, last)

    def queue(self, page: Page) -> None:
        """Take over the reference of a PTE that is gone (``tlb_remove_page``)."""
        self._pages.append(page)
        self.total += 1

    def flush(self) -> Steps:
        """Flush the CPUs' TLBs, if a PTE was cleared since the last time (``tlb_flush_mmu_tlbonly``)."""
        if self._span is not None:
            (first, last), self._span = self._span, None
            yield from flush_tlb_range(self._machine, self._mm, first, last, path=self._path)

    def free(self) -> Steps:
        """Drop the queued references (``tlb_flush_mmu_free``)."""
        pages, self._pages = self._pages, []
        for page in pages:
            yield "free_page"
            # Who holds the page lock is reclaim, which frees the page itself when it finds it unused.
            if not page.lock.held and not page.under_writeback:
                self._machine.swap.remove_exclusive(page)
            self._machine.frames.put(page)

    def finish(self) -> Steps:
        """Flush, then free (``tlb_finish_mmu``)."""
        yield from self.flush()
        yield from self.free()
