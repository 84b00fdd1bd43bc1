"""The notifier chain of one address space: at a path's point, ask the policy, then call every subscriber."""

from typing import TYPE_CHECKING, Protocol

from hostmm.policies import Point
from hostmm.scheduler import Steps
from hostmm.timeline import Notification, Row

if TYPE_CHECKING:
    from hostmm.machine import Machine
    from hostmm.mm.space import MmStruct

__all__ = ["NotifierChain", "Subscriber"]


_COVERING = (Notification.INVALIDATE_PAGE, Notification.RANGE_END)
"""Callbacks after which no older translation of their pages is left."""


class Subscriber(Protocol):
    """What a driver registers (``struct mmu_notifier_ops``); all methods are steps of the calling thread.

    ``callback`` is the number of this delivery, which the rows of the commands it causes carry.
    """

    def invalidate_page(self, vpn: int, *, callback: int) -> Steps:
        """One page of the address space is (being) unmapped or downgraded."""
        ...

    def clear_flush_young(self, vpn: int, *, callback: int) -> Steps:
        """Return 1 if the device used the page since the last call, else 0; forget that it did."""
        ...

    def invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Pages ``first`` to ``last`` (inclusive) are about to change."""
        ...

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """They have changed."""
        ...

    def release(self, *, callback: int) -> Steps:
        """Stop using the address space, for good: it goes away."""
        ...


class NotifierChain:
    """Subscribers of one mm, in order of registration; every one gets every event (I20)."""

    def __init__(self, machine: "Machine", mm: "MmStruct") -> None:
        self._machine = machine
        self._mm = mm
        self._subscribers: list[Subscriber] = []

    def register(self, subscriber: Subscriber) -> None:
        """Add a subscriber (``mmu_notifier_register``)."""
        self._subscribers.append(subscriber)
        self._machine.sched.log(Row.SUBSCRIBE, mm=self._mm.number, tag=1)

    def at(self, path: str, point: Point, first: int, last: int | None = None) -> Steps:
        """Call whatever the policy wants at this point of ``path``; returns the callbacks' results OR-ed."""
        call = self._machine.policy.call(path, point)
        if call is None:
            return 0
        last = first if last is None else last
        if call is not Notification.INVALIDATE_PAGE:
            return (yield from self._deliver(call, first, last))
        for vpn in range(first, last + 1):
            yield from self.invalidate_page(vpn)
        return 0

    def invalidate_page(self, vpn: int) -> Steps:
        """Tell every subscriber that a page is unmapped, whatever the policy (``mmu_notifier_invalidate_page``)."""
        yield from self._deliver(Notification.INVALIDATE_PAGE, vpn, vpn)

    def release(self) -> Steps:
        """Tell every subscriber that the mm goes away (``mmu_notifier_release``)."""
        yield from self._deliver(Notification.RELEASE, 0, (1 << 26) - 1)

    def _deliver(self, call: Notification, first: int, last: int) -> Steps:
        rights = self._mm.tables.rights
        # What changes while the callback runs is another callback's to take back.
        lost = rights.lost(first, last) if call in _COVERING else []
        result = 0
        for subscriber in list(self._subscribers):
            number = self._machine.next_callback()
            row = {"mm": self._mm.number, "vpn": first, "tag": call}
            self._machine.sched.log(Row.NOTIFY_BEGIN, **row, a=last, b=number)
            yield "notifier_call"
            answer = (yield from self._call(subscriber, call, first, last, number)) or 0
            result |= answer
            self._machine.sched.log(Row.NOTIFY_END, **row, a=answer, b=number)
        rights.revoke(lost)
        return result

    def _call(
        self, subscriber: Subscriber, call: Notification, first: int, last: int, number: int
    ) -> Steps:
        match call:
            case Notification.INVALIDATE_PAGE:
                return subscriber.invalidate_page(first, callback=number)
            case Notification.CLEAR_FLUSH_YOUNG:
                return subscriber.clear_flush_young(first, callback=number)
            case Notification.RANGE_START:
                return subscriber.invalidate_range_start(first, last, callback=number)
            case Notification.RANGE_END:
                return subscriber.invalidate_range_end(first, last, callback=number)
            case Notification.RELEASE:
                return subscriber.release(callback=number)
