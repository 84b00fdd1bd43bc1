"""I2 and I3: no stale translation is installed or used, and none at all inside a bracket."""

from shootdown.checks.large import exceeds
from shootdown.checks.violation import Finding, Findings, by_command, by_nobody
from shootdown.history import Command, Entry, History, Use

__all__ = ["check_brackets", "check_stale"]


def check_stale(history: History) -> Findings:
    """I2: yield stale fills, entries that survive their invalidation, and uses of a dead translation."""
    for entry in history.entries:
        yield from _fill(history, entry)
        yield from _survivor(history, entry)
    for use in history.uses:
        yield from _use(history, use)


def _fill(history: History, entry: Entry) -> Findings:
    doom = _doom(history, entry)
    place = f"TLB entry {entry.index} (page {entry.first:#x} of asid {entry.asid})"
    if entry.walk is None and entry.latched is None:
        what = f"{place} was filled although nothing walked for it"
        yield by_nobody("I2", entry.begin_cycle, what, entry)
    # Until *invalidated* it may go in, if it dies again.
    elif doom and entry.begin_cycle > doom.accepted_cycle and entry.outlives(doom):
        yield by_command(
            history,
            "I2",
            doom,
            entry.begin_cycle,
            f"{place} was filled with what was true in cycle {entry.obtained_cycle}, before command "
            f"{doom.tag} was accepted in cycle {doom.accepted_cycle}",
        )


def _doom(history: History, entry: Entry) -> Command | None:
    """Return the first command accepted since the entry was obtained that overlaps any page of it."""
    found = None
    for command in history.commands_before(entry.begin):
        if command.accepted_cycle <= entry.obtained_cycle:
            break
        if command.invalidates and command.overlaps(entry.asid, entry.first, entry.last):
            found = command
    return found


def _survivor(history: History, entry: Entry) -> Findings:
    doom = entry.doom
    # One that reaches beyond the command is a matter of I24.
    if doom and entry.outlives(doom) and not exceeds(entry, doom):
        yield by_command(
            history,
            "I2",
            doom,
            doom.invalidated_cycle,
            f"TLB entry {entry.index} (page {entry.first:#x} of asid {entry.asid}) is still valid "
            f"although command {doom.tag} that overlaps it was invalidated in cycle "
            f"{doom.invalidated_cycle}",
        )


def _use(history: History, use: Use) -> Findings:
    if use.entry is None:
        what = f"the {use.name} went through a translation that no fill ever gave"
        yield by_nobody("I2", use.begin_cycle, what, use)
        return
    doom = use.entry.doom or _passed_over(history, use)
    if doom and doom.invalidates and use.begin_cycle > doom.invalidated_cycle:
        yield by_command(
            history,
            "I2",
            doom,
            use.begin_cycle,
            f"the {use.name} began with a translation that command {doom.tag} had invalidated in "
            f"cycle {doom.invalidated_cycle}",
        )


def _passed_over(history: History, use: Use) -> Command | None:
    """Return the first command that hit the use's translation after it had been replaced in the TLB."""
    entry = use.entry
    if entry is None or entry.end_cycle >= use.begin_cycle:
        return None
    found = None
    for command in history.commands_before(use.begin):
        if command.accepted_cycle < entry.begin_cycle:
            break
        if command.invalidates and command.overlaps(entry.asid, entry.first, entry.last):
            found = command
    return found


def check_brackets(history: History) -> Findings:
    """I3: yield fills between the return of a range start and the call of its range end."""
    rows = history.rows
    for entry, bracket in history.mirror.in_bracket:
        yield Finding(
            "I3",
            rows.paths[bracket.path],
            entry.begin_cycle,
            rows.threads[bracket.thread],
            f"TLB entry {entry.index} was filled with page {entry.first:#x} of asid {entry.asid} "
            f"between range start and range end of pages {bracket.first:#x} to {bracket.last:#x}",
            entry,
        )
