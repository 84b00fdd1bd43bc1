"""How many things each invariant could have failed on in a run: what "kept" is worth."""

from collections.abc import Callable

from hostmm.timeline import Notification, Row
from shootdown.checks.dirty import count_dirty_unmaps
from shootdown.checks.downgrade import count_downgrades
from shootdown.checks.order import count_ordered_loads
from shootdown.checks.young import count_young_decisions
from shootdown.history import History

__all__ = ["COUNTS", "examined"]


def examined(history: History) -> dict[str, int]:
    """Count them, by invariant; 0 says that the run did not exercise it."""
    return {invariant: count(history) for invariant, count in COUNTS.items()}


def _brackets(history: History) -> int:
    return sum(callback.kind is Notification.RANGE_START for callback in history.callbacks)


def _loads(history: History) -> int:
    return sum(len(burst.loads) for burst in history.bursts)


COUNTS: dict[str, Callable[[History], int]] = {
    "I1": lambda history: len(history.freed),
    "I2": lambda history: len(history.entries),
    "I3": _brackets,
    "I4": _loads,
    "I5": count_ordered_loads,
    "I6": _loads,
    "I7": lambda history: len(history.written_out),
    "I8": count_dirty_unmaps,
    "I9": count_young_decisions,
    "I10": count_downgrades,
    "I13": _brackets,
    "I16": lambda history: len(history.rows.of(Row.TEARDOWN)),
    "I17": lambda history: len(history.walks),
    "I19": lambda history: sum(bool(callback.commands) for callback in history.callbacks),
    "I20": lambda history: len(history.callbacks),
}
"""I1 frames freed; I2 translations filled; I3 and I13 brackets; I4 and I6 words that the device loaded; I5 loads of
what a store is known to have happened before; I7 pages written back; I8 dirty PTEs taken away; I9 decisions of reclaim
and signs of use; I10 PTEs that lost W; I16 exits; I17 walks, whose reads the frame sanitizer checks; I19 callbacks
that waited; I20 callbacks."""
