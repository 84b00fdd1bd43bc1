"""Checks the observation lanes against the pins, and keeps a shadow of the TLB from them."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from secmmu.config import SWEEP_CYCLES, SecmmuConfig
from secmmu.layouts import AccessArg, Event, FillArg, ObservationLayout
from shootdown.agents.control import Command, Control, unpacker
from shootdown.agents.monitors import Burst, PortMonitor
from shootdown.agents.pins import NEVER, Pins
from shootdown.agents.scoreboard import Scoreboard

__all__ = ["Entry", "Lanes"]

_OBSERVATION = unpacker(ObservationLayout())
_ACCESS = unpacker(AccessArg())
_FILL = unpacker(FillArg())

_NAMES = ("walk", "walked", "fill", "kill", "read_begin", "read_end", "write_begin", "write_end")


@dataclass(frozen=True)
class Entry:
    """A TLB entry as its FILL showed it; ``first`` to ``last`` is its whole span."""

    asid: int
    first: int
    last: int
    pte: int
    cycle: int


class Lanes:
    """Monitor of the observation lanes.

    A use must be shown in the very cycle of its first AxVALID, its end in the cycle of the last R beat or of B.
    The shadow TLB must not hold an entry that overlaps a drained command and was filled up to its handshake for longer
    than a sweep takes (:data:`SWEEP_CYCLES`); it does not hit meanwhile, as the scoreboard sees.

    Attributes
    ----------
    walks, fills, ended : list of (int, dict)
        Cycle and decoded record of each WALK, each FILL, each WALKED, WALK_REFUSED or WALK_KILLED.
    shadow : dict of int to Entry
        Valid entries by index.
    """

    def __init__(
        self,
        pins: Pins,
        config: SecmmuConfig,
        out: PortMonitor,
        control: Control,
        scoreboard: Scoreboard,
        clock: Callable[[], int],
    ) -> None:
        self._pins = pins
        self._lanes = {name: pins.bit(f"observe_{name}__valid") for name in _NAMES}
        self._any = sum(self._lanes.values())
        self._config = config
        self._out = out
        self._control = control
        self._scoreboard = scoreboard
        self._clock = clock
        self._began: list[Burst] = []
        self._ended: list[Burst] = []
        self.walks: list[tuple[int, dict[str, int]]] = []
        self.fills: list[tuple[int, dict[str, int]]] = []
        self.ended: list[tuple[int, dict[str, int]]] = []
        self.shadow: dict[int, Entry] = {}
        self._drain_checked: set[int] = set()
        self._left: deque[tuple[int, int, Entry, Command]] = deque()
        self._chain_begin = out.on_begin
        out.on_begin = self._begin
        out.on_end = self._ended.append

    def reset(self) -> None:
        """Forget everything."""
        for store in (
            self._began,
            self._ended,
            self.walks,
            self.fills,
            self.ended,
            self.shadow,
            self._drain_checked,
            self._left,
        ):
            store.clear()

    def _begin(self, burst: Burst) -> None:
        self._began.append(burst)
        self._chain_begin(burst)

    def step(self) -> None:
        """Look at one clock edge, after the port monitors and the scoreboard."""
        shown: dict[str, dict[str, int]] = {}
        if self._pins.watch & self._any:
            for name, valid in self._lanes.items():
                if self._pins.watch & valid:
                    shown[name] = _OBSERVATION(self._pins[f"observe_{name}__payload"])
        if shown or self._began or self._ended:
            self._uses(shown)
            self._entries(shown)
        self._began.clear()
        self._ended.clear()
        for command in self._control.commands:
            if command.drained is not None and id(command) not in self._drain_checked:
                self._drain_checked.add(id(command))
                self._note_left(command)
        self._check_left()

    def due(self) -> int:
        """Give the cycle from which on a step does something though no pin changes."""
        return self._left[0][0] + 1 if self._left else NEVER

    def _uses(self, shown: dict[str, dict[str, int]]) -> None:
        for write, word in ((False, "read"), (True, "write")):
            expected = [burst for burst in self._began if burst.write is write]
            self._compare(f"{word}_begin", shown.get(f"{word}_begin"), expected, Event.USE_BEGIN)
            expected = [burst for burst in self._ended if burst.write is write]
            self._compare(f"{word}_end", shown.get(f"{word}_end"), expected, Event.USE_END)

    def _compare(
        self, lane: str, record: dict[str, int] | None, bursts: list[Burst], kind: Event
    ) -> None:
        where = f"lane {lane} in cycle {self._clock()}"
        assert (record is not None) == bool(bursts), (
            f"observation: {where} shows {record}, the pins {bursts or 'nothing'}"
        )
        if record is None:
            return
        burst, arg = bursts[0], _ACCESS(record["arg"])
        assert record["kind"] == kind.value, f"observation: {where} has kind {record['kind']}"
        got = (arg["asid"], arg["id"], arg["write"], arg["beats"])
        want = (burst.asid, burst.id, int(burst.write), burst.beats)
        assert got == want, (
            f"observation: {where} says asid, id, write, beats {got}, the pins {want}"
        )
        if kind is Event.USE_BEGIN:
            use = next((use for use in self._scoreboard.uses if use.memory is burst), None)
            va = use.device.addr if use else None
            assert (record["a"], record["b"]) == (va, burst.addr), (
                f"observation: {where} says va {record['a']:#x} pa {record['b']:#x}, the pins {va} {burst.addr:#x}"
            )
        else:
            worst = max(burst.responses)
            assert arg["code"] == worst, (
                f"observation: {where} says response {arg['code']}, the pins {worst}"
            )

    def _entries(self, shown: dict[str, dict[str, int]]) -> None:
        now = self._clock()
        kinds = {
            "walk": ((Event.WALK,), self.walks),
            "walked": ((Event.WALKED, Event.WALK_REFUSED, Event.WALK_KILLED), self.ended),
            "fill": ((Event.FILL,), self.fills),
        }
        for lane, (allowed, store) in kinds.items():
            record = shown.get(lane)
            if record is None:
                continue
            kind = Event(record["kind"])
            assert kind in allowed, f"observation: lane {lane} shows {kind.name} in cycle {now}"
            store.append((now, record))
            if kind is Event.FILL:
                self._fill(record)
        record = shown.get("kill")
        if record is not None:
            base, bitmap = record["arg"], record["b"]
            for index in range(64):
                if bitmap >> index & 1:
                    self.shadow.pop(base + index, None)

    def _fill(self, record: dict[str, int]) -> None:
        arg = _FILL(record["arg"])
        napot = arg["level"] == 0 and record["b"] >> 63
        inside = 15 if napot else (1 << 9 * arg["level"]) - 1
        first = record["a"] & ~inside
        assert arg["entry"] < self._config.tlb_entries, f"observation: FILL of entry {arg['entry']}"
        self.shadow[arg["entry"]] = Entry(
            arg["asid"], first, first | inside, record["b"], self._clock()
        )

    def _note_left(self, command: Command) -> None:
        """Note the entries that the sweep has still to clear."""
        for index, entry in self.shadow.items():
            if entry.cycle <= (command.accepted or 0) and command.covers(
                entry.asid, entry.first, entry.last
            ):
                self._left.append((self._clock() + SWEEP_CYCLES, index, entry, command))

    def _check_left(self) -> None:
        while self._left and self._left[0][0] < self._clock():
            _, index, entry, command = self._left.popleft()
            assert self.shadow.get(index) is not entry, (
                f"entry left: {command} drained in cycle {command.drained}, but entry {index} of cycle {entry.cycle} "
                f"(vpn {entry.first:#x}..{entry.last:#x}) is still valid in cycle {self._clock()}"
            )

    def check_end(self) -> None:
        """Insist that each WALK ended once, and that nothing was filled that no walk or drop-in granted."""
        walks, ended = len(self.walks), len(self.ended)
        assert walks == ended, f"observation: {walks} walks began, {ended} ended"
        granted = sum(record["kind"] == Event.WALKED.value for _, record in self.ended)
        granted += sum(bool(dropin.taken) for dropin in self._control.dropins)
        assert len(self.fills) <= granted, (
            f"observation: {len(self.fills)} fills, {granted} granted"
        )
