"""The seed patch on trial: the notes S1 to S17 of its review, each with the runs that support the verdict."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from shootdown.catalogue.played import play
from shootdown.checks import Violation
from shootdown.explore import COUNTS, Schedule, Search, count_steps, explore, halves
from shootdown.report.results import ViolationResult
from shootdown.run.config import MODEL, RunConfig
from shootdown.run.outcome import Outcome

__all__ = ["TRIAL", "Charge", "Finding", "Hunt", "Shown", "hear", "of_outcome"]

CERTAIN, LIKELY, NO_BUG = "certain", "likely", "not a bug"


def _run(
    policy: str, scenario: str, subscriber: str = "sva", mutant: str | None = None
) -> RunConfig:
    return RunConfig(
        policy=policy, subscriber=subscriber, scenario=scenario, simulator=MODEL, mutant=mutant
    )


@dataclass(frozen=True)
class Shown:
    """A directed run: ``breaks`` names what it must break, None where nothing may break that another run does.

    ``watched`` are the invariants that count.
    """

    run: RunConfig
    breaks: str | None
    watched: tuple[str, ...]


@dataclass(frozen=True)
class Hunt:
    """A search that must find nothing of ``watched``, and with the fault ``mutant`` must find some of it."""

    run: RunConfig
    watched: tuple[str, ...]
    mutant: str


@dataclass(frozen=True)
class Charge:
    """One note of the review.

    Attributes
    ----------
    on_rtl : bool
        Its directed runs are to be shown on the RTL.
    """

    name: str
    title: str
    verdict: str
    why: str
    shown: tuple[Shown, ...] = ()
    hunt: Hunt | None = None
    on_rtl: bool = False


@dataclass(frozen=True)
class Finding:
    """What one run, or one search, came to.

    Attributes
    ----------
    as_expected : bool
    text, replay : str
        For people.
    """

    as_expected: bool
    text: str
    replay: str


def _pair(
    scenario: str, breaks: str, *, subscriber: str = "sva", mutant: str | None = None
) -> tuple[Shown, ...]:
    """Return the seed's run, which breaks something, and #v9's, which does not."""
    return (
        Shown(_run("seed", scenario, subscriber, mutant), breaks, (breaks,)),
        Shown(_run("v9", scenario, subscriber, mutant), None, (breaks,)),
    )


TRIAL = (
    Charge(
        "S1",
        "COW of a page without struct page is no longer notified",
        CERTAIN,
        "The late call is made where the new page has taken the old one's place in a variable, and asks for an old "
        "page. Where there was none, nobody is told: the device keeps the raw frame for ever. #v9 fused the call into "
        "the clearing of the PTE. No race is needed.",
        _pair("S1", "I4"),
        on_rtl=True,
    ),
    Charge(
        "S2",
        "invalidate_page behind the new PTE: stale device reads",
        CERTAIN,
        "The new PTE is writable before the device is told, so another CPU stores without a fault and the device still "
        "reads the old page, for as long as the copying thread is kept from its call. The third run shows the same "
        "across two addresses, where it breaks acquire and release between CPU and device.",
        (*_pair("L1", "I4"), *_pair("L2", "I5")),
        on_rtl=True,
    ),
    Charge(
        "S3",
        "a leak between processes through copy-on-write reuse",
        CERTAIN,
        "The mapcount of the old page drops under the lock, the call comes behind it. In between the other process is "
        "the only one that counts, writes in place, and the first one's device reads it. #v9 on 2.6.25-rc4 has the "
        "same window for a few instructions under the lock (third run); the seed has it without bound, and moving the "
        "drop behind the switch of the PTE, as 2.6.26 did, does not close it.",
        (
            *_pair("L3", "I6"),
            Shown(_run("v9", "L3-short"), "I6", ("I6",)),
            Shown(_run("v2.6.27", "L3-short"), None, ("I6",)),
        ),
        on_rtl=True,
    ),
    Charge(
        "S4",
        "the young re-check of try_to_unmap_one is gone",
        CERTAIN,
        "A page that a CPU uses between the look of page_referenced and its unmapping is unmapped all the same. Nothing "
        "is corrupted: it costs a fault. Upstream came to the same twelve years later, on purpose.",
        _pair("S4", "I9"),
        on_rtl=True,
    ),
    Charge(
        "S5",
        "try_to_unmap_cluster no longer asks the device",
        CERTAIN,
        "A page of a nonlinear mapping that only the device uses is unmapped. Restoring the question, as 3.7 did, does "
        "not help (third run): range start has thrown the device's entry away before anybody asks.",
        (*_pair("S5", "I9", subscriber="kvm"), Shown(_run("v3.7", "S5", "kvm"), "I9", ("I9",))),
        on_rtl=True,
    ),
    Charge(
        "S6",
        "callbacks still may not sleep",
        CERTAIN,
        "Behind the page-table lock five of the six sites still hold a reverse-map spinlock, and the chain is walked "
        "under RCU. A driver that sleeps is reported at once; with the mutexes and SRCU of 3.7 the same driver passes.",
        (
            Shown(_run("seed", "bug-migrate", "odp"), "I12", ("I12",)),
            Shown(_run("v3.7", "bug-migrate", "odp"), None, ("I12",)),
        ),
    ),
    Charge(
        "S7",
        "in the cluster, protection moves to range start",
        LIKELY,
        "For a driver that ignores range start and pins nothing, pages of the cluster are freed before it hears of "
        "them, if their file drops them meanwhile. KVM of that month ignored range start, and was saved by its pins. "
        "A driver that honours range start is safe.",
        _pair("S7", "I1", subscriber="kvm", mutant="S7"),
        on_rtl=True,
    ),
    Charge(
        "S8",
        "the dirty race of page_mkclean",
        NO_BUG,
        "A device write between the unlock and the call meets a clean PTE, but the caller marks the page dirty again "
        "when page_mkclean has returned, and only then tests and clears the mark. It becomes a loss where the call "
        "is left to a worker, so that the content is taken before the device has let go: the paired fault.",
        hunt=Hunt(_run("seed", "race-clean"), ("I7",), "late"),
    ),
    Charge(
        "S9",
        "try_to_unmap_one drops its reference before it notifies",
        NO_BUG,
        "Every caller holds a reference of its own and the page lock, so the frame is not freed before the call has "
        "returned. Fragile: all rests on the caller's reference outliving the call, and the paired fault leaves the call to "
        "a worker, who makes it when that reference is gone.",
        hunt=Hunt(_run("seed", "race-reclaim", "kvm"), ("I1",), "late"),
    ),
    Charge(
        "S10",
        "dirty state is collected before the call",
        NO_BUG,
        "What a device may write is mapped dirty, so the page is dirty already; reclaim tests it behind the call. The "
        "paired fault loses the dirty bit of the PTE.",
        hunt=Hunt(_run("seed", "race-dirty"), ("I8",), "B24"),
    ),
    Charge(
        "S11",
        "page_referenced_one adds the device's answer to the CPU's",
        NO_BUG,
        "One use by both counts twice, which 2.6.25 takes for yes. The search finds no sign of use "
        "that is lost; the paired fault does not ask the device at all.",
        hunt=Hunt(_run("seed", "race-young", "kvm"), ("I9",), "S11"),
    ),
    Charge(
        "S12",
        "the balance of references in do_wp_page",
        NO_BUG,
        "At the end of every schedule every reference count and mapcount is compared with what refers to the page. The "
        "paired fault is a driver that takes references and keeps them.",
        hunt=Hunt(_run("seed", "race-cow", "kvm"), (COUNTS,), "S12"),
    ),
    Charge(
        "S13",
        "a late call may kill a newer entry",
        NO_BUG,
        "It costs a walk, and nothing else. The paired fault is a driver that, told of a page, takes the sign of use from "
        "whatever stands there by then.",
        hunt=Hunt(_run("seed", "race-cow"), ("I2", "I21"), "S13"),
    ),
    Charge(
        "S14",
        "the lifetime of mm and vma around the late call",
        NO_BUG,
        "Callers from the reverse map still hold its lock, which exit must take before it frees a table. The paired "
        "fault is a driver whose release sets a flag and leaves the device at work.",
        hunt=Hunt(
            _run("seed", "race-exit", "gru"),
            ("I1", "I16", "I17"),
            "gru-release-flag",
        ),
    ),
    Charge(
        "S15",
        "the unaligned address that do_wp_page passes on",
        NO_BUG,
        "Not the seed's: #v9 passes the raw fault address, too, and so does 2.6.27. It is a trap for a port that adds "
        "PAGE_SIZE to it without masking: its window covers the next page only. That driver is the paired fault, and "
        "falls into the trap under all three (directed runs). From 3.7 on this path brackets the masked address, and "
        "the same driver is safe.",
        (
            Shown(_run("v9", "L1", mutant="S15"), "I18", ("I18",)),
            Shown(_run("seed", "L1", mutant="S15"), "I18", ("I18",)),
            Shown(_run("v2.6.27", "L1", mutant="S15"), "I18", ("I18",)),
            Shown(_run("v3.7", "L1", mutant="S15"), None, ("I18",)),
        ),
        hunt=Hunt(_run("seed", "race-cow"), ("I18",), "S15"),
    ),
    Charge(
        "S16",
        "hugetlb_cow is notified by neither patch",
        CERTAIN,
        "A gap that the seed found and left: a write to a huge page that is mapped privately copies it, and neither "
        "#v9 nor the seed has a call there, so that the device reads the old 2 MiB for ever. By 3.6 the copy stands "
        "in a bracket (third run).",
        (
            Shown(_run("seed", "S16"), "I4", ("I4",)),
            Shown(_run("v9", "S16"), "I4", ("I4",)),
            Shown(_run("v3.7", "S16"), None, ("I4",)),
        ),
    ),
    Charge(
        "S17",
        "__xip_unmap: the window between unlock and call",
        LIKELY,
        "The address is faulted in again and written before the device is told: it reads the sparse page. 3.7 shipped "
        "the same window (third run).",
        (*_pair("S17", "I4"), Shown(_run("v3.7", "S17"), "I4", ("I4",))),
        on_rtl=True,
    ),
)
"""The charges, in order."""


def _schedules(run: RunConfig, count: int) -> list[Schedule]:
    return list(halves(count, steps=count_steps(run)))


def hear(charge: Charge, schedules: int) -> Iterable[Finding]:
    """Yield what each run and search of a charge on the model came to."""
    for shown in charge.shown:
        yield _directed(shown)
    if charge.hunt is not None:
        yield from _searched(charge.hunt, schedules)


def _directed(shown: Shown) -> Finding:
    return _finding(shown, play(shown.run).violations, shown.run.replay_command())


def of_outcome(shown: Shown, outcome: Outcome) -> Finding:
    """Return what a directed run in a simulator came to."""
    return _finding(shown, outcome.run.violations, outcome.config.replay_command())


def _finding(
    shown: Shown, violations: Sequence[Violation | ViolationResult], replay: str
) -> Finding:
    first = next((v for v in violations if v.invariant in shown.watched), None)
    what = f"{shown.run.policy} with {shown.run.subscriber}, {shown.run.scenario}"
    if first is None:
        return Finding(shown.breaks is None, f"{what}: keeps {', '.join(shown.watched)}", replay)
    text = f"{what}: breaks {first.invariant} in cycle {first.cycle}: {first.what}"
    return Finding(shown.breaks == first.invariant, text, replay)


def _searched(hunt: Hunt, count: int) -> Iterable[Finding]:
    schedules = _schedules(hunt.run, count)
    clean = explore(hunt.run, schedules)
    broken = [name for name in hunt.watched if clean.hits[name]]
    text = f"{_what(clean)}: {', '.join(hunt.watched)} {'broken' if broken else 'kept'} in {clean.schedules} schedules"
    yield Finding(not broken, text, _replay(clean, broken))
    faulty = explore(replace(hunt.run, mutant=hunt.mutant), schedules)
    found = [name for name in hunt.watched if faulty.hits[name]]
    hits = ", ".join(f"{name} in {faulty.hits[name]}" for name in found) or "nothing"
    yield Finding(
        bool(found),
        f"{_what(faulty)} with the fault {hunt.mutant}: {hits} of {faulty.schedules} schedules",
        _replay(faulty, found),
    )


def _what(search: Search) -> str:
    config = search.config
    return f"{config.policy} with {config.subscriber}, {config.scenario}"


def _replay(search: Search, broken: list[str]) -> str:
    run = search.first[broken[0]] if broken else search.config
    return run.replay_command()
