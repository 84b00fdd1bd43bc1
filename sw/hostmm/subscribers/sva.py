"""``sva``: the device walks the CPU's page tables (shared virtual addressing); docs/contract.md 7.1, B-type.

It honours range start and end: new walks of a range are kept out between the two, and nothing changes before the
last use of an old translation has ended. It never sleeps, it spins, so it may be called under any lock.
"""

from typing import TYPE_CHECKING

from hostmm.mm.space import MmStruct
from hostmm.scheduler import Steps

if TYPE_CHECKING:
    from hostmm.machine import Machine

__all__ = ["Sva"]


class Sva:
    """The subscriber of one address space; make one with :meth:`bind`.

    Parameters
    ----------
    machine : Machine
    asid : int
        What the device calls the address space.
    """

    def __init__(self, machine: "Machine", asid: int) -> None:
        self._driver = machine.driver
        self._asid = asid

    @classmethod
    def bind(cls, machine: "Machine", mm: MmStruct) -> Steps:
        """Let the device use ``mm`` (``iommu_sva_bind_device``); returns the subscriber, registered."""
        subscriber = cls(machine, mm.number)
        # Registered before the device can cache anything, so that no callback is missed (I14).
        mm.notifiers.register(subscriber)
        yield from machine.driver.attach(mm)
        return subscriber

    def invalidate_page(self, vpn: int, *, callback: int) -> Steps:
        """Invalidate the page and wait for its last use."""
        yield from self._invalidate(vpn, vpn, hold=False, callback=callback)

    def clear_flush_young(self, vpn: int, *, callback: int) -> Steps:
        """Return 0: the accessed bit is the CPU's own, so the device has nothing to add but a stale entry."""
        yield from self._invalidate(vpn, vpn, hold=False, callback=callback)
        return 0

    def invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Keep walks of the range out, invalidate it and wait for the last use."""
        yield from self._invalidate(first, last, hold=True, callback=callback)

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """Let walks of the range in again."""
        yield from self._driver.unhold(self._asid, first, last, callback=callback)

    def release(self, *, callback: int) -> Steps:
        """Freeze the device in this address space, for good."""
        yield from self._driver.detach(self._asid, callback=callback)

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        yield from self._driver.invalidate(self._asid, first, last, hold=hold, callback=callback)
