"""Parse what valgrind's lackey prints with ``--trace-mem=yes``: one line an access.

The format, as valgrind 3.19 prints it: ``I  0401ab70,3`` (fetch), `` L 1fff000748,8`` (load),
`` S ...`` (store), `` M ...`` (load and store); the address is hexadecimal, the size decimal.
Every other line is a message, a system call or a remark, and is passed on as text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hostmm.trace import LINE_BYTES_LOG2, PAGE_BYTES, PAGE_BYTES_LOG2, Access
from shootdown.record.errors import RecordError

__all__ = ["Accesses", "LackeyParser"]

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

NEWLINE, SPACE, COMMA = b"\n ,"
ADDRESS_COLUMN = 3
MAX_DIGITS = 16
MAX_SIZE_DIGITS = 3
LINE_MASK = (PAGE_BYTES >> LINE_BYTES_LOG2) - 1
GLUED = re.compile(r"Success\(0x[0-9a-f]+\) (I  [0-9a-f]+,[0-9]+)$")


def _table(values: dict[str, int], default: int) -> Bytes:
    table = np.full(256, default, dtype=np.uint8)
    for character, value in values.items():
        table[ord(character)] = value
    return table


NOT_HEX = 255
HEX = _table({digit: int(digit, 16) for digit in "0123456789abcdef"}, NOT_HEX)
DATA_KIND = _table(
    {"L": Access.LOAD, "S": Access.STORE, "M": Access.LOAD | Access.STORE},
    0,
)


@dataclass(frozen=True)
class Accesses:
    """Consecutive accesses, one element each: page number, 64-byte line in it, Access kind."""

    pages: Ints
    lines: Bytes
    kinds: Bytes


class LackeyParser:
    """Cut a byte stream into runs of accesses and single text lines, in their order."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Accesses | str]:
        """Yield what the complete lines up to the end of ``chunk`` say.

        Raises
        ------
        RecordError
            A line starts like an access and is none.
        """
        data = self._rest + chunk
        cut = data.rfind(b"\n") + 1
        self._rest = data[cut:]
        if cut:
            yield from _parse(data[:cut])

    @property
    def unfinished(self) -> str:
        """The beginning of a line that has not ended yet."""
        return self._rest.decode("latin-1")


def _parse(data: bytes) -> Iterator[Accesses | str]:
    # The padding lets every line be looked at in its first three columns and before its end.
    raw = np.frombuffer(b"\n" * MAX_DIGITS + data + b"\n" * ADDRESS_COLUMN, dtype=np.uint8)
    ends = np.flatnonzero(raw[MAX_DIGITS : MAX_DIGITS + len(data)] == NEWLINE) + MAX_DIGITS
    starts = np.empty_like(ends)
    starts[0] = MAX_DIGITS
    starts[1:] = ends[:-1] + 1
    first, second, third = (raw[starts + column] for column in range(ADDRESS_COLUMN))
    fetch = (first == ord("I")) & (second == SPACE) & (third == SPACE)
    kinds = DATA_KIND[second] * ((first == SPACE) & (third == SPACE))
    kinds[fetch] = Access.FETCH
    at = 0
    for message in [*np.flatnonzero(kinds == 0).tolist(), len(ends)]:
        if message > at:
            yield _accesses(raw, starts[at:message], ends[at:message], kinds[at:message])
        if message < len(ends):
            yield from _message(raw[starts[message] : ends[message]].tobytes())
        at = message + 1


def _message(line: bytes) -> Iterator[Accesses | str]:
    """Yield a text line, and the access that a new thread's first line may have glued to it."""
    text = line.decode("latin-1")
    glued = GLUED.search(text)
    if glued is None:
        yield text
    else:
        yield text[: glued.start(1)]
        yield from _parse(glued[1].encode() + b"\n")


def _accesses(raw: Bytes, starts: Ints, ends: Ints, kinds: Bytes) -> Accesses:
    commas = ends - 2
    for _ in range(MAX_SIZE_DIGITS - 1):
        commas = commas - (raw[commas] != COMMA)
    digits = commas - starts - ADDRESS_COLUMN
    widest = int(digits.max())
    if (raw[commas] != COMMA).any() or int(digits.min()) < 1 or widest > MAX_DIGITS:
        raise RecordError("valgrind printed an access in an unknown form")
    sizes = np.zeros(len(ends), dtype=np.int64)
    for column in range(MAX_SIZE_DIGITS, 0, -1):
        digit = HEX[raw[ends - column]]
        sizes = np.where(ends - column > commas, sizes * 10 + digit, sizes)
    addresses = np.zeros(len(ends), dtype=np.int64)
    bad = False
    for place in range(widest):
        digit = HEX[raw[commas - 1 - place]]
        inside = place < digits
        bad |= bool(((digit == NOT_HEX) & inside).any())
        addresses |= np.where(inside, digit.astype(np.int64), 0) << (4 * place)
    if bad:
        raise RecordError("valgrind printed an address that is not hexadecimal")
    return _split(addresses, sizes, kinds)


def _split(addresses: Ints, sizes: Ints, kinds: Bytes) -> Accesses:
    """Turn byte addresses into pages; an access that crosses a page end counts in both."""
    # An address of 64 bits has become negative; the page number must not.
    pages = (addresses >> PAGE_BYTES_LOG2) & ((1 << (64 - PAGE_BYTES_LOG2)) - 1)
    lines = ((addresses >> LINE_BYTES_LOG2) & LINE_MASK).astype(np.uint8)
    crossing = np.flatnonzero((addresses & (PAGE_BYTES - 1)) + sizes > PAGE_BYTES)
    if crossing.size:
        after: Any = crossing + 1
        pages = np.insert(pages, after, pages[crossing] + 1)
        lines = np.insert(lines, after, 0)
        kinds = np.insert(kinds, after, kinds[crossing])
    return Accesses(pages, lines, kinds)
