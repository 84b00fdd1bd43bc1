"""What a check reports."""

from collections.abc import Iterator
from dataclasses import dataclass

from shootdown.expectations import NO_PATH, expected
from shootdown.history import Command, History

__all__ = ["NO_PATH", "Finding", "Findings", "Violation", "at_row", "by_command", "judge"]


@dataclass(frozen=True, order=True)
class Violation:
    """An invariant was broken.

    Parameters
    ----------
    invariant : str
        As in the contract, "I1" to "I26".
    expected : bool
        Whether the policy is known to allow it on this path.
    path, thread : str
        The mm path and the thread to blame; "-" where there is none.
    cycle : int
        Emulated cycle at which it showed.
    what : str
        One line.
    """

    invariant: str
    expected: bool
    path: str
    cycle: int
    thread: str
    what: str


@dataclass(frozen=True)
class Finding:
    """A violation before it is judged by policy.

    ``excusable`` is False where every callback has returned: only a path that tells nobody explains it.
    """

    invariant: str
    path: str
    cycle: int
    thread: str
    what: str
    excusable: bool = True


Findings = Iterator[Finding]


def at_row(
    history: History, invariant: str, row: int, what: str, *, cycle: int | None = None
) -> Finding:
    """Blame the thread and the path of a host row."""
    rows = history.rows
    when = rows.cycle_of(row) if cycle is None else cycle
    return Finding(invariant, rows.path_of(row), when, rows.thread_of(row), what)


def by_command(
    history: History, invariant: str, command: Command, cycle: int, what: str
) -> Finding:
    """Blame whoever issued a command."""
    rows = history.rows
    return Finding(invariant, rows.paths[command.path], cycle, rows.threads[command.thread], what)


def judge(history: History, finding: Finding) -> Violation:
    """Say whether the policy is known to allow it, with the devices that took part."""
    kinds = {subscription.kind for subscription in history.subscriptions} or {"B"}
    allowed = expected(
        history.policy.name,
        finding.invariant,
        finding.path,
        kinds,
        lasting=not finding.excusable,
    )
    return Violation(
        invariant=finding.invariant,
        expected=allowed,
        path=finding.path,
        cycle=finding.cycle,
        thread=finding.thread,
        what=finding.what,
    )
