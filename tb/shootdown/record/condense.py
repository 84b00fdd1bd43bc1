"""Condense accesses into windows: each page once a window, with the kinds of access it saw."""

from collections.abc import Iterator

import numpy as np

from hostmm.trace import ADDRESS_BITS, PAGE_BYTES_LOG2, Access, Window
from shootdown.record.errors import RecordError
from shootdown.record.lackey import Accesses

__all__ = ["WindowBuilder"]

VSYSCALL_PAGE = 0xFFFF_FFFF_FF60_0000 >> PAGE_BYTES_LOG2
PAGES = 1 << (ADDRESS_BITS - PAGE_BYTES_LOG2)


class WindowBuilder:
    """Collect the accesses of one process and cut them into windows.

    Parameters
    ----------
    window_instructions : int
        A window ends before the instruction that would exceed this number.
    """

    def __init__(self, window_instructions: int) -> None:
        self._limit = window_instructions
        self._parts: list[Accesses] = []
        self._instructions = 0
        self.dropped = 0

    def add(self, accesses: Accesses) -> Iterator[Window]:
        """Add accesses and yield every window that they complete."""
        fetches = np.flatnonzero(accesses.kinds == Access.FETCH)
        start, used = 0, 0
        while self._instructions + len(fetches) - used > self._limit:
            used += self._limit - self._instructions
            cut = int(fetches[used])
            self._append(accesses, start, cut, self._limit - self._instructions)
            start = cut
            yield from self.flush()
        self._append(accesses, start, len(accesses.kinds), len(fetches) - used)

    def _append(self, accesses: Accesses, start: int, end: int, instructions: int) -> None:
        self._instructions += instructions
        if end > start:
            self._parts.append(
                Accesses(
                    accesses.pages[start:end],
                    accesses.lines[start:end],
                    accesses.kinds[start:end],
                )
            )

    def flush(self) -> Iterator[Window]:
        """End the window here and yield it, unless nothing was accessed."""
        parts, self._parts = self._parts, []
        instructions, self._instructions = self._instructions, 0
        if not parts:
            return
        pages = np.concatenate([part.pages for part in parts])
        lines = np.concatenate([part.lines for part in parts])
        kinds = np.concatenate([part.kinds for part in parts])
        if int(pages.max()) >= PAGES:
            usable = self._usable(pages)
            pages, lines, kinds = pages[usable], lines[usable], kinds[usable]
        if pages.size:
            yield _window(instructions, Accesses(pages, lines, kinds))

    def _usable(self, pages: np.ndarray) -> np.ndarray:
        """Return which accesses to keep; the vsyscall page is the kernel's, not the program's."""
        foreign = pages[(pages >= PAGES) & (pages != VSYSCALL_PAGE)]
        if foreign.size:
            raise RecordError(
                f"the program accessed {int(foreign[0]) << PAGE_BYTES_LOG2:#x}, above the "
                f"{ADDRESS_BITS}-bit user addresses that a trace can hold"
            )
        usable: np.ndarray = pages < PAGES
        self.dropped += int(pages.size - np.count_nonzero(usable))
        return usable


def _window(instructions: int, accesses: Accesses) -> Window:
    pages, first, index = np.unique(accesses.pages, return_index=True, return_inverse=True)
    kinds = np.zeros(pages.size, dtype=np.uint8)
    for kind in Access:
        kinds[index[(accesses.kinds & kind) != 0]] |= np.uint8(kind)
    order = np.argsort(first)
    return Window(
        instructions=instructions,
        pages=pages[order],
        kinds=kinds[order],
        lines=accesses.lines[first[order]],
    )
