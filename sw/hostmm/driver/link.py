"""The host's end of the link: messages as words, and the two clocks (host ns, emulated cycles) kept in step.

A *session* is a generator: it yields batches of link words, each closed by an ``ADVANCE``, and is sent the records
that the hardware answered, as an array of shape (n, 4) uint64. Whatever carries the words (simulator, model, board)
sees the same batches.
"""

from collections.abc import Generator, Iterable, Sequence

import numpy as np

from hostmm.driver.pack import packer
from secmmu.layouts import (
    CommandLayout,
    DescriptorLayout,
    DropinLayout,
    Event,
    FrameTagLayout,
    HeaderLayout,
    Op,
    ResumeLayout,
)

__all__ = ["Batch", "Link", "Session", "message"]

Batch = list[int]
Session = Generator[Batch, np.ndarray, None]

_HEADER = packer(HeaderLayout())
_COMMAND = packer(CommandLayout())
_DESCRIPTOR = packer(DescriptorLayout())
_DROPIN = packer(DropinLayout())
_RESUME = packer(ResumeLayout())
_TAG = packer(FrameTagLayout())
_WORD = (1 << 64) - 1
_MAX_PAYLOAD = 512


def _mask(kinds: Iterable[Event]) -> int:
    return sum([1 << kind._value_ for kind in kinds])


def message(op: Op, payload: Sequence[int] = (), *, flags: int = 0, arg: int = 0) -> list[int]:
    """Encode one message: its header word and its payload words."""
    return [_HEADER(op=op._value_, flags=flags, count=len(payload), arg=arg), *payload]


def _words(value: int, count: int) -> list[int]:
    return [value >> 64 * index & _WORD for index in range(count)]


class Link:
    """Collects messages for the next batch, each at its cycle.

    Parameters
    ----------
    cycle_ns : int
        Period of the emulated clock in ns.

    Attributes
    ----------
    synced_cycle : int
        Cycle up to which every event is known.
    """

    def __init__(self, *, cycle_ns: int) -> None:
        self.cycle_ns = cycle_ns
        self.synced_cycle = 0
        self._cursor = 0
        self._out: list[int] = []

    def cycle(self, ns: int) -> int:
        """First cycle that begins at or after ``ns``."""
        return -(-ns // self.cycle_ns)

    @property
    def words(self) -> int:
        """Words waiting for the next batch."""
        return len(self._out)

    def _at(self, ns: int, words: list[int]) -> None:
        cycle = self.cycle(ns)
        if cycle > self._cursor:
            self._out += message(Op.ADVANCE, (cycle,))
            self._cursor = cycle
        self._out += words

    def write(self, ns: int, address: int, values: Sequence[int]) -> None:
        """Store 64-bit words from ``address`` (bytes, multiple of 8)."""
        for start in range(0, len(values), _MAX_PAYLOAD):
            part = values[start : start + _MAX_PAYLOAD]
            self._at(ns, message(Op.MEM_WRITE, (address + 8 * start, *part)))

    def read(self, ns: int, address: int, words: int) -> None:
        """Ask for words; the next batch's records hold them."""
        self._at(ns, message(Op.MEM_READ, (address,), arg=words))

    def copy(self, ns: int, destination: int, source: int, words: int) -> None:
        """Copy words inside the emulated memory."""
        self._at(ns, message(Op.MEM_COPY, (destination, source), arg=words))

    def fill(self, ns: int, destination: int, value: int, words: int) -> None:
        """Store ``value`` in each of ``words`` words."""
        self._at(ns, message(Op.MEM_FILL, (destination, value), arg=words))

    def csr_write(self, ns: int, register: int, value: int, *, emulator: bool = False) -> None:
        """Write a register of the MMU, or of the emulator."""
        self._at(ns, message(Op.CSR_WRITE, (value,), flags=int(emulator), arg=register))

    def csr_read(self, ns: int, register: int, *, emulator: bool = False) -> None:
        """Ask for a register; the next batch's records hold it."""
        self._at(ns, message(Op.CSR_READ, flags=int(emulator), arg=register))

    def command(self, ns: int, **fields: int) -> None:
        """Present an invalidation command (fields of CommandLayout; ``kind`` is the enum's value)."""
        self._at(ns, message(Op.COMMAND, _words(_COMMAND(**fields), 3)))
        self._cursor += 1

    def descriptor(self, ns: int, **fields: int) -> None:
        """Queue a DMA burst (fields of DescriptorLayout)."""
        self._at(ns, message(Op.DESCRIPTOR, _words(_DESCRIPTOR(**fields), 3)))
        self._cursor += 1

    def drop_in(self, ns: int, **fields: int) -> None:
        """Offer an entry to the TLB (fields of DropinLayout; ``pte`` is the word)."""
        self._at(ns, message(Op.DROPIN, _words(_DROPIN(**fields), 4)))
        self._cursor += 1

    def resume(self, ns: int, **fields: int) -> None:
        """Let a stalled access go on (fields of ResumeLayout)."""
        self._at(ns, message(Op.RESUME, (_RESUME(**fields),)))
        self._cursor += 1

    def tag(self, ns: int, pfn: int, **fields: int) -> None:
        """Set the sanitizer's tag of a frame (fields of FrameTagLayout)."""
        self._at(ns, message(Op.TAG, (pfn, _TAG(**fields))))

    def batch(self, until_ns: int | None, stop: Iterable[Event]) -> Batch:
        """Close the batch: run until ``until_ns`` (None: no further) or until a record of a kind in ``stop``.

        The caller yields it and gives the answer to :meth:`answered`.
        """
        cycle = self._cursor if until_ns is None else max(self.cycle(until_ns), self._cursor)
        words, self._out = self._out + message(Op.ADVANCE, (cycle,), arg=_mask(stop)), []
        return words

    def answered(self, records: np.ndarray) -> None:
        """Take note of the ADVANCED record that closed the batch."""
        self.synced_cycle = int(records[-1, 1])
        self._cursor = max(self._cursor, self.synced_cycle)
