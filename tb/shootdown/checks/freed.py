"""I1: no freed page is reachable, by an entry, a use in flight, a fill to come, or a shootdown not yet done."""

from collections import defaultdict

from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import PTE_V
from shootdown.checks.blame import reached
from shootdown.checks.violation import NO_PATH, Finding, Findings
from shootdown.history import NEVER, Command, History, last_before

__all__ = ["check_freed"]


def check_freed(history: History) -> Findings:
    """Yield every way in which a freed frame was still reachable."""
    rows = history.rows
    for freed in history.freed:
        for entry in freed.entries:
            what = (
                f"frame {freed.pfn:#x} was freed while TLB entry {entry.index} still maps page "
                f"{entry.first:#x} of asid {entry.asid} to it"
            )
            yield reached(history, entry, freed.pfn, freed.row, rows.cycle_of(freed.row), what)
        for use in freed.uses:
            what = f"frame {freed.pfn:#x} was freed while the {use.name} was in flight"
            yield reached(history, use, freed.pfn, freed.row, rows.cycle_of(freed.row), what)
    for entry in history.mirror.into_free:
        walk = f"by a walk begun in cycle {entry.walk.begin_cycle}" if entry.walk else "by no walk"
        what = f"TLB entry {entry.index} was filled {walk} with frame {entry.frame:#x}, freed meanwhile"
        free = last_before(history.frees_of.get(entry.frame, ()), entry.begin, NEVER)
        yield reached(history, entry, entry.frame, free, entry.begin_cycle, what)
    for use in history.uses:
        if use.from_free:
            what = f"the {use.name} began while that frame was free"
            free = last_before(history.frees_of.get(use.pfn, ()), use.begin, NEVER)
            yield reached(history, use, use.pfn, free, use.begin_cycle, what)
    yield from _before_drained(history)


def _before_drained(history: History) -> Findings:
    """Frames freed before the shootdown that took them from an address had drained."""
    commands: dict[int, list[Command]] = defaultdict(list)
    for command in history.commands:
        if command.span and command.invalidates:
            commands[command.span].append(command)
    cleared: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    rows = history.rows
    index = rows.of(Row.ALLOC, Row.FREE, Row.PTE_CLEAR)
    for row, kind, mm, vpn, pfn, span, old in rows.take(
        index, "kind", "mm", "vpn", "pfn", "span", "a"
    ):
        if kind == Row.PTE_CLEAR:
            if old & PTE_V:
                cleared[pfn].append((mm, vpn, span))
            continue
        for clear_mm, clear_vpn, clear_span in cleared.pop(pfn, ()):
            mine = [c for c in commands.get(clear_span, ()) if c.covers(clear_mm, clear_vpn)]
            repeated = any(command.drained <= row for command in mine)
            for command in mine:
                # One that timed out is made good by another that did not.
                gave_up = command.timed_out != NEVER and repeated
                if command.drained > row and not gave_up:
                    path = rows.path_of(row)
                    yield Finding(
                        "I1",
                        rows.paths[command.path] if path == NO_PATH else path,
                        rows.cycle_of(row),
                        rows.thread_of(row),
                        f"frame {pfn:#x} was freed before command {command.tag} for page "
                        f"{clear_vpn:#x} of mm {clear_mm} had drained",
                        command,
                    )
