"""When the notifier is called: a policy maps the points of an mm path to callbacks. The paths never know which.

Kernel terms: an in-lock call sits between ``ptep_clear_flush`` and ``set_pte_at``, under the page-table lock; a late
call sits behind ``pte_unmap_unlock``. #v9 is the mmu-notifier patch of early March 2008 on 2.6.25-rc4; the seed is
Arcangeli's "move all invalidate_page outside of PT lock" (7 March 2008) on top of it.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from hostmm.timeline import Notification

__all__ = ["PATHS", "POLICIES", "SEED", "SEED_PATHS", "V9", "Point", "Policy"]


class Point(enum.Enum):
    """Places in an mm path where a policy may notify.

    ``START``     before the page-table lock is taken (the bracket opens)
    ``YOUNG``     under the lock, behind the test of the CPU's young bit
    ``CLEARED``   under the lock, the PTE is clear and the CPUs' TLBs are flushed, the new PTE is not set
    ``UNLOCKED``  the lock has just been dropped; the caller's references are still there
    ``END``       the path is done (the bracket closes)
    """

    START = enum.auto()
    YOUNG = enum.auto()
    CLEARED = enum.auto()
    UNLOCKED = enum.auto()
    END = enum.auto()


_INVP = Notification.INVALIDATE_PAGE
_CFY = Notification.CLEAR_FLUSH_YOUNG
_RS = Notification.RANGE_START
_RE = Notification.RANGE_END

_BRACKET = {Point.START: _RS, Point.END: _RE}

SEED_PATHS = (
    "__xip_unmap",
    "do_wp_page",
    "page_referenced_one",
    "page_mkclean_one",
    "try_to_unmap_one",
    "try_to_unmap_cluster",
)
"""The six paths that the seed patch touches."""

_RANGE_PATHS = ("unmap_region", "zap_page_range", "mprotect", "mremap", "fork")
PATHS = (*SEED_PATHS, *_RANGE_PATHS)
"""Every path that notifies. ``unmap_region`` is munmap, ``zap_page_range`` madvise and truncate."""


@dataclass(frozen=True)
class Policy:
    """When each path notifies.

    Parameters
    ----------
    name : str
        As on the command line.
    points : mapping
        Path name to its calls, by point.
    rechecks_young : bool
        ``try_to_unmap_one`` tests young (CPU and, at ``YOUNG``, device) once more before it unmaps.
    notifies_without_page : bool
        ``do_wp_page`` notifies a COW whose old PTE has no ``struct page`` (``old_page`` NULL) too.
    cow_puts_unlocked : bool
        ``do_wp_page`` drops its references behind the unlock, not before it.
    rmap_sleeps : bool
        The locks of the reverse maps are mutexes (from 3.0 on), not spinlocks.
    """

    name: str
    points: Mapping[str, Mapping[Point, Notification]]
    rechecks_young: bool
    notifies_without_page: bool
    cow_puts_unlocked: bool
    rmap_sleeps: bool = False

    def call(self, path: str, point: Point) -> Notification | None:
        """Return the callback of ``path`` at ``point``, None where there is none."""
        return self.points.get(path, {}).get(point)


_UNTOUCHED = dict.fromkeys(_RANGE_PATHS, _BRACKET)

V9 = Policy(
    name="v9",
    points=_UNTOUCHED
    | {
        "__xip_unmap": {Point.CLEARED: _INVP},
        "do_wp_page": {Point.CLEARED: _INVP},
        "page_referenced_one": {Point.YOUNG: _CFY},
        "page_mkclean_one": {Point.CLEARED: _INVP},
        "try_to_unmap_one": {Point.YOUNG: _CFY, Point.CLEARED: _INVP},
        "try_to_unmap_cluster": {Point.YOUNG: _CFY, Point.CLEARED: _INVP},
    },
    rechecks_young=True,
    notifies_without_page=True,
    cow_puts_unlocked=False,
)
"""#v9: ``ptep_clear_flush_notify`` and ``ptep_clear_flush_young_notify``, fused under the lock."""

SEED = Policy(
    name="seed",
    points=_UNTOUCHED
    | {
        "__xip_unmap": {Point.UNLOCKED: _INVP},
        "do_wp_page": {Point.UNLOCKED: _INVP},
        "page_referenced_one": {Point.UNLOCKED: _CFY},
        "page_mkclean_one": {Point.UNLOCKED: _INVP},
        "try_to_unmap_one": {Point.UNLOCKED: _INVP},
        "try_to_unmap_cluster": _BRACKET,
    },
    rechecks_young=False,
    notifies_without_page=False,
    cow_puts_unlocked=True,
)
"""The seed patch: everything behind the unlock, the cluster in a bracket, the young re-check gone."""

POLICIES = {policy.name: policy for policy in (V9, SEED)}
"""Policies by name."""
