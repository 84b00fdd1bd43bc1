"""The invariants of the kernel contract, checked on the timeline of a finished run."""

from collections.abc import Callable

from shootdown.checks.chain import check_all_subscribers, check_pairing
from shootdown.checks.clean import check_clean
from shootdown.checks.completion import check_completion
from shootdown.checks.context import check_context
from shootdown.checks.data import check_data
from shootdown.checks.dirty import check_dirty
from shootdown.checks.downgrade import check_downgrades
from shootdown.checks.examined import COUNTS, examined
from shootdown.checks.freed import check_freed
from shootdown.checks.install import check_brackets, check_stale
from shootdown.checks.large import check_large
from shootdown.checks.leftovers import check_leftovers
from shootdown.checks.moved import check_migration, check_mremap
from shootdown.checks.order import check_order
from shootdown.checks.progress import STUCK, check_progress, stuck_for_ever
from shootdown.checks.ranges import check_ranges
from shootdown.checks.registration import check_registration, check_unregistration
from shootdown.checks.release import check_release
from shootdown.checks.sanitizer import check_agreement, check_rights
from shootdown.checks.spurious import check_spurious
from shootdown.checks.tables import check_tables
from shootdown.checks.tags import check_tags
from shootdown.checks.upgrade import check_upgrades
from shootdown.checks.violation import Findings, Violation, judge
from shootdown.checks.young import check_young
from shootdown.history import History

__all__ = ["CHECKS", "INVARIANTS", "STUCK", "Violation", "check", "examined"]

CHECKS: dict[str, Callable[[History], Findings]] = {
    "no freed page is reachable": check_freed,
    "unmapping leaves nothing behind": check_leftovers,
    "no stale translation is installed or used": check_stale,
    "nothing is mapped inside a bracket": check_brackets,
    "loads return what the address space shows": check_data,
    "loads see what had happened before": check_order,
    "no write is lost when a page is cleaned": check_clean,
    "no write is lost when a page is unmapped": check_dirty,
    "signs of use reach the decision": check_young,
    "no write through a right that is gone": check_downgrades,
    "an upgrade can be seen": check_upgrades,
    "nobody sleeps where he must not": check_context,
    "range starts and ends pair up": check_pairing,
    "a subscriber comes between operations": check_registration,
    "nobody is called who has left": check_unregistration,
    "release comes before tear-down": check_release,
    "no page table is freed under a walk": check_tables,
    "what is invalidated covers the range": check_ranges,
    "completion means performed": check_completion,
    "every subscriber gets every event": check_all_subscribers,
    "spurious invalidations are harmless": check_spurious,
    "faults and callbacks come to an end": check_progress,
    "an asid changes hands empty": check_tags,
    "large translations die whole": check_large,
    "migration copies behind the last writer": check_migration,
    "mremap lets go of the old place": check_mremap,
    "sanitizer and timeline agree": check_agreement,
    "no touch without the right": check_rights,
}
"""Every check, by what it proves."""

INVARIANTS = tuple(COUNTS)
"""I1 to I26: what a run that passes every check has kept."""


def check(history: History, *, stuck: str | None = None) -> list[Violation]:
    """Run every check; ``stuck`` says who waited for what when the run could not go on.

    Returns
    -------
    list of Violation
        In order of cycle; the same violation is reported once.
    """
    found = {judge(history, finding) for run in CHECKS.values() for finding in run(history)}
    if stuck is not None and all(violation.invariant != STUCK for violation in found):
        found.add(stuck_for_ever(history, stuck, found))
    return sorted(found, key=lambda v: (v.cycle, v.invariant, v.path, v.thread, v.what))
