"""What the frame sanitizer reported, and which use each report belongs to."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from secmmu.layouts import PAGE_BITS, Event, Verdict
from shootdown.checks.violation import NO_PATH, Finding, Whose
from shootdown.history import History, Use

__all__ = ["Report", "by_use", "disagreement", "reports"]

_OPEN_AT_MOST = 64
"""Uses of one id that can be open at once: no more than the MMU has slots for."""


@dataclass(slots=True, frozen=True)
class Report:
    """One VIOLATION record."""

    row: int
    cycle: int
    walker: bool
    asid: int
    id: int
    write: bool
    verdict: Verdict
    address: int
    mm: int

    @property
    def pfn(self) -> int:
        """Frame that was touched."""
        return int(self.address >> PAGE_BITS)


def reports(history: History) -> list[Report]:
    """Return every report, in order."""
    rows = history.rows
    index = rows.of(Event.VIOLATION.value)
    taken = zip(rows.take(index, "cycle", "thread", "a"), rows.access(index), strict=True)
    return [
        Report(
            row,
            cycle,
            bool(source),
            asid,
            id_,
            bool(write),
            Verdict(code),
            address,
            history.owners.mm(asid, row),
        )
        for (row, cycle, source, address), (asid, id_, write, code, _) in taken
    ]


def by_use(history: History, found: Sequence[Report]) -> dict[Use | None, list[Report]]:
    """Give each report to the use it belongs to: the oldest open one of its id that holds the address."""
    by_id: dict[tuple[bool, int], list[Use]] = defaultdict(list)
    for use in history.uses:
        by_id[use.write, use.id].append(use)
    begins = {key: [use.begin_cycle for use in queue] for key, queue in by_id.items()}
    assigned: dict[Use | None, list[Report]] = defaultdict(list)
    for report in found:
        key = report.write, report.id
        owner = None
        begun = bisect_right(begins.get(key, []), report.cycle)
        for use in by_id.get(key, [])[max(0, begun - _OPEN_AT_MOST) : begun]:
            inside = use.pa <= report.address < use.pa + 8 * use.beats
            if (
                use.begin_cycle <= report.cycle <= use.end_cycle
                and use.asid == report.asid
                and inside
            ):
                owner = use
                break
        assigned[owner].append(report)
    return assigned


def disagreement(
    invariant: str, side: str, cycle: int, what: str, detail: str, of: Whose
) -> Finding:
    """Return the finding that only one side, "the sanitizer" or "the timeline", saw something."""
    other = "the timeline" if side == "the sanitizer" else "the sanitizer"
    return Finding(
        invariant,
        NO_PATH,
        cycle,
        NO_PATH,
        f"{side} saw {what}, {other} did not ({detail})",
        of,
        excusable=False,
    )
