"""First-stage translation as the RISC-V privileged specification words it (1.12, 4.3 to 4.5; Svnapot, Svade, Svadu).

The scoreboard's model: it shares nothing with the hardware but the numbers of the specification.
"""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "LEVELS",
    "NAPOT",
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
    "napot_leaf",
    "pointer",
    "translate",
]

PAGE = 4096
LEVELS = {"sv39": 3, "sv48": 4, "sv57": 5}
"""Levels of the page tables of each mode."""

V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
NAPOT = 1 << 63
_PPN_SHIFT = 10
_PPN_MASK = (1 << 44) - 1
_RESERVED = 0x1FF << 54
"""Bits 62 to 54: PBMT, which means nothing without Svpbmt, and the reserved ones."""
_NAPOT_PAGES = 16
"""Pages of the only size that Svnapot defines."""

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
    update : tuple of (int, int) or None
        Address and new value of the PTE whose A or D the hardware sets on the way.
    """

    pa: int | None
    cause: int | None
    first: int
    last: int
    update: tuple[int, int] | None = None


def _fault(vpn: int, page: bool, write: bool) -> Answer:
    cause = (15 if write else 13) if page else (7 if write else 5)
    return Answer(None, cause, vpn, vpn)


def translate(
    read: Callable[[int], int | None],
    root_ppn: int,
    va: int,
    write: bool,
    *,
    levels: int = 3,
    svadu: bool = False,
) -> Answer:
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
        Store or load.
    levels : int
        3, 4, 5 for Sv39, Sv48, Sv57.
    svadu : bool
        Whether A = 0, or D = 0 on a store, is set by hardware instead of being a page fault.
    """
    vpn = va >> 12
    if va >> (11 + 9 * levels) not in (0, (1 << (53 - 9 * levels)) - 1):
        return _fault(vpn, True, write)
    table = root_ppn
    for level in reversed(range(levels)):
        address = table * PAGE + (va >> (12 + 9 * level) & 0x1FF) * 8
        pte = read(address)
        if pte is None:
            return _fault(vpn, False, write)
        if not pte & V or (pte & W and not pte & R) or pte & _RESERVED:
            return _fault(vpn, True, write)
        table = pte >> _PPN_SHIFT & _PPN_MASK
        if pte & (R | X):
            return _leaf_answer(address, pte, level, va, write, svadu)
        if pte & (U | A | D | NAPOT):
            return _fault(vpn, True, write)
    return _fault(vpn, True, write)


def _leaf_answer(address: int, pte: int, level: int, va: int, write: bool, svadu: bool) -> Answer:
    vpn = va >> 12
    ppn = pte >> _PPN_SHIFT & _PPN_MASK
    pages = 512**level
    if pte & NAPOT:
        if level or ppn % _NAPOT_PAGES != _NAPOT_PAGES // 2:
            return _fault(vpn, True, write)
        pages, ppn = _NAPOT_PAGES, ppn - _NAPOT_PAGES // 2
    wanted = U | R | (W if write else 0)
    used = A | (D if write else 0)
    if pte & wanted != wanted or ppn % pages or (pte & used != used and not svadu):
        return _fault(vpn, True, write)
    first = vpn - vpn % pages
    update = (address, pte | used) if pte & used != used else None
    return Answer((ppn + vpn % pages) << 12 | va & 0xFFF, None, first, first + pages - 1, update)


def leaf(ppn: int, bits: int = USER_RW) -> int:
    """Make a leaf PTE."""
    return ppn << _PPN_SHIFT | bits


def napot_leaf(ppn: int, bits: int = USER_RW) -> int:
    """Make a leaf PTE of 64 KiB; ``ppn`` is that of any of its frames."""
    return leaf(ppn - ppn % _NAPOT_PAGES + _NAPOT_PAGES // 2, bits | NAPOT)


def pointer(ppn: int, bits: int = V) -> int:
    """Make a non-leaf PTE."""
    return ppn << _PPN_SHIFT | bits


class Tables:
    """Builds tables word by word.

    Parameters
    ----------
    write : callable
        Stores an 8-byte word: ``write(address, value)``.
    first_frame : int
        Frames from here on become page tables as they are needed.
    levels : int
        3, 4, 5 for Sv39, Sv48, Sv57.
    """

    def __init__(
        self, write: Callable[[int, int], None], first_frame: int, levels: int = 3
    ) -> None:
        self._write = write
        self._levels = levels
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
        for above in range(self._levels - 1, level, -1):
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
