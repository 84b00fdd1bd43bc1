"""The merged timeline as columns, with names and decoded arguments."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hostmm.driver.pack import field_of
from hostmm.machine.timeline import Timeline
from secmmu.layouts import AccessArg

__all__ = ["Rows", "last_before"]

_ACCESS = [field_of(AccessArg(), name) for name in ("asid", "id", "write", "code", "beats")]
_KINDS = 256
"""More than there are kinds of row."""

_Ints = np.ndarray[Any, np.dtype[Any]]


def last_before(ascending: Sequence[int], row: int, default: int) -> int:
    """Return the last of some rows that comes before ``row``; ``default`` where none does."""
    place = bisect_left(ascending, row)
    return ascending[place - 1] if place else default


class Rows:
    """Columns of one run (see ``hostmm.machine.timeline.COLUMNS``) and the names of its threads and paths.

    Parameters
    ----------
    timeline : Timeline
        A finished run's.
    """

    def __init__(self, timeline: Timeline) -> None:
        columns = timeline.columns()
        self.columns = columns
        self.cycle_ns = timeline.cycle_ns
        self.threads = tuple(timeline.threads)
        self.paths = tuple(timeline.paths)
        self.count = len(columns["cycle"])

    def __getitem__(self, name: str) -> _Ints:
        return self.columns[name]

    def of(self, *kinds: int) -> _Ints:
        """Positions of the rows of these kinds, ascending. Host and hardware kinds never collide."""
        wanted = np.zeros(_KINDS, bool)
        wanted[list(kinds)] = True
        return np.flatnonzero(wanted[self.columns["kind"]])

    def take(self, index: _Ints, *names: str) -> Iterator[tuple[int, ...]]:
        """Yield the row number and the named columns of each row in ``index``, as Python ints."""
        return zip(
            index.tolist(), *(self.columns[name][index].tolist() for name in names), strict=True
        )

    def access(self, index: _Ints) -> Iterator[tuple[int, ...]]:
        """Yield (asid, id, write, code, beats) of each hardware row in ``index`` that carries an AccessArg."""
        arg = self.columns["span"][index]
        return zip(*(field(arg).tolist() for field in _ACCESS), strict=True)

    def cycle_of(self, row: int) -> int:
        """Emulated cycle of a row."""
        return int(self.columns["cycle"][row])

    def row_of_cycle(self, cycle: int) -> int:
        """First row of ``cycle`` or later."""
        return int(np.searchsorted(self.columns["cycle"], cycle))

    def path_of(self, row: int) -> str:
        """Name of the path of a host row."""
        return self.paths[int(self.columns["path"][row])]

    def thread_of(self, row: int) -> str:
        """Name of the thread of a host row."""
        return self.threads[int(self.columns["thread"][row])]
