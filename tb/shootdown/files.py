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
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(f"cannot write {path}: it is a folder")
        if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
            raise UsageError(f"cannot write {path}: its folder cannot be written")
        if _is_replaced(path):
            # Permissions do not tell everything: a folder of the kernel's takes no files, a link may lead nowhere.
            temporary = _temporary(path)
            try:
                temporary.touch()
                temporary.unlink()
            except OSError as error:
                raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _is_replaced(path: Path) -> bool:
    """Whether a file is put in the path's place, rather than written to what stands there (a device, a pipe)."""
    return path.is_file() or not path.exists()


def _temporary(path: Path) -> Path:
    """Return the name under which a file is written first: beside what the path leads to."""
    target = Path(os.path.realpath(path))
    return target.with_name(f".{target.name}.{os.getpid()}")


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
        if _is_replaced(path):
            _replace(path, data)
        else:
            path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _replace(path: Path, data: bytes) -> None:
    temporary = _temporary(path)
    try:
        temporary.write_bytes(data)
        temporary.replace(os.path.realpath(path))
    finally:
        with suppress(OSError):
            temporary.unlink()
