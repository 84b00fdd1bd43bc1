"""Recorded link words: what a run said to its emulator, so that the same can be said again without Python.

The file is little-endian: the magic, then the emulated cycle in which the run ended, its number of records and its
number of words, 64 bits each, then the words of all batches.
"""

import contextlib
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from shootdown.errors import ShootdownError
from shootdown.run.carriers import Records

__all__ = ["LinkRecorder", "LinkSummary", "read_summary"]

_MAGIC = b"SDLINK1\n"
_HEADER = struct.Struct("<8s3Q")


@dataclass(frozen=True, kw_only=True)
class LinkSummary:
    """What a recorded run came to."""

    cycles: int
    records: int
    words: int


class LinkRecorder:
    """Writes a file of link words; give its :meth:`record` to a carrier.

    The file appears under its name when the ``with`` block ends without an error.

    Raises
    ------
    ShootdownError
        The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._words = 0
        self._summary: LinkSummary | None = None
        try:
            self._file = self._part.open("wb")
        except OSError as error:
            raise ShootdownError(f"cannot write {path}: {error.strerror}") from error
        self._file.write(bytes(_HEADER.size))

    def record(self, batch: Records) -> None:
        """Append one batch."""
        self._words += len(batch)
        self._file.write(batch.tobytes())

    def finish(self, *, cycles: int, records: int) -> None:
        """State in which cycle the run ended and how many records it had."""
        self._summary = LinkSummary(cycles=cycles, records=records, words=self._words)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        summary = self._summary
        with contextlib.suppress(FileNotFoundError), self._file:
            if summary is not None and kind is None:
                self._file.seek(0)
                self._file.write(
                    _HEADER.pack(_MAGIC, summary.cycles, summary.records, summary.words)
                )
                self._file.flush()
                self._part.replace(self._path)
            else:
                self._part.unlink()


def read_summary(path: Path) -> LinkSummary:
    """Return what the run in file ``path`` came to.

    Raises
    ------
    ShootdownError
        It is not a whole file of link words.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
        size = path.stat().st_size
    except OSError as error:
        raise ShootdownError(f"cannot read {path}: {error.strerror}") from error
    if len(header) < _HEADER.size or header[:8] != _MAGIC:
        raise ShootdownError(f"{path} is not a file of link words")
    _, cycles, records, words = _HEADER.unpack(header)
    if size != _HEADER.size + 8 * words:
        raise ShootdownError(f"{path} is cut short: {size} bytes of {_HEADER.size + 8 * words}")
    return LinkSummary(cycles=cycles, records=records, words=words)
