"""Page allocation with watermarks: kswapd, and direct reclaim by who allocates (mm/page_alloc.c of 2.6.25)."""

from typing import TYPE_CHECKING

from hostmm.callers.shrink import PRIORITIES, shrink
from hostmm.errors import HostError
from hostmm.machine.locks import Acquire, Lock, Signal, Wait
from hostmm.machine.scheduler import Steps
from hostmm.mm.space import MmStruct
from secmmu.layouts import FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["Reclaim", "alloc_page", "kswapd", "pte_alloc", "reserve_frames"]

_TABLES_AT_ONCE = 2
_HOPELESS_ROUNDS = 20
"""Rounds of direct reclaim without one freed frame, each followed by a wait, before the run is given up."""


class Reclaim:
    """Watermarks, and kswapd's bell.

    Parameters
    ----------
    total : int
        Frames of the machine.

    Attributes
    ----------
    min, low, high : int
        At or below ``min`` free frames the allocating thread reclaims; below ``low`` kswapd is woken, and works
        until ``high``.
    stopping : bool
        Set by :meth:`stop`: kswapd ends.
    tables_left : int or None
        Page tables that can still be allocated where the caller may fail; None: any number (``failslab``).
    """

    def __init__(self, total: int) -> None:
        step = max(8, total // 32)
        self.min, self.low, self.high = step, 2 * step, 3 * step
        self.stopping = False
        self.tables_left: int | None = None
        self.bell = Signal("work for kswapd")

    def take_table(self) -> bool:
        """Whether one more page table can be allocated; it is, then."""
        if self.tables_left is not None:
            if self.tables_left == 0:
                return False
            self.tables_left -= 1
        return True

    def wake(self, machine: "Machine") -> None:
        """Ring the bell (``wakeup_kswapd``)."""
        if not self.bell.fired:
            machine.sched.fire(self.bell)

    def stop(self, machine: "Machine") -> None:
        """Let kswapd end."""
        self.stopping = True
        self.wake(machine)


def reserve_frames(machine: "Machine", count: int) -> Steps:
    """Wait until ``count`` frames are free: page tables and new address spaces may use the last ones."""
    reclaim, hopeless = machine.reclaim, 0
    if machine.frames.free_frames < reclaim.low:
        reclaim.wake(machine)
    while machine.frames.free_frames < count:
        freed = yield from _try_to_free_pages(machine, count)
        hopeless = 0 if freed else hopeless + 1
        if hopeless == _HOPELESS_ROUNDS:
            raise _too_few(machine)
        if not freed:
            yield "io_wait"


def alloc_page(machine: "Machine", kind: FrameKind) -> Steps:
    """Allocate a page (``alloc_page``): steps of the calling thread; returns the Page.

    The caller holds no page-table lock and no rmap lock.

    Raises
    ------
    HostError
        Reclaim cannot free a frame: the limit is too small for the run.
    """
    yield "alloc_page"
    yield from reserve_frames(machine, machine.reclaim.min + 1)
    return machine.frames.alloc(kind)


def pte_alloc(machine: "Machine", mm: MmStruct, vpn: int, *, may_fail: bool = False) -> Steps:
    """Make the page tables down to ``vpn`` (``pte_alloc_map``); returns the page-table lock over it.

    Where the caller may fail, it returns None once :attr:`Reclaim.tables_left` has run out.
    """
    lock: Lock | None = mm.tables.lock(vpn)
    if lock is None:
        yield "alloc_page"
        if may_fail and not machine.reclaim.take_table():
            return None
        yield from reserve_frames(machine, _TABLES_AT_ONCE)
        # Whoever changes a 2 MiB entry puts something into it before it lets go.
        while (busy := mm.tables.pmd_lock_in_use(vpn)) is not None:
            yield Acquire(busy)
            machine.sched.release(busy)
        lock = mm.tables.lock(vpn) or mm.tables.alloc(vpn)
    return lock


def _too_few(machine: "Machine") -> HostError:
    total, pages = machine.frames.total, machine.frames.pages.values()
    tables = sum(page.kind is FrameKind.TABLE for page in pages)
    return HostError(
        f"out of frames: {total} are too few, and none can be reclaimed ({tables} hold page tables); "
        f"give the run at least {total + machine.reclaim.high} (--frames)"
    )


def _try_to_free_pages(machine: "Machine", wanted: int) -> Steps:
    """Scan with rising priority until ``wanted`` frames are free; returns how many this thread freed."""
    freed = 0
    for priority in range(PRIORITIES, -1, -1):
        freed += yield from shrink(machine, priority)
        if machine.frames.free_frames >= wanted:
            break
    return freed


def kswapd(machine: "Machine") -> Steps:
    """Keep frames free, as a thread of its own, until :meth:`Reclaim.stop`."""
    reclaim = machine.reclaim
    while not reclaim.stopping:
        yield Wait(reclaim.bell)
        while machine.frames.free_frames < reclaim.high and not reclaim.stopping:
            if not (yield from _try_to_free_pages(machine, reclaim.high)):
                yield "io_wait"
                break
        if not reclaim.stopping:
            reclaim.bell = Signal("work for kswapd")
