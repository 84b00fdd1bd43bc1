"""Files that a command writes for its user: whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from shootdown.errors import UsageError

__all__ = ["require_writable", "write_whole"]


def require_writable(*paths: Path | None) -> None:
    """Refuse, before anything is run, files that could not be written after it; None is no file.

    Raises
    ------
    UsageError
        One could not.
    """
    for path in paths:
        if path is not None and path.is_dir():
            raise UsageError(f"cannot write {path}: it is a folder")
        if path is not None and not os.access(path.absolute().parent, os.W_OK | os.X_OK):
            raise UsageError(f"cannot write {path}: its folder cannot be written")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under another name, then give it its own; whoever reads it never sees half of it.

    What is no file, as ``/dev/stdout``, is written as it is.

    Raises
    ------
    UsageError
        It cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.is_file() or not path.exists():
            _replace(Path(os.path.realpath(path)), data)
        else:
            path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()
