"""Who is to blame where a device could not be told: the end of its address space, or its own driver's leaving.

Both are no mm paths; they stand in a violation's path by the names of the kernel's functions.
"""

from collections.abc import Iterator

from hostmm.machine.timeline import Notification
from shootdown.checks.expectations import RELEASE, UNREGISTER
from shootdown.checks.violation import Finding, Whose, by_nobody, owners
from shootdown.history import NEVER, Callback, Entry, History, Subscription, Use

__all__ = ["off_the_chain", "reached", "releases", "taken"]


def releases(history: History, subscription: Subscription) -> Iterator[Callback]:
    """Yield the releases of a subscriber."""
    for callback in history.callbacks:
        mine = (callback.mm, callback.subscriber) == (subscription.mm, subscription.number)
        if mine and callback.kind is Notification.RELEASE:
            yield callback


def off_the_chain(history: History, of: Whose, row: int) -> str | None:
    """Return who keeps the device of something from being told at a row; None where it could be told.

    The end of the address space took the subscriber off the chain and has not released it yet; or it did not wait for
    the release that runs already.
    """
    for subscription in owners(history, of):
        removed = subscription.removed
        for release in releases(history, subscription):
            if min(removed, release.begin) < row < release.end:
                return RELEASE if removed < release.begin else UNREGISTER
    return None


def taken(history: History, of: Entry | Use, vpn: int, row: int) -> int:
    """Row at which a page was last taken away from a device's address space before a row; NEVER where it was not."""
    changes = history.changes_of.get((of.mm, vpn), [])
    return next((c.row for c in reversed(changes) if c.row < row and c.unmaps), NEVER)


def reached(
    history: History, of: Entry | Use, pfn: int, free: int, cycle: int, what: str
) -> Finding:
    """Return the finding of I1 that a device reached a frame that had been freed at a row."""
    rows = history.rows
    if free == NEVER:
        return by_nobody("I1", cycle, what, of)
    vpn = of.vpn if isinstance(of, Use) else of.first + pfn - of.frame
    path = off_the_chain(history, of, taken(history, of, vpn, max(free, of.begin)))
    return Finding("I1", path or rows.path_of(free), cycle, rows.thread_of(free), what, of)
