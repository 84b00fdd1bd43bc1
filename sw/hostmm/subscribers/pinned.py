"""``pinned``: the baseline without a notifier; every page that the device uses is pinned (``get_user_pages``).

Nothing is told to it, so it never waits for anybody and nobody waits for it; but what it has pinned cannot be freed,
and where mm puts another page at an address (copy-on-write, unmapping) it goes on with the old one. Like a driver
under RLIMIT_MEMLOCK, it pins no more than a share of the memory at a time: the oldest pin goes for a new one.
"""

from typing import TYPE_CHECKING

from hostmm.callers.gup import get_user_page, put_user_page
from hostmm.driver.contexts import DeviceFault
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import LockClass
from hostmm.mm.frames import Page
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_R, PTE_W, make_pte
from hostmm.mm.rights import allow
from hostmm.mm.space import MmStruct
from hostmm.subscribers.base import DeviceSubscriber, permits
from hostmm.subscribers.tables import OwnTables

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["Pinned"]

_SHARE = 8
"""One page in so many may be pinned."""


class Pinned(DeviceSubscriber):
    """Pins pages as the device faults on them, and unpins them when their number or the address space ends."""

    def __init__(self, machine: "Machine", mm: MmStruct) -> None:
        super().__init__(machine, mm)
        self._lock = machine.new_lock(
            f"pins {mm.number}", LockClass.DRIVER, key="pin_mutex", sleeps=True
        )
        self._tables = OwnTables(machine)
        self._pins: dict[int, Page] = {}
        self._most = max(machine.frames.total // _SHARE, 1)

    def start(self) -> Steps:
        """Have the device walk tables that are empty."""
        yield from self._attach(root=self._tables.root, follows=False)

    def release(self, *, callback: int) -> Steps:
        """Unpin everything: stands for the end of the process closing the device's file."""
        self.released = True
        yield Acquire(self._lock)
        for vpn in list(self._pins):
            yield from self._unpin(vpn)
        self._machine.sched.release(self._lock)
        yield from self._driver.detach(self.context, callback=callback)
        self._tables.free()

    def fault(self, fault: DeviceFault) -> Steps:
        """Pin the page and map it, for writing wherever the program may write (FOLL_WRITE)."""
        yield Acquire(self._lock)
        mapped = False
        if not self.released:
            mapped = permits(self._tables.get(fault.vpn), write=fault.write)
            mapped = mapped or (yield from self._pin(fault))
        self._machine.sched.release(self._lock)
        return mapped

    def _pin(self, fault: DeviceFault) -> Steps:
        vma = self._mm.find_vma(fault.vpn)
        if vma is None or (fault.write and not vma.write):
            return False
        yield from self._tables.prepare(fault.vpn)
        for vpn in (fault.vpn, *self._pins):
            if vpn in self._pins and (vpn == fault.vpn or len(self._pins) >= self._most):
                yield from self._unpin(vpn)
        page: Page | None = yield from get_user_page(
            self._machine, self._mm, fault.vpn, write=vma.write
        )
        if page is None:
            return False
        self._pins[fault.vpn] = page
        allow(self._machine, page, self._asid, read=True, write=vma.write)
        yield "pte_write"
        bits = PTE_R | PTE_A | (PTE_W | PTE_D if vma.write else 0)
        self._tables.set(fault.vpn, make_pte(page.pfn, bits))
        return True

    def _unpin(self, vpn: int) -> Steps:
        """Unmap a page from the device, and give it back once nothing uses it any more."""
        page = self._pins.pop(vpn)
        written = bool(self._tables.get(vpn) & PTE_W)
        yield "pte_clear"
        self._tables.set(vpn, 0)
        yield from self._driver.invalidate(self._asid, vpn, vpn)
        if page not in self._pins.values():
            allow(self._machine, page, self._asid, read=False, write=False)
        yield from put_user_page(self._machine, page, dirty=written)
