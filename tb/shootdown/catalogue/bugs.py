"""The historic bugs B1 to B45 (docs/bugs.md): each with the fault that seeds it, the run that exposes it, and its twins."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from hostmm.scenarios import FORBIDDEN
from shootdown.catalogue.played import Played, play
from shootdown.checks import Violation
from shootdown.run.config import MODEL, RunConfig
from shootdown.run.outcome import Outcome
from shootdown.run.runs import perform_all

__all__ = ["BUGS", "Entry", "Verdict", "judge", "try_bug", "try_rtl_bug"]

BENIGN = "bug-none"


@dataclass(frozen=True)
class Entry:
    """One bug.

    Parameters
    ----------
    name : str
        ``B1`` to ``B45``.
    title, mechanism : str
        The change that fixed it, with its year; what was wrong, in one line.
    run : RunConfig
        The run that exposes the fault.
    invariants : tuple of str
        Which of them it can break, those that the contract names for it first: the first that a run shows is what
        catches it, whenever in the run that is.
    fixed : str or None
        The fault's repair, where the ordinary kernel and driver lack what the scenario needs.
    """

    name: str
    title: str
    mechanism: str
    run: RunConfig
    invariants: tuple[str, ...] = ()
    fixed: str | None = None

    @property
    def hardware(self) -> bool:
        """Whether the fault is one of the RTL, so that only a simulation shows it."""
        return self.run.simulator != MODEL

    def twin(self) -> RunConfig:
        """Return the run of the same scenario without the fault."""
        return replace(self.run, mutant=self.fixed)

    def benign(self) -> RunConfig:
        """Return the run of the fault that meets nothing it is about."""
        return replace(self.run, scenario=BENIGN, memory_latency=20)


@dataclass(frozen=True)
class Verdict:
    """What the runs of a bug showed.

    Attributes
    ----------
    caught : str
        The invariant, or "outcome" where only the script's forbidden outcome tells; empty if nothing does.
    cycle : int
        Emulated cycle of the violation; 0 where the outcome told.
    side : str
        ``host`` where a check on the timeline found it, ``both`` where the frame sanitizer reported a touch, too.
    fixed_passes, benign_passes : bool
    """

    entry: Entry
    caught: str
    cycle: int
    side: str
    what: str
    fixed_passes: bool
    benign_passes: bool

    @property
    def passed(self) -> bool:
        """Whether the bug is caught, and nothing else is."""
        return bool(self.caught) and self.fixed_passes and self.benign_passes


def _wanted(entry: Entry, played: Played) -> list[Violation]:
    """Return the violations of the invariants that the bug is about."""
    return [violation for violation in played.violations if violation.invariant in entry.invariants]


def judge(entry: Entry, faulty: Played, fixed: Played, benign: Played) -> Verdict:
    """Compare the three runs.

    A violation of the wanted invariants counts; so does the script's forbidden outcome, where only that tells.
    """
    shown = _wanted(entry, faulty)
    outcome = faulty.forbidden and not fixed.forbidden
    first = min(shown, key=lambda v: entry.invariants.index(v.invariant), default=None)
    caught = first.invariant if first else "outcome" if outcome else ""
    return Verdict(
        entry=entry,
        caught=caught,
        cycle=first.cycle if first else 0,
        side="both" if faulty.touched and not fixed.touched else "host",
        what=first.what if first else faulty.detail,
        fixed_passes=not _wanted(entry, fixed) and (bool(shown) or not fixed.forbidden),
        benign_passes=not benign.violations and not benign.forbidden,
    )


def try_bug(entry: Entry) -> Verdict:
    """Run a bug of the host on the model: with the fault, without it, and where it should not matter."""
    return judge(entry, play(entry.run), play(entry.twin()), play(entry.benign()))


def try_rtl_bug(entry: Entry, simulator: str, folder: Path) -> Verdict:
    """Run a bug of the RTL in a simulator, in ``folder``; the benign run is on the faulty RTL, too."""
    runs = [replace(run, simulator=simulator) for run in (entry.run, entry.twin(), entry.benign())]
    outcomes = [perform_all([run], folder / str(index))[0] for index, run in enumerate(runs)]
    return judge(entry, *map(_of_outcome, outcomes))


def _of_outcome(outcome: Outcome) -> Played:
    assert outcome.scenario is not None
    names = Violation.__dataclass_fields__
    violations = [
        Violation(**{name: getattr(found, name) for name in names})
        for found in outcome.run.violations
    ]
    forbidden = outcome.scenario.outcome == FORBIDDEN
    touched = any("touch" in violation.what for violation in violations)
    return Played(violations, forbidden, outcome.scenario.detail, touched)


def _host(name: str, policy: str, subscriber: str, scenario: str) -> RunConfig:
    return RunConfig(
        policy=policy, subscriber=subscriber, scenario=scenario, simulator=MODEL, mutant=name
    )


def _bugs() -> Iterator[Entry]:
    def bug(
        number: int,
        title: str,
        mechanism: str,
        where: tuple[str, str, str],
        *invariants: str,
        fixed: str | None = None,
    ) -> Entry:
        name = f"B{number}"
        return Entry(name, title, mechanism, _host(name, *where), invariants, fixed)

    yield bug(
        1,
        "mm: fix race in COW logic (2008)",
        "the mapcount drops before the PTE is switched, and a sharer reuses the page in place",
        ("v2.6.27", "sva", "L3-short"),
        "I6",
    )
    yield bug(
        2,
        "mmu_notifier: fix inconsistent memory between secondary MMU and host (2012)",
        "the new PTE is published before the device is told",
        ("v3.7", "sva", "bug-publish"),
        "I4",
    )
    yield bug(
        3,
        "mmu_notifier: fix freed page still mapped in secondary MMU (2012)",
        "the listener leaves the chain before its release runs, and reclaim frees untold",
        ("v3.7", "kvm", "bug-exit-reclaim"),
        "I15",
        "I16",
        "I1",
    )
    yield bug(
        4,
        "mmu_notifier_unregister NULL Pointer deref and multiple ->release() callouts (2013)",
        "unregistration does not wait for a release that exit has begun",
        ("v3.7", "sva", "bug-exit-unbind"),
        "I15",
    )
    yield bug(
        5,
        "#v9 3/4, combine RCU with seqlock (2008)",
        "the subscriber is freed while one of its callbacks sleeps",
        ("v3.7", "sva", "bug-unbind"),
        "I15",
        "I13",
    )
    yield bug(
        6,
        "EMM V1 chain (2008)",
        "the first answer that is not zero ends the walk of the chain",
        ("v2.6.27", "kvm", "bug-two-young"),
        "I20",
    )
    yield bug(
        7,
        "fork -ENOMEM unpaired range (EMM V1, #v11, 2008)",
        "an early return between range start and end keeps the device out for ever",
        ("v2.6.27", "sva", "bug-fork-fails"),
        "I13",
        "I22",
    )
    yield bug(
        8,
        "hugetlb: call mmu notifiers on hugepage cow (2010)",
        "a huge page is copied on write, and nobody is told",
        ("v6.6", "sva", "S16"),
        "I4",
        "I1",
    )
    yield bug(
        9,
        "soft-dirty: call mmu notifiers when write-protecting ptes (2013)",
        "the write-protecting sweep is not notified, and the device writes untracked",
        ("v6.6", "sva", "bug-softdirty"),
        "I10",
    )
    yield bug(
        10,
        "mm: numa: call MMU notifiers on THP migration (2013)",
        "a huge page is exchanged under the device, which may look it up while it is closed to move",
        ("v4.13", "kvm", "bug-migrate-huge"),
        "I1",
        "I24",
        "I4",
        fixed="B10-fixed",
    )
    yield bug(
        11,
        "mm/khugepaged: invoke MMU notifiers in shmem/file collapse paths (2022)",
        "a table of PTEs is taken away without a notification, and its pages are freed",
        ("v6.6", "sva", "bug-collapse"),
        "I1",
        "I4",
    )
    yield bug(
        12,
        "rmap: do not call mmu_notifier_invalidate_page() under ptl (2017)",
        "the wrong kind of callback, which means nothing to a device with tables of its own",
        ("v4.13", "kvm", "bug-reclaim"),
        "I1",
        "I18",
    )
    yield bug(
        13,
        "mm: convert try_to_unmap_one() to page_vma_mapped_walk (2017)",
        "the callback slips under the page-table lock, and the driver sleeps there",
        ("v3.7", "odp", "bug-migrate"),
        "I12",
        "I24",
    )
    yield bug(
        14,
        "KVM: x86: fix APIC page invalidation (2017, 2020)",
        "a special translation is refreshed at range start, when mm still shows the old page",
        ("v6.6", "kvm", "bug-zap"),
        "I2",
        "I3",
        "I1",
    )
    yield bug(
        15,
        "mm/mmu_notifiers: ensure range_end() is paired with range_start() (2021)",
        "one subscriber refuses a start, those that had started get no end",
        ("v6.6", "sva", "bug-reap"),
        "I13",
    )
    yield bug(
        16,
        "KVM: arm64: Retry fault if vma_lookup() results become invalid (2023)",
        "the sequence is read after the data that it guards",
        ("v6.6", "kvm", "bug-stale"),
        "I2",
        "I4",
    )
    yield bug(
        17,
        "KVM: Fix multiple races in gfn=>pfn cache refresh (2022)",
        "a cached translation stays valid across an invalidation",
        ("v6.6", "kvm", "bug-copy"),
        "I2",
        "I4",
    )
    yield bug(
        18,
        "KVM: MMU: Reinstate pte prefetch on invlpg (2010)",
        "what was looked up before an invalidation is installed behind it, for want of a counter",
        ("v6.6", "kvm", "bug-stale"),
        "I2",
        "I4",
    )
    yield bug(
        19,
        "KVM: Fix missing smp tlb flush in invlpg (2009)",
        "the tables are cleared, the TLB is not flushed",
        ("v6.6", "kvm", "bug-zap"),
        "I1",
        "I19",
        "I18",
    )
    yield bug(
        20,
        "KVM: mmu_notifiers release method (2008)",
        "no release: the device goes on behind the end of the address space",
        ("v6.6", "kvm", "bug-exit"),
        "I16",
        "I18",
        "I1",
    )
    yield bug(
        21,
        "mremap: properly flush TLB before releasing the page (2018)",
        "the old address is flushed when the lock of the new one is long dropped",
        ("v6.6", "sva-a", "bug-move"),
        "I26",
    )
    yield bug(
        22,
        "mm/mremap: hold the rmap lock in write mode when moving page table entries (2021)",
        "a table moves while reclaim clears one of its PTEs, and the flush is for the old address",
        ("v6.6", "sva", "bug-move-table"),
        "I26",
        "I17",
        "I1",
    )
    yield bug(
        23,
        "mm/migrate_device.c: flush TLB while holding PTL (2022)",
        "a shared page's PTE is cleared and unlocked, and flushed later",
        ("v6.6", "sva-a", "bug-evacuate"),
        "I1",
        "I4",
    )
    yield bug(
        24,
        "mm/migrate_device.c: copy pte dirty bit to page (2022)",
        "the dirty bit goes with the PTE (here in try_to_unmap_one)",
        ("v6.6", "sva", "bug-dirty"),
        "I8",
    )
    yield bug(
        25,
        "mm: split tlb_flush_mmu() (2014)",
        "a dirty page is unmapped and unlocked before the flush, and written out meanwhile",
        ("v4.13", "sva-a", "bug-late-flush"),
        "I7",
    )
    yield bug(
        26,
        "thp: MADV_DONTNEED vs MADV_FREE race (2017), page_mkclean vs MADV_DONTNEED race (2019)",
        "a leaf that is none for a moment makes a zap skip it",
        ("v6.6", "sva", "bug-free"),
        "I1",
    )
    yield bug(
        27,
        "mmu_gather: Force tlb-flush VM_PFNMAP vmas (2022)",
        "a driver takes a raw frame back, finds no PTE, and frees it before munmap has flushed",
        ("v6.6", "sva-a", "bug-revoke"),
        "I1",
    )
    yield bug(
        28,
        "mmu_notifiers: call invalidate_range() when invalidating TLBs (2023)",
        "the flush of an upgrade is not forwarded, and a device that believes its cache faults for ever",
        ("v6.6", "ats", "bug-upgrade"),
        "I11",
    )
    yield bug(
        29,
        "iommu/vt-d: Fix incorrect cache invalidation for mm notification (2023)",
        "the end of the whole address space is rounded up to 0, and nothing is flushed",
        ("v6.6", "sva-a", "bug-fork-flush"),
        "I18",
        "I10",
    )
    yield bug(
        30,
        "(arm64) Fix mmu notifiers for range-based invalidates (2025)",
        "the loop moves start to end, and what lies behind the range is flushed",
        ("v6.6", "sva-a", "bug-zap"),
        "I18",
        "I22",
        "I1",
    )
    yield bug(
        31,
        "iommu/arm-smmu-v3: Fix soft lockup triggered by arm_smmu_mm_invalidate_range (2023)",
        "a command for each page of a long range",
        ("v6.6", "sva", "bug-long"),
        "I22",
    )
    yield bug(
        32,
        "iommu/vt-d: Don't issue ATS Invalidation request when device is disconnected (2024)",
        "the device is gone, its completion never comes, and the driver spins without a limit",
        ("v6.6", "sva-a", "bug-unplug"),
        "I19",
        "I22",
        fixed="B32-fixed",
    )
    yield bug(
        33,
        "iommu/vt-d: Fix intel iommu iotlb sync hardlockup and retry (2026)",
        "the abort takes back odd slots only, and who waits for another waits for ever",
        ("v6.6", "sva", "bug-gave-up"),
        "I19",
        "I22",
        "I13",
    )
    yield bug(
        34,
        "iommu/vt-d: Flush piotlb for SVM and Nested domain (2026)",
        "the flush misses entries that carry an address-space id",
        ("v6.6", "sva-a", "bug-zap"),
        "I18",
        "I23",
        "I1",
    )
    yield bug(
        35,
        "PCI: Suspend iommu function prior to resetting a device (2025)",
        "invalidations are lost while the device is reset, and nothing keeps it out",
        ("v6.6", "sva-a", "bug-reset"),
        "I19",
        "I18",
        "I1",
        fixed="B35-fixed",
    )
    yield bug(
        36,
        "iommu/sva: Invalidate stale IOTLB entries for kernel address space (2025)",
        "a kernel page-table page is freed while the device's walk cache points to it",
        ("v6.6", "sva-a", "bug-kernel-table"),
        "I17",
        fixed="B36-fixed",
    )
    yield Entry(
        "B37",
        "iommu/arm-smmu-v3: Tegra264 erratum (2026)",
        "an entry that is filled in the cycle of its invalidation survives it",
        RunConfig(policy="v9", scenario="sweep", mutant="rtl-no-fill-kill"),
        ("I2", "I19"),
    )
    yield bug(
        38,
        "drm/i915: Flush TLBs before releasing backing store (2022)",
        "pages are given back while the device's TLB has them",
        ("v6.6", "pinned", "bug-unpin"),
        "I1",
    )
    yield bug(
        39,
        "Xen CVE-2021-28692",
        "a command that timed out counts as done",
        ("v6.6", "sva", "bug-gave-up"),
        "I19",
    )
    yield bug(
        40,
        "amdxdna HMM invalidate (2026)",
        "the wait for the device ends when a signal arrives",
        ("v6.6", "sva", "bug-in-flight"),
        "I19",
    )
    yield bug(
        41,
        "GRU range truncation (2.6.27 to 6.13)",
        "the page count has 10 bits",
        ("v6.6", "gru", "bug-last-pages"),
        "I18",
        "I1",
    )
    yield bug(
        42,
        "gru: fix potential use-after-free when purging GRU tlbs (2009)",
        "the driver frees its object while another thread flushes through it",
        ("v6.6", "gru", "bug-user-flush"),
        "I15",
    )
    yield bug(
        43,
        "mm/rmap: always do TTU_IGNORE_ACCESS (2020)",
        "range start destroys the accessed bit before it is tested",
        ("v3.7", "kvm", "bug-hot"),
        "I9",
    )
    yield bug(
        44,
        "mm, oom_reaper: skip mm structs with mmu notifiers (2017)",
        "a callback sleeps where the reaper must not block",
        ("v6.6", "odp", "bug-reap-odp"),
        "I12",
        "I22",
    )
    yield bug(
        45,
        "the seed patch, S1 (2008)",
        "a copy of a page without struct page is never notified (S3 is B1's window, without bound)",
        ("v9", "sva", "S1"),
        "I4",
        "I6",
    )


BUGS = {entry.name: entry for entry in _bugs()}
"""The catalogue, by name."""
