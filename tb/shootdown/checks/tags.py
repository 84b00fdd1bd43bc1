"""I23: an asid is given to another address space only when nothing is left of what it stood for before."""

import itertools

from shootdown.checks.violation import Findings, at_row, by_nobody
from shootdown.history import Entry, History

__all__ = ["check_tags", "count_tags"]


def check_tags(history: History) -> Findings:
    """Yield entries and uses that an asid brings along into its next address space."""
    for asid, row, before, after in _handovers(history):
        place = f"asid {asid} goes from mm {before} to mm {after}"
        for entry in history.entries:
            if entry.asid != asid:
                continue
            if entry.begin < row < entry.end:
                what = f"{place} while TLB entry {entry.index} still holds page {entry.first:#x} of the old one"
                yield at_row(history, "I23", row, what, entry)
            elif row < entry.begin and _obtained_before(history, entry, row):
                how = "a walk" if entry.walk else "a drop-in"
                what = f"{place}, and then TLB entry {entry.index} is filled by {how} from before"
                yield by_nobody("I23", entry.begin_cycle, what, entry)
        for use in history.uses:
            if use.asid == asid and use.begin < row < use.end:
                yield at_row(history, "I23", row, f"{place} while the {use.name} is in flight", use)


def _obtained_before(history: History, entry: Entry, row: int) -> bool:
    if entry.walk is not None:
        return entry.walk.begin < row
    return entry.latched is not None and entry.latched < history.rows.cycle_of(row)


def _handovers(history: History) -> list[tuple[int, int, int, int]]:
    """(asid, row, mm before, mm after) of each asid that changed hands."""
    return [
        (asid, row, before, after)
        for asid, bindings in history.owners.bindings.items()
        for (_, before), (row, after) in itertools.pairwise(bindings)
        if before != after
    ]


def count_tags(history: History) -> int:
    """Count asids that changed hands."""
    return len(_handovers(history))
