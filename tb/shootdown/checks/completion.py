"""I19: completion means performed, for *drained* and for a callback's return."""

from hostmm.machine.timeline import Notification
from shootdown.checks.violation import Findings, at_row, by_command, by_nobody
from shootdown.history import NEVER, Callback, Command, History, Use

__all__ = ["check_completion"]

_MUST_WAIT = (
    Notification.INVALIDATE_PAGE,
    Notification.CLEAR_FLUSH_YOUNG,
    Notification.RANGE_START,
    Notification.INVALIDATE_RANGE,
    Notification.RELEASE,
)


def check_completion(history: History) -> Findings:
    """Yield answers to no command, commands not answered, drained early, and callbacks that returned early."""
    for cycle, tag in history.mirror.stray:
        yield by_nobody("I19", cycle, f"an answer with tag {tag} answers no command", None)
    for command in history.commands:
        answered = command.refused or command.timed_out != NEVER
        if command.accepted != NEVER and command.drained == NEVER and not answered:
            what = f"command {command.tag} never drained"
            yield by_command(history, "I19", command, command.accepted_cycle, what)
        elif command.drained != NEVER and command.invalidated_cycle > command.drained_cycle:
            what = f"command {command.tag} drained before it was invalidated"
            yield by_command(history, "I19", command, command.drained_cycle, what)
        if command.invalidates and command.drained != NEVER:
            yield from _command(history, command)
    for callback in history.callbacks:
        if callback.kind in _MUST_WAIT and callback.end != NEVER:
            yield from _callback(history, callback)


def _command(history: History, command: Command) -> Findings:
    for use in command.open_at_drained:
        if use.end_cycle > command.drained_cycle and command.outdates(use):
            yield by_command(
                history,
                "I19",
                command,
                command.drained_cycle,
                f"command {command.tag} drained in cycle {command.drained_cycle} but the {use.name} "
                f"that it overlaps {_ended(use)}",
            )


def _ended(use: Use) -> str:
    return "never ended" if use.end == NEVER else f"ended in cycle {use.end_cycle}"


def _callback(history: History, callback: Callback) -> Findings:
    call = f"{callback.kind.name.lower()} of pages {callback.first:#x} to {callback.last:#x}"
    for command in callback.commands:
        if _made_good(callback, command):
            continue
        if command.invalidates and command.drained > callback.end:
            yield at_row(
                history,
                "I19",
                callback.end,
                f"{call} of mm {callback.mm} returned before its command {command.tag} had drained",
                callback,
            )
    for use in callback.open_at_end:
        if _still_old(callback, use):
            yield at_row(
                history,
                "I19",
                callback.end,
                f"{call} of mm {callback.mm} returned while the {use.name} was in flight, which "
                f"{_ended(use)}",
                callback,
            )


def _made_good(callback: Callback, command: Command) -> bool:
    """Whether the command timed out, and another one of the callback over the same pages drained."""
    return command.timed_out != NEVER and any(
        other.drained <= callback.end
        and (other.first, other.last, other.asid) == (command.first, command.last, command.asid)
        for other in callback.commands
    )


def _still_old(callback: Callback, use: Use) -> bool:
    """Whether the use goes through a translation that the callback was to end."""
    covering = [
        command
        for command in callback.commands
        if command.invalidates and command.overlaps(use.asid, use.vpn, use.vpn)
    ]
    if covering:
        return any(command.outdates(use) for command in covering)
    # A subscriber may answer a young query without touching anything.
    return callback.kind is not Notification.CLEAR_FLUSH_YOUNG and use.begin < callback.end
