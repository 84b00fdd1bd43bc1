"""The device in front of the MMU: an AXI4 manager that issues bursts as they are queued."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shootdown.agents.memory import ADDRESS_FIELDS
from shootdown.agents.pins import NEVER, Pins, Sink, Source

__all__ = ["Access", "Device"]


@dataclass(eq=False)
class Access:
    """One burst of the device.

    Parameters
    ----------
    write : bool
        Direction.
    asid, id, va, beats, size, burst : int
        As on the bus; ``size`` is log2 of the bytes of a beat.
    data : list of (int, int)
        Beats of a write: word and strobes.
    address_after : callable or None
        Present the address only once this is true.
    data_after : callable or None
        Present the write data only once this is true (late W).

    Attributes
    ----------
    presented, accepted, answered : int or None
        Cycles of the first AxVALID, the AxREADY handshake and the last answer.
    words, responses : list of int
        What came back.
    """

    write: bool
    asid: int
    id: int
    va: int
    beats: int = 1
    size: int = 3
    burst: int = 1
    data: list[tuple[int, int]] = field(default_factory=list)
    address_after: Callable[[], bool] | None = None
    data_after: Callable[[], bool] | None = None
    presented: int | None = None
    accepted: int | None = None
    answered: int | None = None
    words: list[int] = field(default_factory=list)
    responses: list[int] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether the last answer has come."""
        return self.answered is not None

    @property
    def refused(self) -> bool:
        """Whether it was answered with an error."""
        return any(self.responses)

    def __str__(self) -> str:
        kind = "write" if self.write else "read"
        return f"{kind} asid {self.asid} id {self.id} va {self.va:#x} x{self.beats}"


class Device:
    """AXI4 manager.

    Parameters
    ----------
    pins : Pins
        The device under test.
    clock : callable
        Gives the cycle number of the edge now being served.
    stem : str
        The port.

    Attributes
    ----------
    issued, answered : int
        Bursts queued, and answered to the end.
    """

    def __init__(self, pins: Pins, clock: Callable[[], int], stem: str = "device__") -> None:
        self._pins = pins
        self._clock = clock
        self._reads: deque[Access] = deque()
        self._writes: deque[Access] = deque()
        self._data: deque[tuple[Access, int]] = deque()
        self._open: dict[tuple[bool, int], deque[Access]] = {}
        self.issued = self.answered = 0
        self.r = Sink(pins, f"{stem}r", ("id", "data", "resp", "last"), self._take_read)
        self.b = Sink(pins, f"{stem}b", ("id", "resp"), self._take_write)
        self._sources = [
            Source(pins, f"{stem}ar", ADDRESS_FIELDS, self._next_read, self._accepted),
            Source(pins, f"{stem}aw", ADDRESS_FIELDS, self._next_write, self._accepted),
            Source(
                pins, f"{stem}w", ("data", "strb", "last"), self._next_data, lambda _context: None
            ),
        ]

        self._halves: list[Sink | Source] = [self.r, self.b, *self._sources]
        self._valids = sum(half.valid for half in self._halves)

    def reset(self) -> None:
        """Forget every burst (only under the device's reset)."""
        for queue in (self._reads, self._writes, self._data, self._open):
            queue.clear()
        self.issued = self.answered = 0
        for half in self._halves:
            half.reset()

    def step(self) -> None:
        """Serve one clock edge."""
        if not self._pins.watch & self._valids and self.due():
            return
        for half in self._halves:
            half.step()

    def due(self) -> int:
        """Give the cycle from which on a step does something though no pin changes."""
        waiting = self._reads or self._writes or self._data
        return NEVER if not waiting and self.r.rests and self.b.rests else 0

    @property
    def busy(self) -> bool:
        """Whether a burst waits to be issued or answered."""
        waiting = self._reads or self._writes or self._data
        return (
            bool(waiting)
            or any(self._open.values())
            or any(source.busy for source in self._sources)
        )

    def issue(self, access: Access) -> Access:
        """Queue a burst; writes go out in the order of these calls."""
        self.issued += 1
        if access.write:
            self._writes.append(access)
            self._data.extend((access, beat) for beat in range(access.beats))
        else:
            self._reads.append(access)
        return access

    def read(self, asid: int, va: int, **options: Any) -> Access:
        """Queue a read."""
        return self.issue(Access(False, asid, options.pop("id", 0), va, **options))

    def write(self, asid: int, va: int, words: list[int] | int = 0, **options: Any) -> Access:
        """Queue a write of whole words, or of the ``data`` given as (word, strobes) pairs."""
        values = words if isinstance(words, list) else [words]
        data = options.pop("data", [(word, 0xFF) for word in values])
        return self.issue(
            Access(True, asid, options.pop("id", 0), va, beats=len(data), data=data, **options)
        )

    def _present(self, queue: deque[Access]) -> tuple[dict[str, int], Access] | None:
        if not queue or not (queue[0].address_after is None or queue[0].address_after()):
            return None
        access = queue.popleft()
        access.presented = self._clock()
        self._open.setdefault((access.write, access.id), deque()).append(access)
        return _address(access), access

    def _next_read(self) -> tuple[dict[str, int], Access] | None:
        return self._present(self._reads)

    def _next_write(self) -> tuple[dict[str, int], Access] | None:
        return self._present(self._writes)

    def _next_data(self) -> tuple[dict[str, int], Access] | None:
        if not self._data:
            return None
        access, beat = self._data[0]
        if access.data_after is not None and not access.data_after():
            return None
        self._data.popleft()
        word, strobe = access.data[beat]
        return {"data": word, "strb": strobe, "last": int(beat == access.beats - 1)}, access

    def _accepted(self, access: Access) -> None:
        access.accepted = self._clock()

    def _oldest(self, write: bool, payload: dict[str, int]) -> Access:
        queue = self._open.get((write, payload["id"]))
        kind = "B" if write else "R"
        assert queue, (
            f"device: {kind} of id {payload['id']} answers no burst in cycle {self._clock()}"
        )
        return queue[0]

    def _take_read(self, payload: dict[str, int]) -> None:
        access = self._oldest(False, payload)
        access.words.append(payload["data"])
        access.responses.append(payload["resp"])
        last = len(access.words) == access.beats
        assert payload["last"] == last, (
            f"device: RLAST is {payload['last']} in beat {len(access.words)} of {access}"
        )
        if last:
            self._finish(access)

    def _take_write(self, payload: dict[str, int]) -> None:
        access = self._oldest(True, payload)
        access.responses.append(payload["resp"])
        self._finish(access)

    def _finish(self, access: Access) -> None:
        access.answered = self._clock()
        self._open[access.write, access.id].popleft()
        self.answered += 1


def _address(access: Access) -> dict[str, int]:
    return {
        "id": access.id,
        "addr": access.va,
        "len": access.beats - 1,
        "size": access.size,
        "burst": access.burst,
        "lock": 0,
        # Bufferable and modifiable, as a device would ask for; the memory side must not be bufferable.
        "cache": 0b0011,
        "prot": 0,
        "user": access.asid,
    }
