"""``sva``: the device walks the CPU's page tables (shared virtual addressing); docs/contract.md 7.1.

Two kinds. The B-type honours range start and end: new walks of a range are kept out between the two, and nothing
changes before the last use of an old translation has ended. The A-type (a device with ATS) knows nothing of ranges
that are about to change: it follows the flushes of the CPUs' TLBs (3.19 and later) and ``invalidate_page`` (until
4.12), and misses what only a range start announces. Neither sleeps, they spin, so they may be called under any lock.
"""

from typing import TYPE_CHECKING

from hostmm.driver.contexts import DeviceFault
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import PAGE_BYTES
from hostmm.mm.pagetable import PTE_V
from hostmm.mm.space import MmStruct
from hostmm.subscribers.base import DeviceSubscriber
from hostmm.subscribers.brackets import Brackets

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["Sva", "SvaA"]


class _Walking(DeviceSubscriber):
    """What both kinds share."""

    def start(self) -> Steps:
        """Have the device walk the CPU's tables (``iommu_sva_bind_device``)."""
        yield from self._attach()

    def invalidate_page(self, address: int, *, callback: int) -> Steps:
        """Invalidate the page and wait for its last use."""
        vpn = address // PAGE_BYTES
        yield from self._invalidate(vpn, vpn, hold=False, callback=callback)

    def clear_flush_young(self, vpn: int, *, callback: int) -> Steps:
        """Return 0: the accessed bit is the CPU's own, so the device has nothing to add but a stale entry."""
        yield from self._invalidate(vpn, vpn, hold=False, callback=callback)
        return 0

    def release(self, *, callback: int) -> Steps:
        """Freeze the device in this address space, for good."""
        self.released = True
        yield from self._driver.detach(self.context, callback=callback)

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        yield from self._driver.invalidate(self._asid, first, last, hold=hold, callback=callback)

    def fault(self, fault: DeviceFault) -> Steps:
        """Have mm resolve the fault; the device walks what comes of it."""
        cached = self._mm.tables.get(fault.vpn) & PTE_V
        if not (yield from self._resolve(fault)):
            return False
        if cached:
            # Nobody is notified of an upgrade (docs/contract.md 1.2, I11). If the MMU still holds the entry that
            # lacked the right, the burst would hit it and fault for ever: an IOMMU driver flushes what faulted.
            yield from self._driver.invalidate(self._asid, fault.vpn, fault.vpn)
        return True


class Sva(_Walking):
    """The B-type."""

    def __init__(self, machine: "Machine", mm: MmStruct) -> None:
        super().__init__(machine, mm)
        self._held = Brackets()

    def invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Keep walks of the range out, invalidate it and wait for the last use."""
        if self.released:
            return
        yield from self._invalidate(first, last, hold=True, callback=callback)
        if self.released:
            # Nobody may ever say that this range has changed.
            yield from self._driver.unhold(self._asid, first, last, callback=callback)
        else:
            self._held.start(first, last)

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """Let walks of the range in again."""
        if self._held.end(first, last):
            yield from self._driver.unhold(self._asid, first, last, callback=callback)

    def release(self, *, callback: int) -> Steps:
        """Freeze the device for good, and leave no hold behind: it would meet the asid's next owner."""
        yield from super().release(callback=callback)
        for first, last in self._held.clear():
            yield from self._driver.unhold(self._asid, first, last, callback=callback)


class SvaA(_Walking):
    """The A-type."""

    def invalidate_range(self, first: int, last: int, *, callback: int) -> Steps:
        """Invalidate the range and wait for the last use."""
        yield from self._invalidate(first, last, hold=False, callback=callback)
