"""I14 and I15: a subscriber comes and goes between operations, not in the middle of one."""

from collections.abc import Iterator

from hostmm.machine.timeline import Notification, Row
from shootdown.checks.blame import off_the_chain, releases
from shootdown.checks.expectations import UNREGISTER
from shootdown.checks.violation import Findings, at_row
from shootdown.history import NEVER, Entry, History, PteChange, Subscription

__all__ = [
    "check_registration",
    "check_unregistration",
    "count_registrations",
    "count_unregistrations",
]


def check_registration(history: History) -> Findings:
    """I14: yield PTEs taken away behind a bracket whose start a subscriber missed, where its device maps the page.

    That an end comes without its start is told by the check of pairs (I13).
    """
    for subscription in history.subscriptions:
        for change in _missed(history, subscription):
            entry = _mapped(history, subscription, change.mm, change.vpn, change.row)
            if entry is not None and entry.begin > subscription.begin:
                what = (
                    f"subscriber {subscription.number} of mm {change.mm} maps page {change.vpn:#x}, whose range "
                    "start it missed: it was registered in between"
                )
                yield at_row(history, "I14", change.row, what, subscription)


def _missed(history: History, subscription: Subscription) -> Iterator[PteChange]:
    """Yield what passes that were under way at the registration took away behind it, untold."""
    points = history.policy.points
    for change in history.changes:
        if change.mm != subscription.mm or change.row < subscription.begin or not change.loses:
            continue
        done = history.passes.get(change.span)
        if done is None or done.begin > subscription.begin:
            continue
        calls = points.get(history.rows.paths[done.path], {}).values()
        told = any(
            callback.subscriber == subscription.number and callback.covers(change.mm, change.vpn)
            for callback in history.callbacks_of.get(change.span, ())
            if callback.kind is not Notification.RANGE_END
        )
        if Notification.RANGE_START in calls and not told:
            yield change


def _mapped(
    history: History, subscription: Subscription, mm: int, vpn: int, row: int
) -> Entry | None:
    """Return an entry of the subscriber's device that maps a page at a row."""
    for entry in history.entries_of(mm, vpn):
        here = entry.begin < row < entry.end
        mine = history.owners.looks_after(mm, subscription.number, entry.asid)
        if here and mine and not history.owners.is_idle(entry.asid, row):
            return entry
    return None


def check_unregistration(history: History) -> Findings:
    """I15: yield callbacks to who has been unregistered, and ends of a registration without a finished release."""
    for subscription in history.subscriptions:
        yield from _called_late(history, subscription)
        yield from _unreleased(history, subscription)
        yield from _deaf(history, subscription)
    yield from _freed_objects(history)
    rows = history.rows
    for row, mm in rows.take(rows.of(Row.TEARDOWN), "mm"):
        for callback in history.callbacks:
            running = callback.mm == mm and callback.begin < row < callback.end
            if running and callback.kind is Notification.RELEASE:
                what = f"mm {mm} is torn down while the release of subscriber {callback.subscriber} still runs"
                yield at_row(history, "I15", row, what, callback, path=UNREGISTER)


def _called_late(history: History, subscription: Subscription) -> Findings:
    for callback in history.callbacks:
        mine = (callback.mm, callback.subscriber) == (subscription.mm, subscription.number)
        if mine and callback.end > subscription.returned:
            when = "began" if callback.begin > subscription.returned else "still ran"
            what = (
                f"{callback.kind.name.lower()} of subscriber {subscription.number} of mm {subscription.mm} {when} "
                "after its unregistration had returned"
            )
            row = max(callback.begin, subscription.returned)
            path = UNREGISTER if callback.kind is Notification.RELEASE else None
            yield at_row(history, "I15", row, what, subscription, path=path)


def _freed_objects(history: History) -> Findings:
    """Yield reads of a driver's object that it has freed."""
    rows, freed = history.rows, dict[int, int]()
    for row, tag, number in rows.take(rows.of(Row.OBJECT), "tag", "a"):
        if tag:
            freed[number] = row
        elif number in freed:
            what = f"the driver's object {number:#x} was read, and had been freed in cycle {rows.cycle_of(freed[number])}"
            yield at_row(history, "I15", row, what)


def _released(history: History, subscription: Subscription) -> int:
    """Row at which the subscriber's release returned."""
    return min((release.end for release in releases(history, subscription)), default=NEVER)


def _unreleased(history: History, subscription: Subscription) -> Findings:
    """Yield an unregistration before which no release has begun; one that still runs is a late call."""
    if subscription.returned == NEVER or not subscription.has(Notification.RELEASE):
        return
    if all(release.begin > subscription.returned for release in releases(history, subscription)):
        what = f"subscriber {subscription.number} of mm {subscription.mm} was unregistered without a release"
        yield at_row(history, "I15", subscription.returned, what, subscription)


def _deaf(history: History, subscription: Subscription) -> Findings:
    """Yield what was taken from a device between its subscriber's leaving the chain and the end of its release (B3).

    One that is told of nothing anyway has missed nothing.
    """
    released = _released(history, subscription)
    if subscription.kind == "P" or released < subscription.removed:
        return
    for change in history.changes:
        if change.mm != subscription.mm or not subscription.removed < change.row < released:
            continue
        entry = _mapped(history, subscription, change.mm, change.vpn, change.row)
        if change.loses and entry is not None:
            what = (
                f"subscriber {subscription.number} of mm {change.mm}, off the chain and not released, is not told that "
                f"{history.rows.path_of(change.row)} takes page {change.vpn:#x} away, which its device maps"
            )
            path = off_the_chain(history, subscription, change.row)
            yield at_row(history, "I15", change.row, what, subscription, path=path)


def count_registrations(history: History) -> int:
    """Count subscribers that came."""
    return len(history.subscriptions)


def count_unregistrations(history: History) -> int:
    """Count subscribers that left."""
    return sum(
        subscription.removed != NEVER or subscription.returned != NEVER
        for subscription in history.subscriptions
    )
