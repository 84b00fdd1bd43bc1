"""Exploration on the model: which schedules there are, that a hit replays, and that faults are found."""

import itertools
import shlex

import pytest
from msgspec.structs import replace

from hostmm.policies import POLICIES
from hostmm.scenarios.litmus import races
from shootdown.cli import main
from shootdown.explore import Schedule, bounded, count_steps, explore, halves, pct, seeds
from shootdown.litmus import missing
from shootdown.run.config import RunConfig
from shootdown.run.runs import perform_on_model


def race(name, policy="seed", **options):
    return RunConfig(policy=policy, scenario=name, simulator="model", **options)


def test_schedules_are_what_their_strategy_says():
    """Seeds count, PCT draws within the steps, the bound is exhaustive."""
    assert list(seeds(2, first=5)) == [Schedule(5), Schedule(6)]
    drawn = list(pct(50, steps=9, depth=3))
    assert drawn == list(pct(50, steps=9, depth=3))
    assert len({s.preempt for s in drawn}) > 20
    assert all(1 <= step <= 9 for s in drawn for step in s.preempt)
    every = list(bounded(steps=6, bound=2))
    assert len(every) == len(set(every)) == 1 + 6 + 15


def test_only_the_steps_of_a_race_are_numbered():
    """What comes before the double rule is not rearranged."""
    config = race("race-raw")
    assert 5 < count_steps(config) < 100
    assert explore(config, [Schedule(1, (10_000,))]).orders == 1


def test_a_preemption_changes_the_order_and_repeats():
    """The same schedule gives the same order."""
    config = race("race-cow")
    plain, moved = [Schedule(1)], [Schedule(1, (12,))]
    assert explore(config, plain * 2).orders == 1
    assert explore(config, plain + moved).orders == 2
    assert explore(config, moved * 2).orders == 1


def test_exhausting_one_preemption_finds_what_no_seed_shows():
    """The seed's window behind the unlock needs a thread that loses its CPU there."""
    config = race("race-fork")
    assert not explore(config, seeds(10)).hits
    found = explore(config, bounded(steps=count_steps(config), bound=1), until=("I6",))
    assert "I6" in found.hits


def test_a_hit_replays():
    """The run that is named breaks the same invariant."""
    config = race("race-fork")
    found = explore(config, bounded(steps=count_steps(config), bound=1), until=("I6",))
    again = perform_on_model(found.first["I6"])
    assert "I6" in {violation.invariant for violation in again.run.violations}
    words = shlex.split(found.first["I6"].replay_command())
    assert words[words.index("--preempt") + 1].isdigit()


@pytest.mark.parametrize(
    ("mutant", "name", "invariant"),
    [
        ("host-free-before-drained", "race-unmap", "I1"),
        ("host-ignore-range-start", "race-unmap", "I1"),
    ],
)
def test_a_fault_is_found_with_a_budget_that_the_correct_host_passes(mutant, name, invariant):
    """The same schedules, with and without."""
    schedules = list(pct(30, steps=98, depth=2))
    config = race(name, "v9")
    assert not explore(config, schedules).hits
    assert invariant in explore(replace(config, mutant=mutant), schedules).hits


def test_a_schedule_that_hangs_is_checked_until_then():
    """It breaks more than that it does not come to an end."""
    found = explore(race("bug-gave-up", "v6.6", mutant="B33"), [Schedule(1)])
    assert {"I13", "I22"} <= set(found.hits)
    assert found.exercised["counts"] == 0


def test_halves_are_by_seed_and_by_pct_and_can_be_cut():
    """The parts of a search are the search."""
    whole = list(halves(11, steps=30))
    assert whole == [*seeds(5), *pct(6, steps=30, depth=2)]
    cuts = (0, 2, 5, 9, 11)
    parts = [halves(11, steps=30, begin=a, end=b) for a, b in itertools.pairwise(cuts)]
    assert [schedule for part in parts for schedule in part] == whole
    assert len(set(whole)) == 11


def test_parts_of_a_search_add_up():
    """Counts, orders and the first run that broke each invariant."""
    config, steps = race("race-raw"), 26
    whole = explore(config, halves(20, steps=steps))
    assert whole.exercised["I4"] == 20
    assert whole.exercised["I26"] == 0
    assert whole.hits["I4"] > 0
    total = explore(config, halves(20, steps=steps, end=8))
    total.add(explore(config, halves(20, steps=steps, begin=8)))
    assert total == whole


@pytest.mark.parametrize("policy", ["v2.6.27", "v4.13", "v6.6"])
@pytest.mark.parametrize("name", races())
def test_what_was_merged_breaks_nothing_in_a_few_schedules(name, policy):
    """Every race, on the kernels as released."""
    if missing(races()[name].script, policy) is not None:
        pytest.skip("the kernel has no such path")
    assert policy in POLICIES
    found = explore(race(name, policy), pct(6, steps=60, depth=2))
    assert not +found.unexpected, found.first


def test_the_command_prints_each_hit_with_its_replay(capsys):
    """A table and a line a hit."""
    words = ["explore", "race-raw", "--policy", "seed", "--schedules", "20"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "race-raw seed I4: shootdown run --policy seed --sim model" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["race-x"], "race must be one of race-clean, "),
        (["--strategy", "luck"], "strategy must be one of seeds, pct, bounded, not 'luck'"),
        (["--schedules", "0"], "schedules must be from 1 to 10000000, not 0"),
        (["--depth", "0"], "depth must be from 1 to 100, not 0"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    """Status 2, what is wrong, what is allowed."""
    assert main(["explore", *words]) == 2
    assert capsys.readouterr().err.startswith(f"shootdown: {message}")


def test_a_depth_that_would_take_for_ever_is_refused(capsys):
    assert main(["explore", "race-raw", "--depth", "101"]) == 2
    assert capsys.readouterr().err == "shootdown: depth must be from 1 to 100, not 101\n"
