"""I12: nobody sleeps where he must not, and who can refuse to start has no end; the order of locks beside it."""

from hostmm.machine.lockdep import Atomic
from hostmm.machine.timeline import LockClass, Notification, Row
from shootdown.checks.violation import Findings, at_row
from shootdown.history import NEVER, Callback, History

__all__ = ["check_context"]


def check_context(history: History) -> Findings:
    """Yield sleeping in atomic context, refused starts of who has a range end, and inverted orders of locks."""
    yield from _sleeping(history)
    yield from _refusals(history)
    rows = history.rows
    for row, tag, lock, other in rows.take(rows.of(Row.LOCK_INVERSION), "tag", "a", "b"):
        what = f"{LockClass(tag).name} lock {lock} is wanted under lock {other}, against the order of their classes"
        yield at_row(history, "I12", row, what)


def _sleeping(history: History) -> Findings:
    rows = history.rows
    inside = _innermost(history)
    for row, thread, tag, lock, lock_class in rows.take(
        rows.of(Row.SLEEP_IN_ATOMIC), "thread", "tag", "a", "b"
    ):
        reasons = [reason.name or "" for reason in Atomic(tag)]
        held = f" ({LockClass(lock_class).name} lock {lock} held)" if lock else ""
        callback = inside.get((thread, row))
        where = f" in {callback.kind.name.lower()}" if callback else ""
        what = f"the thread may sleep{where}, in a context of {', '.join(reasons).lower()}{held}"
        yield at_row(history, "I12", row, what, callback)


def _innermost(history: History) -> dict[tuple[int, int], Callback]:
    """Return the callback in which each row of a thread that may sleep lies."""
    rows = history.rows
    sleeps = list(rows.take(rows.of(Row.SLEEP_IN_ATOMIC), "thread"))
    return {
        (thread, row): callback
        for row, thread in sleeps
        for callback in history.callbacks
        if callback.thread == thread and callback.begin < row < callback.end
    }


def _refusals(history: History) -> Findings:
    """Yield starts that said "again" to a caller who must not block, by subscribers that have a method for the end."""
    if history.policy.stops_at_first:
        return
    known = {(s.mm, s.number): s for s in history.subscriptions}
    for callback in history.callbacks:
        if callback.kind is Notification.RANGE_START and callback.result and callback.end != NEVER:
            subscription = known.get((callback.mm, callback.subscriber))
            if subscription is None or subscription.is_interval:
                continue
            if subscription.has(Notification.RANGE_END):
                what = f"subscriber {subscription.number} of mm {callback.mm} refuses a range start, and has a range end"
                yield at_row(history, "I12", callback.end, what, subscription)
