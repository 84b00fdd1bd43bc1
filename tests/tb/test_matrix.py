"""Policy x invariant, measured in its reduced form, against the table of the contract."""

import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest
from msgspec.structs import replace

from hostmm.policies import POLICIES
from shootdown.catalogue import matrix
from shootdown.catalogue.matrix import ROWS, SECTION_7, Measured, cells, measure, parts
from shootdown.catalogue.played import play
from shootdown.cli import main
from shootdown.explore import explore, halves
from shootdown.run.config import RunConfig

CELLS = cells(POLICIES)


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: f"{c.row.name}-{c.kind}-{c.policy}")
def test_a_cell_is_as_the_table_says(cell):
    """By its scripts; where they keep it, the row's fault breaks it."""
    (found,) = measure([cell], 0)
    assert found.letter == found.expected, found
    assert found.as_expected, found
    assert (found.mutant_found is None) == (found.letter != "Y")


def of(name, policies, kind="B"):
    return [cell for cell in cells(policies) if (cell.row.name, cell.kind) == (name, kind)]


def test_schedules_are_explored_beside_the_scripts():
    """The count of runs behind a Y: schedules in which the invariant could have broken."""
    kept, broken = measure(of("I6", ("v6.6", "seed")), 12)
    assert (kept.letter, kept.runs, kept.schedules, kept.mutant_found) == ("Y", 14, 12, True)
    assert kept.exercised == {"I6": 12}
    assert 1 < kept.orders <= 12
    assert (broken.letter, broken.invariant) == ("N", "I6")
    assert "--policy seed" in broken.replay


def test_one_search_serves_every_row_that_names_the_race():
    """A race is explored as often as the cell that wants most of it, and once."""
    fork, freed = of("I6", ["v6.6"])[0], of("I1", ["v6.6"])[0]
    counts = Counter()
    for part in parts({fork: 2500, freed: 800}):
        assert part.end - part.begin <= 1000
        counts[part.config.scenario] += part.end - part.begin
    assert counts == {"race-fork": 2500} | {
        name: 100 for name in freed.row.races if name != "race-fork"
    }
    assert not parts({fork: 0})


def test_only_what_exercises_the_row_counts():
    """A raw frame is copied on write, and nothing is written out there."""
    (cell,) = of("I7, I8", ["v9"])
    raw = replace(cell.races[0], scenario="race-raw")
    search = explore(raw, halves(4, steps=20))
    found = cell.result(["", ""], dict.fromkeys(cell.races[:1], search), mutant=True)
    assert (found.schedules, found.runs, found.exercised) == (4, 2, {"I7": 0, "I8": 0})


def test_processes_change_nothing(monkeypatch):
    """Nor does the size of the parts."""
    wanted = of("I6", ("v6.6", "v3.7"), "A")
    whole = measure(wanted, 10)
    monkeypatch.setattr(matrix, "_PART", 4)
    with ProcessPoolExecutor(2) as pool:
        assert measure(wanted, 10, each=pool.map) == whole


def test_the_table_has_a_letter_for_each_policy():
    """And a line for each row and kind."""
    assert set(SECTION_7) == {(row.name, kind) for row in ROWS for kind in row.kinds}
    assert {len(letters) for letters in SECTION_7.values()} == {len(POLICIES)}
    assert set("".join(SECTION_7.values())) == {"Y", "N", "-"}


def test_a_cell_that_is_not_as_expected_is_said_to_be():
    """A Y whose search would not find the fault is none."""
    good = Measured("I1", "v9", "B", 3, 0, mutant_found=True)
    assert good.as_expected
    assert not Measured("I1", "v9", "B", 3, 0, mutant_found=False).as_expected
    assert not Measured("I1", "v9", "B", 3, 1).as_expected
    assert Measured("I1", "v9", "A", 3, 1).as_expected
    assert Measured("I1", "v9", "B", 0, 0, absent=True).letter == "-"
    assert not Measured("I1", "v9", "B", 0, 0, absent=True).as_expected
    assert Measured("I11", "v9", "A", 0, 0, absent=True).as_expected


def test_the_fault_that_tells_nobody_breaks_what_a_policy_keeps():
    """The paired fault of most rows."""
    run = RunConfig(policy="v6.6", subscriber="sva-a", scenario="L6", simulator="model")
    assert "I1" not in play(run).broken
    assert "I1" in play(replace(run, mutant="untold")).broken


def test_the_command_prints_and_writes(tmp_path, monkeypatch, capsys):
    """One policy, scripts alone."""
    monkeypatch.chdir(tmp_path)
    words = ["matrix", "--schedules", "0", "--policy", "seed", "--markdown", "page.md"]
    assert main(words) == 0
    page = (tmp_path / "page.md").read_text().splitlines()
    assert page[0] == "| invariant | device | seed |"
    assert "| I6 | B (sva) | N 2/2 |" in page
    assert len(page) == 2 + len(CELLS) // len(POLICIES)
    out = capsys.readouterr().out
    assert "I6 B seed: I6; replay: shootdown run --policy seed" in out
    found = json.loads((tmp_path / "out/matrix/results.json").read_text())
    assert len(found) == len(CELLS) // len(POLICIES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "v0"], "policy must be one of v9, seed"),
        (["--schedules", "-1"], "schedules must be from 0 to 10000000, not -1"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    """Status 2, what is wrong, what is allowed."""
    assert main(["matrix", *words]) == 2
    assert capsys.readouterr().err.startswith(f"shootdown: {message}")
