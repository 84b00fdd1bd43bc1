"""When the notifier is called: a policy maps the points of an mm path to callbacks. The paths never know which.

Kernel terms: an in-lock call sits between ``ptep_clear_flush`` and ``set_pte_at``, under the page-table lock; a late
call sits behind ``pte_unmap_unlock``; a bracket is range start before the lock and range end behind it. #v9 is the
mmu-notifier patch of early March 2008 on 2.6.25-rc4; the seed is Arcangeli's "move all invalidate_page outside of PT
lock" (7 March 2008) on top of it; EMM is Lameter's rival (3 March 2008); the others are kernels as released.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hostmm.errors import HostError
from hostmm.machine.timeline import Notification

__all__ = [
    "EMM",
    "PATHS",
    "POLICIES",
    "QUIET_PATHS",
    "SEED",
    "SEED_PATHS",
    "V2_6_27",
    "V3_7",
    "V4_13",
    "V6_6",
    "V9",
    "Chain",
    "Move",
    "Point",
    "Policy",
]


class Point(enum.Enum):
    """Places in an mm path where a policy may notify.

    ``START``      before the page-table lock is taken (the bracket opens)
    ``YOUNG``      under the lock, behind the test of the CPU's young bit
    ``CLEARED``    under the lock, the PTE is clear and the CPUs' TLBs are flushed, the new PTE is not set
    ``REPLACING``  under the lock, just before the PTE of another page is set (``set_pte_at_notify``)
    ``UNLOCKING``  under the lock, everything else is done
    ``UNLOCKED``   the lock has just been dropped; the caller's references are still there
    ``FLUSHED``    the CPUs' TLBs have been flushed for a whole range
    ``END``        the path is done (the bracket closes)
    """

    START = enum.auto()
    YOUNG = enum.auto()
    CLEARED = enum.auto()
    REPLACING = enum.auto()
    UNLOCKING = enum.auto()
    UNLOCKED = enum.auto()
    FLUSHED = enum.auto()
    END = enum.auto()


class Chain(enum.Enum):
    """How the notifier chain is walked.

    ``RCU``   under rcu_read_lock: no callback may sleep
    ``SRCU``  under srcu_read_lock: a callback may sleep where nothing else forbids it
    ``LIST``  under nothing, as nobody can leave it (EMM)
    """

    RCU = enum.auto()
    SRCU = enum.auto()
    LIST = enum.auto()


class Move(enum.Enum):
    """How mremap moves PTEs.

    ``EXTENT``  a bracket for each extent, a flush for each PTE (until 3.1)
    ``LATE``    one bracket for all, one flush at its end, when the locks are long dropped (until 4.19)
    ``LOCKED``  one bracket for all, a flush for each extent before its locks are dropped (eb66ae030829)
    """

    EXTENT = enum.auto()
    LATE = enum.auto()
    LOCKED = enum.auto()


_INVP = Notification.INVALIDATE_PAGE
_CFY = Notification.CLEAR_FLUSH_YOUNG
_RS = Notification.RANGE_START
_RE = Notification.RANGE_END
_IVR = Notification.INVALIDATE_RANGE
_CHG = Notification.CHANGE_PTE

_Calls = dict[Point, Notification]
_BRACKET: _Calls = {Point.START: _RS, Point.END: _RE}
_IN_LOCK: _Calls = {Point.CLEARED: _INVP}
_LATE: _Calls = {Point.UNLOCKED: _INVP}
_ASKS: _Calls = {Point.YOUNG: _CFY}

SEED_PATHS = (
    "__xip_unmap",
    "do_wp_page",
    "page_referenced_one",
    "page_mkclean_one",
    "try_to_unmap_one",
    "try_to_unmap_cluster",
)
"""The six paths that the seed patch touches."""

_RANGE_PATHS = (
    "unmap_region",
    "zap_page_range",
    "unmap_mapping_range",
    "mprotect",
    "mremap",
    "fork",
)
_KSM_PATHS = ("write_protect_page", "replace_page")
PATHS = (
    *SEED_PATHS,
    "try_to_migrate_one",
    "migrate_vma",
    "migrate_vma_collect",
    "try_to_unmap_flush",
    "migrate_misplaced_transhuge_page",
    *_RANGE_PATHS,
    "madvise_free_single_vma",
    *_KSM_PATHS,
    "clear_refs_write",
    "split_huge_page",
    "__split_huge_pmd",
    "collapse_huge_page",
    "hugetlb_cow",
    "copy_hugetlb_page_range",
)
"""Every path that only some kernels have, or that some policy notifies of.

