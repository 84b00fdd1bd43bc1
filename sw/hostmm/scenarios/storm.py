"""The storm: some hundreds of shootdowns that meet walks, fills and uses of the device, on every unmapping path.

Four address spaces have a device. First a *sweep* aims one shootdown after the other at the fill that it overlaps, then
a page is *aged* and two are *pressed*: invalidated over and over while engines are kept busy with them; last both
engines hammer pages that CPU threads unmap, protect, copy, clean and reclaim. A fifth address space takes the frames
that become free and stores its own versions into them. The first phases are scenarios of their own, too.
"""

import random
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from hostmm.driver.pack import field_of
from hostmm.machine.locks import Wait
from hostmm.machine.scheduler import Steps, Thread
from hostmm.machine.timeline import Row
from hostmm.mm.space import MmStruct, Vma
from hostmm.scenarios import weather
from hostmm.scenarios.base import ALLOWED, FORBIDDEN, Bind, Outcome, Scenario
from hostmm.scenarios.press import age, press
from hostmm.scenarios.sweep import measure_walk, sweep
from hostmm.scenarios.weather import Weather
from secmmu.layouts import Event, LoadArg

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["AGE", "PRESS", "STORM", "SWEEP", "Storm"]

_SWEPT = 0x400
"""First of the pages that are swept."""
_DURATION_NS = 110_000
_POLL_NS = 1_000
_PRESSED = 0x410
"""The page that is pressed."""
_ENGINES = 2
_SPACES = 4
"""Address spaces with a device."""
_STRANGERS = range(1, _SPACES + 2)
"""The address spaces that share no page: higher numbers are forked from one of them."""


_Phase: TypeAlias = Callable[["Machine", list[MmStruct], Weather], Steps]


class Storm(Scenario):
    """Shootdowns that meet uses and walks in flight, by the hundred.

    Parameters
    ----------
    name, title : str
    phases : tuple of functions
        What happens, one after the other.
    """

    expectations: Mapping[str, str] = {"v9": ALLOWED, "seed": ALLOWED}
    frames = 96
    long = True

    def __init__(self, name: str, title: str, phases: tuple[_Phase, ...]) -> None:
        self.name = name
        self.title = title
        self._phases = phases

    def build(self, machine: "Machine", bind: Bind) -> None:
        """Prepare the address spaces and spawn the thread that runs one phase after the other."""
        spaces = [machine.new_mm() for _ in range(_SPACES)]
        taker = machine.new_mm()
        # Next to nothing in reserve, so that a freed frame has a new owner soon.
        machine.reclaim.min = machine.reclaim.low = 1
        for mm in spaces:
            mm.insert(Vma(mm, _PRESSED, _PRESSED + 1, True, True, pgoff=_PRESSED))
            weather.map_regions(machine, mm)
        weather.map_taker(taker, machine.frames.total)
        machine.sched.spawn("storm", _run(machine, spaces, taker, bind, self._phases))

    def outcome(self, columns: Mapping[str, np.ndarray], broken: Collection[str] = ()) -> Outcome:
        """Judge a finished run by what no policy excuses; stale loads behind COW are left to the checks.

        Forbidden is a touch that the frame sanitizer reported, and a load of what another address space's CPU
        stored, where the two have never shared a page. The value counts both.
        """
        hardware, kind = columns["hw"] == 1, columns["kind"]
        touches = int(np.count_nonzero(hardware & (kind == Event.VIOLATION.value)))
        leaks = _leaks(columns, hardware & (kind == Event.LOAD.value))
        return Outcome(self.name, FORBIDDEN if touches + leaks else ALLOWED, touches + leaks)


def _run(
    machine: "Machine",
    spaces: list[MmStruct],
    taker: MmStruct,
    bind: Bind,
    phases: tuple[_Phase, ...],
) -> Steps:
    """Bind the devices and go through the phases, while freed frames are taken."""
    for mm in spaces:
        yield from bind(machine, mm)
    storm = Weather(machine, spaces, taker)
    threads = _spawn(machine, {"taker": storm.take})
    for phase in phases:
        yield from phase(machine, spaces, storm)
    storm.over = True
    yield from _join(threads)
    # Nobody waits for the last release, and an end that nobody waits for would be waited for long.
    while machine.sched.busy():
        yield _POLL_NS


def _sweeping(machine: "Machine", spaces: list[MmStruct], storm: Weather, *, rounds: int) -> Steps:
    """Aim one shootdown after the other at the fill that it overlaps."""
    walk_ns = yield from measure_walk(machine, spaces[0], _SWEPT)
    yield from sweep(machine, spaces[0], _SWEPT, walk_ns, _random(machine, "sweep"), rounds=rounds)


def _ageing(machine: "Machine", spaces: list[MmStruct], storm: Weather, *, rounds: int) -> Steps:
    """Invalidate a page, without a hold, in the middle of walks for it."""
    yield from age(
        machine, spaces[0], _PRESSED, range(_ENGINES), _random(machine, "age"), rounds=rounds
    )


def _pressing(machine: "Machine", spaces: list[MmStruct], storm: Weather, *, rounds: int) -> Steps:
    """Drop pages in the middle of their uses."""
    threads = {
        f"press {engine}": partial(
            press, machine, mm, _PRESSED, engine, write=bool(engine), rounds=rounds
        )
        for engine, mm in enumerate(spaces[:_ENGINES])
    }
    yield from _join(_spawn(machine, threads))


def _storming(machine: "Machine", spaces: list[MmStruct], storm: Weather) -> Steps:
    """Let everything loose for a while; its threads end when the storm is over."""
    threads = _spawn(machine, storm.threads())
    yield _DURATION_NS
    storm.over = True
    yield from _join(threads)


def _spawn(
    machine: "Machine", threads: Mapping[str, Callable[[random.Random], Steps]]
) -> list[Thread]:
    return [
        machine.sched.spawn(name, steps(_random(machine, name))) for name, steps in threads.items()
    ]


def _join(threads: list[Thread]) -> Steps:
    for thread in threads:
        yield Wait(thread.done)


def _random(machine: "Machine", name: str) -> random.Random:
    return random.Random(f"{name} {machine.config.seed}")


def _leaks(columns: Mapping[str, np.ndarray], loads: np.ndarray) -> int:
    """Count loaded words that the CPU of a strange address space had stored."""
    stores = columns["kind"] == Row.STORE
    stores &= (columns["hw"] == 0) & np.isin(columns["mm"], list(_STRANGERS))
    owner = dict(zip(columns["b"][stores].tolist(), columns["mm"][stores].tolist(), strict=True))
    arg = columns["span"][loads]
    asids = field_of(LoadArg(), "asid")(arg).tolist()
    counts = field_of(LoadArg(), "count")(arg).tolist()
    words = zip(columns["a"][loads].tolist(), columns["b"][loads].tolist(), strict=True)
    return sum(
        owner.get(value, asid) != asid
        for asid, count, pair in zip(asids, counts, words, strict=True)
        for value in pair[:count]
    )


SWEEP = Storm(
    "sweep", "shootdowns aimed at the fill that they overlap", (partial(_sweeping, rounds=40),)
)
AGE = Storm(
    "age", "shootdowns without a hold in the middle of walks", (partial(_ageing, rounds=30),)
)
PRESS = Storm(
    "press", "shootdowns of a page in the middle of its uses", (partial(_pressing, rounds=20),)
)
STORM = Storm(
    "storm",
    "shootdowns that meet uses and walks in flight, on every unmapping path",
    (
        partial(_sweeping, rounds=70),
        partial(_ageing, rounds=30),
        partial(_pressing, rounds=66),
        _storming,
    ),
)
