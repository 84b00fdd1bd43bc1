"""Locks of the host, with hold and wait times in the timeline. They queue in order of arrival."""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hostmm.machine.timeline import LockClass

if TYPE_CHECKING:
    from hostmm.machine.scheduler import Thread

__all__ = ["Acquire", "Lock", "Signal", "Wait"]


@dataclass(eq=False)
class Lock:
    """A spinlock, mutex or rwsem: each thread has a CPU of its own, so waiting costs the same.

    What differs is where one may be taken: see :mod:`hostmm.machine.lockdep`.

    Parameters
    ----------
    name : str
        What it is, for messages.
    lock_class : LockClass
        What it protects.
    number : int
        Its number in the timeline, unique within a run.
    key : str
        Locks with the same key are taken in the same places (``lock_class_key`` of lockdep).
    sleeps : bool
        Whether taking it may sleep: a mutex or rwsem, not a spinlock.
    """

    name: str
    lock_class: LockClass
    number: int
    key: str = "lock"
    sleeps: bool = False
    writer: "Thread | None" = None
    readers: "dict[Thread, int]" = field(default_factory=dict)
    """Thread to the ns at which it got the lock shared."""
    since_ns: int = 0
    queue: "deque[tuple[Thread, bool, int]]" = field(default_factory=deque)
    """(thread, shared, ns at which it began to wait), in order of arrival."""

    @property
    def held(self) -> bool:
        """Whether anybody holds it."""
        return self.writer is not None or bool(self.readers)

    def admits(self, shared: bool) -> bool:
        """Whether one more holder of this kind may enter now."""
        return self.writer is None and (shared or not self.readers)


@dataclass(frozen=True)
class Acquire:
    """Yielded by a thread: take ``lock`` (shared: as a reader), waiting as long as needed.

    ``ordered`` is False for a try-lock that is known to succeed, and for a lock taken under another of its class in
    an order of their own (``SINGLE_DEPTH_NESTING``): neither says anything about the order of classes.
    """

    lock: Lock
    shared: bool = False
    ordered: bool = True


@dataclass(eq=False)
class Signal:
    """Something that threads wait for; once fired it stays fired, and waiters get its value."""

    name: str
    fired: bool = False
    value: int = 0
    waiters: "list[Thread]" = field(default_factory=list)


@dataclass(frozen=True)
class Wait:
    """Yielded by a thread: spin (``sleeps``: or sleep) until ``signal`` fires; the yield returns its value."""

    signal: Signal
    sleeps: bool = False
