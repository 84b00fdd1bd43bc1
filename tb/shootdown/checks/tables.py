"""I17: no page-table page is freed while a walk, or an entry of the walk cache, may still lead to it.

The timeline knows when a table was unlinked and freed, which commands came between, and which walks were under way;
the frame sanitizer sees what the walker really read. Where both can tell, they must agree.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from hostmm.machine.timeline import CommandFlag, Row
from secmmu.layouts import FrameKind
from shootdown.checks.blame import off_the_chain
from shootdown.checks.reports import Report, disagreement, reports
from shootdown.checks.violation import NO_PATH, Finding, Findings, at_row
from shootdown.history import NEVER, Command, Entry, History, Walk

__all__ = ["check_tables", "count_tables"]

_INDEX_BITS = 9


@dataclass(slots=True, eq=False)
class _Table:
    """A page-table page of a device's address space: pages ``first`` to ``last`` are below it.

    ``freed`` is the row at which it was freed, or linked in another place (mremap).
    """

    mm: int
    pfn: int
    level: int
    first: int
    linked: int
    unlinked: int = NEVER
    freed: int = NEVER

    @property
    def last(self) -> int:
        return self.first + (1 << (self.level + 1) * _INDEX_BITS) - 1

    def leads(self, walk: Walk) -> bool:
        """Whether a walk passes through it."""
        return walk.mm == self.mm and self.first <= walk.vpn <= self.last


def check_tables(history: History) -> Findings:
    """Yield tables freed too early, and what only one of sanitizer and timeline saw."""
    tables = [table for table in _tables(history) if table.mm in history.owners.walked]
    for table in tables:
        yield from _early(history, table)
    walker = [report for report in reports(history) if report.walker]
    yield from _seen(history, walker)
    yield from _unseen(history, tables, walker)


def _tables(history: History) -> list[_Table]:
    rows = history.rows
    live: dict[int, _Table] = {}
    found = []
    index = rows.of(Row.TABLE, Row.FREE)
    for row, kind, mm, vpn, pfn, tag, level in rows.take(
        index, "kind", "mm", "vpn", "pfn", "tag", "a"
    ):
        if kind == Row.FREE:
            table = live.pop(pfn, None)
            if table is not None:
                table.freed = row
        elif tag:
            if pfn in live:
                live[pfn].freed = row
            live[pfn] = _Table(mm, pfn, level, vpn, row)
            found.append(live[pfn])
        elif pfn in live:
            live[pfn].unlinked = row
    return found


def _early(history: History, table: _Table) -> Findings:
    """Yield a freed table that a walk is in, or that no command has made unreachable since it was unlinked."""
    if table.freed == NEVER:
        return
    freed = history.rows["kind"][table.freed] == Row.FREE
    done = "was freed" if freed else "was moved"
    place = (
        f"table {table.pfn:#x} of level {table.level} over page {table.first:#x} of mm {table.mm}"
    )
    for walk in history.walks:
        if (
            table.leads(walk)
            and walk.begin < table.freed < walk.end
            and walk.begin < table.unlinked
        ):
            what = f"{place} {done} while the walk of page {walk.vpn:#x} that began in cycle {walk.begin_cycle} ran"
            yield at_row(history, "I17", table.freed, what, walk)
    used = any(
        table.leads(walk) and table.linked < walk.begin < table.unlinked for walk in history.walks
    )
    if used and not any(_reaches(history, command, table) for command in history.commands):
        what = f"{place} {done} although no command had taken it from the walk cache"
        yield at_row(history, "I17", table.freed, what, path=_untold(history, table))


def _untold(history: History, table: _Table) -> str | None:
    """Return who kept a device of the table's address space from being told when it was freed."""
    mine = (s for s in history.subscriptions if s.mm == table.mm)
    return next(filter(None, (off_the_chain(history, s, table.freed) for s in mine)), None)


def _reaches(history: History, command: Command, table: _Table) -> bool:
    """Whether a command, done before the free, made the MMU forget the way to a table for good.

    One that came before the table was unlinked does, too, if no walk has come that way since (exit).
    """
    whole = command.overlaps(command.asid, table.first, table.last)
    forgets = command.mm == table.mm and whole and CommandFlag.LEAF_ONLY not in command.flags
    if not (command.invalidates and forgets and command.drained < table.freed):
        return False
    return command.issue > table.unlinked or not any(
        table.leads(walk) and command.accepted < walk.begin < table.unlinked
        for walk in history.walks
    )


def _seen(history: History, walker: list[Report]) -> Findings:
    """Yield what the sanitizer saw the walker read that is no page table; the timeline must agree."""
    for report in walker:
        what = f"the walker read frame {report.pfn:#x}, which is no page table any more"
        path = off_the_chain(history, report, report.row) or NO_PATH
        yield Finding("I17", path, report.cycle, NO_PATH, what, report)
        if _is_table(history, report):
            touch = f"the walker in frame {report.pfn:#x}"
            yield disagreement(
                "I17", "the sanitizer", report.cycle, touch, "it is a page table", report
            )


def _is_table(history: History, report: Report) -> bool:
    """Whether the timeline has the frame as a page table, before and behind the report's cycle."""
    rows = history.rows
    index = rows.of(Row.ALLOC, Row.FREE)
    kind = None
    for _, row_kind, cycle, pfn, tag in rows.take(index, "kind", "cycle", "pfn", "tag"):
        if pfn != report.pfn:
            continue
        if cycle > report.cycle:
            break
        if cycle == report.cycle:
            return False
        kind = FrameKind(tag) if row_kind == Row.ALLOC else None
    return kind is FrameKind.TABLE


def _unseen(history: History, tables: list[_Table], walker: list[Report]) -> Findings:
    """Yield fills that came of a freed leaf table, whose last read the sanitizer must have reported."""
    cycles = {(report.pfn, report.cycle) for report in walker}
    rows = history.rows
    for table, entry in _fills_behind(history, tables):
        assert entry.walk is not None
        span = range(entry.walk.begin_cycle, entry.begin_cycle + 1)
        if not any(pfn == table.pfn and cycle in span for pfn, cycle in cycles):
            touch = f"the walk of page {entry.first:#x} of mm {table.mm} in frame {table.pfn:#x}"
            detail = f"freed in cycle {rows.cycle_of(table.freed)}"
            yield disagreement("I17", "the timeline", entry.begin_cycle, touch, detail, entry)


def _fills_behind(history: History, tables: list[_Table]) -> Iterator[tuple[_Table, Entry]]:
    """Yield base-page entries whose whole walk came behind the free of the only leaf table there was for it."""
    leaves = [table for table in tables if table.level == 0]
    gone = {(table.mm, table.first) for table in leaves if table.freed != NEVER}
    if not gone:
        return
    for entry in history.entries:
        walk, first = entry.walk, entry.first >> _INDEX_BITS << _INDEX_BITS
        if walk is None or entry.last != entry.first or (entry.mm, first) not in gone:
            continue
        over = [
            t for t in leaves if (t.mm, t.first) == (entry.mm, first) and t.linked < entry.begin
        ]
        if over and all(table.freed < walk.begin for table in over):
            yield over[-1], entry


def count_tables(history: History) -> int:
    """Count walks, whose reads the frame sanitizer checks, and tables of devices' address spaces that were freed."""
    freed = sum(t.freed != NEVER and t.mm in history.owners.walked for t in _tables(history))
    return len(history.walks) + freed
