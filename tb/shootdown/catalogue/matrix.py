"""Policy x invariant, measured (docs/contract.md 7): directed scripts and explored races for each cell, and its mutant.

A cell says N where a directed script or a schedule breaks one of the row's invariants, else Y with the count of runs
behind it. A Y means something only where the same search, with the row's fault switched on, finds it.

Each race is searched once for a policy and a kind of device, and every schedule is judged by every check. So one
search serves all rows that name the race; of a row count those schedules in which its invariants could have broken.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from msgspec.structs import replace

from hostmm.policies import POLICIES
from hostmm.scenarios import find
from hostmm.scenarios.litmus import Litmus
from shootdown.catalogue.played import play
from shootdown.checks.expectations import NOT_APPLICABLE
from shootdown.explore import Search, count_steps, explore, halves
from shootdown.litmus import missing
from shootdown.run.config import MODEL, RunConfig

__all__ = ["ROWS", "SECTION_7", "Cell", "Measured", "Part", "Row", "cells", "measure", "parts"]

KINDS = {"B": "sva", "A": "sva-a"}
"""Kinds of device: one that honours brackets, one that follows the CPUs' flushes."""


@dataclass(frozen=True)
class Row:
    """One row: its invariants, what is run for it, and the fault that the same search must find.

    Attributes
    ----------
    scripts, races : tuple of str
    mutant : str
    kinds : mapping
        The kinds of device that it is about, and the subscriber that stands for each.
    """

    name: str
    invariants: tuple[str, ...]
    scripts: tuple[str, ...]
    races: tuple[str, ...]
    mutant: str
    kinds: Mapping[str, str] = field(default_factory=lambda: KINDS, hash=False)


ROWS = (
    Row(
        "I1",
        ("I1",),
        ("L6",),
        (
            *("race-zap", "race-unmap", "race-reclaim", "race-cow"),
            *("race-order", "race-fork", "race-clean", "race-dirty"),
        ),
        "untold",
    ),
    Row("I4/I5 COW", ("I4", "I5"), ("L1", "L2"), ("race-cow", "race-order", "race-fork"), "untold"),
    Row("I4 without struct page", ("I4",), ("S1",), ("race-raw",), "untold"),
    Row("I6", ("I6",), ("L3", "L3-short"), ("race-fork",), "untold"),
    Row(
        "I7, I8",
        ("I7", "I8"),
        ("L5", "hmm-file_write"),
        ("race-clean", "race-dirty", "race-reclaim"),
        "untold",
    ),
    Row(
        "I9",
        ("I9",),
        ("bug-hot", "S4", "hot-late", "S5"),
        ("race-young",),
        "unasked",
        kinds={"B": "kvm"},
    ),
    Row("I11", ("I11",), ("bug-upgrade",), ("race-upgrade",), "B28", kinds={"A": "ats"}),
    Row(
        "I12",
        ("I12",),
        ("bug-zap", "bug-copy", "bug-reclaim", "bug-migrate", "bug-exit"),
        ("race-zap", "race-reclaim", "race-unmap"),
        "B13",
        kinds={"B": "odp"},
    ),
)
"""The rows that are measured. I11 needs a device that keeps what it has cached, I12 a driver that sleeps: whether a
driver may is what the row of the contract says, so it is played under every policy, older ones than the driver too."""

_PART = 1000
"""Schedules that one process explores at a time."""
_AT_A_TIME = 50
"""Schedules of a mutant between two looks at whether it has been found."""
DECIDED = 60
"""Schedules of a cell that a script has broken."""

