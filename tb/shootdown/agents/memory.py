"""The memory behind the MMU: words with a history, and an AXI4 subordinate with every knob that races need."""

import bisect
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from shootdown.agents.pins import NEVER, Pace, Pins, Sink, Source, always

__all__ = ["ADDRESS_FIELDS", "PhysicalMemory", "Responder", "beat_addresses", "pattern"]

ADDRESS_FIELDS = ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "user")
_MASK = (1 << 64) - 1


def pattern(address: int) -> int:
    """Give the word that untouched memory holds: a function of the address, never 0."""
    return (address * 0x9E3779B97F4A7C15 ^ 0x5EC5_ECC5_ECC5_0001) & _MASK | 1


def beat_addresses(addr: int, beats: int, size: int, burst: int) -> list[int]:
    """List the byte addresses of the beats of a burst (Arm IHI 0022, A3.4.1)."""
    step = 1 << size
    aligned = addr & -step
    if burst == 0:
        return [addr] * beats
    if burst == 1:
        return [addr] + [aligned + step * beat for beat in range(1, beats)]
    total = step * beats
    base = addr & -total
    return [base + (addr - base + step * beat) % total for beat in range(beats)]


class PhysicalMemory:
    """64-bit words of a physical memory, each with the cycles at which it changed, and who has it reserved.

    A reservation is what an exclusive read leaves: any store to the word takes it away.

    Attributes
    ----------
    exists : callable
        Whether anything answers at an address.
    initial : callable
        The word that stands at an address nobody wrote.
    changes : list of int
        Cycles of the host's writes, ascending.
    """

    def __init__(self, initial: Callable[[int], int] = pattern) -> None:
        self._words: dict[int, list[tuple[int, int]]] = {}
        self._reserved: dict[object, int] = {}
        self.exists: Callable[[int], bool] = lambda _address: True
        self.initial = initial
        self.changes: list[int] = []

    def write(self, address: int, value: int, cycle: int) -> None:
        """Store a word as the host does; reads sampled after ``cycle`` see it, ``changes`` lists it."""
        self._put(address, value, cycle)
        if not self.changes or self.changes[-1] != cycle:
            self.changes.append(cycle)

    def clear(self) -> None:
        """Forget every word."""
        self._words.clear()
        self._reserved.clear()
        self.changes.clear()

    def _put(self, address: int, value: int, cycle: int) -> None:
        word = address & ~7
        self._words.setdefault(word, []).append((cycle, value))
        self._reserved = {who: at for who, at in self._reserved.items() if at != word}

    def written(self) -> dict[int, int]:
        """Give every word that was stored, with its last value."""
        return {address: history[-1][1] for address, history in self._words.items()}

    def reserve(self, who: object, address: int) -> None:
        """Reserve a word for an exclusive write; one that had another has it no more."""
        self._reserved[who] = address & ~7

    def has_reserved(self, who: object, address: int) -> bool:
        """Say whether no store has come to a word since ``who`` reserved it."""
        return self._reserved.get(who) == address & ~7

    def read(self, address: int) -> int | None:
        """Give the word that stands now, or None where nothing answers."""
        if not self.exists(address):
            return None
        history = self._words.get(address & ~7)
        return history[-1][1] if history else self.initial(address & ~7)

    def read_at(self, address: int, cycle: int) -> int | None:
        """Give the word as it stood at ``cycle``."""
        if not self.exists(address):
            return None
        history = self._words.get(address & ~7, [])
        at = bisect.bisect_right(history, (cycle, _MASK))
        return history[at - 1][1] if at else self.initial(address & ~7)

    def store(self, address: int, data: int, strobe: int, cycle: int) -> None:
        """Store the bytes of a device's bus beat that ``strobe`` marks."""
        mask = sum(0xFF << 8 * lane for lane in range(8) if strobe >> lane & 1)
        old = self.read(address) or 0
        self._put(address, old & ~mask | data & mask, cycle)


@dataclass
class _Read:
    payload: dict[str, int]
    due: int
    words: list[int | None]
    beat: int = 0


