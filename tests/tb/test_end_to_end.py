"""Whole runs: what is counted in cycles depends on nothing but the configuration."""

from pathlib import Path

import duckdb
import msgspec
import pytest

from hostmm.model import Model
from hostmm.scenarios import SCENARIOS
from shootdown.cases.run_cases import OUTCOME_FILE
from shootdown.run.carriers import drive_model
from shootdown.run.config import RunConfig
from shootdown.run.execute import run_session
from shootdown.run.outcome import Outcome
from shootdown.run.runs import perform

Row = tuple[object, ...]
Played = tuple[dict[str, object], list[Row]]


def play(folder: Path, **changes: object) -> Played:
    """Perform a run; returns its outcome without what the machine and the configuration say, and its timeline."""
    settings: dict[str, object] = {"policy": "v9", "scenario": "press"}
    perform(RunConfig(**(settings | changes)), folder)  # type: ignore[arg-type]
    outcome = msgspec.to_builtins(Outcome.load(folder / OUTCOME_FILE))
    del outcome["config"], outcome["run"]["wall_s"]
    with duckdb.connect() as connection:
        file = str(folder / "timeline.parquet")
        rows = connection.execute(
            "SELECT * FROM read_parquet(?) ORDER BY position", [file]
        ).fetchall()
    return outcome, rows


PATIENT = pytest.mark.timeout(3600)
"""Both play the storm in seven minutes, and in more than ten beside other work."""


@pytest.fixture(scope="module")
def pressed(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """One run, which others are compared with."""
    return play(tmp_path_factory.mktemp("pressed"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "rows"),
    [("I24", 1000), pytest.param("storm", 10_000, marks=[pytest.mark.long, PATIENT])],
)
def test_both_simulators_count_the_same_cycles(scenario: str, rows: int, tmp_path: Path) -> None:
    """Every row of the timeline, every counter and every percentile."""
    verilator = play(tmp_path / "verilator", scenario=scenario)
    icarus = play(tmp_path / "icarus", scenario=scenario, simulator="icarus")
    assert verilator == icarus
    assert len(icarus[1]) > rows


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(pressed: Played, tmp_path: Path) -> None:
    """Results and timeline; another seed gives others."""
    assert play(tmp_path / "again") == pressed
    assert play(tmp_path / "other", seed=2)[1] != pressed[1]


@pytest.mark.slow
def test_warp_changes_nothing(pressed: Played, tmp_path: Path) -> None:
    """Cycles in which nothing is busy are counted, whether they are played or skipped."""
    assert play(tmp_path, warp=False) == pressed


def on_model(config: RunConfig) -> str:
    """Play a scenario on the model of the emulator and return its outcome."""
    model = Model(memory_bytes=config.emulator.memory_bytes)
    data = drive_model(run_session(config, _quiet), model)
    assert config.scenario is not None
    return SCENARIOS[config.scenario].outcome(data.timeline.columns()).outcome


def _quiet(_done: float) -> None:
    """Show no progress."""


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["v9", "seed"])
@pytest.mark.parametrize("name", ["L1", "L3", "S1"])
def test_the_model_and_the_hardware_agree_on_outcomes(
    name: str, policy: str, tmp_path: Path
) -> None:
    """The litmus tests come out alike on both carriers."""
    config = RunConfig(policy=policy, scenario=name)
    perform(config, tmp_path)
    scenario = Outcome.load(tmp_path / OUTCOME_FILE).scenario
    assert scenario is not None
    assert on_model(config) == scenario.outcome


TOLD = {"DROPPED": 9, "RESUME": 14, "DMA_DROP": 14}
"""Kinds of row that tell what became of faults, and the column that says more: taken, retried, the address."""


@pytest.mark.slow
@pytest.mark.parametrize("subscriber", ["gru", "odp-stall"])
def test_a_device_whose_accesses_stall_runs_on_the_hardware(
    subscriber: str, tmp_path: Path
) -> None:
    """As on the model: one access goes on after its drop-in or its mapping, one is refused, nothing is violated."""
    told = {}
    for simulator in ("verilator", "model"):
        folder = tmp_path / simulator
        _, rows = play(
            folder,
            policy="v6.6",
            scenario="race-exit",
            subscriber=subscriber,
            simulator=simulator,
        )
        assert Outcome.load(folder / OUTCOME_FILE).unexpected == []
        told[simulator] = [(row[4], row[TOLD[str(row[4])]]) for row in rows if row[4] in TOLD]
    assert told["verilator"] == told["model"]
    assert [more for kind, more in told["verilator"] if kind == "RESUME"] == [1, 0]
    assert (("DROPPED", 1) in told["verilator"]) == (subscriber == "gru")
