"""What each policy is known to break: the table of docs/contract.md 7, cell by cell, each with its reason.

A cell is a policy, an invariant, the mm paths on which it breaks, and the kinds of device that can show it:

``B``  honours range start and end (``sva``, ``gru``, ``kvm``, ``odp``)
``A``  follows the CPUs' TLB flushes, so that it hears of ``invalidate_page`` and ``invalidate_range`` only (``sva`` in
       its second form, ATS)
``P``  hears of nothing but the end, and pins what it uses (``pinned``)

Everything that is not here is unexpected. What a path does not tell an A-type device is read off the policies.
"""

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from hostmm.machine.timeline import Notification
from hostmm.policies import POLICIES, Policy

__all__ = [
    "EXPECTED",
    "NOT_APPLICABLE",
    "NO_PATH",
    "RELEASE",
    "REVOKE",
    "UNREGISTER",
    "Cell",
    "Mark",
    "cells",
    "expectation",
    "expected",
    "reason",
]

NO_PATH = "-"
"""The path of a violation that no path is to blame for."""
REVOKE = "revoke"
"""What stands there where a driver takes raw frames back."""
RELEASE, UNREGISTER = "mmu_notifier_release", "mmu_notifier_unregister"
"""What stands in the path's place where the end of an address space, or a driver that leaves, keeps a device untold."""


class Mark(enum.Enum):
    """What the table says of a policy and an invariant."""

    HOLDS = "Y"
    VIOLATED = "N"
    NOT_APPLICABLE = "n/a"


@dataclass(frozen=True)
class Cell:
    """Violations that a policy is known to allow.

    Attributes
    ----------
    paths : tuple of str
        Where; empty: anywhere.
    why : str
    kinds : str
        Kinds of device that can show it.
    lasting : bool
        It goes on when every callback has returned: nobody is told at all.
    """

    policy: str
    invariant: str
    paths: tuple[str, ...]
    why: str
    kinds: str = "AB"
    lasting: bool = False

    def allows(self, path: str, kinds: Collection[str], *, lasting: bool) -> bool:
        """Whether it explains a violation on ``path`` with devices of ``kinds``."""
        somewhere = not self.paths or path in self.paths
        return somewhere and any(kind in self.kinds for kind in kinds) and self.lasting >= lasting


_RECLAIM = ("try_to_unmap_one", "try_to_unmap_cluster")
_OF_2008 = ("v9", "seed", "emm")
_TOLD = (Notification.INVALIDATE_PAGE, Notification.INVALIDATE_RANGE)
_PINS = "a device that pins its pages is told of nothing: it keeps the page, and the access, that the mapping lost"
_PINNED_BREAKS = ("I4", "I5", "I6", "I7", "I9", "I10", "I26")
_UNTOLD_BREAKS = ("I1", "I4", "I5", "I6", "I7", "I8", "I10", "I26")


def _cells(
    policies: Iterable[str],
    invariants: Iterable[str],
    paths: tuple[str, ...],
    why: str,
    *,
    kinds: str = "AB",
    lasting: bool = False,
) -> tuple[Cell, ...]:
    return tuple(Cell(p, i, paths, why, kinds, lasting) for p in policies for i in invariants)


def _untold(policy: Policy) -> tuple[Cell, ...]:
    """Cells of an A-type device on paths that bracket and do nothing else."""
    if policy.flush_invalidates or policy.end_invalidates:
        return ()
    paths = tuple(
        path
        for path, calls in policy.points.items()
        if Notification.RANGE_START in calls.values() and not set(_TOLD) & set(calls.values())
    )
    why = "the path brackets and does nothing else, which a device that follows the CPUs' flushes does not hear"
    return tuple(
        Cell(policy.name, invariant, (*paths, NO_PATH), why, kinds="A", lasting=True)
        for invariant in _UNTOLD_BREAKS
    )


