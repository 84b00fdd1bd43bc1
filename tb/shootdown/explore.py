"""Explores schedules on the model: one program, thousands of orders of its threads' steps, every invariant checked.

A *schedule* is a seed and the steps at which a thread loses its CPU for 40 us, longer than any mm path takes, so that
every other thread overtakes it there. Three ways to choose schedules:

``seeds``      the jitter of costs alone, a seed a schedule
``pct``        a seed a schedule, and d steps drawn from it (probabilistic concurrency testing: a bug that needs d
               places in the right order is found with probability of at least 1 / steps ** d a schedule)
``bounded``    every set of up to d steps, one after the other: exhaustive up to a bound on preemptions

The verdict of a schedule depends on the order of what happened, not on when. So only the first schedule that leads
to an order is checked, for every invariant at once; the others take its verdict.
"""

import gc
import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
from msgspec.structs import replace

from hostmm.audit import check_counts
from hostmm.errors import HostError
from hostmm.machine.machine import Machine
from secmmu.layouts import Event
from shootdown.checks import check, examined
from shootdown.collector import no_collection
from shootdown.history import History
from shootdown.run.config import MODEL, RunConfig
from shootdown.run.execute import play_on_model

__all__ = [
    "COUNTS",
    "STRATEGIES",
    "Schedule",
    "Search",
    "bounded",
    "count_steps",
    "explore",
    "halves",
    "pct",
    "seeds",
]

STRATEGIES = ("seeds", "pct", "bounded")
_ORDER = ("hw", "kind", "thread", "path", "mm", "vpn", "pfn")
"""Columns whose values, in order of the rows, make the order of a run."""
COUNTS = "counts"
"""What stands beside the invariants for a reference count or mapcount that is wrong at the end."""
_COLLECTED = 64
"""Schedules from one collection of garbage to the next."""


class _Verdict(NamedTuple):
    """Invariants that a run broke, each with whether the policy is known to allow it, and those it could have broken."""

    broken: frozenset[tuple[str, bool]]
    exercised: frozenset[str] = frozenset()


class Schedule(NamedTuple):
    """Which order of steps: a seed, and the steps at which a thread loses its CPU."""

    seed: int
    preempt: tuple[int, ...] = ()


@dataclass
class Search:
    """What exploring one program came to.

    Attributes
    ----------
    config : RunConfig
        The program, the policy, the subscriber.
    schedules : int
        Schedules run.
    seen : set of bytes
        The orders of events among them, as digests.
    exercised, hits : Counter
        For each invariant, how many schedules had something that it speaks of, and how many broke it.
    unexpected : Counter
        How many of them in a way that the policy is not known for.
    first : dict
        For each of these the first run that did.
    """

    config: RunConfig
    schedules: int = 0
    seen: set[bytes] = field(default_factory=set)
    exercised: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    first: dict[str, RunConfig] = field(default_factory=dict)

    @property
    def orders(self) -> int:
        """Orders of events among the schedules."""
        return len(self.seen)

    def note(self, run: RunConfig, verdict: "_Verdict") -> None:
        """Count one schedule."""
        self.schedules += 1
        self.exercised.update(verdict.exercised)
        for invariant in {name for name, _ in verdict.broken}:
            self.hits[invariant] += 1
            self.unexpected[invariant] += (invariant, False) in verdict.broken
            self.first.setdefault(invariant, run)

    def add(self, later: Self) -> None:
        """Add what later schedules of the same program came to."""
        self.schedules += later.schedules
        self.seen |= later.seen
        self.exercised.update(later.exercised)
        self.hits.update(later.hits)
        self.unexpected.update(later.unexpected)
        self.first = {**later.first, **self.first}


def seeds(count: int, *, first: int = 1) -> Iterator[Schedule]:
    """Yield ``count`` schedules that differ in the jitter of their costs."""
    return (Schedule(seed) for seed in range(first, first + count))


def pct(count: int, *, steps: int, depth: int, first: int = 1) -> Iterator[Schedule]:
    """Yield ``count`` schedules with ``depth`` preemptions each, at steps drawn from 1 to ``steps``."""
    for seed in range(first, first + count):
        rng = random.Random(seed)
        drawn = {rng.randint(1, steps) for _ in range(depth)}
        yield Schedule(seed, tuple(sorted(drawn)))


def halves(
    count: int, *, steps: int, depth: int = 2, begin: int = 0, end: int | None = None
) -> Iterator[Schedule]:
    """Yield schedules ``begin`` to ``end`` (all) of ``count``, the first half of which are by seed, the others by PCT."""
    half, end = count // 2, count if end is None else end
    yield from seeds(max(min(end, half) - begin, 0), first=1 + begin)
    begin = max(begin, half)
    yield from pct(max(end - begin, 0), steps=steps, depth=depth, first=1 + begin - half)


def bounded(*, steps: int, bound: int, seed: int = 1) -> Iterator[Schedule]:
    """Yield every schedule of one seed with up to ``bound`` preemptions among its first ``steps`` steps."""
    for size in range(bound + 1):
        for preempt in itertools.combinations(range(1, steps + 1), size):
            yield Schedule(seed, preempt)


def count_steps(config: RunConfig) -> int:
    """Return how many steps of a program can be preempted."""
    machine, _ = play_on_model(config)
    return machine.sched.steps


def explore(
    config: RunConfig,
    schedules: Iterable[Schedule],
    *,
    until: Iterable[str] = (),
) -> Search:
    """Run a program in every given order; stop early once each invariant in ``until`` has been broken."""
    search, verdicts = Search(config), dict[bytes, _Verdict]()
    wanted = set(until)
    with no_collection():
        for schedule in schedules:
            run = replace(config, simulator=MODEL, seed=schedule.seed, preempt=schedule.preempt)
            search.note(run, _verdict(run, verdicts))
            if wanted and wanted <= set(search.first):
                break
            if not search.schedules % _COLLECTED:
                gc.collect()
    search.seen = set(verdicts)
    return search


def _verdict(run: RunConfig, verdicts: dict[bytes, _Verdict]) -> _Verdict:
    """Run one schedule and check it, unless its order has been checked before."""
    machine, stuck = play_on_model(run)
    history = History(machine.timeline, machine.policy)
    order = _order(history.rows.columns)
    if order not in verdicts:
        broken = {(v.invariant, v.expected) for v in check(history, stuck=stuck)}
        exercised = {name for name, count in examined(history).items() if count}
        if stuck is None:
            broken |= _miscounts(machine)
            exercised.add(COUNTS)
        exercised |= {name for name, _ in broken}
        verdicts[order] = _Verdict(frozenset(broken), frozenset(exercised))
    return verdicts[order]


def _miscounts(machine: Machine) -> set[tuple[str, bool]]:
    """Compare every reference count and mapcount with what refers to the page."""
    try:
        check_counts(machine)
    except HostError:
        return {(COUNTS, False)}
    return set()


def _order(columns: dict[str, np.ndarray]) -> bytes:
    """Return a digest of what happened in which order, and of what the device loaded."""
    digest = hashlib.blake2b(digest_size=16)
    for name in _ORDER:
        digest.update(columns[name].tobytes())
    loads = (columns["hw"] == 1) & (columns["kind"] == Event.LOAD.value)
    digest.update(columns["a"][loads].tobytes())
    return digest.digest()
