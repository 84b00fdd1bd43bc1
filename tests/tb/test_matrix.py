"""Policy x invariant, measured in its reduced form, against the table of the contract."""

import json

import pytest
from msgspec.structs import replace

from hostmm.policies import POLICIES
from shootdown.catalogue.matrix import ROWS, SECTION_7, Measured, measure_cell
from shootdown.catalogue.played import play
from shootdown.cli import main
from shootdown.config import RunConfig

CELLS = [(row, kind, policy) for row in ROWS for kind in row.kinds for policy in POLICIES]


@pytest.mark.parametrize(("row", "kind", "policy"), CELLS, ids=lambda x: getattr(x, "name", x))
def test_a_cell_is_as_the_table_says(row, kind, policy):
    """By its scripts; where they keep it, the row's fault breaks it."""
    cell = measure_cell(row, policy, kind, 0)
    assert cell.letter == cell.expected, cell
    assert cell.as_expected, cell
    assert (cell.mutant_found is None) == (cell.letter != "Y")


def test_schedules_are_explored_beside_the_scripts():
    """The count of runs behind a Y."""
    (row,) = (row for row in ROWS if row.name == "I6")
    cell = measure_cell(row, "v6.6", "B", 12)
    assert (cell.letter, cell.runs) == ("Y", 14)
    seed = measure_cell(row, "seed", "B", 0)
    assert (seed.letter, seed.invariant) == ("N", "I6")
    assert "--policy seed" in seed.replay


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
    assert main(["matrix", "--schedules", "0", "--policy", "seed"]) == 0
    out = capsys.readouterr().out
    assert "I6 B seed: I6; replay: shootdown run shared --policy seed" in out
    cells = json.loads((tmp_path / "out/matrix/results.json").read_text())
    assert len(cells) == len(CELLS) // len(POLICIES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "v0"], "policy must be one of v9, seed"),
        (["--schedules", "-1"], "schedules must be 0 or more, not -1"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    """Status 2, what is wrong, what is allowed."""
    assert main(["matrix", *words]) == 2
    assert capsys.readouterr().err.startswith(f"shootdown: {message}")
