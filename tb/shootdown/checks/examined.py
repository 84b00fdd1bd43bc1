"""How many things each invariant could have failed on in a run: what "kept" is worth."""

from hostmm.mm.pagetable import PTE_V, PTE_W
from hostmm.timeline import Notification, Row
from shootdown.history import History

__all__ = ["examined"]


def examined(history: History) -> dict[str, int]:
    """Count them, by invariant; 0 says that the run did not exercise it.

    I1 frames freed; I2 translations filled; I3 and I13 brackets; I4 and I6 words that the device loaded; I7 pages
    written back; I10 PTEs that lost W or were cleared while writable; I16 exits; I17 walks, whose reads the frame
    sanitizer checks; I19 callbacks that waited; I20 callbacks.
    """
    rows, callbacks = history.rows, history.callbacks
    brackets = sum(callback.kind == Notification.RANGE_START for callback in callbacks)
    loads = sum(len(burst.loads) for burst in history.bursts)
    return {
        "I1": len(rows.of(Row.FREE)),
        "I2": len(history.entries),
        "I3": brackets,
        "I4": loads,
        "I6": loads,
        "I7": len(history.written_out),
        "I10": _downgrades(history),
        "I13": brackets,
        "I16": len(rows.of(Row.TEARDOWN)),
        "I17": len(history.walks),
        "I19": sum(bool(callback.commands) for callback in callbacks),
        "I20": len(callbacks),
    }


def _downgrades(history: History) -> int:
    rows = history.rows
    count = 0
    for _, kind, a, b in rows.take(rows.of(Row.PTE_SET, Row.PTE_CLEAR), "kind", "a", "b"):
        old, new = (a, 0) if kind == Row.PTE_CLEAR else (b, a)
        count += old & PTE_V != 0 and old & PTE_W != 0 and not new & PTE_W
    return count