@dataclass
class _Write:
    payload: dict[str, int]
    beats: list[tuple[int, int]] = field(default_factory=list)
    due: int = 0
    done: bool = False


class Responder:
    """AXI4 subordinate.

    Bursts of one id are answered in order; of several ids whose data is due, the oldest first, or any one when
    ``reorder`` is set (a burst is then also interleaved with those of other ids).

    Parameters
    ----------
    pins : Pins
        The device's pins.
    stem : str
        The port, as ``memory__``.
    memory : PhysicalMemory
        What is read and written.
    clock : callable
        Gives the cycle number of the edge now being served.
    rng : random.Random
        For ``reorder`` and ``jitter``.
    write : bool
        Whether the port has write channels.

    Attributes
    ----------
    latency : int
        Cycles from the AR handshake, or the last of AW and W, to the first answer; at least 1.
    jitter : int
        Up to that many cycles more.
    answers : Pace
        Whether an R beat or a B may be presented in this clock.
    sample_late : bool
        Words are sampled when the beat is presented, instead of at the AR handshake.
    write_latency : int or None
        The latency of B where it differs from ``latency``.
    exclusives : bool
        Whether an exclusive access of one beat is performed as one; else it is an ordinary one, answered OKAY.
    response : callable
        Gives RRESP / BRESP of an address.
    """

    def __init__(
        self,
        pins: Pins,
        stem: str,
        memory: PhysicalMemory,
        clock: Callable[[], int],
        rng: random.Random,
        *,
        write: bool = True,
    ) -> None:
        self._pins = pins
        self._memory = memory
        self._clock = clock
        self._rng = rng
        self._reads: list[_Read] = []
        self._writes: deque[_Write] = deque()
        self._answers: list[_Write] = []
        self._data: deque[tuple[int, int, int]] = deque()
        self.latency = 1
        self.write_latency: int | None = None
        self.jitter = 0
        self.answers: Pace = always
        self.reorder = False
        self.sample_late = False
        self.exclusives = True
        self.response: Callable[[int], int] = lambda _address: 0
        self.ar = Sink(pins, f"{stem}ar", ADDRESS_FIELDS, self._accept_read)
        self._sinks = [self.ar]
        self._sources = [
            Source(
                pins, f"{stem}r", ("id", "data", "resp", "last"), self._next_read, lambda _c: None
            )
        ]
        if write:
            self.aw = Sink(pins, f"{stem}aw", ADDRESS_FIELDS, self._accept_write)
            self.w = Sink(pins, f"{stem}w", ("data", "strb", "last"), self._accept_data)
            self._sinks += [self.aw, self.w]
            self._sources.append(
                Source(pins, f"{stem}b", ("id", "resp"), self._next_write, lambda _c: None)
            )

        self._halves: list[Sink | Source] = [*self._sinks, *self._sources]
        self._valids = sum(half.valid for half in self._halves)

    def reset(self) -> None:
        """Forget every burst (only under the device's reset)."""
        self._reads.clear()
        self._writes.clear()
        self._answers.clear()
        self._data.clear()
        for half in self._halves:
            half.reset()

    @property
    def outstanding(self) -> int:
        """Bursts accepted and not answered to the end."""
        return len(self._reads) + len(self._writes) + len(self._answers)

    def step(self) -> None:
        """Serve one clock edge."""
        if not self._pins.watch & self._valids and self.due() > self._clock():
            return
        for sink in self._sinks:
            sink.step()
        self._match_data()
        for source in self._sources:
            source.step()

    def due(self) -> int:
        """Give the cycle from which on a step does something though no pin changes."""
        if not all(sink.rests for sink in self._sinks):
            return 0
        bursts: list[_Read | _Write] = [*self._reads, *self._answers]
        return min((burst.due for burst in bursts), default=NEVER)

    def hold_aw_until_data(self) -> None:
        """Accept an AW only once the whole of its data has come, as AXI lets a subordinate do."""
        self.aw.pace = lambda: len(self._lasts()) > len(self._writes)

    def _lasts(self) -> list[int]:
        return [at for at, beat in enumerate(self._data) if beat[2]]

    def _due(self, base: int | None = None) -> int:
        latency = self.latency if base is None else base
        return (
            self._clock() + latency - 1 + (self._rng.randint(0, self.jitter) if self.jitter else 0)
        )

    def _accept_read(self, payload: dict[str, int]) -> None:
        beats = beat_addresses(
            payload["addr"], payload["len"] + 1, payload["size"], payload["burst"]
        )
        self._reads.append(_Read(payload, self._due(), [self._memory.read(beat) for beat in beats]))
        if self._is_exclusive(payload):
            self._memory.reserve((self, payload["id"]), payload["addr"])

    def _is_exclusive(self, payload: dict[str, int]) -> bool:
        return self.exclusives and bool(payload["lock"]) and payload["len"] == 0

    def _accept_write(self, payload: dict[str, int]) -> None:
        self._writes.append(_Write(payload))

    def _accept_data(self, payload: dict[str, int]) -> None:
        self._data.append((payload["data"], payload["strb"], payload["last"]))

    def _match_data(self) -> None:
        while self._writes and self._data:
            write = self._writes[0]
            data, strobe, last = self._data.popleft()
            write.beats.append((data, strobe))
            if last:
                self._writes.popleft()
                self._perform(write)

    def _perform(self, write: _Write) -> None:
        payload = write.payload
        beats = beat_addresses(
            payload["addr"], payload["len"] + 1, payload["size"], payload["burst"]
        )
        exclusive = self._is_exclusive(payload)
        write.done = exclusive and self._memory.has_reserved((self, payload["id"]), payload["addr"])
        if write.done or not exclusive:
            for address, (data, strobe) in zip(beats, write.beats, strict=False):
                self._memory.store(address, data, strobe, self._clock())
        write.due = self._due(self.write_latency)
        self._answers.append(write)

    def _eligible(self, bursts: list[tuple[int, int]]) -> int | None:
        """Choose among (id, due) pairs, oldest first in the list: the first due of its id."""
        seen: set[int] = set()
        open_at = []
        for at, (name, due) in enumerate(bursts):
            if name not in seen and due <= self._clock():
                open_at.append(at)
            seen.add(name)
        if not open_at or not self.answers():
            return None
        return self._rng.choice(open_at) if self.reorder else open_at[0]

    def _next_read(self) -> tuple[dict[str, int], object] | None:
        at = self._eligible([(read.payload["id"], read.due) for read in self._reads])
        if at is None:
            return None
        read = self._reads[at]
        payload = read.payload
        beats = beat_addresses(
            payload["addr"], payload["len"] + 1, payload["size"], payload["burst"]
        )
        address = beats[read.beat]
        word = self._memory.read(address) if self.sample_late else read.words[read.beat]
        response = self.response(address) if word is not None else 3
        if response == 0 and self._is_exclusive(payload):
            response = 1
            if self.sample_late:
                self._memory.reserve((self, payload["id"]), address)
        read.beat += 1
        last = read.beat == len(beats)
        if last:
            del self._reads[at]
        elif not self.reorder:
            # Beats of one burst stay together unless interleaving was asked for.
            self._reads.insert(0, self._reads.pop(at))
        data = word if word is not None else _POISON
        return {"id": payload["id"], "data": data, "resp": response, "last": int(last)}, None

    def _next_write(self) -> tuple[dict[str, int], object] | None:
        at = self._eligible([(write.payload["id"], write.due) for write in self._answers])
        if at is None:
            return None
        write = self._answers.pop(at)
        payload = write.payload
        response = self.response(payload["addr"]) if self._memory.exists(payload["addr"]) else 3
        response = 1 if response == 0 and write.done else response
        return {"id": payload["id"], "resp": response}, None


_POISON = 0x0000_0400_DEAD_00D7
"""Data of a refused read: a perfectly good user leaf, so that whoever ignores RRESP is found out."""
