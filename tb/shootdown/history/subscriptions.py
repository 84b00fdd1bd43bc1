"""Who was registered with which notifier chain, with methods for what, and when."""

from dataclasses import dataclass

from hostmm.machine.timeline import INTERVAL, Notification, Row
from shootdown.history.facts import NEVER
from shootdown.history.rows import Rows

__all__ = ["Subscription", "subscriptions"]


@dataclass(slots=True, eq=False)
class Subscription:
    """One subscriber of one mm.

    Attributes
    ----------
    number : int
        Its number with the mm, as callbacks carry it.
    kinds : int
        A bit for each kind of :class:`Notification` that it has a method for.
    begin, removed, returned : int
        Rows at which it was registered, left the chain, and at which its unregistration returned; NEVER where not.
    """

    mm: int
    number: int
    kinds: int
    begin: int
    removed: int = NEVER
    returned: int = NEVER

    def has(self, kind: Notification) -> bool:
        """Whether it has a method for this kind."""
        return bool(self.kinds >> kind & 1)

    @property
    def is_interval(self) -> bool:
        """Whether a start that it refuses has begun nothing, although it has a method for the end."""
        return bool(self.kinds & INTERVAL)

    @property
    def kind(self) -> str:
        """Its kind of device, as in :mod:`shootdown.checks.expectations`."""
        if self.has(Notification.RANGE_START):
            return "B"
        told = (Notification.INVALIDATE_PAGE, Notification.INVALIDATE_RANGE)
        return "A" if any(self.has(kind) for kind in told) else "P"

    def listens(self, row: int) -> bool:
        """Whether it is on the chain at a row."""
        return self.begin < row < self.removed


def subscriptions(rows: Rows) -> list[Subscription]:
    """Return them in order of registration."""
    found: dict[tuple[int, int], Subscription] = {}
    index = rows.of(Row.SUBSCRIBE, Row.UNREGISTERED)
    for row, kind, mm, tag, kinds, number in rows.take(index, "kind", "mm", "tag", "a", "b"):
        if kind == Row.UNREGISTERED:
            found[mm, number].returned = row
        elif tag:
            found[mm, number] = Subscription(mm, number, kinds, row)
        else:
            found[mm, number].removed = row
    return list(found.values())
