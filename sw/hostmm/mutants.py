"""Host-side faults, switched on by name, to show that the checks find them: each a variant object of its own."""

from dataclasses import replace

from hostmm.errors import HostError
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import Notification
from hostmm.policies import Point, Policy
from hostmm.subscribers.sva import Sva

__all__ = [
    "HOST_MUTANTS",
    "FreesOnInvalidated",
    "IgnoresRangeStart",
    "NeverWaits",
    "apply",
    "frees_before_drained",
]

HOST_MUTANTS = (
    "host-free-before-drained",
    "host-free-on-invalidated",
    "host-no-wait",
    "host-ignore-range-start",
)
"""Names of the mutants.

``host-free-before-drained``  a policy: unmapping a range tells the device page by page, when the pages have been freed
``host-free-on-invalidated``  a subscriber that returns at *invalidated*: uses in flight outlive the callback
``host-no-wait``              a subscriber that posts its commands and returns
``host-ignore-range-start``   a subscriber without range start, which invalidates at range end
"""


def frees_before_drained(policy: Policy) -> Policy:
    """Return ``policy`` with unmapped ranges notified behind the free instead of bracketed."""
    late = {Point.END: Notification.INVALIDATE_PAGE}
    return replace(policy, points={**policy.points, "unmap_region": late, "zap_page_range": late})


class FreesOnInvalidated(Sva):
    """Takes *invalidated* for the end of all use, as if nothing were ever in flight."""

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        command = yield from self._driver.post_invalidate(
            self._asid, first, last, hold=hold, callback=callback
        )
        yield from self._driver.commands.wait_invalidated(command)


class NeverWaits(Sva):
    """Posts its commands like any other register write."""

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        yield from self._driver.post_invalidate(
            self._asid, first, last, hold=hold, callback=callback
        )


class IgnoresRangeStart(Sva):
    """Acts when a range has changed, which is too late for pages that were freed on the way (litmus L6)."""

    def invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Do nothing."""
        yield from ()

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """Invalidate the range and wait for the last use."""
        yield from self._invalidate(first, last, hold=False, callback=callback)


_SUBSCRIBERS: dict[str, type[Sva]] = {
    "host-free-on-invalidated": FreesOnInvalidated,
    "host-no-wait": NeverWaits,
    "host-ignore-range-start": IgnoresRangeStart,
}


def apply(name: str, policy: Policy) -> tuple[Policy, type[Sva]]:
    """Return the policy and the subscriber class of a run with mutant ``name``.

    Raises
    ------
    HostError
        There is no such host mutant.
    """
    if name not in HOST_MUTANTS:
        raise HostError(f"no host mutant {name!r}; there are {', '.join(HOST_MUTANTS)}")
    if name == "host-free-before-drained":
        return frees_before_drained(policy), Sva
    return policy, _SUBSCRIBERS[name]
