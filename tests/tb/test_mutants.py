"""A fault that is switched on makes a run fail, by name of the invariant, in a cycle, with its replay.

Every fault of the host; of those of the RTL the ones that a scenario meets. The host's are shown on the model, which
needs no compiler, and by ``pytest -m long`` on the RTL. Those of the RTL are all found at its pins, too
(:mod:`tests.hdl.test_mmu_mutants`), which is so much cheaper that ``make test`` has one of them in a run, which breaks
a rule of the host, one of entries and one of uses; the others are found by ``pytest -m long``.
"""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostmm.mutants import HOST_MUTANTS
from secmmu.config import MUTANTS
from tests.tb.cli import shootdown


@dataclass(frozen=True)
class Exposure:
    """What shows a mutant: a scenario, options beside it, and the invariant that is broken first."""

    scenario: str
    invariant: str
    options: tuple[str, ...] = ()


HOST_IN_SHORT, RTL_IN_SHORT = "host-free-on-invalidated", "rtl-no-span-compare"
"""Those that ``make test`` replays: of the host one that needs options, of the RTL the only one in a run."""
EXPOSED_BY = {
    "rtl-no-drain": Exposure("press", "I19"),
    "rtl-no-walk-kill": Exposure("age", "I2"),
    "rtl-no-fill-kill": Exposure("sweep", "I2"),
    RTL_IN_SHORT: Exposure("I24", "I24"),
    "rtl-no-asid-compare": Exposure("age", "I2"),
    "host-free-before-drained": Exposure("press", "I1"),
    # The answer and the free need longer than a use, unless memory is slow.
    HOST_IN_SHORT: Exposure("press", "I19", ("--memory-latency", "200")),
    "host-no-wait": Exposure("press", "I19"),
    "host-ignore-range-start": Exposure("press", "I1"),
}
SHOWN = re.compile(
    r"^FAILED (I\d+) on (\S+) in cycle (\d+) by (.*?): .*; replay: (shootdown run .*)$"
)


def words(exposure: Exposure, simulator: str) -> list[str]:
    """Return the arguments of the run."""
    return [
        *("run", "--policy", "v9", "--sim", simulator, "--scenario", exposure.scenario),
        *exposure.options,
    ]


def failures(output: str) -> list[tuple[str, ...]]:
    """Return (invariant, path, cycle, thread, replay command) of each violation printed."""
    return [match.groups() for line in output.splitlines() if (match := SHOWN.match(line))]


def test_every_mutant_of_the_host_has_an_exposure() -> None:
    """And none is exposed that does not exist."""
    assert set(HOST_MUTANTS) <= set(EXPOSED_BY) <= {*MUTANTS, *HOST_MUTANTS}


def cases() -> list[tuple[str, str, bool]]:
    """Return each mutant, what its run is simulated by, and whether that is left to ``pytest -m long``.

    A fault of the RTL is a model of its own, which Icarus compiles at once but plays slowly.
    """
    return [
        *((mutant, "model", False) for mutant in HOST_MUTANTS),
        *((mutant, "verilator", True) for mutant in HOST_MUTANTS),
        *((mutant, "icarus", mutant != RTL_IN_SHORT) for mutant in EXPOSED_BY if mutant in MUTANTS),
    ]


def parameter(*values: object, long: bool) -> object:
    """Return a test's parameters, marked as what it is."""
    return pytest.param(*values, marks=[pytest.mark.slow, *[pytest.mark.long] * long])


@pytest.mark.parametrize(
    ("mutant", "simulator"), [parameter(*case, long=long) for *case, long in cases()]
)
def test_a_mutant_fails_its_run_and_the_replay_in_the_same_cycle(
    mutant: str, simulator: str, tmp_path: Path
) -> None:
    """Status 1, at most three violations in full, and a command that shows them again.

    On the model one is replayed, on the RTL every one of the host and one of the RTL. That one is also found by the rules
    of which entries are there and which are used.
    """
    exposure = EXPOSED_BY[mutant]
    run = shootdown([*words(exposure, simulator), "--mutant", mutant], tmp_path)
    found = failures(run.stdout)
    assert run.returncode == 1, run.stderr
    assert 1 <= len(found) <= 3
    assert found[0][0] == exposure.invariant
    replay = shlex.split(found[0][4])
    assert replay[0] == "shootdown"
    if mutant == RTL_IN_SHORT:
        assert [violation[0] for violation in found] == ["I24", "I18", "I2"]
    if mutant in (HOST_IN_SHORT, RTL_IN_SHORT) or simulator == "verilator":
        again = shootdown([*replay[1:], "--out", "again"], tmp_path)
        assert again.returncode == 1, again.stderr
        assert failures(again.stdout) == found


def twins() -> list[object]:
    """Return the runs that show mutants; where all of these are long, so is the twin."""
    shown: dict[tuple[str, tuple[str, ...], str], list[bool]] = {}
    for mutant, simulator, long in cases():
        exposure = EXPOSED_BY[mutant]
        shown.setdefault((exposure.scenario, exposure.options, simulator), []).append(long)
    return [parameter(*run, long=all(long)) for run, long in sorted(shown.items())]


@pytest.mark.parametrize(("scenario", "options", "simulator"), twins())
def test_the_unmutated_twin_passes(
    scenario: str, options: tuple[str, ...], simulator: str, tmp_path: Path
) -> None:
    """Status 0, the outcome as expected, no violation."""
    run = shootdown(words(Exposure(scenario, "", options), simulator), tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    (played,) = json.loads((tmp_path / "out/run/results.json").read_text())["scenarios"]
    assert (played["outcome"], played["expected"]) == ("allowed", True)
    assert "FAILED" not in run.stdout
