"""The trial of the seed patch: every run and search comes out as its charge says; the page in docs is the tool's."""

from pathlib import Path

import pytest

from shootdown.catalogue.trial import TRIAL, Charge, Shown, hear
from shootdown.cli import main
from shootdown.run.config import RunConfig

PAGE = Path(__file__).parents[2] / "docs/trial.md"
SCHEDULES = 12
RTL = ("S1", "S2", "S3", "S4", "S5", "S7", "S17")


def test_the_charges_are_whole():
    """S1 to S17; those that are no bugs have a search with a paired fault."""
    assert [charge.name for charge in TRIAL] == [f"S{number}" for number in range(1, 18)]
    assert tuple(charge.name for charge in TRIAL if charge.on_rtl) == RTL
    for charge in TRIAL:
        assert (charge.hunt is not None) == (charge.verdict == "not a bug"), charge.name
        assert charge.shown or charge.hunt, charge.name


@pytest.mark.parametrize("charge", TRIAL, ids=lambda charge: charge.name)
def test_a_charge_comes_out_as_it_says(charge):
    """Directed runs, and searches with a small budget."""
    found = list(hear(charge, SCHEDULES))
    assert len(found) == len(charge.shown) + 2 * (charge.hunt is not None)
    assert all(finding.as_expected for finding in found), found


def test_a_charge_that_is_wrong_is_said_to_be():
    """A run that breaks nothing does not support a charge, and one that does not clear it."""
    run = RunConfig(policy="v9", scenario="S1", simulator="model")
    wrong = Charge("S0", "", "certain", "", (Shown(run, "I4", ("I4",)),))
    assert [finding.as_expected for finding in hear(wrong, 2)] == [False]
    guilty = RunConfig(policy="seed", scenario="S1", simulator="model")
    cleared = Charge("S0", "", "certain", "", (Shown(guilty, None, ("I4",)),))
    assert [finding.as_expected for finding in hear(cleared, 2)] == [False]


def test_the_page_has_every_verdict_and_its_replays():
    """It is written by the command; the wording is the catalogue's."""
    text = PAGE.read_text()
    for charge in TRIAL:
        assert f"## {charge.name}: {charge.title}" in text
        assert f"**{charge.verdict.capitalize()}.** {charge.why}" in text
    assert "NOT AS EXPECTED" not in text
    assert text.count("      shootdown run") == sum(
        len(charge.shown) + 2 * (charge.hunt is not None) for charge in TRIAL
    )


def test_the_command_prints_writes_and_ktap(tmp_path, monkeypatch, capsys):
    """One charge, as text, as a page, as KTAP."""
    monkeypatch.chdir(tmp_path)
    assert main(["trial", "S1", "S16", "--markdown", "page.md"]) == 0
    out = capsys.readouterr().out
    assert "S1: COW of a page without struct page is no longer notified: certain" in out
    assert "replay: shootdown run --policy seed --sim model --scenario S1" in out
    assert "| S1 |" in (tmp_path / "page.md").read_text()
    assert main(["trial", "S1", "S16", "--ktap"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok 2 S16 ") for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["S18"], "charge must be one of S1 to S17, not 'S18'"),
        (["--sim", "vcs"], "simulator must be one of verilator, icarus, model, not 'vcs'"),
        (["--schedules", "1"], "schedules must be from 2 to 10000000, not 1"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    """Status 2, what is wrong, what is allowed."""
    assert main(["trial", *words]) == 2
    assert capsys.readouterr().err == f"shootdown: {message}\n"
