"""``ats``: a device with a translation cache of its own, which believes what it cached until it is told; 5.3, I11.

The cache is filled by translation requests (PCIe ATS), and followed by nobody but the CPUs' flushes: ``invalidate_range``,
and ``invalidate_page`` before 4.13. An access that the cached translation does not permit makes a page request: mm
resolves it, the device tries again, with what it has cached. So an upgrade that nobody is told of keeps it faulting
until it gives up. Callbacks spin.
"""

from collections import Counter
from typing import TYPE_CHECKING

from hostmm.driver.contexts import DeviceFault
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import PAGE_BYTES
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_R, PTE_U, PTE_V, PTE_W, make_pte, pte_pfn
from hostmm.mm.space import MmStruct
from hostmm.subscribers.base import DeviceSubscriber, permits
from hostmm.subscribers.tables import OwnTables

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["Ats"]

_READABLE = PTE_V | PTE_U | PTE_R
_PATIENCE = 32
"""Page requests in a row for one page after which a device reports an error."""


class Ats(DeviceSubscriber):
    """An address space on the device. What it has cached is a table that the MMU walks, in the cache's place."""

    def __init__(self, machine: "Machine", mm: MmStruct) -> None:
        super().__init__(machine, mm)
        self._cache = OwnTables(machine)
        self._requests: Counter[int] = Counter()

    def start(self) -> Steps:
        """Have the device look into its cache, which is empty."""
        yield from self._attach(root=self._cache.root)

    # --- callbacks ---------------------------------------------------------------------------------------

    def invalidate_page(self, address: int, *, callback: int) -> Steps:
        """Drop the page and wait for its last use."""
        vpn = address // PAGE_BYTES
        yield from self._drop(vpn, vpn, callback)

    def invalidate_range(self, first: int, last: int, *, callback: int) -> Steps:
        """Drop the range and wait for its last use."""
        yield from self._drop(first, last, callback)

    def clear_flush_young(self, vpn: int, *, callback: int) -> Steps:
        """Drop the page, so that the next use sets the CPU's accessed bit; return 0, as there is no other."""
        yield from self._drop(vpn, vpn, callback)
        return 0

    def release(self, *, callback: int) -> Steps:
        """Stop the device, drop everything."""
        self.released = True
        yield from self._driver.detach(self.context, callback=callback)
        self._cache.free()

    def _drop(self, first: int, last: int, callback: int) -> Steps:
        for vpn in self._cache.mapped(first, last):
            yield "pte_clear"
            # Release, which takes no lock, may have freed the cache meanwhile.
            if self._cache.get(vpn):
                self._cache.set(vpn, 0)
            del self._requests[vpn]
        if not self.released:
            yield from self._driver.invalidate(self._asid, first, last, callback=callback)

    # --- faults ------------------------------------------------------------------------------------------

    def fault(self, fault: DeviceFault) -> Steps:
        """Request the translation, or the page where what is cached does not permit the access."""
        if self.released:
            return False
        cached = self._cache.get(fault.vpn)
        if not cached:
            return (yield from self._translate(fault))
        if permits(cached, write=fault.write):
            return True
        self._requests[fault.vpn] += 1
        resolved = yield from self._resolve(fault)
        return resolved and self._requests[fault.vpn] < _PATIENCE

    def _translate(self, fault: DeviceFault) -> Steps:
        """Cache what mm's table says, under its lock, so that no flush can come in between."""
        yield from self._cache.prepare(fault.vpn)
        ptl = self._mm.tables.lock(fault.vpn)
        if ptl is not None:
            yield Acquire(ptl)
            yield "pte_read"
            pte = self._mm.tables.get(fault.vpn)
            if pte & _READABLE == _READABLE:
                yield "pte_write"
            present = pte & _READABLE == _READABLE and not self.released
            if present and self._mm.tables.lock(fault.vpn) is ptl:
                # As the walk of an IOMMU for a request that does not say that it will only read.
                self._mm.tables.mark(fault.vpn, PTE_A | (PTE_D if pte & PTE_W else 0))
                bits = PTE_R | PTE_A | (PTE_W | PTE_D if pte & PTE_W else 0)
                self._cache.set(fault.vpn, make_pte(pte_pfn(pte), bits))
            self._machine.sched.release(ptl)
            yield "unlocked"
            if present:
                return True
        return (yield from self._resolve(fault))