EXPECTED = (
    *_cells(
        ("v9",),
        ("I6",),
        ("do_wp_page",),
        "short: 2.6.25-rc4 drops the mapcount a few instructions before it clears and notifies, all under the lock",
    ),
    *_cells(
        ("seed",),
        ("I4", "I5"),
        ("do_wp_page",),
        "the new PTE is set before the notification (S2), which a COW without struct page never gets (S1)",
    ),
    *_cells(
        ("seed", "v3.7"),
        ("I4", "I5"),
        ("__xip_unmap",),
        "the address can be faulted in again between the unlock and the notification (S17)",
    ),
    *_cells(
        ("seed",),
        ("I6",),
        ("do_wp_page",),
        "unbounded: the mapcount is dropped under the lock, the notification comes behind it (S3)",
    ),
    *_cells(
        ("seed",),
        ("I9",),
        ("try_to_unmap_one",),
        "the last look at young before the unmap is gone, for CPU and device (S4)",
    ),
    *_cells(
        ("seed",),
        ("I9",),
        ("try_to_unmap_cluster",),
        "the device is not asked any more, and range start has thrown its entry away (S5)",
    ),
    *_cells(
        ("emm",),
        ("I9",),
        ("page_referenced_one", *_RECLAIM),
        "range start comes before the look at young, and a page that a CPU used is not asked about",
    ),
    *_cells(
        ("v3.7",),
        ("I9",),
        ("try_to_unmap_cluster",),
        "the device is asked, but range start has thrown its entry away before that (S5)",
    ),
    *_cells(
        ("v4.13",),
        ("I9",),
        ("try_to_unmap_one",),
        "range start drops the device's accessed bit before the look at young (until 013339df116c)",
    ),
    *_cells(
        ("v6.6",),
        ("I9",),
        ("try_to_unmap_one",),
        "by design: reclaim has looked before and does not look again (013339df116c)",
    ),
    *_cells(
        ("v2.6.27", "v3.7", "v4.13"),
        ("I11",),
        (),
        "the flush of an upgrade is not forwarded before 6.6 (6bbd42e2df8f); a device that walks again at a fault does not care",
    ),
    *_cells(
        POLICIES,
        ("I17",),
        ("pmd_free_pte_page",),
        "nobody who walks the CPUs' tables is told when the kernel frees a table of its own (B36; until 2025)",
        lasting=True,
    ),
    *_cells(
        ("v4.13", "v6.6"),
        ("I4", "I5"),
        ("zap_page_range", "unmap_mapping_range"),
        "a fault can put another page there between the unlock and the flush, as a CPU's TLB may have it, too",
        kinds="A",
    ),
    *_cells(
        ("v2.6.27", "v3.7", "v4.13"),
        ("I22",),
        (NO_PATH,),
        "an access that an upgrade has permitted faults until the device gives up, as the flush is not forwarded (I11)",
        kinds="A",
    ),
    *_cells(
        _OF_2008,
        ("I12",),
        (),
        "every call is made under a spinlock or rcu_read_lock, the seed's too but for one (S6): no subscriber may sleep",
        kinds="ABP",
    ),
    *_cells(
        ("v2.6.27",),
        ("I12",),
        (),
        "the chain is walked under rcu_read_lock and the pages under spinlocks: no subscriber may sleep",
        kinds="ABP",
    ),
    *_cells(
        _OF_2008,
        ("I13", "I22"),
        ("fork",),
        "fork returns on -ENOMEM without range end, so that the device's faults wait for ever (B7)",
    ),
    *_cells(
        _OF_2008,
        ("I14",),
        (),
        "without mm_take_all_locks a subscriber can be registered between range start and range end",
        kinds="ABP",
    ),
    *_cells(
        (*_OF_2008, "v2.6.27"),
        ("I1", "I10", "I15"),
        (RELEASE,),
        "release is called when the subscriber has left the chain, so that it misses what happens meanwhile (B3)",
        lasting=True,
    ),
    *_cells(
        ("v9", "seed"),
        ("I1", "I10", "I15", "I16", "I17"),
        (UNREGISTER,),
        "neither the end of an address space nor unregistration waits for a release that the other has begun (2.6.27)",
        kinds="ABP",
        lasting=True,
    ),
    *_cells(
        (*_OF_2008, "v2.6.27", "v3.7", "v4.13"),
        ("I1",),
        (REVOKE,),
        "munmap of raw frames flushes when it has unlocked: their driver finds no PTE, and frees them before (B27)",
        kinds="A",
    ),
    *_cells(
        ("emm",),
        ("I20",),
        (),
        "the chain stops at the first subscriber that returns non-zero (B6)",
    ),
    *_cells(
        ("v3.7",),
        ("I26",),
        ("mremap",),
        "the CPUs' TLBs are flushed when the destination's lock is long dropped (until eb66ae030829)",
    ),
    *_cells(
        ("v4.13",),
        ("I26",),
        ("mremap",),
        "invalidate_range is called at range end only, behind the destination's lock",
        kinds="A",
    ),
    *_cells(
        (*_OF_2008, "v2.6.27"),
        ("I4", "I5", "I6"),
        ("hugetlb_cow",),
        "nobody is told that a huge page of hugetlbfs is copied (S16; until 3edd4fc9537d)",
        lasting=True,
    ),
    *_cells(
        (*_OF_2008, "v2.6.27", "v3.7"),
        ("I10",),
        ("copy_hugetlb_page_range",),
        "nobody is told that fork write-protects huge pages of hugetlbfs (until e8569dd299db, 3.15)",
        lasting=True,
    ),
    *(cell for policy in POLICIES.values() for cell in _untold(policy)),
    *(
        Cell(policy, invariant, (), _PINS, kinds="P", lasting=True)
        for policy in POLICIES
        for invariant in _PINNED_BREAKS
    ),
)
"""The whole table of what is violated."""

