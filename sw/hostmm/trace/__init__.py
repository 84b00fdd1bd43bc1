"""Page-level traces of real programs: what they hold, how they are read and written.

docs/trace-format.md documents the file. ``shootdown record`` makes one from a running program.
"""

import importlib.util
import os
import tempfile
from pathlib import Path

from hostmm.trace.check import check
from hostmm.trace.file import decode, encode
from hostmm.trace.items import (
    ADDRESS_BITS,
    LINE_BYTES_LOG2,
    PAGE_BYTES,
    PAGE_BYTES_LOG2,
    VERSION,
    Access,
    Brk,
    Event,
    Exec,
    Exit,
    Fork,
    Item,
    Madvise,
    Mmap,
    Mprotect,
    Mremap,
    Msync,
    Munmap,
    Process,
    Trace,
    TraceError,
    TraceFile,
    Window,
)

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
    "load",
    "save",
    "shipped",
]

SUFFIX = ".trace"


def load(path: str | os.PathLike[str]) -> Trace:
    """Read and check a trace.

    Raises
    ------
    TraceError
        The file cannot be read, is no trace, or is truncated or damaged.
    """
    try:
        _require_file(Path(path))
        data = Path(path).read_bytes()
    except OSError as error:
        raise TraceError(f"cannot read trace {os.fspath(path)}: {error.strerror}") from error
    try:
        trace = decode(data)
        check(trace)
    except TraceError as error:
        raise TraceError(f"{os.fspath(path)}: {error}") from error
    return trace


def _require_file(path: Path) -> None:
    """Refuse a pipe, which gives its content once: a trace is read by every run of it."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise TraceError(f"cannot read trace {path}: it is no ordinary file")


def save(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Check ``trace`` and write it, whole or not at all.

    Raises
    ------
    TraceError
        The trace breaks a rule of the format, or the file cannot be written.
    """
    check(trace)
    data = encode(trace)
    target = Path(os.path.realpath(path))
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise TraceError(f"cannot write trace {target}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        # mkstemp makes the file private; a trace is an ordinary file.
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except OSError as error:
        raise TraceError(f"cannot write trace {target}: {error.strerror}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def shipped() -> dict[str, Path]:
    """Return the traces that come with the bench, by name.

    They are data files of the ``shootdown`` package, which is located and never imported.
    """
    spec = importlib.util.find_spec("shootdown")
    roots = (spec.submodule_search_locations or []) if spec is not None else []
    return {
        path.stem: path
        for root in roots
        for path in sorted(Path(root, "traces").glob(f"*{SUFFIX}"))
    }
