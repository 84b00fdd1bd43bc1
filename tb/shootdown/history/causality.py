"""What happened before what: vector clocks of CPU threads and DMA engines.

Edges are program order, locks, and reads-from: x86 CPUs, so that every store releases and every load acquires. An
engine's bursts are ordered where one was issued after the other had ended. A doorbell is no edge: nobody can tell from
the timeline what its thread did while the write was on its way.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from hostmm.machine.timeline import Row
from secmmu.layouts import PAGE_BITS
from shootdown.history.bursts import Burst
from shootdown.history.rows import Rows

__all__ = ["Causality"]

_Clock = dict[int, int]
_OFFSET = (1 << PAGE_BITS) - 1


def _join(clock: _Clock, other: _Clock) -> None:
    for agent, tick in other.items():
        if tick > clock.get(agent, 0):
            clock[agent] = tick


@dataclass(slots=True)
class _Stores:
    """Stores of one agent to one word of an address space: ticks and rows, both ascending."""

    ticks: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


class Causality:
    """Happens-before over one run.

    Parameters
    ----------
    rows : Rows
    bursts : iterable of Burst
    """

    def __init__(self, rows: Rows, bursts: Iterable[Burst]) -> None:
        self._clocks: dict[int, _Clock] = defaultdict(dict)
        self._locks: dict[int, _Clock] = defaultdict(dict)
        self._written: dict[int, _Clock] = {}
        self._values: dict[int, _Clock] = {}
        self._stores: dict[tuple[int, int], dict[int, _Stores]] = defaultdict(
            lambda: defaultdict(_Stores)
        )
        self._before: dict[Burst, _Clock] = {}
        events = [*self._host(rows), *self._device(rows, bursts)]
        events.sort(key=lambda event: event[0])
        for _, perform in events:
            perform()

    def newest_store(self, burst: Burst, va: int) -> int | None:
        """Row of the last store to the word at ``va`` that happened before a burst was issued, None for none."""
        clock = self._before.get(burst, {})
        newest = None
        for agent, stores in self._stores.get((burst.mm, va), {}).items():
            known = bisect_right(stores.ticks, clock.get(agent, 0))
            if known and (newest is None or stores.rows[known - 1] > newest):
                newest = stores.rows[known - 1]
        return newest

    def _host(self, rows: Rows) -> Iterator[tuple[int, Callable[[], None]]]:
        index = rows.of(Row.LOCK, Row.UNLOCK, Row.STORE, Row.LOAD)
        names = ("kind", "thread", "mm", "vpn", "a", "b")
        for row, kind, thread, mm, vpn, a, b in rows.take(index, *names):
            yield row, self._step(row, kind, thread, mm, vpn, a, b)

    def _step(
        self, row: int, kind: int, thread: int, mm: int, vpn: int, a: int, b: int
    ) -> Callable[[], None]:
        """Return what a host row does to the clocks."""

        def perform() -> None:
            if kind == Row.LOCK:
                _join(self._clocks[thread], self._locks[a])
            elif kind == Row.UNLOCK:
                _join(self._locks[a], self._clocks[thread])
            elif kind == Row.LOAD:
                _join(self._clocks[thread], self._written.get(a, {}))
            else:
                self._tick(thread)
                self._store(row, thread, mm, vpn << PAGE_BITS | a & _OFFSET, a, b)

        return perform

    def _tick(self, agent: int) -> None:
        clock = self._clocks[agent]
        clock[agent] = clock.get(agent, 0) + 1

    def _store(self, row: int, agent: int, mm: int, va: int, address: int, value: int) -> None:
        clock = dict(self._clocks[agent])
        self._written[address] = self._values[value] = clock
        stores = self._stores[mm, va][agent]
        stores.ticks.append(clock[agent])
        stores.rows.append(row)

    def _device(
        self, rows: Rows, bursts: Iterable[Burst]
    ) -> Iterator[tuple[int, Callable[[], None]]]:
        for burst in bursts:
            yield rows.row_of_cycle(burst.issued), self._issue(burst)
            yield burst.done, self._done(burst)

    def _issue(self, burst: Burst) -> Callable[[], None]:
        def perform() -> None:
            self._before[burst] = dict(self._clocks[_agent(burst)])

        return perform

    def _done(self, burst: Burst) -> Callable[[], None]:
        def perform() -> None:
            agent = _agent(burst)
            if burst.write and burst.use is not None:
                self._tick(agent)
                for beat in range(burst.beats):
                    place = (burst.va + 8 * beat, burst.use.pa + 8 * beat)
                    self._store(burst.done, agent, burst.mm, *place, burst.data + beat)
            for load in burst.loads:
                for word in load.words:
                    _join(self._clocks[agent], self._values.get(word, {}))

        return perform


def _agent(burst: Burst) -> int:
    """Return the engine's number among the threads: these count from 0 up, engines from -1 down."""
    return -1 - burst.engine
