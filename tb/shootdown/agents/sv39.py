"""Sv39 as the RISC-V privileged specification (version 1.12, sections 4.3.2 and 4.4.1) words it, in plain Python.

The scoreboard's model: it shares nothing with the hardware but the numbers of the specification.
"""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "LEVELS",
    "PAGE",
    "USER_RO",
    "USER_RW",
    "A",
    "Answer",
    "D",
    "G",
    "R",
    "Tables",
    "U",
    "V",
    "W",
    "X",
    "leaf",
    "pointer",
    "translate",
]

PAGE = 4096
LEVELS = 3

V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
_PPN_SHIFT = 10
_PPN_MASK = (1 << 44) - 1
_HIGH = 0x3FF << 54
"""Bits 63 to 54: N, PBMT and the reserved ones; none of them means anything without Svnapot and Svpbmt."""

USER_RW = V | R | W | U | A | D
USER_RO = V | R | U | A | D


@dataclass(frozen=True)
class Answer:
    """What one access gets.

    Parameters
    ----------
    pa : int or None
        Physical address; None when it faults.
    cause : int or None
        Exception code (13, 15 page fault; 5, 7 access fault); None when it does not.
    first, last : int
        Span of virtual page numbers (of the canonical 52 bits) that the leaf translates; a fault spans its page.
    level : int
        0, 1, 2: leaf of 4 KiB, 2 MiB, 1 GiB.
    """

    pa: int | None
    cause: int | None
    first: int
    last: int
    level: int = 0


def _fault(vpn: int, page: bool, write: bool) -> Answer:
    cause = (15 if write else 13) if page else (7 if write else 5)
    return Answer(None, cause, vpn, vpn)


def translate(read: Callable[[int], int | None], root_ppn: int, va: int, write: bool) -> Answer:
    """Translate one user-mode data access.

    Parameters
    ----------
    read : callable
        Gives the 8-byte word at a physical address, or None where no memory answers.
    root_ppn : int
        Frame number of the root table.
    va : int
        64-bit virtual address.
    write : bool
        Store or load. A = 0, and D = 0 on a store, are page faults (Svade).
    """
    vpn = va >> 12
    if va >> 38 not in (0, (1 << 26) - 1):
        return _fault(vpn, True, write)
    table = root_ppn
    for level in reversed(range(LEVELS)):
        index = va >> (12 + 9 * level) & 0x1FF
        pte = read(table * PAGE + index * 8)
        if pte is None:
            return _fault(vpn, False, write)
        if not pte & V or (pte & W and not pte & R) or pte & _HIGH:
            return _fault(vpn, True, write)
        table = pte >> _PPN_SHIFT & _PPN_MASK
        if pte & (R | X):
            return _leaf_answer(pte, table, level, va, write)
        if pte & (U | A | D):
            return _fault(vpn, True, write)
    return _fault(vpn, True, write)


def _leaf_answer(pte: int, ppn: int, level: int, va: int, write: bool) -> Answer:
    vpn = va >> 12
    inside = (1 << 9 * level) - 1
    wanted = U | A | ((W | D) if write else R)
    if pte & wanted != wanted or ppn & inside:
        return _fault(vpn, True, write)
    first = vpn & ~inside
    pa = (ppn | vpn & inside) << 12 | va & 0xFFF
    return Answer(pa, None, first, first | inside, level)


def leaf(ppn: int, bits: int = USER_RW) -> int:
    """Make a leaf PTE."""
    return ppn << _PPN_SHIFT | bits


def pointer(ppn: int, bits: int = V) -> int:
    """Make a non-leaf PTE."""
    return ppn << _PPN_SHIFT | bits


class Tables:
    """Builds Sv39 tables word by word.

    Parameters
    ----------
    write : callable
        Stores an 8-byte word: ``write(address, value)``.
    first_frame : int
        Frames from here on become page tables as they are needed.
    """

    def __init__(self, write: Callable[[int, int], None], first_frame: int) -> None:
        self._write = write
        self._next = first_frame
        self._children: dict[tuple[int, int], int] = {}

    def root(self) -> int:
        """Take a frame for a new root."""
        return self._take()

    def _take(self) -> int:
        self._next += 1
        return self._next - 1

    def slot(self, root_ppn: int, va: int, level: int = 0) -> int:
        """Give the address of the PTE of ``va`` at ``level``, making the tables above it."""
        table = root_ppn
        for above in range(LEVELS - 1, level, -1):
            index = va >> (12 + 9 * above) & 0x1FF
            key = (table, index)
            child = self._children.get(key)
            if child is None:
                child = self._children[key] = self._take()
                self._write(table * PAGE + index * 8, pointer(child))
            table = child
        return table * PAGE + (va >> (12 + 9 * level) & 0x1FF) * 8

    def map(self, root_ppn: int, va: int, ppn: int, bits: int = USER_RW, level: int = 0) -> int:
        """Write a leaf and return the address of its PTE."""
        slot = self.slot(root_ppn, va, level)
        self._write(slot, leaf(ppn, bits))
        return slot
