"""What a trace holds: files, processes, windows of accesses, and the mm system calls between them."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hostmm.errors import HostError

__all__ = [
    "ADDRESS_BITS",
    "LINE_BYTES_LOG2",
    "PAGE_BYTES",
    "PAGE_BYTES_LOG2",
    "VERSION",
    "Access",
    "Brk",
    "Event",
    "Exec",
    "Exit",
    "Fork",
    "Item",
    "Madvise",
    "Mmap",
    "Mprotect",
    "Mremap",
    "Msync",
    "Munmap",
    "Process",
    "Trace",
    "TraceError",
    "TraceFile",
    "Window",
]

VERSION = 1
"""Version of the file format that this module writes and reads."""

PAGE_BYTES_LOG2 = 12
PAGE_BYTES = 1 << PAGE_BYTES_LOG2
LINE_BYTES_LOG2 = 6
ADDRESS_BITS = 38
"""Width of a user address: the lower half of Sv39 (privileged spec 1.12, section 4.4)."""


class TraceError(HostError):
    """A trace cannot be read, written or used; the text is one line."""


class Access(enum.IntFlag):
    """Kinds of access to a page within one window."""

    LOAD = 1
    STORE = 2
    FETCH = 4


@dataclass(frozen=True)
class TraceFile:
    """A file that some process mapped.

    Attributes
    ----------
    id : int
        Its position in :attr:`Trace.files`.
    name : str
        Last component of its path.
    size_bytes : int
        Largest size seen when it was mapped.
    """

    id: int
    name: str
    size_bytes: int


@dataclass(frozen=True, eq=False)
class Window:
    """A run of instructions with no mm system call inside, and the pages they touched.

    Attributes
    ----------
    instructions : int
        Instructions executed.
    pages : int64 array
        Virtual page numbers (26 bits), each once, in the order of first access.
    kinds : uint8 array
        :class:`Access` mask of each page.
    lines : uint8 array
        64-byte line (0 to 63) of the first access to each page.
    """

    instructions: int
    pages: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]
    lines: npt.NDArray[np.uint8]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Window):
            return NotImplemented
        return (
            self.instructions == other.instructions
            and np.array_equal(self.pages, other.pages)
            and np.array_equal(self.kinds, other.kinds)
            and np.array_equal(self.lines, other.lines)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Mmap:
    """``mmap`` returned ``addr``; whatever was mapped in the range before is gone.

    ``prot`` and ``flags`` have the Linux x86-64 values; ``file`` is a :class:`TraceFile` id or
    None; ``length`` is rounded up to pages.
    """

    addr: int
    length: int
    prot: int
    flags: int
    file: int | None
    offset_pages: int


@dataclass(frozen=True)
class Munmap:
    """``munmap`` of a range of whole pages, which may hold gaps."""

    addr: int
    length: int


@dataclass(frozen=True)
class Mprotect:
    """``mprotect`` of a range of whole pages."""

    addr: int
    length: int
    prot: int


@dataclass(frozen=True)
class Mremap:
    """``mremap`` moved or resized ``old`` to ``new``."""

    old: int
    old_length: int
    new: int
    new_length: int
    flags: int


@dataclass(frozen=True)
class Madvise:
    """``madvise`` that the kernel accepted."""

    addr: int
    length: int
    advice: int


@dataclass(frozen=True)
class Brk:
    """The heap spans ``start`` to ``end`` (exclusive, whole pages) from now on."""

    start: int
    end: int


@dataclass(frozen=True)
class Msync:
    """``msync`` of a range of whole pages."""

    addr: int
    length: int
    flags: int


@dataclass(frozen=True)
class Fork:
    """The process made a child with a copy of its address space."""

    child: int


@dataclass(frozen=True)
class Exec:
    """A new image: every mapping made so far is gone; those of the new image follow."""


@dataclass(frozen=True)
class Exit:
    """The process ended; always its last item when it is there."""


Event: TypeAlias = Mmap | Munmap | Mprotect | Mremap | Madvise | Brk | Msync | Fork | Exec | Exit
Item: TypeAlias = Window | Event


@dataclass(frozen=True)
class Process:
    """One process: its number in the trace (1 is the first), its parent's, and what it did."""

    pid: int
    parent: int | None
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Trace:
    """A recorded program.

    Attributes
    ----------
    version : int
        Format version.
    name : str
        Short name.
    command : tuple of str
        The command that recorded it.
    window_instructions : int
        Upper bound of :attr:`Window.instructions`.
    files : tuple of TraceFile
        Mapped files; the index is the id.
    processes : tuple of Process
        In the order of their creation.
    order : sequence of (int, int)
        Process index and item index of every item, in the order in which they were recorded.
    dropped_accesses : int
        Accesses left out because they lie above the user half (the vsyscall page).
    synthesized_pages : int
        Pages that were accessed outside every known mapping; each lies in an anonymous
        :class:`Mmap` that the recorder made up just before the first access.
    """

    version: int
    name: str
    command: tuple[str, ...]
    window_instructions: int
    files: tuple[TraceFile, ...]
    processes: tuple[Process, ...]
    order: Sequence[tuple[int, int]]
    dropped_accesses: int = 0
    synthesized_pages: int = 0

    def footprint_pages(self) -> int:
        """Return the number of distinct pages accessed, summed over the address spaces.

        A page of a child counts when the child touches it; an exec starts a new address space.
        """
        return sum(
            np.unique(np.concatenate(image)).size
            for process in self.processes
            for image in _images(process)
        )

    def instructions(self) -> int:
        """Return the number of instructions recorded."""
        return sum(w.instructions for w in self.windows())

    def page_accesses(self) -> int:
        """Return the number of pages summed over all windows."""
        return sum(w.pages.size for w in self.windows())

    def windows(self) -> list[Window]:
        """Return every window, process by process."""
        return [i for p in self.processes for i in p.items if isinstance(i, Window)]


def _images(process: Process) -> list[list[npt.NDArray[Any]]]:
    """Return the page arrays of every image of ``process`` that touched a page."""
    images: list[list[npt.NDArray[Any]]] = [[]]
    for item in process.items:
        if isinstance(item, Window):
            images[-1].append(item.pages)
        elif isinstance(item, Exec):
            images.append([])
    return [image for image in images if image]
