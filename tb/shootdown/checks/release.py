"""I16: release has returned, with nothing left behind, before an address space is torn down."""

from hostmm.machine.timeline import Notification, Row
from shootdown.checks.blame import off_the_chain, releases
from shootdown.checks.violation import NO_PATH, Finding, Findings, at_row
from shootdown.history import History

__all__ = ["check_release"]


def check_release(history: History) -> Findings:
    """Yield tear-downs without release, and whatever of the mm lives on in the MMU after it."""
    rows = history.rows
    subscribed = {subscription.mm for subscription in history.subscriptions}
    for row, mm in rows.take(rows.of(Row.TEARDOWN), "mm"):
        if mm in subscribed:
            yield from _unreleased(history, mm, row)
            yield from _entries(history, mm, row)
            yield from _uses(history, mm, row)


def _unreleased(history: History, mm: int, row: int) -> Findings:
    for subscription in history.subscriptions:
        owes = subscription.mm == mm and subscription.has(Notification.RELEASE)
        done = any(release.end < row for release in releases(history, subscription))
        if owes and subscription.begin < row and not done:
            what = f"mm {mm} is torn down before the release of its subscriber {subscription.number} has returned"
            path = off_the_chain(history, subscription, row)
            yield at_row(history, "I16", row, what, subscription, path=path)


def _entries(history: History, mm: int, row: int) -> Findings:
    for entry in history.entries:
        if entry.mm != mm:
            continue
        if entry.begin > row:
            what = f"TLB entry {entry.index} was filled for mm {mm} after its release"
            blamed = off_the_chain(history, entry, entry.begin) or NO_PATH
            yield Finding("I16", blamed, entry.begin_cycle, NO_PATH, what, entry)
        elif row < entry.end and not history.owners.is_idle(entry.asid, row):
            what = f"mm {mm} is torn down while TLB entry {entry.index} still holds its page {entry.first:#x}"
            path = off_the_chain(history, entry, row)
            yield at_row(history, "I16", row, what, entry, path=path)


def _uses(history: History, mm: int, row: int) -> Findings:
    for use in history.uses:
        if use.mm == mm and use.end > row:
            when = "was in flight" if use.begin < row else "began"
            what = f"the {use.name} {when} after the release of mm {mm}"
            cycle = max(use.begin_cycle, history.rows.cycle_of(row))
            path = off_the_chain(history, use, max(row, use.begin)) or NO_PATH
            yield Finding("I16", path, cycle, NO_PATH, what, use)
