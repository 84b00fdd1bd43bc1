"""The faults by number: what each changes in the policy, the notifier chain or the subscriber."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hostmm.bugs import chains, drivers
from hostmm.machine.timeline import Notification
from hostmm.notifier import NotifierChain
from hostmm.policies import SEED, Move, Point, Policy
from hostmm.subscribers.base import DeviceSubscriber
from hostmm.subscribers.mutants import SUBSCRIBER_MUTANTS

__all__ = ["BUGS", "Bug", "change"]

_BRACKET = {Point.START: Notification.RANGE_START, Point.END: Notification.RANGE_END}


def _same(policy: Policy) -> Policy:
    return policy


@dataclass(frozen=True)
class Bug:
    """One fault; what it does not name stays as it is."""

    policy: Callable[[Policy], Policy] = _same
    chain: type[NotifierChain] = NotifierChain
    subscriber: type[DeviceSubscriber] | None = None


def _points(path: str, calls: dict[Point, Notification]) -> Callable[[Policy], Policy]:
    """Have a path notify in another way; without ``calls``, not at all."""
    return lambda policy: replace(policy, points={**policy.points, path: calls})


def _with(**fields: Any) -> Callable[[Policy], Policy]:
    return lambda policy: replace(policy, **fields)


def _without(call: Notification) -> Callable[[Policy], Policy]:
    """Never make a kind of call."""

    def change(policy: Policy) -> Policy:
        points = {
            path: {point: kind for point, kind in calls.items() if kind is not call}
            for path, calls in policy.points.items()
        }
        return replace(policy, points=points)

    return change


def _becomes(other: Policy) -> Callable[[Policy], Policy]:
    return lambda _policy: other


def _driver(kind: type[DeviceSubscriber]) -> Bug:
    return Bug(subscriber=kind)


BUGS: dict[str, Bug] = {
    "B1": Bug(_with(cow_unmaps_first=True)),
    "B2": Bug(_points("do_wp_page", {Point.UNLOCKING: Notification.INVALIDATE_PAGE})),
    "B3": Bug(_with(unhashes_before_release=True)),
    "B4": Bug(chain=chains.LeavesRelease),
    "B5": Bug(chain=chains.NeverSynchronizes),
    "B6": Bug(_with(stops_at_first=True)),
    "B7": Bug(_with(fork_unpaired=True)),
    "B8": Bug(_points("hugetlb_cow", {})),
    "B9": Bug(_points("clear_refs_write", {})),
    "B10": Bug(_points("migrate_misplaced_transhuge_page", {}), subscriber=drivers.KvmTakesHinted),
    "B10-fixed": _driver(drivers.KvmTakesHinted),
    "B11": Bug(_points("collapse_huge_page", {})),
    "B12": Bug(_points("try_to_unmap_one", {Point.UNLOCKED: Notification.INVALIDATE_RANGE})),
    "B13": Bug(_points("try_to_unmap_one", {Point.CLEARED: Notification.INVALIDATE_PAGE})),
    "B14": _driver(drivers.KvmRefreshesAtStart),
    "B15": Bug(chain=chains.ForgetsEnd),
    "B16": _driver(SUBSCRIBER_MUTANTS["kvm-late-snapshot"]),
    "B17": _driver(drivers.KvmKeepsPfn),
    "B18": _driver(SUBSCRIBER_MUTANTS["kvm-no-sequence"]),
    "B19": _driver(SUBSCRIBER_MUTANTS["kvm-no-flush"]),
    "B20": _driver(SUBSCRIBER_MUTANTS["kvm-no-release"]),
    "B21": Bug(_with(move=Move.LATE)),
    "B22": Bug(_with(moves_under_rmap=False)),
    "B23": Bug(_with(collects_flushed=False)),
    "B24": Bug(_with(unmap_forgets_dirty=True)),
    "B25": Bug(_with(flushes_dirty_locked=False)),
    "B26": Bug(_with(zeroes_huge_free=True)),
    "B27": Bug(_with(flushes_pfnmap_locked=False)),
    "B28": Bug(_with(flush_invalidates=False, end_invalidates=True)),
    "B29": _driver(drivers.OverflowsAtTheEnd),
    "B30": _driver(drivers.FlushesEmptyRange),
    "B31": _driver(drivers.FlushesPageByPage),
    "B32": _driver(drivers.AsksTheUnplugged),
    "B32-fixed": _driver(drivers.Unpluggable),
    "B33": _driver(drivers.AbortsOddSlots),
    "B34": _driver(drivers.FlushesUntagged),
    "B35": _driver(drivers.ResetsUnfenced),
    "B35-fixed": _driver(drivers.ResetsFenced),
    "B36": Bug(),
    "B36-fixed": Bug(_with(kernel_flush_invalidates=True)),
    "B38": _driver(SUBSCRIBER_MUTANTS["pinned-frees-first"]),
    "B39": _driver(drivers.TakesTimeOutForDone),
    "B40": _driver(drivers.StopsWaiting),
    "B41": _driver(drivers.GruCountsTenBits),
    "B42": _driver(drivers.GruReadsFreedState),
    "B43": Bug(
        _points("try_to_unmap_one", {Point.YOUNG: Notification.CLEAR_FLUSH_YOUNG, **_BRACKET})
    ),
    "B44": _driver(SUBSCRIBER_MUTANTS["odp-blocks"]),
    "B45": Bug(_becomes(SEED)),
    "untold": Bug(
        lambda policy: replace(
            policy,
            points={path: {} for path in policy.points},
            end_invalidates=False,
            flush_invalidates=False,
        )
    ),
    "unasked": Bug(_without(Notification.CLEAR_FLUSH_YOUNG)),
    "S12": _driver(drivers.KvmLeaks),
    "S11": Bug(_points("page_referenced_one", {})),
    "gru-release-flag": _driver(SUBSCRIBER_MUTANTS["gru-release-flag"]),
    "S13": _driver(drivers.ForgetsYoung),
    "S15": _driver(drivers.WindowUnmasked),
    "S7": _driver(drivers.KvmActsAtEnd),
    "late": Bug(chain=chains.PutsOff),
}
"""The faults of the host by their number in the catalogue; those that follow B45 are
the trial's and the matrix' (docs/trial.md). ``B10-fixed`` has what B10 needs of the driver; ``B32-fixed``, ``B35-fixed`` and
``B36-fixed`` are what repairs those; B36 is in every kernel here."""


def change(
    name: str, policy: Policy, subscriber: type[DeviceSubscriber]
) -> tuple[Policy, type[NotifierChain], type[DeviceSubscriber]]:
    """Return policy, notifier chain and subscriber of a run with a fault; the policy keeps its name."""
    bug = BUGS[name]
    return bug.policy(policy), bug.chain, bug.subscriber or subscriber
