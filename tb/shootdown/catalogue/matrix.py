"""Policy x invariant, measured (docs/contract.md 7): directed scripts and explored races for each cell, and its mutant.

A cell says N where a directed script or a schedule breaks one of the row's invariants, else Y with the count of runs
behind it. A Y means something only where the same search, with the row's fault switched on, finds it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from hostmm.policies import POLICIES
from hostmm.scenarios import find
from hostmm.scenarios.litmus import Litmus
from shootdown.catalogue.played import play
from shootdown.config import MODEL, RunConfig
from shootdown.expectations import NOT_APPLICABLE
from shootdown.explore import Schedule, count_steps, explore, pct, seeds
from shootdown.litmus import missing

__all__ = ["ROWS", "SECTION_7", "Measured", "Row", "measure_cell"]

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
    kinds: Mapping[str, str] = field(default_factory=lambda: KINDS)


ROWS = (
    Row(
        "I1",
        ("I1",),
        ("L6",),
        ("race-zap", "race-unmap", "race-reclaim"),
        "untold",
    ),
    Row("I4/I5 COW", ("I4", "I5"), ("L1", "L2"), ("race-cow", "race-order"), "untold"),
    Row("I4 without struct page", ("I4",), ("S1",), ("race-raw",), "untold"),
    Row("I6", ("I6",), ("L3", "L3-short"), ("race-fork",), "untold"),
    Row("I7, I8", ("I7", "I8"), ("L5", "hmm-file_write"), ("race-clean", "race-dirty"), "untold"),
    Row(
        "I9", ("I9",), ("bug-hot", "S4", "hot-late"), ("race-young",), "unasked", kinds={"B": "kvm"}
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
    ("I9", "B"): "YNNYYNN",
    ("I11", "A"): "---NNNY",
    ("I12", "B"): "NNNNYYY",
}
"""The table of docs/contract.md 7 for each row and kind, a letter a policy, in the order of POLICIES; - where
the kernel had nothing of the kind. I12: whether a callback may sleep.

Two letters are as measured, not as the specification has them: under EMM a device that follows flushes hears of no
cleaning at all, so that what it writes afterwards is lost (I7); and 6.6 unmaps what was used since the last look by
design, which counts as N here.
"""


@dataclass(frozen=True)
class Measured:
    """A cell: ``runs`` directed and explored; the first run that broke it, by ``invariant``, and how many did.

    ``absent`` says that nothing of the row can be played under the policy.
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


def _configs(row: Row, policy: str, subscriber: str, names: tuple[str, ...]) -> Iterator[RunConfig]:
    if all((policy, invariant) in NOT_APPLICABLE for invariant in row.invariants):
        return
    for name in names:
        scenario = find(name)
        assert isinstance(scenario, Litmus)
        if missing(scenario.script, policy) is None:
            yield RunConfig(policy=policy, subscriber=subscriber, scenario=name, simulator=MODEL)


def measure_cell(row: Row, policy: str, kind: str, schedules: int) -> Measured:
    """Run a cell: its scripts, and ``schedules`` schedules of its races; where nothing breaks, its mutant."""
    subscriber = row.kinds[kind]
    scripts = list(_configs(row, policy, subscriber, row.scripts))
    races = list(_configs(row, policy, subscriber, row.races))
    runs = broken = 0
    first: tuple[str, str] | None = None
    for config in scripts:
        runs += 1
        found = [name for name in play(config).broken if name in row.invariants]
        if found:
            broken += 1
            first = first or (found[0], config.replay_command())
    each = schedules // max(len(races), 1)
    for config in races if each else ():
        search = explore(config, _schedules(config, each))
        runs += search.schedules
        for name in row.invariants:
            broken += search.hits[name]
            if search.hits[name] and first is None:
                first = (name, search.first[name].replay_command())
    untested = broken or not runs
    found_mutant = None if untested else _finds_mutant(row, [*scripts, *races], max(each, 1))
    invariant, replay = first or ("", "")
    absent = not runs
    return Measured(row.name, policy, kind, runs, broken, invariant, replay, absent, found_mutant)


def _schedules(config: RunConfig, count: int) -> list[Schedule]:
    half = count // 2
    return [*seeds(half), *pct(count - half, steps=count_steps(config), depth=2)]


def _finds_mutant(row: Row, configs: list[RunConfig], each: int) -> bool:
    """Whether the row's fault is found by what the row runs."""
    for config in configs:
        search = explore(
            replace(config, mutant=row.mutant), _schedules(config, each), until=row.invariants[:1]
        )
        if any(search.hits[name] for name in row.invariants):
            return True
    return False
