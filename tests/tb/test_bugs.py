"""The catalogue of historic bugs: every fault is caught by its invariant, its repair passes, a benign run passes."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from hostmm.bugs import BUGS as FAULTS
from hostmm.machine.timeline import Row
from hostmm.policies import POLICIES
from hostmm.scenarios.litmus import bugs as scripts
from secmmu.config import MUTANTS
from shootdown.catalogue.bugs import BENIGN, BUGS, Entry, judge, try_bug, try_rtl_bug
from shootdown.catalogue.matrix import ROWS
from shootdown.catalogue.played import Played, play
from shootdown.catalogue.trial import TRIAL
from shootdown.checks import Violation
from shootdown.cli import main
from shootdown.history import History
from shootdown.run.execute import play_on_model
from tests.tb.test_mutants import EXPOSED_BY

SECTION_4 = """6 4 15,16 15 13,15 20 13,22 1,4 10 1,24 1 18,1 12,24 2,3 13 2 2 2 1,19 16 26 26,17 1 8 7 1 1 11 18
18,22 22 19,22 19 18,23 19 17 2,19 1 19 19 18 15 9 12,22 4,6"""
"""Section 4 of the contract: the invariants that each bug, from B1 on, is about."""
PAGE = Path(__file__).parents[2] / "docs/bugs.md"
HOST = [name for name, entry in BUGS.items() if not entry.hardware]


def test_the_catalogue_is_whole():
    """B1 to B45, each with a run; every fault and script is used."""
    assert list(BUGS) == [f"B{number}" for number in range(1, 46)]
    runs = [entry.run for entry in BUGS.values()]
    mutants = {run.mutant for run in runs} | {entry.fixed for entry in BUGS.values()} - {None}
    tried = {charge.hunt.mutant for charge in TRIAL if charge.hunt is not None}
    tried |= {shown.run.mutant for charge in TRIAL for shown in charge.shown}
    tried |= {row.mutant for row in ROWS}
    assert mutants | (tried & set(FAULTS)) == {
        *FAULTS,
        *(run.mutant for run in runs if run.mutant in MUTANTS),
    }
    used = {run.scenario for run in runs} | {BENIGN}
    assert set(scripts()) <= used


def test_each_bug_has_a_mechanism_of_its_own():
    """No two entries run the same fault in the same place."""
    faults = [FAULTS[name] for name in HOST]
    assert len({(f.policy, f.chain, f.subscriber) for f in faults}) == len(faults)
    assert len({entry.mechanism for entry in BUGS.values()}) == len(BUGS)


@pytest.mark.parametrize("name", ["B2", "B13", "B43"])
def test_a_fault_that_moves_a_call_makes_it(name):
    """Where the path does not come to a point, nobody is told at all, which is another bug."""
    run = BUGS[name].run
    machine, _ = play_on_model(run)
    history = History(machine.timeline, machine.policy)
    ((path, calls),) = (
        (path, calls)
        for path, calls in machine.policy.points.items()
        if calls != POLICIES[run.policy].points[path]
    )
    made = {c.kind for c in history.callbacks if history.rows.paths[c.path] == path}
    assert made == {*calls.values()}


def test_what_is_published_first_is_told_of_behind_that():
    """B2: the new PTE stands there, and the lock is still held, when the device is told."""
    machine, _ = play_on_model(BUGS["B2"].run)
    history = History(machine.timeline, machine.policy)
    published = next(change for change in history.changes if change.maps and change.span)
    (told,) = (c for c in history.callbacks if c.span == published.span)
    unlocked = [
        row
        for row, span in history.rows.take(history.rows.of(Row.UNLOCK), "span")
        if span == told.span
    ]
    assert published.row < told.begin < told.end < unlocked[-1]


@pytest.mark.parametrize("policy", ["v4.13", "v6.6"])
def test_the_reaper_tells_who_follows_flushes_before_it_frees(policy):
    """Its gather is madvise's, so under 4.13 as well its flush calls invalidate_range."""
    run = replace(BUGS["B44"].twin(), policy=policy, subscriber="sva-a")
    assert play(run).violations == []


@pytest.mark.parametrize("name", HOST)
def test_a_bug_is_caught_and_nothing_else_is(name):
    """By one of its invariants, in a run that the fixed code passes: by the contract's, where that broke."""
    entry = BUGS[name]
    faulty = play(entry.run)
    verdict = judge(entry, faulty, play(entry.twin()), play(entry.benign()))
    named = {f"I{number}" for number in SECTION_4.split()[int(name[1:]) - 1].split(",")}
    assert verdict.caught in (named & set(faulty.broken) or entry.invariants), verdict
    assert verdict.fixed_passes
    assert verdict.benign_passes


