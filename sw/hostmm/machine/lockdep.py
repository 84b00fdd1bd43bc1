"""In what context a thread runs, and in which order lock classes were taken: what lockdep and might_sleep() know.

A violation is a row of the timeline, not an exception: a run goes on, as a kernel with these checks does.
"""

import enum
from dataclasses import dataclass, field

from hostmm.machine.locks import Lock

__all__ = ["Atomic", "Context", "LockOrder"]


class Atomic(enum.IntFlag):
    """Why a thread must not sleep; the ``tag`` of ``SLEEP_IN_ATOMIC`` rows (I12)."""

    SPINLOCK = 1
    RCU = 2
    PREEMPTION = 4
    NON_BLOCKING = 8


_NONE = Atomic(0)


@dataclass(eq=False)
class Context:
    """What one thread holds.

    Attributes
    ----------
    held : list of Lock
        In the order in which they were taken; a lock taken shared twice is in it twice.
    rcu, srcu, preemption, non_blocking : int
        Depth of nested read-side sections, of preempt_disable(), of non_block_start().
    """

    held: list[Lock] = field(default_factory=list)
    rcu: int = 0
    srcu: int = 0
    preemption: int = 0
    non_blocking: int = 0

    def atomic(self) -> Atomic:
        """Return every reason why the thread must not sleep; SRCU is none."""
        reasons = _NONE
        if self.spinlock is not None:
            reasons |= Atomic.SPINLOCK
        for depth, reason in (
            (self.rcu, Atomic.RCU),
            (self.preemption, Atomic.PREEMPTION),
            (self.non_blocking, Atomic.NON_BLOCKING),
        ):
            if depth:
                reasons |= reason
        return reasons

    @property
    def spinlock(self) -> Lock | None:
        """The spinlock taken last of those it holds."""
        return next((lock for lock in reversed(self.held) if not lock.sleeps), None)


class LockOrder:
    """Which lock class was ever taken under which: an order that closes a circle may deadlock.

    Locks of one class are not told apart, so that one run shows what only another would deadlock on. Taking a class
    under itself counts as a circle; a try-lock, or a nesting that has an order of its own, is not noted.
    """

    def __init__(self) -> None:
        self._after: dict[str, dict[str, None]] = {}

    def note(self, held: list[Lock], taken: Lock) -> Lock | None:
        """Note that ``taken`` is wanted under ``held``; return the held lock that this is an inversion with, if new."""
        inverted = None
        for lock in held:
            after = self._after.setdefault(lock.key, {})
            if taken.key in after:
                continue
            if inverted is None and self._reaches(taken.key, lock.key):
                inverted = lock
            after[taken.key] = None
        return inverted

    def _reaches(self, start: str, goal: str) -> bool:
        seen, left = {start}, [start]
        while left:
            key = left.pop()
            if key == goal:
                return True
            fresh = [after for after in self._after.get(key, ()) if after not in seen]
            seen.update(fresh)
            left += fresh
        return False