SECTION_7 = {
    ("I1", "B"): "YYYYYYY",
    ("I1", "A"): "NNNNNYY",
    ("I4/I5 COW", "B"): "YNYYYYY",
    ("I4/I5 COW", "A"): "YNNYNYY",
    ("I4 without struct page", "B"): "YNYYYYY",
    ("I4 without struct page", "A"): "YNNYNYY",
    ("I6", "B"): "NNYYYYY",
    ("I6", "A"): "NNNYNYY",
    ("I7, I8", "B"): "YYYYYYY",
    ("I7, I8", "A"): "YYNYYYY",
    ("I9", "B"): "YNNYNNN",
    ("I11", "A"): "---NNNY",
    ("I12", "B"): "NNNNYYY",
}
"""The table of docs/contract.md 7 for each row and kind, a letter a policy, in the order of POLICIES; - where
the kernel had nothing of the kind. I12: whether a callback may sleep.

Three letters are as measured, not as the specification has them: under EMM a device that follows flushes hears of no
cleaning at all, so that what it writes afterwards is lost (I7); in 3.7's cluster range start throws away what the
device would be asked for (I9); and 6.6 unmaps what was used since the last look by design, which counts as N here.
"""


@dataclass(frozen=True)
class Measured:
    """A cell, measured.

    Attributes
    ----------
    runs : int
        Directed runs, and schedules in which an invariant of the row could have broken.
    broken : int
        How many of them broke one; the first one broke ``invariant``, and ``replay`` repeats it.
    absent : bool
        Nothing of the row can be played under the policy.
    schedules, orders : int
        Schedules explored, and orders of events among them.
    exercised : dict
        For each invariant of the row, the schedules in which it could have broken.
    """

    row: str
    policy: str
    kind: str
    runs: int
    broken: int
    invariant: str = ""
    replay: str = ""
    absent: bool = False
    mutant_found: bool | None = None
    schedules: int = 0
    orders: int = 0
    exercised: dict[str, int] = field(default_factory=dict)

    @property
    def letter(self) -> str:
        """Y, N, or - where there is nothing to run."""
        return "-" if self.absent else "N" if self.broken else "Y"

    @property
    def expected(self) -> str:
        """What the table says."""
        return SECTION_7[self.row, self.kind][list(POLICIES).index(self.policy)]

    @property
    def as_expected(self) -> bool:
        """Whether it is so, and the search that says Y would have found the fault."""
        return self.letter == self.expected and self.mutant_found is not False


@dataclass(frozen=True)
class Part:
    """Schedules ``begin`` to ``end`` of ``count`` of one race."""

    config: RunConfig
    count: int
    begin: int
    end: int

    def explore(self) -> Search:
        """Run them."""
        steps = count_steps(self.config)
        return explore(self.config, halves(self.count, steps=steps, begin=self.begin, end=self.end))


@dataclass(frozen=True)
class Cell:
    """One row under one policy, with one kind of device."""

    row: Row
    policy: str
    kind: str

    @cached_property
    def scripts(self) -> list[RunConfig]:
        """Its directed runs, as far as the policy has what they play."""
        return list(self._configs(self.row.scripts))

    @cached_property
    def races(self) -> list[RunConfig]:
        """Its races."""
        return list(self._configs(self.row.races))

    def _configs(self, names: Iterable[str]) -> Iterator[RunConfig]:
        subscriber = self.row.kinds[self.kind]
        if all((self.policy, invariant) in NOT_APPLICABLE for invariant in self.row.invariants):
            return
        for name in names:
            scenario = find(name)
            assert isinstance(scenario, Litmus)
            if missing(scenario.script, self.policy) is None:
                yield RunConfig(
                    policy=self.policy, subscriber=subscriber, scenario=name, simulator=MODEL
                )

    def directed(self) -> list[str]:
        """Play the scripts; return, for each, the first invariant of the row that it broke, or nothing."""
        found = []
        for config in self.scripts:
            broken = [name for name in play(config).broken if name in self.row.invariants]
            found.append(broken[0] if broken else "")
        return found

    def finds_mutant(self, counts: Mapping[RunConfig, int]) -> bool:
        """Whether the row's fault breaks the row in what the row runs: its races if explored, else its scripts."""
        for config in self.races:
            faulty, count = replace(config, mutant=self.row.mutant), counts.get(config, 0)
            for begin in range(0, count, _AT_A_TIME):
                part = Part(faulty, count, begin, min(begin + _AT_A_TIME, count))
                if any(part.explore().hits[name] for name in self.row.invariants):
                    return True
        return not any(counts.get(config) for config in self.races) and any(
            name in self.row.invariants
            for config in self.scripts
            for name in play(replace(config, mutant=self.row.mutant)).broken
        )

    def result(
        self, directed: Sequence[str], searches: Mapping[RunConfig, Search], *, mutant: bool | None
    ) -> Measured:
        """Put together what its runs came to."""
        row, found = self.row, [searches[c] for c in self.races if c in searches]
        breaks = [
            *((name, config) for name, config in zip(directed, self.scripts, strict=True) if name),
            *((n, s.first[n]) for s in found for n in row.invariants if n in s.first),
        ]
        invariant, replay = (breaks[0][0], breaks[0][1].replay_command()) if breaks else ("", "")
        return Measured(
            row.name,
            self.policy,
            self.kind,
            runs=len(directed) + sum(_most(s.exercised, row.invariants) for s in found),
            broken=sum(map(bool, directed)) + sum(_most(s.hits, row.invariants) for s in found),
            invariant=invariant,
            replay=replay,
            absent=not (self.scripts or self.races),
            mutant_found=mutant,
            schedules=sum(search.schedules for search in found),
            orders=sum(search.orders for search in found),
            exercised={name: sum(s.exercised[name] for s in found) for name in row.invariants},
        )


