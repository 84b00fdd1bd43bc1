"""Which pages of a recorded process are mapped, so that a stray access is noticed."""

import bisect

import numpy as np
import numpy.typing as npt

from hostmm.trace import PAGE_BYTES, PAGE_BYTES_LOG2

__all__ = ["MappedRanges"]


class MappedRanges:
    """A set of address ranges, kept as disjoint sorted intervals of whole pages."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def copy(self) -> "MappedRanges":
        """Return an independent copy."""
        other = MappedRanges()
        other._starts, other._ends = list(self._starts), list(self._ends)
        return other

    def remove(self, addr: int, length: int) -> None:
        """Take a range out; it may hold gaps."""
        start, end = addr, addr + length
        low = bisect.bisect_right(self._ends, start)
        high = bisect.bisect_left(self._starts, end)
        if low >= high:
            return
        kept = [(self._starts[low], start), (end, self._ends[high - 1])]
        kept = [(a, b) for a, b in kept if a < b]
        self._starts[low:high] = [a for a, _ in kept]
        self._ends[low:high] = [b for _, b in kept]

    def add(self, addr: int, length: int) -> None:
        """Put a range in, over whatever was there."""
        if length <= 0:
            return
        self.remove(addr, length)
        at = bisect.bisect_left(self._starts, addr)
        self._starts.insert(at, addr)
        self._ends.insert(at, addr + length)

    def strays(self, pages: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        """Return (address, length) of each run of ``pages`` that lies in no range."""
        addresses = np.sort(pages) << PAGE_BYTES_LOG2
        starts = np.array(self._starts, dtype=np.int64)
        ends = np.array([0, *self._ends], dtype=np.int64)
        # ends[i] is the end of the last range that starts at or below the address.
        inside = addresses < ends[np.searchsorted(starts, addresses, side="right")]
        runs: list[tuple[int, int]] = []
        for addr in addresses[~inside].tolist():
            if runs and sum(runs[-1]) == addr:
                runs[-1] = (runs[-1][0], runs[-1][1] + PAGE_BYTES)
            else:
                runs.append((addr, PAGE_BYTES))
        return runs