``unmap_region`` is munmap, ``zap_page_range`` madvise.
"""

QUIET_PATHS = (
    "dup_mmap",
    "exit_mmap",
    "get_user_pages",
    "pmd_free_pte_page",
    "remove_migration_pte",
    "unmap_and_move",
)
"""Paths of every kernel that notify of nothing by themselves."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When each path notifies, and what else moved with that.

    Parameters
    ----------
    name : str
        As on the command line.
    points : mapping
        Path name to its calls, by point; a path that the kernel did not have is not in it.
    chain : Chain
    stops_at_first : bool
        A subscriber that returns non-zero keeps an event from those behind it (EMM).
    takes_all_locks : bool
        A subscriber is registered under mmap_sem and every rmap lock of the address space (``mm_take_all_locks``),
        so that it sees both ends of a bracket or neither (I14).
    unhashes_before_release : bool
        The end of an address space takes each subscriber off the chain before it calls its release, so that what
        happens meanwhile is not notified (until 3.5; 3ad3d901bbcf).
    waits_for_release : bool
        Release is called by a reader of the chain, and both the end of an address space and unregistration wait for
        whoever reads it (2.6.27; before that they must not meet, which is left to the drivers).
    arch_exit_first : bool
        ``exit_mmap`` calls ``arch_exit_mmap`` before the subscribers' release, not behind it (2.6.27 alone).
    rmap_sleeps : bool
        The locks of the reverse maps are mutexes (from 3.0 on), not spinlocks.
    end_invalidates : bool
        Range end calls ``invalidate_range`` first (3.19 to 6.5).
    flush_invalidates : bool
        Every flush of the CPUs' TLBs calls ``invalidate_range`` (6.6; 6bbd42e2df8f).
    kernel_flush_invalidates : bool
        When kernel page tables are freed, whoever walks the CPUs' tables is told (no kernel here; 2025).
    rechecks_young : bool
        ``try_to_unmap_one`` tests young (CPU and, at ``YOUNG``, device) once more before it unmaps.
    asks_old_only : bool
        ``page_referenced_one`` asks the device only about a page that the CPUs did not use (EMM).
    notifies_without_page : bool
        ``do_wp_page`` notifies a COW whose old PTE has no ``struct page`` (``old_page`` NULL) too.
    cow_unmaps_first : bool
        ``do_wp_page`` drops the old page's mapcount before it clears the PTE (until 945754a1754f, 2.6.26).
    cow_maps_first : bool
        ``do_wp_page`` adds the new page to its reverse map before it sets the PTE.
    cow_puts_locked : int
        How many of its references ``do_wp_page`` drops before the unlock: 2, 1 or 0.
    frees_inside : bool
        Ranges are unmapped, flushed and freed inside the bracket, which the caller of ``unmap_vmas`` opens; else
        range end comes before the last flush and the last frees.
    flushes_dirty_locked : bool
        Unmapping a range flushes before it unlocks where it met a dirty page of a shared file (1cf35d47712d, 3.15).
    flushes_pfnmap_locked : bool
        It flushes before it unlocks where it unmaps frames without ``struct page`` (b67fbebd4cf9, 5.19).
    gather_pages : int or None
        Pages that unmapping a range queues before it flushes and frees; None: all.
    protect_is_lazy : bool
        ``mprotect`` opens its bracket at the first table it finds, and closes it before the flush (3.15; a5338093bfb4).
    move : Move
    moves_tables : bool
        mremap moves whole page tables where it can (2c91bd4a4e2e, 5.0).
    moves_under_rmap : bool
        It holds the rmap locks while it does (97113eb39fa7, 5.14).
    collects_flushed : bool
        ``migrate_vma_collect`` flushes before it drops the page-table lock (60bae7370896, 6.1).
    zeroes_huge_free : bool
        MADV_FREE of a 2 MiB leaf leaves nothing there for a moment, under the lock (until 58ceeb6bec86, 4.12).
    unmap_forgets_dirty : bool
        ``try_to_unmap_one`` drops the dirty bit with the PTE; no kernel did, but migrate_vma once (fd35ca3d12cc).
    fork_unpaired : bool
        fork returns on -ENOMEM without range end.
    fork_copies_pinned : bool
        fork copies pages that are pinned for DMA (70e806e4e645, 5.9).
    """

    name: str
    points: Mapping[str, _Calls]
    chain: Chain = Chain.RCU
    stops_at_first: bool = False
    takes_all_locks: bool = False
    unhashes_before_release: bool = False
    waits_for_release: bool = True
    arch_exit_first: bool = False
    rmap_sleeps: bool = False
    end_invalidates: bool = False
    flush_invalidates: bool = False
    kernel_flush_invalidates: bool = False
    rechecks_young: bool = True
    asks_old_only: bool = False
    notifies_without_page: bool = True
    cow_unmaps_first: bool = False
    cow_maps_first: bool = False
    cow_puts_locked: int = 2
    frees_inside: bool = False
    flushes_dirty_locked: bool = False
    flushes_pfnmap_locked: bool = False
    gather_pages: int | None = None
    protect_is_lazy: bool = False
    move: Move = Move.EXTENT
    moves_tables: bool = False
    moves_under_rmap: bool = True
    collects_flushed: bool = True
    zeroes_huge_free: bool = False
    unmap_forgets_dirty: bool = False
    fork_unpaired: bool = False
    fork_copies_pinned: bool = False

    def call(self, path: str, point: Point) -> Notification | None:
        """Return the callback of ``path`` at ``point``, None where there is none."""
        return self.points.get(path, {}).get(point)

    def has(self, path: str) -> bool:
        """Whether the policy's kernel had the path."""
        return path in self.points or path in QUIET_PATHS

    @property
    def keeps_tables(self) -> bool:
        """Whether a page table stays where it is until its address space ends: no huge pages, no moves of tables."""
        return not self.has("collapse_huge_page")

    def require(self, path: str) -> None:
        """Refuse a path that the policy's kernel did not have.

        Raises
        ------
        HostError
            It did not.
        """
        if not self.has(path):
            raise HostError(f"the kernel of policy {self.name} has no path {path}")


