"""Monitors: what AXI4 demands of a port (Arm IHI 0022), and the bursts that went over it."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shootdown.agents.memory import ADDRESS_FIELDS, beat_addresses
from shootdown.agents.pins import Pins

__all__ = ["Burst", "ChannelMonitor", "PortMonitor"]


class ChannelMonitor:
    """Checks that a valid/ready channel keeps what it presents until it is taken (A3.2.1).

    ``valid`` is the mask of that pin.

    Parameters
    ----------
    pins : Pins
        The device's pins.
    stem : str
        Common start of the pins' names, as ``memory__ar``.
    fields : sequence of str
        Payload pins, without the stem.
    clock : callable
        Gives the cycle number of the edge now being served.
    """

    def __init__(
        self, pins: Pins, stem: str, fields: Sequence[str], clock: Callable[[], int]
    ) -> None:
        self._pins = pins
        self._stem = stem
        self.valid = pins.bit(f"{stem}valid")
        self._ready = pins.bit(f"{stem}ready")
        self._fields = {field: f"{stem}{field}" for field in fields}
        self._clock = clock
        self._standing: dict[str, int] | None = None
        self.payload: dict[str, int] = {}
        self.begins = False
        self.taken = False

    def reset(self) -> None:
        """Expect nothing."""
        self._standing = None
        self.begins = self.taken = False

    def step(self) -> None:
        """Look at one clock edge: ``begins`` on the first valid, ``taken`` on the handshake."""
        self.begins = self.taken = False
        if not self._pins.watch & self.valid:
            assert self._standing is None, (
                f"unstable: {self._stem}valid fell without a handshake in cycle {self._clock()}"
            )
            return
        self.payload = {field: self._pins[name] for field, name in self._fields.items()}
        self.begins = self._standing is None
        if self._standing is not None:
            changed = [
                name for name, value in self._standing.items() if self.payload[name] != value
            ]
            assert not changed, (
                f"unstable: {self._stem}{changed[0]} changed from {self._standing[changed[0]]:#x} to "
                f"{self.payload[changed[0]]:#x} while waiting in cycle {self._clock()}"
            )
        self.taken = bool(self._pins.watch & self._ready)
        self._standing = None if self.taken else self.payload


@dataclass(eq=False)
class Burst:
    """One burst on a port; ``begin``, ``accepted`` and ``end`` are cycles."""

    write: bool
    id: int
    asid: int
    addr: int
    beats: int
    size: int
    burst: int
    cache: int
    begin: int
    accepted: int | None = None
    end: int | None = None
    data: list[tuple[int, int]] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    responses: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        kind = "write" if self.write else "read"
        return f"{kind} asid {self.asid} id {self.id} addr {self.addr:#x} x{self.beats} of cycle {self.begin}"


class PortMonitor:
    """Watches one AXI4 port and reports its bursts.

    Checks stability of the five channels, RLAST and WLAST, that every answer has a burst and comes in the order of
    its id, that no write is answered before its last data, that no data runs ahead of its address
    (``data_after_address``), that no burst crosses 4 KiB (``whole_pages``).

    Parameters
    ----------
    pins, clock
        As in :class:`ChannelMonitor`.
    stem : str
        The port, as ``memory__``.
    write : bool
        Whether it has write channels.
    manager : bool
        Whether the device under test is the manager of the port; then the last two rules are checked.

    Attributes
    ----------
    bursts : list of Burst
        All of them, by first AxVALID.
    outstanding : int
        How many were first presented and not answered to the end.
    on_begin, on_end : callable
        Called with the burst at its first AxVALID and at its last answer.
    """

    def __init__(
        self,
        pins: Pins,
        stem: str,
        clock: Callable[[], int],
        *,
        write: bool = True,
        manager: bool = True,
    ) -> None:
        self._pins = pins
        self._clock = clock
        self._stem = stem
        self._manager = manager
        self._write = write
        payloads = {"ar": ADDRESS_FIELDS, "r": ("id", "data", "resp", "last")}
        if write:
            payloads |= {"aw": ADDRESS_FIELDS, "w": ("data", "strb", "last"), "b": ("id", "resp")}
        self.channels = {
            name: ChannelMonitor(pins, f"{stem}{name}", fields, clock)
            for name, fields in payloads.items()
        }
        self._valids = sum(channel.valid for channel in self.channels.values())
        self._moving = False
        self._standing: dict[str, Burst] = {}
        self._open: dict[tuple[bool, int], deque[Burst]] = {}
        self._filling: deque[Burst] = deque()
        self._ahead: deque[tuple[int, int, int]] = deque()
        self.bursts: list[Burst] = []
        self.outstanding = 0
        self.on_begin: Callable[[Burst], None] = lambda _burst: None
        self.on_end: Callable[[Burst], None] = lambda _burst: None

    def reset(self) -> None:
        """Expect nothing."""
        for queue in (self._standing, self._open, self._filling, self._ahead, self.bursts):
            queue.clear()
        self.outstanding = 0
        self._moving = False
        for channel in self.channels.values():
            channel.reset()

    def _require(self, condition: object, rule: str, what: object) -> None:
        assert condition, f"axi: {self._stem} {rule}: {what} in cycle {self._clock()}"

    def step(self) -> None:
        """Look at one clock edge."""
        moving = bool(self._pins.watch & self._valids)
        if not (moving or self._moving):
            return
        self._moving = moving
        for channel in self.channels.values():
            channel.step()
        # Answers first: an answer can only be to a burst of an earlier edge.
        if self.channels["r"].begins:
            self._require(
                self._oldest(False, "r"), "R answers no burst", self.channels["r"].payload
            )
        if self.channels["r"].taken:
            self._read_beat()
        if self._write:
            self._step_write()
        self._step_address("ar")

    def _step_write(self) -> None:
        b = self.channels["b"]
        if b.begins:
            burst = self._oldest(True, "b")
            self._require(burst, "B answers no burst", b.payload)
            full = burst is not None and len(burst.data) == burst.beats
            self._require(full, "B before the last W", burst)
        if b.taken:
            burst = self._open[True, b.payload["id"]].popleft()
            burst.responses.append(b.payload["resp"])
            self._end(burst)
        self._step_address("aw")
        w = self.channels["w"]
        if w.begins and self._manager:
            ready = any(len(burst.data) < burst.beats for burst in self._filling)
            self._require(ready, "W before its AW", w.payload)
        if w.taken:
            self._ahead.append((w.payload["data"], w.payload["strb"], w.payload["last"]))
        self._match_data()

    def _match_data(self) -> None:
        while self._filling and self._ahead:
            burst = self._filling[0]
            data, strobe, last = self._ahead.popleft()
            burst.data.append((data, strobe))
            full = len(burst.data) == burst.beats
            self._require(
                bool(last) == full, f"WLAST is {last} in beat {len(burst.data)} of", burst
            )
            if full:
                self._filling.popleft()

    def _oldest(self, write: bool, channel: str) -> Burst | None:
        queue = self._open.get((write, self.channels[channel].payload["id"]))
        burst = queue[0] if queue else None
        return burst if burst is not None and burst.accepted is not None else None

    def _step_address(self, name: str) -> None:
        channel = self.channels[name]
        if channel.begins:
            burst = self._begin(name == "aw", channel.payload)
            self._standing[name] = burst
            self.on_begin(burst)
        if channel.taken:
            burst = self._standing.pop(name)
            burst.accepted = self._clock()

    def _begin(self, write: bool, payload: dict[str, int]) -> Burst:
        burst = Burst(
            write=write,
            id=payload["id"],
            asid=payload["user"],
            addr=payload["addr"],
            beats=payload["len"] + 1,
            size=payload["size"],
            burst=payload["burst"],
            cache=payload["cache"],
            begin=self._clock(),
        )
        if self._manager:
            pages = {
                beat >> 12
                for beat in beat_addresses(burst.addr, burst.beats, burst.size, burst.burst)
            }
            self._require(len(pages) == 1, "burst crosses 4 KiB", burst)
        self.bursts.append(burst)
        self.outstanding += 1
        self._open.setdefault((write, burst.id), deque()).append(burst)
        if write:
            self._filling.append(burst)
        return burst

    def _read_beat(self) -> None:
        payload = self.channels["r"].payload
        burst = self._open[False, payload["id"]][0]
        burst.words.append(payload["data"])
        burst.responses.append(payload["resp"])
        full = len(burst.words) == burst.beats
        self._require(
            bool(payload["last"]) == full,
            f"RLAST is {payload['last']} in beat {len(burst.words)} of",
            burst,
        )
        if full:
            self._open[False, payload["id"]].popleft()
            self._end(burst)

    def _end(self, burst: Burst) -> None:
        burst.end = self._clock()
        self.outstanding -= 1
        self.on_end(burst)
