"""I4 and I6 on data: every device load returns what its address space may show there at some moment of the load.

Allowed is what the page that stands at the address held while it stood there, between the cycle in which the load
was issued and the row at which its data arrived. A page that was cleared still counts until another is set that a
CPU can store to; what a sharer stores into it once COW has dropped its mapcount does not count (I6).
"""

from secmmu.layouts import PAGE_BITS
from shootdown.checks.violation import NO_PATH, Finding, Findings
from shootdown.history import NEVER, History, Mapping, Use
from shootdown.history.bursts import Burst, Load

__all__ = ["check_data"]

_OFFSET = (1 << PAGE_BITS) - 1


def check_data(history: History) -> Findings:
    """Yield every loaded word that the contract does not allow, in order of time."""
    for burst in history.bursts:
        if burst.write or burst.use is None:
            continue
        begin = history.rows.row_of_cycle(burst.issued)
        pages = history.pages.get((burst.asid, burst.va >> PAGE_BITS), [])
        for load in burst.loads:
            standing = _standing(pages, begin, load.row)
            for position, value in enumerate(load.words, load.beat):
                offset = (burst.va & _OFFSET) + 8 * position
                if not _allowed(history, standing, burst, begin, load, offset, value):
                    yield _explain(history, burst, burst.use, load, position, value, pages)


def _standing(pages: list[Mapping], begin: int, end: int) -> list[Mapping]:
    """Pages that may be read at some moment from row ``begin`` to row ``end``, newest first."""
    return [page for page in reversed(pages) if page.begin <= end and page.end >= begin]


def _allowed(
    history: History,
    standing: list[Mapping],
    burst: Burst,
    begin: int,
    load: Load,
    offset: int,
    value: int,
) -> bool:
    for page in standing:
        low, high = max(begin, page.begin), min(load.row, page.end)
        held = history.memory.may_hold((page.pfn << PAGE_BITS) + offset, value, low, high)
        if held and _foreign_store(history, page, burst.asid, value) is None:
            return True
    return False


def _foreign_store(history: History, page: Mapping, mm: int, value: int) -> int | None:
    """Row at which another mm stored ``value`` into the page after COW had dropped this mm's claim to it."""
    if page.dropped == NEVER:
        return None
    rows = history.rows
    for row in history.memory.stores_of(value):
        ours = int(rows["mm"][row]) == mm or int(rows["pfn"][row]) != page.pfn
        if row > page.dropped and not ours:
            return row
    return None


def _explain(
    history: History,
    burst: Burst,
    use: Use,
    load: Load,
    position: int,
    value: int,
    pages: list[Mapping],
) -> Finding:
    """Say which invariant a word breaks: where it came from, and who should have kept it away."""
    rows = history.rows
    cycle = rows.cycle_of(load.row)
    what = f"the device read {value:#x} at va {burst.va + 8 * position:#x} of mm {burst.asid}"
    held = history.memory.may_hold(use.pa + 8 * position, value, use.begin, load.row)
    old = next((page for page in reversed(pages) if page.pfn == use.pfn), None)
    if not held:
        return _hard(cycle, f"{what}, which frame {use.pfn:#x} did not hold: corrupted data")
    if old is None:
        return _hard(cycle, f"{what} in frame {use.pfn:#x}, which was never mapped there")
    if old.cleared == NEVER:
        return _hard(cycle, f"{what} in frame {use.pfn:#x}, where it was not at that time")
    path, thread = rows.path_of(old.cleared), rows.thread_of(old.cleared)
    row = _foreign_store(history, old, burst.asid, value)
    if row is not None:
        writer = f"mm {int(rows['mm'][row])} ({rows.thread_of(row)}, cycle {rows.cycle_of(row)})"
        return Finding(
            "I6",
            path,
            cycle,
            thread,
            f"{what}: private data that {writer} stored in frame {use.pfn:#x}",
        )
    return Finding(
        "I4",
        path,
        cycle,
        thread,
        f"{what} from frame {use.pfn:#x}, replaced in cycle {rows.cycle_of(min(old.end, rows.count - 1))}",
    )


def _hard(cycle: int, what: str) -> Finding:
    return Finding("I4", NO_PATH, cycle, NO_PATH, what, excusable=False)
