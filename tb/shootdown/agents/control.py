"""The host's side of the MMU: its registers, its invalidation commands and what it reports."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from amaranth.lib import data

from secmmu.layouts import (
    CommandKind,
    CommandLayout,
    CompletionLayout,
    DropinLayout,
    DroppedLayout,
    FaultLayout,
    Phase,
    ResumeLayout,
)
from shootdown.agents.pins import NEVER, Pins, Sink, Source

__all__ = ["Command", "Control", "Dropin", "Fault", "unpacker"]


def unpacker(layout: data.StructLayout) -> Callable[[int], dict[str, int]]:
    """Make a function that takes the bits of a ``layout`` apart into plain integers."""
    parts = [(name, field.offset, (1 << field.width) - 1) for name, field in layout]
    return lambda bits: {name: bits >> offset & mask for name, offset, mask in parts}


_COMPLETION = unpacker(CompletionLayout())
_FAULT = unpacker(FaultLayout())
_DROPPED = unpacker(DroppedLayout())
_COMMAND = CommandLayout()


@dataclass(eq=False)
class Command:
    """One invalidation command and when what happened to it.

    ``accepted``, ``invalidated``, ``drained``, ``timed_out`` and ``refused`` are cycles: of the handshake, and of the
    first ``valid`` of the completion. ``young`` is what a ``YOUNG`` command learnt.
    """

    kind: CommandKind
    asid: int = 0
    first: int = 0
    last: int = 0
    tag: int = 0
    hold: bool = False
    leaf_only: bool = False
    whole_asid: bool = False
    keep_global: bool = False
    presented: int | None = None
    accepted: int | None = None
    invalidated: int | None = None
    drained: int | None = None
    timed_out: int | None = None
    refused: int | None = None
    young: int | None = None
    released: "Command | None" = None

    @property
    def done(self) -> bool:
        """Whether the last completion has come."""
        ends = (self.drained, self.timed_out, self.refused)
        return any(cycle is not None for cycle in ends)

    def bits(self) -> int:
        """Encode the command."""
        names = (
            "kind",
            "asid",
            "tag",
            "hold",
            "leaf_only",
            "whole_asid",
            "keep_global",
            "first",
            "last",
        )
        return int(_COMMAND.const({name: getattr(self, name) for name in names}).as_bits())

    def covers(self, asid: int, first: int, last: int) -> bool:
        """Say whether it names a page of the span ``first`` to ``last`` of ``asid``."""
        if self.kind is CommandKind.ALL:
            return True
        harmless = (CommandKind.FENCE, CommandKind.RELEASE, CommandKind.YOUNG)
        if self.kind in harmless or asid != self.asid:
            return False
        if self.kind in (CommandKind.ASID, CommandKind.CONTEXT):
            return True
        end = self.first if self.kind is CommandKind.PAGE else self.last
        return self.first <= last and first <= end

    def __str__(self) -> str:
        spans = (CommandKind.PAGE, CommandKind.RANGE, CommandKind.YOUNG)
        pages = "" if self.kind not in spans else f" {self.first:#x}..{self.last:#x}"
        return (
            f"{self.kind.name}{' hold' if self.hold else ''} asid {self.asid}{pages} tag {self.tag}"
        )


@dataclass(frozen=True)
class Fault:
    """One fault report."""

    cycle: int
    va: int
    asid: int
    id: int
    write: int
    cause: int
    stalled: int = 0
    place: int = 0
    epoch: int = 0


@dataclass(eq=False)
class Dropin:
    """One drop-in; ``taken`` once it is answered, in cycle ``answered``."""

    asid: int
    vpn: int
    pte: int
    epoch: int
    grain: int = 0
    tag: int = 0
    accepted: int | None = None
    answered: int | None = None
    taken: int | None = None

    def bits(self) -> int:
        """Encode the drop-in."""
        names = ("asid", "grain", "tag", "vpn", "epoch")
        pte = DropinLayout()["pte"]
        fields = {name: getattr(self, name) for name in names}
        return int(DropinLayout().const(fields).as_bits()) | self.pte << pte.offset


class Control:
    """Drives commands and registers, collects completions and faults.

    Parameters
    ----------
    pins : Pins
        The device under test.
    clock : callable
        Gives the cycle number of the edge now being served.
    """

    def __init__(self, pins: Pins, clock: Callable[[], int]) -> None:
        self._pins = pins
        self._clock = clock
        self._waiting: deque[Command] = deque()
        self._register_writes: deque[tuple[int, int]] = deque()
        self._register_data: deque[int] = deque()
        self._register_reads: deque[int] = deque()
        self._written = 0
        self.values: deque[int] = deque()
        self.responses: list[int] = []
        self.commands: list[Command] = []
        self.faults: list[Fault] = []
        self.dropins: list[Dropin] = []
        self._dropins: deque[Dropin] = deque()
        self._resumes: deque[int] = deque()
        self._sources = [
            Source(pins, "command__", ("payload",), self._next_command, self._accept),
            Source(pins, "dropin__", ("payload",), self._next_dropin, self._accept_dropin),
            Source(pins, "resume__", ("payload",), self._next_resume, lambda _context: None),
            Source(pins, "csr__aw", ("addr", "prot"), self._next_write, lambda _context: None),
            Source(pins, "csr__w", ("data", "strb"), self._next_data, lambda _context: None),
            Source(pins, "csr__ar", ("addr", "prot"), self._next_read, lambda _context: None),
        ]
        self._announced = dict.fromkeys(("invalidated", "drained"), False)
        self._completed = {name: pins.bit(f"{name}__valid") for name in self._announced}
        self.completions = [
            Sink(pins, f"{name}__", ("payload",), partial(self._take_completion, name))
            for name in self._announced
        ]
        self.fault = Sink(pins, "fault__", ("payload",), self._report)
        self._sinks = [
            *self.completions,
            Sink(pins, "dropped__", ("payload",), self._take_dropped),
            self.fault,
            Sink(pins, "csr__b", ("resp",), self._take_written),
            Sink(pins, "csr__r", ("data", "resp"), self._take_value),
        ]
        self._halves: list[Sink | Source] = [*self._sinks, *self._sources]
        self._valids = sum(half.valid for half in self._halves)

    def reset(self) -> None:
        """Forget everything (only under the device's reset)."""
        for queue in (
            self._waiting,
            self._register_writes,
            self._register_data,
            self._register_reads,
            self._dropins,
            self._resumes,
            self.values,
        ):
            queue.clear()
        self.commands.clear()
        self.faults.clear()
        self.dropins.clear()
        self._written = 0
        self._announced = dict.fromkeys(self._announced, False)
        for half in self._halves:
            half.reset()

    def forget_holds(self) -> None:
        """Take note that a soft reset has cleared every hold."""
        for command in self.commands:
            command.hold = False

    @property
    def busy(self) -> bool:
        """Whether a command is not completed or a register access not answered."""
        return (
            self._has_queued
            or any(dropin.answered is None for dropin in self.dropins)
            or any(not command.done for command in self.commands)
            or any(source.busy for source in self._sources)
        )

    @property
    def _has_queued(self) -> bool:
        return bool(
            self._waiting
            or self._register_writes
            or self._register_data
            or self._register_reads
            or self._dropins
            or self._resumes
        )

    @property
    def written(self) -> int:
        """Register writes answered."""
        return self._written

    def due(self) -> int:
        """Give the cycle from which on a step does something though no pin changes."""
        resting = not self._has_queued and all(sink.rests for sink in self._sinks)
        return NEVER if resting else 0

    def step(self) -> None:
        """Serve one clock edge."""
        if not self._pins.watch & self._valids and self.due():
            return
        for name, announced in self._announced.items():
            if not announced and self._pins.watch & self._completed[name]:
                # What a completion says holds from its first valid on, whenever the host takes it.
                self._announced[name] = True
                self._complete(self._pins[f"{name}__payload"], name)
        for half in self._halves:
            half.step()

    def send(self, command: Command) -> Command:
        """Queue a command."""
        self._waiting.append(command)
        return command

    def drop_in(self, dropin: Dropin) -> Dropin:
        """Queue a drop-in."""
        self._dropins.append(dropin)
        return dropin

    def resume(self, place: int, *, retry: bool) -> None:
        """Queue what becomes of a stalled access."""
        bits = ResumeLayout().const({"place": place, "retry": int(retry)}).as_bits()
        self._resumes.append(int(bits))

    def write_register(self, address: int, value: int) -> None:
        """Queue a register write."""
        self._register_writes.append((address, value))
        self._register_data.append(value)

    def read_register(self, address: int) -> None:
        """Queue a register read; its value is appended to ``values``."""
        self._register_reads.append(address)

    def _next_command(self) -> tuple[dict[str, int], Any] | None:
        if not self._waiting:
            return None
        command = self._waiting.popleft()
        command.presented = self._clock()
        return {"payload": command.bits()}, command

    def _accept(self, command: Command) -> None:
        command.accepted = self._clock()
        self.commands.append(command)
        if command.kind is CommandKind.RELEASE:
            self._pair(command)

    def _pair(self, release: Command) -> None:
        for held in self.commands:
            whole = held.kind is CommandKind.ASID
            if (
                not held.hold
                or held.released
                or held.asid != release.asid
                or whole != release.whole_asid
            ):
                continue
            if whole or (held.first, held.last) == (release.first, release.last):
                held.released = release
                return

    def _next_dropin(self) -> tuple[dict[str, int], Any] | None:
        if not self._dropins:
            return None
        dropin = self._dropins.popleft()
        self.dropins.append(dropin)
        return {"payload": dropin.bits()}, dropin

    def _accept_dropin(self, dropin: Dropin) -> None:
        dropin.accepted = self._clock()

    def _next_resume(self) -> tuple[dict[str, int], Any] | None:
        if not self._resumes:
            return None
        return {"payload": self._resumes.popleft()}, None

    def _take_dropped(self, payload: dict[str, int]) -> None:
        fields = _DROPPED(payload["payload"])
        for dropin in self.dropins:
            if dropin.tag == fields["tag"] and dropin.answered is None:
                dropin.answered, dropin.taken = self._clock(), fields["taken"]
                return
        raise AssertionError(f"dropped: tag {fields['tag']} answers no drop-in")

    def _next_write(self) -> tuple[dict[str, int], Any] | None:
        if not self._register_writes:
            return None
        return {"addr": self._register_writes.popleft()[0], "prot": 0}, None

    def _next_data(self) -> tuple[dict[str, int], Any] | None:
        if not self._register_data:
            return None
        return {"data": self._register_data.popleft(), "strb": 0xFF}, None

    def _next_read(self) -> tuple[dict[str, int], Any] | None:
        if not self._register_reads:
            return None
        return {"addr": self._register_reads.popleft(), "prot": 0}, None

    def _take_completion(self, name: str, _payload: dict[str, int]) -> None:
        self._announced[name] = False

    def _complete(self, payload: int, stream: str) -> None:
        fields = _COMPLETION(payload)
        phase, since = Phase(fields["phase"]), self._clock()
        first = phase in (Phase.INVALIDATED, Phase.REFUSED)
        fits = first == (stream == "invalidated")
        for command in self.commands if fits else ():
            if command.tag != fields["tag"] or command.done:
                continue
            if first == (command.invalidated is None):
                setattr(command, phase.name.lower(), since)
                if phase is Phase.INVALIDATED and command.kind is CommandKind.YOUNG:
                    command.young = fields["young"]
                return
        raise AssertionError(
            f"completion: {phase.name} tag {fields['tag']} in cycle {self._clock()} fits no command"
        )

    def _report(self, payload: dict[str, int]) -> None:
        self.faults.append(Fault(self._clock(), **_FAULT(payload["payload"])))

    def _take_written(self, payload: dict[str, int]) -> None:
        self.responses.append(payload["resp"])
        self._written += 1

    def _take_value(self, payload: dict[str, int]) -> None:
        assert payload["resp"] == 0, f"register read answered {payload['resp']}"
        self.values.append(payload["data"])
