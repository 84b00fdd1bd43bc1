"""What each word of memory may have held, at any row: the versions that CPUs, devices and page copies stored.

Page-wide writes are kept once a page and followed through copies only for the words that somebody asks for.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from hostmm.machine.timeline import Row
from secmmu.layouts import PAGE_BITS
from shootdown.history.facts import Use
from shootdown.history.rows import Rows

__all__ = ["Memory", "Write"]


@dataclass(slots=True)
class Write:
    """One word stored at a moment between rows ``low`` and ``high`` (equal for the host's).

    ``source`` is the byte address that a copy took it from, -1 where ``value`` is known.
    """

    low: int
    high: int
    value: int
    source: int = -1


def _low(write: Write) -> int:
    return write.low


@dataclass(slots=True)
class _Block:
    """A page-wide write: words from ``first`` to ``last`` (byte addresses, ``last`` exclusive)."""

    row: int
    first: int
    last: int
    value: int
    source: int

    def word(self, address: int) -> Write:
        source = self.source + address - self.first if self.source >= 0 else -1
        return Write(self.row, self.row, self.value, source)


def _row(block: _Block) -> int:
    return block.row


class Memory:
    """Histories of memory words.

    Parameters
    ----------
    rows : Rows
    device_writes : iterable of (Use, int)
        Device write bursts with the data of their first beat.
    """

    def __init__(self, rows: Rows, device_writes: Iterable[tuple[Use, int]]) -> None:
        self._rows = rows
        self._words: dict[int, list[Write]] = defaultdict(list)
        self._blocks: dict[int, list[_Block]] = defaultdict(list)
        self._copied: dict[tuple[int, int], tuple[int, ...]] = {}
        self._stores: dict[int, list[int]] = {}
        self._host_writes()
        for use, data in device_writes:
            for beat in range(use.beats):
                address = use.pa + 8 * beat
                self._words[address].append(Write(use.begin, use.end, data + beat))
        for writes in self._words.values():
            writes.sort(key=_low)

    def _host_writes(self) -> None:
        rows = self._rows
        for row, address, value in rows.take(rows.of(Row.STORE), "a", "b"):
            self._words[address].append(Write(row, row, value))
            self._stores.setdefault(value, []).append(row)
        index = rows.of(Row.FILL, Row.COPY)
        for row, kind, words, first, argument in rows.take(index, "kind", "tag", "a", "b"):
            value, source = (argument, -1) if kind == Row.FILL else (0, argument)
            block = _Block(row, first, first + 8 * words, value, source)
            for page in range(first >> PAGE_BITS, (block.last - 1 >> PAGE_BITS) + 1):
                self._blocks[page].append(block)

    def candidates(self, address: int, begin: int, end: int) -> list[Write]:
        """Return the writes whose value the word may have held from row ``begin`` to row ``end``."""
        found = []
        floor = -1
        blocks = self._blocks.get(address >> PAGE_BITS, ())
        for position in range(bisect_right(blocks, end, key=_row) - 1, -1, -1):
            block = blocks[position]
            if block.first <= address < block.last:
                found.append(block.word(address))
                if block.row <= begin:
                    floor = block.row
                    break
        words = self._words.get(address)
        if words:
            # What was over before a later write began is overwritten once that one is over, too.
            over = (write.low for write in words if write.high <= begin)
            floor = max(floor, max(over, default=-1))
            found += [write for write in words if write.low <= end and write.high >= floor]
            found = [write for write in found if write.high >= floor]
        if floor < 0:
            found.append(Write(-1, -1, 0))
        return found

    def may_hold(self, address: int, value: int, begin: int, end: int) -> bool:
        """Whether the word may have held ``value`` at some moment from row ``begin`` to row ``end``."""
        for write in self.candidates(address, begin, end):
            if write.source < 0:
                if write.value == value:
                    return True
            elif value in self._copy_of(write.source, write.low):
                return True
        return False

    def _copy_of(self, address: int, row: int) -> tuple[int, ...]:
        key = address, row
        found = self._copied.get(key)
        if found is None:
            values: list[int] = []
            # The source as it stood before the copy: a copy onto itself must not ask for its own row.
            for write in self.candidates(address, row - 1, row - 1):
                values += (
                    [write.value] if write.source < 0 else self._copy_of(write.source, write.low)
                )
            found = self._copied[key] = tuple(dict.fromkeys(values))
        return found

    def stores_of(self, value: int) -> list[int]:
        """Rows of the CPU stores of ``value``, ascending."""
        return self._stores.get(value, [])
