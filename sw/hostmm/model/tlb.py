"""The TLB of the model: entries, what a command covers of them, and whether they were used."""

from collections.abc import Iterator
from dataclasses import dataclass

from hostmm.driver.pack import unpacker
from secmmu.layouts import GRAIN_SHIFTS, VPN_BITS, PteLayout

__all__ = ["Entry", "Span", "Tlb", "is_leaf", "is_malformed", "permits"]

_pte = unpacker(PteLayout())
_LAST_VPN = (1 << VPN_BITS) - 1
_BITMAP = 64


def is_leaf(pte: dict[str, int]) -> bool:
    """Whether an unpacked PTE ends a walk."""
    return bool(pte["r"] or pte["x"])


def is_malformed(pte: dict[str, int], shift: int) -> bool:
    """Whether a walk that meets this PTE, at a level that leaves ``shift`` page-number bits free, fails there."""
    reserved = pte["reserved"] or pte["pbmt"] or pte["n"] or (pte["w"] and not pte["r"])
    if not pte["v"] or reserved:
        return True
    if is_leaf(pte):
        return bool(pte["ppn"] & ((1 << shift) - 1))
    return bool(shift == 0 or pte["a"] or pte["d"] or pte["u"])


def permits(pte: dict[str, int], write: bool) -> bool:
    """Whether a leaf lets a user-mode device access through (Svade: A, and D for a write, must be set)."""
    return bool(pte["u"] and pte["a"] and (pte["w"] and pte["d"] if write else pte["r"]))


@dataclass(eq=False)
class Entry:
    """One translation: ``grain`` is an index of GRAIN_SHIFTS; ``group`` is None where it is not global."""

    asid: int
    group: int | None
    first: int
    grain: int
    pte: dict[str, int]
    used: bool = False

    @property
    def last(self) -> int:
        """Last page."""
        return self.first + (1 << GRAIN_SHIFTS[self.grain]) - 1

    def address(self, va: int) -> int:
        """Physical address of ``va``, which it translates."""
        span = (1 << GRAIN_SHIFTS[self.grain]) - 1
        return (self.pte["ppn"] & ~span | va >> 12 & span) << 12 | va & 0xFFF

    @classmethod
    def make(cls, word: int, *, asid: int, group: int, vpn: int, grain: int) -> "Entry":
        """Make the entry of a leaf PTE for the page ``vpn``."""
        pte = _pte(word)
        first = vpn & ~((1 << GRAIN_SHIFTS[grain]) - 1)
        return cls(asid, group if pte["g"] else None, first, grain, pte)


@dataclass(frozen=True)
class Span:
    """What a command covers: pages ``first`` to ``last`` of ``asid`` (None: of all) and of its group's globals."""

    asid: int | None
    group: int
    first: int = 0
    last: int = _LAST_VPN
    keep_global: bool = False

    def meets(self, asid: int, group: int | None, first: int, last: int) -> bool:
        """Whether it overlaps pages of an asid; ``group`` is theirs where they are global, else None."""
        if group is not None and self.keep_global:
            return False
        mine = self.asid is None or self.asid == asid or (group is not None and group == self.group)
        return mine and first <= self.last and self.first <= last

    def covers(self, entry: Entry) -> bool:
        """Whether it overlaps an entry."""
        return self.meets(entry.asid, entry.group, entry.first, entry.last)


class Tlb:
    """Fully associative; the victim goes round.

    Parameters
    ----------
    entries : int
    """

    def __init__(self, entries: int) -> None:
        self._entries: list[Entry | None] = [None] * entries
        self._victim = 0

    def clear(self) -> None:
        """Drop every entry."""
        self._entries = [None] * len(self._entries)

    def find(self, asid: int, group: int, vpn: int) -> Entry | None:
        """Return the entry that translates a page of ``asid``, which is in ``group``."""
        index = self._index(asid, group, vpn)
        return None if index is None else self._entries[index]

    def insert(self, entry: Entry, group: int, vpn: int) -> int:
        """Put an entry in the place of what translates ``vpn`` now, else of the victim; returns the index."""
        index = self._index(entry.asid, group, vpn)
        if index is None:
            index = self._victim
            self._victim = (self._victim + 1) % len(self._entries)
        self._entries[index] = entry
        return index

    def kill(self, span: Span) -> Iterator[tuple[int, int]]:
        """Drop the entries that ``span`` covers; yield (index of bit 0, bitmap) of those."""
        bitmap = 0
        for index, entry in enumerate(self._entries):
            if entry and span.covers(entry):
                self._entries[index] = None
                bitmap |= 1 << index
        for base in range(0, len(self._entries), _BITMAP):
            if bits := bitmap >> base & ((1 << _BITMAP) - 1):
                yield base, bits

    def _index(self, asid: int, group: int, vpn: int) -> int | None:
        for index, entry in enumerate(self._entries):
            if entry is None or not entry.first <= vpn <= entry.last:
                continue
            if entry.asid == asid if entry.group is None else entry.group == group:
                return index
        return None
