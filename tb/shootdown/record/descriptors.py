"""File descriptors of a recorded process, and the files that a whole recording mapped."""

from dataclasses import dataclass
from pathlib import Path

from hostmm.trace import TraceFile
from shootdown.record.syscalls import Call

__all__ = ["Descriptors", "FileRef", "MappedFiles", "file_at"]

AT_FDCWD = 0xFFFF_FFFF - 99
O_CLOEXEC = 0o2000000
F_DUPFD, F_SETFD, F_DUPFD_CLOEXEC = 0, 2, 1030
FD_CLOEXEC = 1
OPEN_FLAGS = {"openat": 1, "open": 0, "creat": None}
"""Position of the flags among the arguments of each call that opens a path."""


@dataclass(frozen=True)
class FileRef:
    """An open file: ``key`` is the same for every opening of one file; ``path`` may be empty."""

    key: tuple[object, ...]
    name: str
    path: str


class MappedFiles:
    """Numbers the mapped files of a recording in the order of their first mapping."""

    def __init__(self) -> None:
        self._ids: dict[tuple[object, ...], int] = {}
        self._names: list[str] = []
        self._sizes: list[int] = []

    def add(self, ref: FileRef, end_bytes: int) -> int:
        """Return the id of a file mapped up to ``end_bytes``, which counts if it has no size."""
        number = self._ids.setdefault(ref.key, len(self._names))
        if number == len(self._names):
            self._names.append(ref.name)
            self._sizes.append(0)
        try:
            size = Path(ref.path).stat().st_size if ref.path else end_bytes
        except (OSError, ValueError):
            size = end_bytes
        self._sizes[number] = max(self._sizes[number], size)
        return number

    def table(self) -> tuple[TraceFile, ...]:
        """Return every file mapped so far."""
        return tuple(
            TraceFile(number, name, size)
            for number, (name, size) in enumerate(zip(self._names, self._sizes, strict=True))
        )


class Descriptors:
    """What each descriptor of one process refers to, as its system calls tell."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._open: dict[int, FileRef] = {}
        self._close_on_exec: set[int] = set()

    def forked(self, pid: int) -> "Descriptors":
        """Return the table of a child process."""
        child = Descriptors(pid)
        child._open = dict(self._open)
        child._close_on_exec = set(self._close_on_exec)
        return child

    def exec(self) -> None:
        """Close what execve closes."""
        for descriptor in self._close_on_exec:
            self._open.pop(descriptor, None)
        self._close_on_exec.clear()

    def file(self, descriptor: int) -> FileRef:
        """Return what ``descriptor`` refers to; one that no call explained is a file of its own."""
        unknown = FileRef(("fd", self._pid, descriptor), f"fd-{descriptor}", "")
        return self._open.get(descriptor, unknown)

    def take(self, call: Call) -> None:
        """Follow a call that opens, copies or closes a descriptor."""
        match call.name, call.args:
            case (("openat" | "open" | "creat"), _) if call.path is not None:
                at = OPEN_FLAGS[call.name]
                flags = 0 if at is None else call.args[at]
                directory = call.args[0] if call.name == "openat" else AT_FDCWD
                ref = self._resolve(directory, call.path)
                self._set(call.result, ref, bool(flags & O_CLOEXEC))
            case "memfd_create", (_, flags):
                # A memory file has no path; its inode is as good as its first descriptor.
                ref = FileRef(("memfd", self._pid, call.result), "memfd", "")
                self._set(call.result, ref, bool(flags & 1))
            case "dup", (old,):
                self._copy(old, call.result, close_on_exec=False)
            case "dup2", (old, new) if old != new:
                self._copy(old, new, close_on_exec=False)
            case "dup3", (old, new, flags):
                self._copy(old, new, close_on_exec=bool(flags & O_CLOEXEC))
            case "fcntl", (old, command, *rest):
                self._fcntl(old, command, rest, call.result)
            case "close", (descriptor,):
                self._open.pop(descriptor, None)
                self._close_on_exec.discard(descriptor)

    def _fcntl(self, old: int, command: int, rest: list[int], result: int) -> None:
        if command in (F_DUPFD, F_DUPFD_CLOEXEC):
            self._copy(old, result, close_on_exec=command == F_DUPFD_CLOEXEC)
        elif command == F_SETFD and rest and rest[0] & FD_CLOEXEC:
            self._close_on_exec.add(old)
        elif command == F_SETFD:
            self._close_on_exec.discard(old)

    def _set(self, descriptor: int, ref: FileRef, close_on_exec: bool) -> None:
        self._open[descriptor] = ref
        (self._close_on_exec.add if close_on_exec else self._close_on_exec.discard)(descriptor)

    def _copy(self, old: int, new: int, *, close_on_exec: bool) -> None:
        self._set(new, self.file(old), close_on_exec)

    def _resolve(self, directory: int, path: str) -> FileRef:
        base = f"/proc/{self._pid}/cwd" if directory == AT_FDCWD else self.file(directory).path
        return file_at(str(Path(base, path)))


def file_at(path: str) -> FileRef:
    """Return the file at ``path``, known by its inode while it can still be seen."""
    name = Path(path).name or path
    try:
        real = Path(path).resolve()
        status = real.stat()
    except (OSError, ValueError, RuntimeError):
        return FileRef(("path", path), name, path)
    return FileRef(("inode", status.st_dev, status.st_ino), name, str(real))
