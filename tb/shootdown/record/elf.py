"""Where an ELF image lies in memory: its loadable segments and its interpreter.

The initial mappings of an image come from execve itself, so no system call reports them. They are
derived as the kernel derives them: from the program headers (gABI chapter 5) and the load bias.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from hostmm.trace import PAGE_BYTES

__all__ = ["ElfImage", "Segment"]

PT_LOAD = 1
PT_INTERP = 3
ELF64_LITTLE = b"\x7fELF\x02\x01"
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4


@dataclass(frozen=True)
class Segment:
    """A mapping that execve makes; ``offset_pages`` is None where it is anonymous."""

    addr: int
    length: int
    prot: int
    offset_pages: int | None


class ElfImage:
    """The program headers of one file.

    Raises
    ------
    ValueError
        The file is no 64-bit little-endian ELF file.
    OSError
        It cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        data = Path(path).read_bytes()
        if not data.startswith(ELF64_LITTLE):
            raise ValueError(f"{os.fspath(path)} is no 64-bit ELF file")
        (table,) = struct.unpack_from("<Q", data, 32)
        size, count = struct.unpack_from("<HH", data, 54)
        headers = [struct.unpack_from("<IIQQQQQQ", data, table + size * i) for i in range(count)]
        self._loads = [h for h in headers if h[0] == PT_LOAD]
        names = [data[h[2] : h[2] + h[5]] for h in headers if h[0] == PT_INTERP]
        self.interpreter = os.fsdecode(names[0].rstrip(b"\0")) if names else None

    def segments(self, lowest: int) -> list[Segment]:
        """Return the mappings of the image whose first byte lies at address ``lowest``."""
        bias = lowest - _floor(min(load[3] for load in self._loads))
        found = []
        for _, flags, offset, vaddr, _, file_bytes, memory_bytes, _ in self._loads:
            prot = _prot(flags)
            start = _floor(bias + vaddr)
            file_end = _floor(bias + vaddr + file_bytes + PAGE_BYTES - 1)
            end = _floor(bias + vaddr + memory_bytes + PAGE_BYTES - 1)
            if file_end > start:
                pages = _floor(offset) // PAGE_BYTES
                found.append(Segment(start, file_end - start, prot, pages))
            if end > file_end:
                found.append(Segment(file_end, end - file_end, prot, None))
        return found


def _floor(address: int) -> int:
    return address & -PAGE_BYTES


def _prot(flags: int) -> int:
    """Turn PF_X=1, PF_W=2, PF_R=4 into PROT_READ=1, PROT_WRITE=2, PROT_EXEC=4."""
    return (
        (PROT_READ if flags & 4 else 0)
        | (PROT_WRITE if flags & 2 else 0)
        | (PROT_EXEC if flags & 1 else 0)
    )
