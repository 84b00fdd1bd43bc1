"""What a check reports."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from shootdown.checks.expectations import NO_PATH, expected
from shootdown.history import Callback, Command, History, Subscription

__all__ = [
    "NO_PATH",
    "Finding",
    "Findings",
    "Violation",
    "Whose",
    "at_row",
    "by_command",
    "by_nobody",
    "judge",
    "owners",
]


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
    kinds : str
        Kinds of device that it can be of, as in :mod:`shootdown.checks.expectations`; one, where it is known whose it is.
    """

    invariant: str
    expected: bool
    path: str
    cycle: int
    thread: str
    what: str
    kinds: str


class OfDevice(Protocol):
    """What a device has: an entry, a walk, a use, a burst, a command."""

    @property
    def mm(self) -> int:
        """Address space that the asid stands for."""

    @property
    def asid(self) -> int:
        """The device's asid."""


Whose = OfDevice | Callback | Subscription
"""Something that belongs to a device, or to the subscriber that looks after it."""


@dataclass(frozen=True)
class Finding:
    """A violation before it is judged by policy.

    ``of`` is what it was found at, None where that is no device's. ``excusable`` is False where every callback has
    returned: only a path that tells nobody explains it.
    """

    invariant: str
    path: str
    cycle: int
    thread: str
    what: str
    of: Whose | None = None
    excusable: bool = True


Findings = Iterator[Finding]


def at_row(
    history: History,
    invariant: str,
    row: int,
    what: str,
    of: Whose | None = None,
    *,
    cycle: int | None = None,
    path: str | None = None,
) -> Finding:
    """Blame the thread and the path of a host row; ``cycle`` and ``path`` stand in for the row's own."""
    rows = history.rows
    when = rows.cycle_of(row) if cycle is None else cycle
    return Finding(invariant, path or rows.path_of(row), when, rows.thread_of(row), what, of)


def by_nobody(invariant: str, cycle: int, what: str, of: Whose | None) -> Finding:
    """Blame no path: the hardware did it by itself, or it cannot be told."""
    return Finding(invariant, NO_PATH, cycle, NO_PATH, what, of)


def by_command(
    history: History, invariant: str, command: Command, cycle: int, what: str
) -> Finding:
    """Blame whoever issued a command."""
    path, thread = history.rows.paths[command.path], history.rows.threads[command.thread]
    return Finding(invariant, path, cycle, thread, what, command)


def owners(history: History, of: Whose) -> list[Subscription]:
    """Return the subscribers that something can belong to."""
    known = history.subscriptions
    if isinstance(of, Subscription):
        return [of]
    if isinstance(of, Callback):
        return [s for s in known if (s.mm, s.number) == (of.mm, of.subscriber)]
    mine = [s for s in known if s.mm == of.mm]
    return [s for s in mine if history.owners.looks_after(of.mm, s.number, of.asid)]


def _kinds(history: History, of: Whose | None) -> set[str]:
    """Return the kinds of device that something can be of: all in the run, where it is nobody's own."""
    mine = [] if of is None else owners(history, of)
    return {s.kind for s in mine or history.subscriptions} or {"B"}


def judge(history: History, finding: Finding) -> Violation:
    """Say whether the policy is known to allow it, with the kind of device that it was found at."""
    kinds = _kinds(history, finding.of)
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
        kinds="".join(sorted(kinds)),
    )