_UNTOLD: _Calls = {}
_BRACKETS = dict.fromkeys(_RANGE_PATHS, _BRACKET) | {
    "hugetlb_cow": _UNTOLD,
    "copy_hugetlb_page_range": _UNTOLD,
}

V9 = Policy(
    name="v9",
    points=_BRACKETS
    | {
        "__xip_unmap": _IN_LOCK,
        "do_wp_page": _IN_LOCK,
        "page_referenced_one": _ASKS,
        "page_mkclean_one": _IN_LOCK,
        "try_to_unmap_one": _ASKS | _IN_LOCK,
        "try_to_unmap_cluster": _ASKS | _IN_LOCK,
    },
    unhashes_before_release=True,
    waits_for_release=False,
    cow_unmaps_first=True,
    frees_inside=True,
    fork_unpaired=True,
)
"""#v9: ``ptep_clear_flush_notify`` and ``ptep_clear_flush_young_notify``, fused under the lock."""

SEED = replace(
    V9,
    name="seed",
    points=_BRACKETS
    | {
        "__xip_unmap": _LATE,
        "do_wp_page": _LATE,
        "page_referenced_one": {Point.UNLOCKED: _CFY},
        "page_mkclean_one": _LATE,
        "try_to_unmap_one": _LATE,
        "try_to_unmap_cluster": _BRACKET,
    },
    rechecks_young=False,
    notifies_without_page=False,
    cow_puts_locked=0,
)
"""The seed patch: everything behind the unlock, the cluster in a bracket, the young re-check gone."""

EMM = replace(
    V9,
    name="emm",
    points=_BRACKETS
    | dict.fromkeys(SEED_PATHS, _BRACKET)
    | {"page_referenced_one": {Point.UNLOCKED: _CFY}},
    chain=Chain.LIST,
    stops_at_first=True,
    asks_old_only=True,
)
"""EMM: every change in a bracket, outside the lock; the chain stops at the first subscriber that objects."""

