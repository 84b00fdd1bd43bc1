"""Notifier chains as they once were, or nearly were."""

from hostmm.machine.locks import Wait
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import Notification
from hostmm.notifier import NotifierChain

__all__ = ["ForgetsEnd", "LeavesRelease", "NeverSynchronizes", "PutsOff"]

_LATER_NS = 500_000


class NeverSynchronizes(NotifierChain):
    """Unregisters without waiting for callbacks that run: their memory is freed under them (B5)."""

    def _synchronize(self) -> Steps:
        yield from ()


class LeavesRelease(NotifierChain):
    """Unregisters at once what the end of the address space has begun to release (B4)."""

    def _synchronize(self) -> Steps:
        if not any(entry.released for entry in self._entries):
            return
        for done in list(self._walks):
            yield Wait(done, sleeps=True)


class ForgetsEnd(NotifierChain):
    """Where one subscriber refuses a start, leaves those that had started without an end (B15)."""

    def invalidate_range_start_nonblock(self, first: int, last: int) -> Steps:
        """Open a bracket; returns whether it is open."""
        with self._walk(), self._machine.sched.non_blocking():
            for entry in list(self._entries):
                trying = hasattr(entry.subscriber, "try_invalidate_range_start")
                method = "try_invalidate_range_start" if trying else "invalidate_range_start"
                again = yield from self._call(
                    entry, Notification.RANGE_START, first, last, method=method
                )
                if trying and again:
                    return False
        return True


class PutsOff(NotifierChain):
    """Leaves it to a worker to tell that a page is gone, when the caller has long let go of it (for S8 and S9)."""

    def invalidate_page(self, vpn: int, low: int = 0) -> Steps:
        """Return at once."""
        self._machine.sched.spawn("worker", self._late(vpn, low))
        yield "refcount"

    def _late(self, vpn: int, low: int) -> Steps:
        yield _LATER_NS
        yield from super().invalidate_page(vpn, low)
