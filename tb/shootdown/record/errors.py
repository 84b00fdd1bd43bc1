"""The recorder's error."""

from shootdown.errors import ShootdownError

__all__ = ["RecordError"]


class RecordError(ShootdownError):
    """A program could not be recorded; no trace was written."""
