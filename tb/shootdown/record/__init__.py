"""Record a real program's memory traffic as a page-level trace (``shootdown record``)."""

from shootdown.record.errors import RecordError
from shootdown.record.recorder import Recording, record

__all__ = ["RecordError", "Recording", "record"]
