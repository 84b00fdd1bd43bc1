"""I18: what a callback invalidates covers its range: nothing of it is left, and no command is short of it."""

from bisect import bisect_left
from collections import defaultdict

from hostmm.machine.timeline import Notification
from shootdown.checks.violation import Finding, Findings, at_row
from shootdown.history import NEVER, Callback, Entry, History

__all__ = ["check_ranges", "count_ranges"]

_TAKING = (
    Notification.INVALIDATE_PAGE,
    Notification.RANGE_START,
    Notification.INVALIDATE_RANGE,
    Notification.RELEASE,
)
"""Kinds behind which a device has nothing of the range any more; refused starts excepted."""


def check_ranges(history: History) -> Findings:
    """Yield commands that leave a part of their callback's range out, and entries that a callback has left behind."""
    for callback in history.callbacks:
        if callback.kind in _TAKING and callback.end != NEVER and not _refused(history, callback):
            yield from _short(history, callback)
    yield from _left(history)


def _refused(history: History, callback: Callback) -> bool:
    start = callback.kind is Notification.RANGE_START
    return start and bool(callback.result) and not history.policy.stops_at_first


def _short(history: History, callback: Callback) -> Findings:
    """Commands that together cover a part of the range only, where the device walks the CPUs' own tables.

    A device with tables of its own need not be told of what is not in them.
    """
    spans = sorted((c.first, c.last) for c in callback.commands if c.invalidates)
    if not spans or callback.mm not in history.owners.walked:
        return
    if any(
        c.invalidates
        and c.covers(callback.mm, callback.first)
        and c.overlaps(c.asid, callback.last, callback.last)
        for c in callback.commands
    ):
        return
    reached = callback.first - 1
    for first, last in spans:
        if first > reached + 1:
            break
        reached = max(reached, last)
    if reached < callback.last:
        what = (
            f"the commands of {callback.kind.name.lower()} of pages {callback.first:#x} to {callback.last:#x} of mm "
            f"{callback.mm} leave out page {reached + 1:#x}"
        )
        yield at_row(history, "I18", callback.end, what, callback)


def _left(history: History) -> Findings:
    """Yield entries older than a callback over one of their pages that are still valid when it has returned."""
    taking: dict[int, list[Callback]] = defaultdict(list)
    for callback in history.callbacks:
        if callback.kind in _TAKING and callback.end != NEVER and not _refused(history, callback):
            taking[callback.mm].append(callback)
    rows = history.rows
    for entry in history.entries:
        callbacks = taking.get(entry.mm, [])
        first = bisect_left(callbacks, entry.begin, key=_begin)
        last = bisect_left(callbacks, entry.end, key=_begin)
        for callback in callbacks[first:last]:
            if _leaves(history, callback, entry):
                what = (
                    f"{callback.kind.name.lower()} of pages {callback.first:#x} to {callback.last:#x} of mm "
                    f"{callback.mm} returned and left TLB entry {entry.index} for page {entry.first:#x} valid"
                )
                path, thread = rows.paths[callback.path], rows.threads[callback.thread]
                yield Finding("I18", path, rows.cycle_of(callback.end), thread, what, callback)
                break


def _begin(callback: Callback) -> int:
    return callback.begin


def _leaves(history: History, callback: Callback, entry: Entry) -> bool:
    """Whether a callback that began while an entry was valid returned without having ended it."""
    if entry.first > callback.last or entry.last < callback.first or entry.end <= callback.end:
        return False
    owners = history.owners
    alive = entry.end_cycle > history.rows.cycle_of(callback.end)
    mine = owners.looks_after(entry.mm, callback.subscriber, entry.asid)
    return alive and mine and not owners.is_idle(entry.asid, callback.end)


def count_ranges(history: History) -> int:
    """Count callbacks that take pages away."""
    return sum(callback.kind in _TAKING for callback in history.callbacks)
