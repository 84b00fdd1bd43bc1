"""``gru``: a device that is nothing but a TLB; every miss goes to the host (SGI's GRU); docs/contract.md 5.3.

A missing access stalls in the MMU. Its thread waits until no range of the address space is changing, reads the PTE
without any lock, and drops the entry in with the epoch of the miss; an invalidation that came in between makes the
MMU refuse it, and the access misses again. Where the device does nothing in an address space, an invalidation just
takes the asid away, to be replaced when it is needed. Callbacks spin.
"""

from typing import TYPE_CHECKING

from hostmm.driver.contexts import ASIDS, DeviceFault
from hostmm.machine.locks import Acquire, Lock, Signal, Wait
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import LockClass, Row
from hostmm.mm.frames import PAGE_BYTES
from hostmm.mm.space import MmStruct
from hostmm.subscribers.asids import AsidPool
from hostmm.subscribers.base import DeviceSubscriber, permits
from hostmm.subscribers.brackets import Brackets

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["Gru"]


class Gru(DeviceSubscriber):
    """``struct gru_mm_struct``: one address space on the device.

    The counter of ranges that are changing is the number of open brackets, whichever pages they hold.

    Attributes
    ----------
    asids : range
        Asids that the GRU contexts of a device share.
    """

    stalls = True
    asids = range(8, ASIDS)
    _state_lock: Lock

    def __init__(self, machine: "Machine", mm: MmStruct) -> None:
        super().__init__(machine, mm)
        self._pool = self._driver.shared(AsidPool, self.new_pool)
        self._ranges = Brackets()
        self._quiet = Signal("no range changes")
        self._generation = 0

    def new_pool(self) -> AsidPool:
        """Make what the GRU contexts of one device share."""
        return AsidPool(self._machine, self.asids)

    def start(self) -> Steps:
        """Make a context without an asid, and the state of the thread that uses it (``struct gru_thread_state``)."""
        self.context = self._driver.open(self._mm, self)
        self._state_lock = self._machine.new_lock(
            f"gts {self.handle}", LockClass.DRIVER, key="gts", sleeps=True
        )
        yield from ()

    def unbind(self) -> Steps:
        """Give the context up, and free its state (``gts_drop``)."""
        yield from super().unbind()
        yield Acquire(self._state_lock)
        self._touch_state(freed=True)
        self._machine.sched.release(self._state_lock)

    def flush(self, first: int, last: int) -> Steps:
        """Purge pages because a program asks for it (``gru_user_flush_tlb``).

        What outlives the state, the object of the address space, is taken from it under its lock.
        """
        with self._machine.sched.path("gru_user_flush_tlb"):
            yield Acquire(self._state_lock)
            self._touch_state()
            self._machine.sched.release(self._state_lock)
            yield "refcount"
            yield from self._purge(first, last, 0)

    def _touch_state(self, *, freed: bool = False) -> None:
        self._machine.sched.log(Row.OBJECT, tag=int(freed), a=self.handle)

    def uses(self, asid: int) -> bool:
        """Whether an access of the device is under way here, under this asid."""
        return self.context.asid == asid and self._driver.dma.flying(self.context.handle)

    def lose_asid(self, asid: int) -> None:
        """Give the asid up: what the TLB holds of it is flushed before anybody gets it."""
        if self.context.asid == asid:
            self._driver.unload(self.context)

    def prepare(self) -> Steps:
        """Load the context: see that it has an asid of this generation, or one in use (``gru_load_context``)."""
        while not (self.released or self._is_loaded()):
            asid = yield from self._pool.assign(self)
            # Another thread of the program may have been faster.
            if self.released or self._is_loaded():
                return
            if self.context.asid is not None:
                self.lose_asid(self.context.asid)
            self._generation = self._pool.generation
            yield from self._driver.load(self.context, asid, root=self._pool.root, stall=True)

    def _is_loaded(self) -> bool:
        asid = self.context.asid
        return asid is not None and (self._generation == self._pool.generation or self.uses(asid))

    # --- callbacks ---------------------------------------------------------------------------------------

    def invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Turn drop-ins away until the range has changed; purge it."""
        self._ranges.start(first, last)
        yield from self._purge(first, last, callback)

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """Wake who waits for the change, when it was the last."""
        self._ranges.end(first, last)
        yield "refcount"
        if not self._ranges.active:
            quiet, self._quiet = self._quiet, Signal(self._quiet.name)
            self._machine.sched.fire(quiet)

    def invalidate_page(self, address: int, *, callback: int) -> Steps:
        """Purge one page."""
        vpn = address // PAGE_BYTES
        yield from self._purge(vpn, vpn, callback)

    def clear_flush_young(self, vpn: int, *, callback: int) -> Steps:
        """Ask the TLB, which is all that knows; the entry stays."""
        asid = self.context.asid
        return 0 if asid is None else (yield from self._driver.young(asid, vpn))

    def release(self, *, callback: int) -> Steps:
        """Set the flag that no fault gets past, and unload the context."""
        self.released = True
        yield from self._driver.detach(self.context, callback=callback)

    def _purge(self, first: int, last: int, callback: int) -> Steps:
        """Purge a range where the device is at work; elsewhere zero the asid."""
        asid = self.context.asid
        if asid is not None and self.uses(asid):
            yield from self._driver.invalidate(asid, first, last, callback=callback)
        elif asid is not None:
            self.lose_asid(asid)
            yield "pte_write"

    # --- faults ------------------------------------------------------------------------------------------

    def fault(self, fault: DeviceFault) -> Steps:
        """Drop the entry in (``gru_try_dropin``); where it is refused the access will fault once more."""
        while not self.released:
            yield from self._wait_until_quiet()
            pte = self._mm.tables.get(fault.vpn)
            yield "walk_tables"
            if permits(pte, write=fault.write):
                yield from self._drop_in(fault, pte)
                return True
            if not (yield from self._resolve(fault)):
                return False
        return False

    def _wait_until_quiet(self) -> Steps:
        while self._ranges.active:
            yield Wait(self._quiet, sleeps=True)

    def _drop_in(self, fault: DeviceFault, pte: int) -> Steps:
        yield from self._driver.drop_in(fault, pte)