def _most(counts: Mapping[str, int], names: Iterable[str]) -> int:
    """Return the greatest count: schedules in which several invariants broke, or could have, count once."""
    return max(counts.get(name, 0) for name in names)


def cells(policies: Iterable[str]) -> list[Cell]:
    """Return every cell of some policies, row by row."""
    return [Cell(row, p, kind) for row in ROWS for kind in row.kinds for p in policies]


def parts(wanted: Mapping[Cell, int]) -> list[Part]:
    """Return what must be explored so that each cell has as many schedules as it wants, or a few more.

    A cell divides them among its races; a race is searched as often as the cell that wants most of it.
    """
    counts: dict[RunConfig, int] = {}
    for cell, schedules in wanted.items():
        for config in cell.races if schedules else ():
            each = -(-schedules // len(cell.races))
            counts[config] = max(counts.get(config, 0), each)
    return [
        Part(config, count, begin, min(begin + _PART, count))
        for config, count in counts.items()
        for begin in range(0, count, _PART)
    ]


def measure(
    wanted: Sequence[Cell],
    schedules: int,
    *,
    each: Callable[..., Iterable[Any]] = map,
) -> list[Measured]:
    """Measure cells, each by its scripts and ``schedules`` schedules of its races, and by its mutant where it says Y.

    A cell that a script breaks is decided; it is explored with 60 schedules at most, for its rate.

    Parameters
    ----------
    each : callable
        A ``map`` that may work in processes of its own; what it returns is in order, whoever did it.
    """
    directed = list(each(Cell.directed, wanted))
    goals = {
        cell: min(schedules, DECIDED) if any(found) else schedules
        for cell, found in zip(wanted, directed, strict=True)
    }
    planned, searches = parts(goals), dict[RunConfig, Search]()
    for part, search in zip(planned, each(Part.explore, planned), strict=True):
        searches.setdefault(part.config, Search(part.config)).add(search)
    counts = {part.config: part.count for part in planned}
    plain = [
        cell.result(found, searches, mutant=None)
        for cell, found in zip(wanted, directed, strict=True)
    ]
    kept = [cell for cell, one in zip(wanted, plain, strict=True) if one.letter == "Y"]
    found_by = dict(zip(kept, each(Cell.finds_mutant, kept, itertools.repeat(counts)), strict=True))
    return [
        dataclasses.replace(one, mutant_found=found_by.get(cell))
        for cell, one in zip(wanted, plain, strict=True)
    ]
