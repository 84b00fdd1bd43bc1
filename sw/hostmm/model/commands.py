"""Invalidation commands of the model: what each waits for, its two answers, holds, and the log that drop-ins meet."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from hostmm.model.clock import Clock
from hostmm.model.tlb import Span
from secmmu.layouts import CommandKind, Event

__all__ = ["Commands", "Waitable"]

_INVALIDATED_CYCLES = 3
_DRAINED_CYCLES = 4
_LOGGED = 16
_LIVE = (CommandKind.FENCE, CommandKind.RELEASE, CommandKind.YOUNG)
"""Kinds that invalidate nothing."""


class Waitable(Protocol):
    """Something that keeps a command from draining: a use, or a killed walk."""

    @property
    def asid(self) -> int:
        """Whose it is."""
        ...


@dataclass(eq=False)
class _Command:
    tag: int
    young: bool = False
    waits: "set[Waitable | _Command]" = field(default_factory=set)
    invalidated: bool = False


class Commands:
    """Commands that have not drained, holds, and a log of the last commands.

    Parameters
    ----------
    clock : Clock
    kill : callable
        ``kill(span)``: end what the span covers, now; returns what has to end before the command drains.
    timed_out : callable
        ``timed_out(asids)``: a command gave up waiting for uses of these.

    Attributes
    ----------
    accepted : int
        Commands taken so far.
    epoch : int
        The same with the soft resets.
    timeout : int
        Cycles after which a command gives up; 0: never.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        kill: Callable[[Span], Iterable[Waitable]],
        timed_out: Callable[[set[int]], None],
    ) -> None:
        self._clock = clock
        self._kill = kill
        self._timed_out = timed_out
        self._open: list[_Command] = []
        self._holds: list[tuple[int, int, int]] = []
        self._log: deque[Span | None] = deque(maxlen=_LOGGED)
        self.accepted = 0
        self.epoch = 0
        self.timeout = 0

    @property
    def busy(self) -> bool:
        """Whether a command has not drained."""
        return bool(self._open)

    def clear(self) -> None:
        """Drop every hold; log that everything was invalidated."""
        self._holds.clear()
        self.epoch += 1
        self._log.append(Span(asid=None, group=0))

    def accept(
        self, kind: CommandKind, span: Span, *, tag: int, hold: bool = False, young: bool = False
    ) -> None:
        """Take a command in the current cycle; ``young`` is the answer to a YOUNG."""
        self.accepted += 1
        self.epoch += 1
        if kind is CommandKind.RANGE and span.last < span.first:
            self._log.append(None)
            self._clock.at(
                self._clock.cycle + 1, lambda: self._clock.record(Event.REFUSED, tag=tag)
            )
            return
        command = _Command(tag, young)
        self._log.append(None if kind in _LIVE else span)
        if kind is CommandKind.FENCE:
            command.waits = set(self._open)
        elif kind not in _LIVE:
            command.waits = set(self._kill(span))
            if hold and span.asid is not None:
                self._holds.append((span.asid, span.first, span.last))
        self._open.append(command)
        now = self._clock.cycle
        self._clock.at(now + _INVALIDATED_CYCLES, lambda: self._invalidated(command))
        self._clock.at(now + _DRAINED_CYCLES, self._complete)
        if self.timeout:
            self._clock.at(now + max(self.timeout, _DRAINED_CYCLES), lambda: self._give_up(command))

    def release(self, span: Span) -> None:
        """Undo one hold of exactly this span."""
        key = (span.asid, span.first, span.last)
        if key in self._holds:
            self._holds.remove(key)

    def held(self, asid: int, first: int, last: int) -> bool:
        """Whether a hold overlaps these pages."""
        return any(a == asid and f <= last and first <= e for a, f, e in self._holds)

    def overtaken(self, epoch: int, asid: int, group: int | None, first: int, last: int) -> bool:
        """Whether these pages may have been invalidated since ``epoch``, as far as the log goes back."""
        since = self.epoch - epoch
        if since > len(self._log):
            return True
        recent = list(self._log)[len(self._log) - since :] if since > 0 else []
        return any(span and span.meets(asid, group, first, last) for span in recent)

    def ended(self, what: Waitable) -> None:
        """Take note that a use or a killed walk has ended."""
        for command in self._open:
            command.waits.discard(what)
        self._complete()

    def _invalidated(self, command: _Command) -> None:
        command.invalidated = True
        self._clock.record(Event.INVALIDATED, tag=command.tag, arg=int(command.young))

    def _complete(self) -> None:
        for command in list(self._open):
            if command.invalidated and not command.waits:
                self._close(command, Event.DRAINED)

    def _give_up(self, command: _Command) -> None:
        if command in self._open:
            uses = [what for what in command.waits if not isinstance(what, _Command)]
            self._timed_out({use.asid for use in uses})
            self._close(command, Event.TIMED_OUT)

    def _close(self, command: _Command, answer: Event) -> None:
        self._open.remove(command)
        self._clock.record(answer, tag=command.tag)
        for later in self._open:
            later.waits.discard(command)
