"""The mappings that an image starts with: executable, interpreter, stack.

They are read from /proc while the process waits on its pipe, and completed from the ELF headers, so
that nothing the program did to them since (relocation read-only, say) shows.
"""

from dataclasses import dataclass
from pathlib import Path

from hostmm.trace import PAGE_BYTES_LOG2, Mmap
from shootdown.record.descriptors import MappedFiles, file_at
from shootdown.record.elf import PROT_READ, PROT_WRITE, ElfImage

__all__ = ["STACK_BYTES", "initial_mappings"]

MAP_PRIVATE, MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_STACK = 0x02, 0x20, 0x100, 0x20000
STACK_BYTES = 8 << 20


@dataclass(frozen=True)
class _MapsEntry:
    start: int
    end: int
    path: str


def _read_maps(pid: int) -> list[_MapsEntry]:
    entries = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, _, _, _, _, *path = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in span.split("-"))
        entries.append(_MapsEntry(start, end, path[0] if path else ""))
    return entries


def initial_mappings(pid: int, stack_page: int, files: MappedFiles) -> list[Mmap]:
    """Return the mappings that execve made, in address order.

    Parameters
    ----------
    pid : int
        Operating-system process id.
    stack_page : int
        A page of the stack.
    files : MappedFiles
        Where executable and interpreter are entered.

    A process that is gone, or an image that is no ELF file, gives fewer mappings; accesses to the
    missing ones are then counted as strays.
    """
    try:
        entries = _read_maps(pid)
    except OSError:
        return []
    found = _image_mappings(entries, files)
    address = stack_page << PAGE_BYTES_LOG2
    for entry in entries:
        if entry.start <= address < entry.end and not entry.path:
            found.append(_stack(entry.end))
    return sorted(found, key=lambda mapping: mapping.addr)


def _image_mappings(entries: list[_MapsEntry], files: MappedFiles) -> list[Mmap]:
    # valgrind loads the program below everything else that is backed by a file.
    program = next((entry for entry in entries if entry.path.startswith("/")), None)
    if program is None:
        return []
    try:
        image = ElfImage(program.path)
        found = _segments(image, program, files)
        if image.interpreter is not None:
            wanted = file_at(image.interpreter).path
            loader = next((entry for entry in entries if entry.path == wanted), None)
            if loader is not None:
                found += _segments(ElfImage(wanted), loader, files)
    except (OSError, ValueError):
        return []
    return found


def _segments(image: ElfImage, entry: _MapsEntry, files: MappedFiles) -> list[Mmap]:
    ref = file_at(entry.path)
    found = []
    for segment in image.segments(entry.start):
        if segment.offset_pages is None:
            flags, file, offset = MAP_PRIVATE | MAP_ANONYMOUS, None, 0
        else:
            end_bytes = (segment.offset_pages << PAGE_BYTES_LOG2) + segment.length
            flags, file, offset = MAP_PRIVATE, files.add(ref, end_bytes), segment.offset_pages
        found.append(Mmap(segment.addr, segment.length, segment.prot, flags, file, offset))
    return found


def _stack(top: int) -> Mmap:
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_STACK
    return Mmap(top - STACK_BYTES, STACK_BYTES, PROT_READ | PROT_WRITE, flags, None, 0)
