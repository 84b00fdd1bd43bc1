"""``odp``: on-demand paging of an RDMA NIC, with an interval notifier and a mutex; docs/contract.md 5.3.

The NIC walks translation tables of its own. A change of the address space takes the memory region's mutex, zaps what
the tables hold of the range, posts the invalidations, sleeps until they are done, and only then marks the pages dirty.
So its callbacks sleep, and it refuses to be called where that is forbidden. Nothing it maps is pinned.
"""

from typing import TYPE_CHECKING

from hostmm.driver.commands import Command
from hostmm.driver.contexts import DeviceFault
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import LockClass
from hostmm.mm.frames import PAGE_BYTES
from hostmm.mm.pages import set_page_dirty
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_R, PTE_W, make_pte, pte_pfn
from hostmm.mm.space import MmStruct
from hostmm.subscribers.base import DeviceSubscriber
from hostmm.subscribers.interval import IntervalNotifier
from hostmm.subscribers.tables import OwnTables

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["Odp", "StallingOdp"]

_LAST_VPN = (1 << 26) - 1
_BLOCK_PAGES = 32
"""Pages that one posted work request zaps at most."""


class Odp(DeviceSubscriber):
    """A memory region over the whole address space (implicit ODP). Accesses that fault are refused and sent again."""

    is_interval = True

    def __init__(self, machine: "Machine", mm: MmStruct) -> None:
        super().__init__(machine, mm)
        self._umem = machine.new_lock(
            f"umem_mutex {mm.number}", LockClass.DRIVER, key="umem_mutex", sleeps=True
        )
        self._tables = OwnTables(machine)
        self._interval = IntervalNotifier()

    def start(self) -> Steps:
        """Have the device walk tables that are empty."""
        yield from self._attach(root=self._tables.root, stall=self.stalls)

    # --- callbacks ---------------------------------------------------------------------------------------

    def invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Turn faults away and zap the range."""
        seq = self._interval.start(first, last)
        yield Acquire(self._umem)
        self._interval.set_seq(seq)
        yield from self._zap(first, last, callback)
        self._machine.sched.release(self._umem)

    def try_invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Refuse: it would have to sleep."""
        yield "refcount"
        return 1

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """Let faults go on, when it was the last change."""
        yield "refcount"
        moved = self._interval.end(first, last)
        if moved is not None:
            self._machine.sched.fire(moved)

    def invalidate_page(self, address: int, *, callback: int) -> Steps:
        """Zap one page, as a range that changes and has changed (until 4.12)."""
        vpn = address // PAGE_BYTES
        yield from self.invalidate_range_start(vpn, vpn, callback=callback)
        yield from self.invalidate_range_end(vpn, vpn, callback=callback)

    def release(self, *, callback: int) -> Steps:
        """Stop the device, drop everything: a change of all pages."""
        self.released = True
        yield from self.invalidate_range_start(0, _LAST_VPN, callback=callback)
        yield from self.invalidate_range_end(0, _LAST_VPN, callback=callback)
        yield from self._driver.detach(self.context, callback=callback)
        self._tables.free()

    def _zap(self, first: int, last: int, callback: int) -> Steps:
        """Zap in blocks, wait for all, then take over what the device may have written; under the mutex."""
        found = self._tables.mapped(first, last)
        words = []
        for vpn in found:
            yield "pte_clear"
            words.append(self._tables.get(vpn))
            self._tables.set(vpn, 0)
        # Each block begins where the one before it ends, so that together they are the range.
        starts = found[_BLOCK_PAGES::_BLOCK_PAGES]
        posted: list[Command] = []
        ends = [start - 1 for start in starts]
        for low, high in zip([first, *starts], [*ends, last], strict=True) if found else ():
            command = yield from self._driver.post_invalidate(
                self._asid, low, high, callback=callback
            )
            posted.append(command)
        for command in posted:
            yield from self._wait(command)
        for word in words:
            page = self._machine.frames.pages.get(pte_pfn(word))
            if word & PTE_W and page is not None and page.mapping is not None:
                set_page_dirty(self._machine, page)

    def _wait(self, command: Command) -> Steps:
        yield from self._driver.commands.wait_drained(command, sleeps=True)

    # --- faults ------------------------------------------------------------------------------------------

    def fault(self, fault: DeviceFault) -> Steps:
        """Map the page as it is while no change is under way (``ib_umem_odp_map_dma_and_lock``)."""
        while not self.released:
            seq = yield from self._interval.read_begin()
            pte = yield from self._user_pte(fault)
            if pte is None:
                return False
            yield from self._tables.prepare(fault.vpn)
            yield Acquire(self._umem)
            done = not self.released and not self._must_retry(seq)
            if done:
                yield "pte_write"
                writable = pte & PTE_W and pte & PTE_D
                bits = PTE_R | PTE_A | (PTE_W | PTE_D if writable else 0)
                self._tables.set(fault.vpn, make_pte(pte_pfn(pte), bits))
            self._machine.sched.release(self._umem)
            if done:
                return True
        return False

    def _must_retry(self, seq: int) -> bool:
        return self._interval.read_retry(seq)


class StallingOdp(Odp):
    """The same, on a NIC that keeps an access that faults until it is told to try again."""

    stalls = True
