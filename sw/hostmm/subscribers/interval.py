"""Interval notifiers: a sequence that is odd while a range changes (``mmu_interval_notifier``, 5.5 and later).

The sequence of the address space becomes odd with the first range that begins to change, and moves on to an even
number when the last one has. Each interval has a sequence of its own, which its callback sets to the address space's
under the driver's lock: a reader that finds the two alike is inside a change, and sleeps. One interval stands for the
whole address space here, so every change is its.
"""

from hostmm.machine.locks import Signal, Wait
from hostmm.machine.scheduler import Steps
from hostmm.subscribers.brackets import Brackets

__all__ = ["IntervalNotifier"]


class IntervalNotifier:
    """One interval, and the sequence of the address space it belongs to."""

    def __init__(self) -> None:
        self._changing = Brackets()
        self._mm_seq = 2
        self._seq = 1
        self._moved = Signal("the sequence of the interval")

    def start(self, first: int, last: int) -> int:
        """Begin to change a range; returns the sequence for :meth:`set_seq` (``mn_itree_inv_start_range``)."""
        self._changing.start(first, last)
        self._mm_seq |= 1
        return self._mm_seq

    def set_seq(self, seq: int) -> None:
        """Turn readers away, under the driver's lock (``mmu_interval_set_seq``)."""
        self._seq = seq

    def end(self, first: int, last: int) -> Signal | None:
        """End a change; returns the signal to fire where it was the last (``mn_itree_inv_end``)."""
        if not self._changing.end(first, last) or self._changing.active:
            return None
        self._mm_seq += 1
        moved, self._moved = self._moved, Signal(self._moved.name)
        return moved

    def read_begin(self) -> Steps:
        """Return the sequence to compare later; sleeps while the interval is being changed."""
        seq = self._seq
        while self._mm_seq == seq:
            yield Wait(self._moved, sleeps=True)
        return seq

    def read_retry(self, seq: int) -> bool:
        """Whether the interval was changed since ``seq``; under the driver's lock."""
        return self._seq != seq
