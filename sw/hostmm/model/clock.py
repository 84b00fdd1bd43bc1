"""Emulated time of the model: a heap of actions by cycle, and the records they leave."""

import heapq
from collections.abc import Callable

from hostmm.driver.pack import packer
from secmmu.layouts import Event, RecordLayout

__all__ = ["Clock"]

_HEAD = packer(RecordLayout())


class Clock:
    """Runs scheduled actions in order of cycle and of scheduling.

    Attributes
    ----------
    cycle : int
        The cycle that comes next: actions of earlier cycles have been done.
    records : list
        Records left since :meth:`take`, four words each.
    seen : int
        Bit set of record kinds stored since it was last cleared.
    """

    def __init__(self) -> None:
        self.cycle = 0
        self.seen = 0
        self.records: list[tuple[int, int, int, int]] = []
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0

    def at(self, cycle: int, action: Callable[[], None]) -> None:
        """Do ``action`` in ``cycle`` (not earlier than the current one)."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(cycle, self.cycle), self._sequence, action))

    def record(
        self, kind: Event, *, source: int = 0, tag: int = 0, arg: int = 0, a: int = 0, b: int = 0
    ) -> None:
        """Leave a record of the current cycle."""
        code = kind._value_  # what .value gives after three calls
        head = _HEAD(kind=code, source=source, tag=tag, arg=arg)
        self.records.append((head, self.cycle, a, b))
        self.seen |= 1 << code

    def run(self, until: int, stop: int = 0) -> bool:
        """Run to cycle ``until``, or past the first cycle with a record in the ``stop`` bits.

        Returns
        -------
        bool
            Whether such a record ended it.
        """
        if self.seen & stop:
            return True
        while self._heap and self._heap[0][0] < until:
            self.cycle = max(self.cycle, self._heap[0][0])
            while self._heap and self._heap[0][0] <= self.cycle:
                heapq.heappop(self._heap)[2]()
            self.cycle += 1
            if self.seen & stop:
                return True
        self.cycle = max(self.cycle, until)
        return False
