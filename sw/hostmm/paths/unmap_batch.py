"""``try_to_unmap_flush``: reclaim puts the flush of what it unmaps off, and flushes once for many (4.3 and later).

``TTU_BATCH_FLUSH``: a PTE is cleared, the address space joins the batch of its task (``tlb_ubc``), and the CPUs are
interrupted once, before any of the pages is freed, and before a dirty one is written. What walks the CPUs' tables is told
when the PTE is cleared all the same: from 6.6 on of the whole address space (``arch_tlbbatch_add_pending`` of x86).
"""

from typing import TYPE_CHECKING

from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import Row
from hostmm.mm.frames import Page
from hostmm.mm.pagetable import PTE_D
from hostmm.paths.tlb import LAST_VPN

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine
    from hostmm.mm.space import MmStruct

__all__ = ["UnmapBatch"]

_NAME = "try_to_unmap_flush"


class UnmapBatch:
    """The flush that one pass of reclaim still owes, and the pages that wait for it.

    Parameters
    ----------
    machine : Machine
    """

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._owed: dict[int, MmStruct] = {}
        self._dirty = False
        self._pages: list[Page] = []

    def defers(self, mm: "MmStruct") -> bool:
        """Whether the flush of a PTE can wait: where it would interrupt another CPU (``should_defer_flush``)."""
        return self._machine.policy.has(_NAME) and mm.cpus > 1

    def add(self, mm: "MmStruct", pte: int) -> Steps:
        """Owe the flush of a PTE that has just been cleared (``set_tlb_ubc_flush_pending``)."""
        self._owed[mm.number] = mm
        self._dirty |= bool(pte & PTE_D)
        if self._machine.policy.flush_invalidates:
            yield from mm.notifiers.invalidate_range(0, LAST_VPN)

    def flush(self) -> Steps:
        """Interrupt every CPU that may still use what was unmapped."""
        if not self._owed:
            return
        owed, self._owed, self._dirty = self._owed, {}, False
        with self._machine.sched.path(_NAME) as result:
            yield self._machine.costs.flush_tlb_ns(max(mm.cpus for mm in owed.values()))
            for number in owed:
                self._machine.sched.log(Row.CPU_FLUSH, mm=number, vpn=0, a=LAST_VPN)
            result.append(len(owed))

    def flush_dirty(self) -> Steps:
        """Do so before a page is written, if a CPU may still write it (``try_to_unmap_flush_dirty``)."""
        if self._dirty:
            yield from self.flush()

    def free(self, page: Page) -> None:
        """Drop the last reference of a page that is unmapped and in no cache, when the flush is done."""
        if self._owed:
            self._pages.append(page)
        else:
            self._free(page)

    def finish(self) -> Steps:
        """Flush, then free."""
        yield from self.flush()
        pages, self._pages = self._pages, []
        for page in pages:
            self._free(page)

    def _free(self, page: Page) -> None:
        self._machine.sched.log(Row.RECLAIMED, pfn=page.pfn)
        self._machine.frames.put(page)
