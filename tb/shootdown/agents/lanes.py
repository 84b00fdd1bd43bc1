"""Checks the observation lanes against the pins, and keeps a shadow of the TLB from them."""

from collections.abc import Callable
from dataclasses import dataclass

from secmmu.config import SecmmuConfig
from secmmu.layouts import AccessArg, Event, FillArg, ObservationLayout
from shootdown.agents.control import Command, Control, unpacker
from shootdown.agents.monitors import Burst, PortMonitor
from shootdown.agents.pins import Pins
from shootdown.agents.scoreboard import Scoreboard

__all__ = ["Entry", "Lanes"]

_OBSERVATION = unpacker(ObservationLayout())
_ACCESS = unpacker(AccessArg())
_FILL = unpacker(FillArg())
_NAMES = ("walk", "fill", "kill", "read_begin", "read_end", "write_begin", "write_end")


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
    The shadow TLB must hold no entry that overlaps a drained command and was filled up to its handshake.

    Attributes
    ----------
    walks, fills, killed : list of (int, dict)
        Cycle and decoded record of each WALK, FILL and WALK_KILLED.
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
        self._config = config
        self._out = out
        self._control = control
        self._scoreboard = scoreboard
        self._clock = clock
        self._began: list[Burst] = []
        self._ended: list[Burst] = []
        self.walks: list[tuple[int, dict[str, int]]] = []
        self.fills: list[tuple[int, dict[str, int]]] = []
        self.killed: list[tuple[int, dict[str, int]]] = []
        self.shadow: dict[int, Entry] = {}
        self._drain_checked: set[int] = set()
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
            self.killed,
            self.shadow,
            self._drain_checked,
        ):
            store.clear()

    def _begin(self, burst: Burst) -> None:
        self._began.append(burst)
        self._chain_begin(burst)

    def step(self) -> None:
        """Look at one clock edge, after the port monitors and the scoreboard."""
        shown: dict[str, dict[str, int]] = {}
        for name in _NAMES:
            if self._pins[f"observe_{name}__valid"]:
                shown[name] = _OBSERVATION(self._pins[f"observe_{name}__payload"])
        if shown or self._began or self._ended:
            self._uses(shown)
            self._entries(shown)
        self._began.clear()
        self._ended.clear()
        for command in self._control.commands:
            if command.drained is not None and id(command) not in self._drain_checked:
                self._drain_checked.add(id(command))
                self._check_shadow(command)

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
        for lane in ("walk", "fill"):
            record = shown.get(lane)
            if record is None:
                continue
            kind = Event(record["kind"])
            store = {
                Event.WALK: self.walks,
                Event.FILL: self.fills,
                Event.WALK_KILLED: self.killed,
            }.get(kind)
            assert store is not None, f"observation: lane {lane} shows {kind.name} in cycle {now}"
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
        inside = (1 << 9 * arg["level"]) - 1
        first = record["a"] & ~inside
        assert arg["entry"] < self._config.tlb_entries, f"observation: FILL of entry {arg['entry']}"
        self.shadow[arg["entry"]] = Entry(
            arg["asid"], first, first | inside, record["b"], self._clock()
        )

    def _check_shadow(self, command: Command) -> None:
        for index, entry in self.shadow.items():
            left = entry.cycle <= (command.accepted or 0) and command.covers(
                entry.asid, entry.first, entry.last
            )
            assert not left, (
                f"entry left: {command} drained in cycle {command.drained}, but entry {index} of cycle {entry.cycle} "
                f"(vpn {entry.first:#x}..{entry.last:#x}) is still valid"
            )

    def check_end(self) -> None:
        """Insist that each WALK ended once: FILL, WALK_KILLED or a fault."""
        ended = len(self.fills) + len(self.killed)
        walks, faults = len(self.walks), len(self._control.faults)
        assert ended <= walks <= ended + faults, (
            f"observation: {walks} walks, {len(self.fills)} fills, {len(self.killed)} killed, {faults} faults"
        )
