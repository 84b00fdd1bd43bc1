"""Hardware and host must agree on every touch of a freed frame; what else the frame sanitizer saw is named."""

from bisect import bisect_left
from collections import defaultdict

from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import PTE_W
from secmmu.layouts import Verdict
from shootdown.checks.blame import off_the_chain
from shootdown.checks.reports import Report, by_use, disagreement, reports
from shootdown.checks.violation import NO_PATH, Finding, Findings, Whose
from shootdown.history import NEVER, History, Use

__all__ = ["check_agreement", "check_rights"]

_OKAY = 0


def _free_times(history: History) -> dict[int, list[tuple[int, int]]]:
    """Frame to the intervals (first cycle, last cycle exclusive) in which it was free; it begins as free."""
    rows = history.rows
    times: dict[int, list[tuple[int, int]]] = defaultdict(lambda: [(0, NEVER)])
    for _, kind, cycle, pfn in rows.take(rows.of(Row.ALLOC, Row.FREE), "kind", "cycle", "pfn"):
        if kind == Row.FREE:
            times[pfn].append((cycle, NEVER))
        else:
            times[pfn][-1] = times[pfn][-1][0], cycle
    return times


def check_agreement(history: History) -> Findings:
    """Yield touches after a free that only one of the two sides saw.

    A use touches its frame in cycles from its first on and before its last (R is sampled, W stored, before the
    response). So a frame that was free all that time must have been reported for each beat; one that became free
    in between, for the last beats or none; and no report may come from any other use.
    """
    times = _free_times(history)
    freed = [r for r in reports(history) if r.verdict is Verdict.FREED and not r.walker]
    owned = by_use(history, freed)
    for report in owned.pop(None, []):
        what = f"a touch of freed frame {report.pfn:#x}"
        yield _only("the sanitizer", report.cycle, what, "no such use", report)
    for use in history.uses:
        if use.code != _OKAY or use.end == NEVER:
            continue
        found = owned.get(use, [])
        free = times[use.pfn]
        for report in found:
            if not any(begin <= report.cycle < end for begin, end in free):
                yield _only(
                    "the sanitizer",
                    report.cycle,
                    f"a touch by the {use.name}",
                    "the frame was owned",
                    use,
                )
        whole = any(begin <= use.begin_cycle and end >= use.end_cycle for begin, end in free)
        beats = {(report.address - use.pa) // 8 for report in found}
        want = set(range(use.beats)) if whole else set(range(use.beats - len(beats), use.beats))
        if beats != want and not _reallocated(free, use):
            missing = sorted(want - beats) or sorted(beats - want)
            what = f"a touch by the {use.name}"
            yield _only("the timeline", use.begin_cycle, what, f"beats {missing}", use)


def _reallocated(free: list[tuple[int, int]], use: Use) -> bool:
    """Whether the frame got an owner during the use, so that its early beats may be the guilty ones."""
    return any(use.begin_cycle < end < use.end_cycle for _, end in free)


def _only(side: str, cycle: int, what: str, detail: str, of: Whose) -> Finding:
    return disagreement("I1", side, cycle, what, detail, of)


def check_rights(history: History) -> Findings:
    """Yield what else the sanitizer reported: rights that were gone, frames that are not data, freed tables."""
    blame = _Blame(history)
    for report in reports(history):
        if not report.walker and report.verdict is not Verdict.FREED:
            yield blame.judge(report)


class _Blame:
    """Finds which path took a right away."""

    def __init__(self, history: History) -> None:
        self._history, rows = history, history.rows
        self._changes: dict[tuple[int, int], list[int]] = defaultdict(list)
        index = rows.of(Row.PTE_SET, Row.PTE_CLEAR)
        for row, kind, mm, pfn, a, b in rows.take(index, "kind", "mm", "pfn", "a", "b"):
            if kind == Row.PTE_CLEAR or (b & PTE_W and not a & PTE_W):
                self._changes[mm, pfn].append(row)

    def judge(self, report: Report) -> Finding:
        """Name the invariant: I1 where the frame has a new owner, I10 for a write, I4 for a read."""
        rows = self._history.rows
        changes = self._changes.get((report.mm, report.pfn), [])
        place = bisect_left(changes, report.row)
        change = changes[place - 1] if place else None
        freed = self._history.frees_of.get(report.pfn, [])
        since = bisect_left(freed, report.row) - bisect_left(freed, change or 0)
        invariant = "I1" if since or change is None else "I10" if report.write else "I4"
        kind = "wrote" if report.write else "read"
        state = "not data" if report.verdict is Verdict.FOREIGN else "no longer its own"
        what = f"asid {report.asid} {kind} frame {report.pfn:#x}, which is {state}"
        path, thread = NO_PATH, NO_PATH
        if change is not None:
            path, thread = rows.path_of(change), rows.thread_of(change)
            path = off_the_chain(self._history, report, change) or path
        # A right is taken back when its callback has returned: what policies are excused for is over then.
        return Finding(invariant, path, report.cycle, thread, what, report, excusable=False)
