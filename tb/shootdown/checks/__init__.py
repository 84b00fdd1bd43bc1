"""The invariants of the kernel contract, checked on the timeline of a finished run."""

from collections.abc import Callable

from shootdown.checks.chain import check_all_subscribers, check_pairing
from shootdown.checks.clean import check_clean
from shootdown.checks.completion import check_completion
from shootdown.checks.data import check_data
from shootdown.checks.dirty import check_dirty
from shootdown.checks.downgrade import check_downgrades
from shootdown.checks.examined import COUNTS, examined
from shootdown.checks.freed import check_freed
from shootdown.checks.install import check_brackets, check_stale
from shootdown.checks.order import check_order
from shootdown.checks.release import check_release
from shootdown.checks.sanitizer import check_agreement, check_rights
from shootdown.checks.violation import Findings, Violation, judge
from shootdown.checks.young import check_young
from shootdown.history import History

__all__ = ["CHECKS", "INVARIANTS", "Violation", "check", "examined"]

CHECKS: dict[str, Callable[[History], Findings]] = {
    "no freed page is reachable": check_freed,
    "no stale translation is installed or used": check_stale,
    "nothing is mapped inside a bracket": check_brackets,
    "loads return what the address space shows": check_data,
    "loads see what had happened before": check_order,
    "no write is lost when a page is cleaned": check_clean,
    "no write is lost when a page is unmapped": check_dirty,
    "signs of use reach the decision": check_young,
    "no write through a right that is gone": check_downgrades,
    "range starts and ends pair up": check_pairing,
    "release comes before tear-down": check_release,
    "completion means performed": check_completion,
    "every subscriber gets every event": check_all_subscribers,
    "sanitizer and timeline agree": check_agreement,
    "no touch without the right": check_rights,
}
"""Every check, by what it proves."""

INVARIANTS = tuple(COUNTS)
"""What a run that passes every check has kept; I17 as far as the frame sanitizer sees it."""


def check(history: History) -> list[Violation]:
    """Run every check.

    Returns
    -------
    list of Violation
        In order of cycle; the same violation is reported once.
    """
    found = {judge(history, finding) for run in CHECKS.values() for finding in run(history)}
    return sorted(found, key=lambda v: (v.cycle, v.invariant, v.path, v.thread, v.what))
