"""How many things each invariant could have failed on in a run: what "kept" is worth."""

from collections.abc import Callable

from hostmm.machine.timeline import Notification, Row
from shootdown.checks.dirty import count_dirty_unmaps
from shootdown.checks.downgrade import count_downgrades
from shootdown.checks.large import count_large
from shootdown.checks.moved import count_migrations, count_moves
from shootdown.checks.order import count_ordered_loads
from shootdown.checks.progress import count_progress
from shootdown.checks.ranges import count_ranges
from shootdown.checks.registration import count_registrations, count_unregistrations
from shootdown.checks.spurious import count_spurious
from shootdown.checks.tables import count_tables
from shootdown.checks.tags import count_tags
from shootdown.checks.upgrade import count_upgrades
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
    "I11": count_upgrades,
    "I12": lambda history: len(history.callbacks),
    "I13": _brackets,
    "I14": count_registrations,
    "I15": count_unregistrations,
    "I16": lambda history: len(history.rows.of(Row.TEARDOWN)),
    "I17": count_tables,
    "I18": count_ranges,
    "I19": lambda history: sum(bool(callback.commands) for callback in history.callbacks),
    "I20": lambda history: len(history.callbacks),
    "I21": count_spurious,
    "I22": count_progress,
    "I23": count_tags,
    "I24": count_large,
    "I25": count_migrations,
    "I26": count_moves,
}
"""I1 frames freed; I2 translations filled; I3 and I13 brackets; I4 and I6 words that the device loaded; I5 loads of
what a store is known to have happened before; I7 pages written back; I8 dirty PTEs taken away; I9 decisions of reclaim
and signs of use; I10 PTEs that lost W; I11 PTEs that gained it under a read-only entry; I12 and I20 callbacks; I14 and
I15 subscribers that came, and left; I16 exits; I17 walks, whose reads the frame sanitizer checks, and tables freed; I18
callbacks that take pages away; I19 callbacks that waited; I21 entries killed for nothing; I22 refused accesses and
callbacks; I23 asids that changed hands; I24 large entries that met a command; I25 pages migrated; I26 PTEs moved."""
