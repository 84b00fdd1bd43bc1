"""I24: a command for a part of a large translation kills the whole of it."""

from shootdown.checks.violation import Findings, by_command
from shootdown.history import Command, Entry, History

__all__ = ["check_large", "count_large", "exceeds"]


def exceeds(entry: Entry, command: Command) -> bool:
    """Whether an entry reaches beyond the pages that a command names."""
    whole = command.overlaps(entry.asid, entry.first, entry.first) and command.overlaps(
        entry.asid, entry.last, entry.last
    )
    return not whole


def check_large(history: History) -> Findings:
    """Yield entries that reach beyond a command over some of their pages, and outlive it."""
    for entry in history.entries:
        doom = entry.doom
        if doom and entry.outlives(doom) and exceeds(entry, doom):
            yield by_command(
                history,
                "I24",
                doom,
                doom.invalidated_cycle,
                f"TLB entry {entry.index} (pages {entry.first:#x} to {entry.last:#x} of asid {entry.asid}) is still "
                f"valid although command {doom.tag} over some of them was invalidated in cycle "
                f"{doom.invalidated_cycle}",
            )


def count_large(history: History) -> int:
    """Count entries of more than a base page that met a command."""
    return sum(entry.doom is not None and entry.last > entry.first for entry in history.entries)