V2_6_27 = replace(
    V9,
    name="v2.6.27",
    takes_all_locks=True,
    waits_for_release=True,
    arch_exit_first=True,
    cow_unmaps_first=False,
    frees_inside=False,
    gather_pages=506,
    fork_unpaired=False,
)
"""2.6.27, as merged: #v9's calls under the lock, ``mm_take_all_locks``, the copy-on-write order fixed."""

V3_7 = Policy(
    name="v3.7",
    points=_BRACKETS
    | {
        "__xip_unmap": _LATE,
        "do_wp_page": _BRACKET | {Point.REPLACING: _CHG},
        "page_referenced_one": _ASKS,
        "page_mkclean_one": _LATE,
        "try_to_unmap_one": _ASKS | _LATE,
        "try_to_unmap_cluster": _ASKS | _BRACKET,
    }
    | dict.fromkeys(("split_huge_page", "collapse_huge_page", "hugetlb_cow"), _BRACKET)
    | dict.fromkeys(_KSM_PATHS, _BRACKET | {Point.REPLACING: _CHG}),
    chain=Chain.SRCU,
    takes_all_locks=True,
    rmap_sleeps=True,
    cow_maps_first=True,
    cow_puts_locked=1,
    gather_pages=506,
    move=Move.LATE,
)
"""3.7: sleeping locks and SRCU, ``invalidate_page`` behind the unlock, the young calls still under it."""

_INVALIDATED = _BRACKET | {Point.UNLOCKING: _IVR}
_REPLACED = _BRACKET | {Point.CLEARED: _IVR, Point.REPLACING: _CHG}
_GATHERED = _BRACKET | {Point.FLUSHED: _IVR}

V4_13 = replace(
    V3_7,
    name="v4.13",
    points=dict.fromkeys(("do_wp_page", *_KSM_PATHS), _REPLACED)
    | {
        "page_referenced_one": _ASKS,
        "page_mkclean_one": _INVALIDATED,
        "try_to_unmap_one": _ASKS | _INVALIDATED,
        "unmap_region": _GATHERED,
        "zap_page_range": _GATHERED,
        "unmap_mapping_range": _GATHERED,
        "madvise_free_single_vma": _GATHERED,
        "mprotect": _BRACKET,
        "clear_refs_write": _BRACKET,
        "hugetlb_cow": _BRACKET | {Point.CLEARED: _IVR},
        "copy_hugetlb_page_range": _BRACKET,
        "try_to_unmap_flush": _UNTOLD,
        "migrate_misplaced_transhuge_page": _BRACKET | {Point.CLEARED: _IVR},
        "__split_huge_pmd": _BRACKET | {Point.CLEARED: _IVR},
        "collapse_huge_page": _BRACKET,
        "mremap": _BRACKET,
        "fork": _BRACKET,
    },
    end_invalidates=True,
    flushes_dirty_locked=True,
    protect_is_lazy=True,
    move=Move.LOCKED,
)
"""4.13 to 6.5: ``invalidate_page`` is gone, ``invalidate_range`` under the lock serves who walks the CPU's tables."""

_GONE = "migrate_misplaced_transhuge_page"
_PATHS_6_6 = (*(path for path in V4_13.points if path != _GONE), "try_to_migrate_one")

V6_6 = replace(
    V4_13,
    name="v6.6",
    points=dict.fromkeys((*_PATHS_6_6, "migrate_vma_collect"), _BRACKET)
    | {"page_referenced_one": _ASKS, "try_to_unmap_flush": _UNTOLD, "migrate_vma": _UNTOLD},
    end_invalidates=False,
    flush_invalidates=True,
    flushes_pfnmap_locked=True,
    rechecks_young=False,
    cow_puts_locked=0,
    moves_tables=True,
    fork_copies_pinned=True,
)
"""6.6 and later: ``invalidate_range`` is part of every flush of the CPUs' TLBs, and of nothing else."""

POLICIES = {policy.name: policy for policy in (V9, SEED, EMM, V2_6_27, V3_7, V4_13, V6_6)}
"""Policies by name, in order of their dates."""