def test_a_bug_is_named_by_what_it_is_about():
    """Whatever else it breaks before that."""
    entry = Entry("B0", "", "", BUGS["B1"].run, ("I1", "I18"))
    bad = played(violation("I18"), violation("I1"))
    assert judge(entry, bad, played(), played()).caught == "I1"
    assert judge(entry, played(violation("I18")), played(), played()).caught == "I18"


@pytest.mark.slow
def test_a_bug_is_judged_in_a_simulator_as_on_the_model(tmp_path):
    """What ``--sim`` does for B37, on the RTL that all tests share."""
    verdict = try_rtl_bug(BUGS["B2"], "verilator", tmp_path)
    assert verdict.passed, verdict
    assert verdict.caught == try_bug(BUGS["B2"]).caught


def test_the_bug_of_the_rtl_is_a_run_that_the_tests_play():
    """On the RTL that has its fault, by test_mutants; the same fault is found at its pins by test_mmu_mutants."""
    entry = BUGS["B37"]
    exposure = EXPOSED_BY[entry.run.mutant]
    assert (entry.run.policy, entry.run.scenario) == ("v9", exposure.scenario)
    assert exposure.invariant in entry.invariants


def violation(invariant):
    return Violation(invariant, False, "-", 7, "-", "x", "B")


def played(*violations, forbidden=False):
    return Played(list(violations), forbidden, "r = 1", touched=False)


def test_a_verdict_compares_the_three_runs():
    """Nothing passes that the fixed code, or the benign run, fails."""
    entry = Entry("B0", "", "", BUGS["B1"].run, ("I1",))
    good, bad = played(), played(violation("I1"), forbidden=True)
    assert judge(entry, bad, good, good).passed
    assert not judge(entry, good, good, good).caught
    assert not judge(entry, bad, bad, good).fixed_passes
    assert not judge(entry, bad, good, bad).benign_passes
    assert judge(entry, played(forbidden=True), good, good).caught == "outcome"
    assert not judge(entry, played(violation("I4")), good, good).caught


def test_a_run_that_waits_for_ever_is_checked_too():
    """B7 keeps the device out for ever: that is I22."""
    run = play(BUGS["B7"].run)
    assert run.stuck is not None
    assert {"I13", "I22"} <= set(run.broken)


def test_its_replay_shows_the_same_verdict(tmp_path, monkeypatch, capsys):
    """Status 1 with the violations, not 2 with what it waits for."""
    monkeypatch.chdir(tmp_path)
    assert main(BUGS["B33"].run.replay_command().split()[1:]) == 1
    out = capsys.readouterr().out
    assert "FAILED I13 on zap_page_range" in out
    assert "FAILED I22 on zap_page_range" in out


def test_the_command_prints_table_and_ktap(tmp_path, monkeypatch, capsys):
    """What was not run is named, with the reason."""
    monkeypatch.chdir(tmp_path)
    assert main(["bugs", "B1", "B37"]) == 0
    out = capsys.readouterr().out
    assert "1 of 2 caught" in out
    assert "B1: the device read 0x4d" in out
    assert main(["bugs", "B1", "B37", "--ktap"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "ok 1 B1 mm: fix race in COW logic (2008)" in lines
    assert any(
        line.startswith("ok 2 B37 ") and "# SKIP a fault of the RTL" in line for line in lines
    )
    found = json.loads((tmp_path / "out/bugs/results.json").read_text())
    assert (found[0]["caught"], found[0]["cycle"] > 0) == ("I6", True)


def test_the_page_has_every_bug(tmp_path, monkeypatch):
    """It is written by the command; the wording is the catalogue's."""
    text = PAGE.read_text()
    for entry in BUGS.values():
        assert f"| {entry.name} | {entry.title} | {entry.mechanism} | " in text
        run = entry.run
        assert f"| {run.policy}, {run.subscriber}, {run.scenario} |" in text
    assert "45 are expressed." in text
    assert f"{len(HOST)} were run on the model and caught" in text
    assert "NOT AS EXPECTED" not in text
    monkeypatch.chdir(tmp_path)
    assert main(["bugs", "B45", "--markdown", "page.md"]) == 0
    (row,) = [line for line in text.splitlines() if line.startswith("| B45 ")]
    assert row in (tmp_path / "page.md").read_text().splitlines()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["B46"], "bug must be one of B1 to B45, not 'B46'"),
        (["--sim", "vcs"], "simulator must be one of verilator, icarus, not 'vcs'"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    """Status 2, what is wrong, what is allowed."""
    assert main(["bugs", *words]) == 2
    assert capsys.readouterr().err == f"shootdown: {message}\n"
