"""Ranges that are changing: those whose start a subscriber has seen and whose end it has not."""

from collections import Counter

__all__ = ["Brackets"]


class Brackets:
    """Open ranges, counted: they nest and overlap.

    An end whose start was never seen is not counted: a subscriber may be registered inside a bracket where the
    policy's kernel does not prevent it (I14).
    """

    def __init__(self) -> None:
        self._open: Counter[tuple[int, int]] = Counter()

    @property
    def active(self) -> int:
        """How many are open."""
        return self._open.total()

    def start(self, first: int, last: int) -> None:
        """Open one."""
        self._open[first, last] += 1

    def end(self, first: int, last: int) -> bool:
        """Close one; return whether it was open."""
        if not self._open[first, last]:
            return False
        self._open[first, last] -= 1
        return True

    def holds(self, vpn: int) -> bool:
        """Whether a page is in an open one."""
        return any(count and first <= vpn <= last for (first, last), count in self._open.items())

    def clear(self) -> list[tuple[int, int]]:
        """Close all; return those that were open, each as often as it was."""
        spans = list(self._open.elements())
        self._open.clear()
        return spans