NOT_APPLICABLE = {(policy, "I11"): "no device of its time kept a refusal" for policy in _OF_2008}
"""(policy, invariant) that did not exist in a kernel, with the reason."""


def cells(policy: str, kinds: Collection[str]) -> tuple[Cell, ...]:
    """Return what devices of ``kinds`` can show of a policy."""
    return tuple(c for c in EXPECTED if c.policy == policy and any(k in c.kinds for k in kinds))


def _cell(
    policy: str, invariant: str, path: str, kinds: Collection[str], *, lasting: bool
) -> Cell | None:
    for cell in cells(policy, kinds):
        if cell.invariant == invariant and cell.allows(path, kinds, lasting=lasting):
            return cell
    return None


def expected(
    policy: str,
    invariant: str,
    path: str,
    kinds: Collection[str],
    *,
    lasting: bool = False,
) -> bool:
    """Whether ``policy`` is known to break ``invariant`` on ``path`` with devices of ``kinds``.

    ``lasting`` asks whether that goes on when the callbacks have returned.
    """
    return _cell(policy, invariant, path, kinds, lasting=lasting) is not None


def reason(policy: str, invariant: str, path: str, kinds: Collection[str]) -> str | None:
    """Why it does; None where it must not."""
    cell = _cell(policy, invariant, path, kinds, lasting=False)
    return cell.why if cell else None


def expectation(policy: str, invariant: str, path: str, kind: str) -> tuple[Mark, str]:
    """Return what the table says of one policy, invariant, path and kind of device, and why."""
    if not POLICIES[policy].has(path):
        return Mark.NOT_APPLICABLE, f"the kernel has no path {path}"
    if (policy, invariant) in NOT_APPLICABLE:
        return Mark.NOT_APPLICABLE, NOT_APPLICABLE[policy, invariant]
    why = reason(policy, invariant, path, kind)
    return (Mark.HOLDS, "") if why is None else (Mark.VIOLATED, why)
