"""The MMU's invalidation port: never more commands there than it can hold undrained."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostmm.driver.pack import unpacker
from hostmm.errors import HostError
from hostmm.machine.locks import Signal, Wait
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import CommandFlag, Row
from secmmu.layouts import CommandKind, Event, RecordLayout

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["Command", "CommandQueue"]

_TAGS = 1 << 16
_record = unpacker(RecordLayout())


@dataclass(eq=False)
class Command:
    """One command on its way, and the two answers to it.

    ``invalidated`` carries the answer to a YOUNG; ``drained`` carries 1 where the MMU gave up waiting.
    """

    tag: int
    kind: CommandKind
    asid: int
    first: int
    last: int
    callback: int
    invalidated: Signal
    drained: Signal


class CommandQueue:
    """Sends commands and wakes who waits for their answers.

    Parameters
    ----------
    machine : Machine
    limit : int
        Commands that the hardware takes before the first of them has drained (``SecmmuConfig.commands``).
    """

    def __init__(self, machine: "Machine", limit: int) -> None:
        self._machine = machine
        self._limit = limit
        self._used = 0
        self._waiting_for_room: deque[Signal] = deque()
        self._undrained: dict[int, Command] = {}
        self._last_tag = -1
        self._awaited: Counter[Event] = Counter()
        sched = machine.sched
        sched.handle(Event.INVALIDATED, self._invalidated)
        sched.handle(Event.DRAINED, self._drained)
        sched.handle(Event.TIMED_OUT, self._drained)
        sched.handle(Event.REFUSED, self._refused)
        sched.stops |= {Event.REFUSED, Event.TIMED_OUT}

    @property
    def undrained(self) -> int:
        """Commands sent, or about to be, that have not drained."""
        return len(self._undrained)

    def send(
        self,
        kind: CommandKind,
        *,
        asid: int,
        first: int,
        last: int,
        callback: int = 0,
        hold: bool = False,
        leaf_only: bool = False,
        whole_asid: bool = False,
    ) -> Steps:
        """Send a command as soon as there is room; returns the :class:`Command` without waiting for an answer.

        ``callback`` is the notifier callback that wants it, 0 for none.
        """
        yield from self._room()
        command = self._new_command(kind, asid, first, last, callback)
        self._undrained[command.tag] = command
        flags = CommandFlag.HOLD * hold | CommandFlag.LEAF_ONLY * leaf_only
        flags |= CommandFlag.WHOLE_ASID * whole_asid

        def issue(ns: int) -> None:
            self._machine.sched.log(
                Row.INV_ISSUE,
                mm=asid,
                vpn=first,
                tag=command.tag,
                a=last,
                b=callback,
                c=flags,
            )
            self._machine.link.command(
                ns,
                kind=kind.value,
                hold=int(hold),
                leaf_only=int(leaf_only),
                whole_asid=int(whole_asid),
                asid=asid,
                tag=command.tag,
                first=first,
                last=last,
            )

        self._machine.sched.post(issue)
        yield "mmio_write"
        return command

    def wait_invalidated(self, command: Command) -> Steps:
        """Spin until *invalidated*: no new use of the old translation begins; returns the answer to a YOUNG."""
        return (yield from self.wait(command.invalidated, Event.INVALIDATED))

    def wait_drained(self, command: Command, *, sleeps: bool = False) -> Steps:
        """Spin (``sleeps``: sleep) until *drained*: the last use of the old translation has ended.

        Where the MMU gives up it has fenced the asid off, so no use begins any more; but a command that gave up is
        not done (I19): it is sent again, until what is in flight has ended.
        """
        while (yield from self.wait(command.drained, Event.DRAINED, sleeps=sleeps)):
            command = yield from self.send(
                command.kind,
                asid=command.asid,
                first=command.first,
                last=command.last,
                callback=command.callback,
            )

    def _new_command(
        self, kind: CommandKind, asid: int, first: int, last: int, callback: int
    ) -> Command:
        tag = (self._last_tag + 1) % _TAGS
        while tag in self._undrained:
            tag = (tag + 1) % _TAGS
        self._last_tag = tag
        return Command(
            tag,
            kind,
            asid,
            first,
            last,
            callback,
            Signal(f"command {tag} invalidated"),
            Signal(f"command {tag} drained"),
        )

    def _room(self) -> Steps:
        if self._used < self._limit:
            self._used += 1
            return
        signal = Signal("room in the command queue")
        self._waiting_for_room.append(signal)
        yield from self.wait(signal, Event.DRAINED)

    def wait(self, signal: Signal, event: Event, *, sleeps: bool = False) -> Steps:
        """Wait for a signal that a record of kind ``event`` fires: the hardware must stop at it."""
        self._awaited[event] += 1
        self._machine.sched.stops.add(event)
        value = yield Wait(signal, sleeps)
        self._awaited[event] -= 1
        if not self._awaited[event]:
            self._machine.sched.stops.discard(event)
        return value

    def _command_of(self, record: Sequence[int]) -> Command:
        return self._undrained[_record(record[0])["tag"]]

    def _invalidated(self, record: Sequence[int]) -> None:
        young = _record(record[0])["arg"]
        self._machine.sched.fire(self._command_of(record).invalidated, young)

    def _drained(self, record: Sequence[int]) -> None:
        command = self._command_of(record)
        gave_up = record[0] & 0xFF == Event.TIMED_OUT.value
        del self._undrained[command.tag]
        self._machine.sched.fire(command.drained, int(gave_up))
        if self._waiting_for_room:
            self._machine.sched.fire(self._waiting_for_room.popleft())
        else:
            self._used -= 1

    def _refused(self, record: Sequence[int]) -> None:
        raise HostError(f"the MMU refused command {_record(record[0])['tag']}: an empty range")
