"""results.json: the structure, and that it is written whole or not at all."""

import json
from pathlib import Path

import pytest

from shootdown.errors import UsageError
from shootdown.report.percentiles import distribution
from shootdown.report.results import (
    ByClass,
    DeviceCounters,
    Kinds,
    PageCounters,
    PathResult,
    Results,
    ResultsError,
    RunResult,
    ScenarioResult,
    ViolationResult,
    load,
    save,
)


def results() -> Results:
    """One of everything."""
    some = distribution([3, 5, 9])
    path = PathResult(
        notifications=3,
        kinds=Kinds(page=3),
        shootdown_cycles=some,
        shootdown_by_class=ByClass(none=some, idle=some, in_flight=distribution([])),
        floor_cycles=some,
        callback_ns=some,
        ptl_hold_ns=some,
        ptl_wait_ns=some,
        rmap_hold_ns=some,
        rmap_wait_ns=some,
        clear_to_drained_ns=some,
        unmap_to_free_ns=None,
    )
    violation = ViolationResult(
        invariant="I4",
        expected=True,
        path="do_wp_page",
        cycle=7,
        thread="cpu0",
        what="...",
        kinds="B",
    )
    run = RunResult(
        policy="seed",
        cpus=4,
        paths={"try_to_unmap_one": path},
        device=DeviceCounters(accesses=1, tlb_hits=1, walks=0, faults=0, bytes=8),
        pages=PageCounters(allocated=1, freed=0, reclaimed=0, written_back=0),
        cycles=100,
        wall_s=0.5,
        violations=[violation],
    )
    scenario = ScenarioResult(name="L1", policy="seed", outcome="forbidden", expected=True)
    return Results(
        trace="shell", seed=1, sim="verilator", config={"cpus": 4}, runs=[run], scenarios=[scenario]
    )


def test_the_documented_fields(tmp_path: Path) -> None:
    """The file holds what the documentation names, in these words."""
    save(results(), tmp_path / "results.json")
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found) == ["version", "trace", "seed", "sim", "config", "runs", "scenarios"]
    assert found["version"] == 1
    run = found["runs"][0]
    assert set(run) >= {"policy", "paths", "device", "pages", "cycles", "wall_s", "violations"}
    path = run["paths"]["try_to_unmap_one"]
    assert set(path) == {
        "notifications",
        "kinds",
        "shootdown_cycles",
        "shootdown_by_class",
        "floor_cycles",
        "callback_ns",
        "notified_ns",
        "ptl_hold_ns",
        "ptl_wait_ns",
        "rmap_hold_ns",
        "rmap_wait_ns",
        "clear_to_drained_ns",
        "unmap_to_free_ns",
    }
    assert path["kinds"] == {"page": 3, "young": 0, "range": 0}
    assert path["shootdown_cycles"] == {
        "n": 3,
        "p50": 5,
        "p90": 9,
        "p99": None,
        "p999": None,
        "max": 9,
    }
    assert set(path["shootdown_by_class"]) == {"none", "idle", "in_flight"}
    assert path["unmap_to_free_ns"] is None
    assert set(run["violations"][0]) == {
        "invariant",
        "expected",
        "path",
        "cycle",
        "thread",
        "what",
        "kinds",
    }


def test_round_trip(tmp_path: Path) -> None:
    """What is saved is what is loaded."""
    file = tmp_path / "results.json"
    save(results(), file)
    assert load(file) == results()
    assert list(tmp_path.iterdir()) == [file]


def test_unwritable_folder(tmp_path: Path) -> None:
    """One line; nothing is left behind."""
    with pytest.raises(UsageError, match=r"cannot write .*results.json: No such file"):
        save(results(), tmp_path / "missing" / "results.json")
    (tmp_path / "results.json").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        save(results(), tmp_path / "results.json")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_old_file_survives_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk does not cost the results of before."""
    file = tmp_path / "results.json"
    save(results(), file)
    before = file.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="No space left on device"):
        save(results(), file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "does not hold results"),
        ('{"version": 1}', "missing required field"),
        ('{"surprise": 1}', "does not hold results"),
    ],
)
def test_foreign_file(tmp_path: Path, text: str, message: str) -> None:
    """One line that says what is wrong with it."""
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(ResultsError, match=message):
        load(file)


def test_other_version(tmp_path: Path) -> None:
    """It is not guessed at."""
    file = tmp_path / "results.json"
    save(results(), file)
    file.write_text(file.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ResultsError, match="is of version 2, this reads 1"):
        load(file)


def test_missing_file(tmp_path: Path) -> None:
    """One line."""
    with pytest.raises(ResultsError, match=r"cannot read .*: No such file"):
        load(tmp_path / "results.json")
