"""Files that a command writes for its user: whole or not at all."""

import os
from pathlib import Path

from shootdown.errors import UsageError

__all__ = ["write_whole"]


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under another name, then give it its own; whoever reads it never sees half of it.

    Raises
    ------
    UsageError
        It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
