"""I16: release has returned, with nothing left behind, before an address space is torn down."""

from hostmm.timeline import Notification, Row
from shootdown.checks.violation import Findings, at_row, by_nobody
from shootdown.history import History

__all__ = ["check_release"]


def check_release(history: History) -> Findings:
    """Yield tear-downs without release, and whatever of the mm lives on in the MMU after it."""
    rows = history.rows
    subscribed = {subscription.mm for subscription in history.subscriptions}
    released = {
        (callback.mm, callback.subscriber): callback.end
        for callback in history.callbacks
        if callback.kind is Notification.RELEASE
    }
    for row, mm in rows.take(rows.of(Row.TEARDOWN), "mm"):
        if mm not in subscribed:
            continue
        for subscription in history.subscriptions:
            number = subscription.number
            owes = subscription.mm == mm and subscription.has(Notification.RELEASE)
            if owes and subscription.begin < row and released.get((mm, number), row) >= row:
                what = f"mm {mm} is torn down before the release of its subscriber {number} has returned"
                yield at_row(history, "I16", row, what, subscription)
        for entry in history.entries:
            idle = history.owners.is_idle(entry.asid, row)
            if entry.mm == mm and entry.begin < row < entry.end and not idle:
                yield at_row(
                    history,
                    "I16",
                    row,
                    f"mm {mm} is torn down while TLB entry {entry.index} still holds its page "
                    f"{entry.first:#x}",
                    entry,
                )
            elif entry.mm == mm and entry.begin > row:
                what = f"TLB entry {entry.index} was filled for mm {mm} after its release"
                yield by_nobody("I16", entry.begin_cycle, what, entry)
        for use in history.uses:
            if use.mm == mm and use.end > row:
                when = "was in flight" if use.begin < row else "began"
                what = f"the {use.name} {when} after the release of mm {mm}"
                cycle = max(use.begin_cycle, rows.cycle_of(row))
                yield by_nobody("I16", cycle, what, use)
