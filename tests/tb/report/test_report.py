"""What the report says, on outcomes made by hand."""

import io

import pytest
from rich.console import Console

from shootdown.report.report import print_report, silent_paths
from shootdown.report.results import (
    ByClass,
    DeviceCounters,
    Distribution,
    Kinds,
    PageCounters,
    PathResult,
    RunResult,
    ScenarioResult,
    ViolationResult,
)
from shootdown.run.config import RunConfig
from shootdown.run.outcome import Outcome

NONE = Distribution()


def flat(value, n=200):
    return Distribution(n=n, p50=value, p90=value, p99=value if n >= 100 else None, max=value)


def path(*, ptl=1000, rmap=1100, notifications=200):
    return PathResult(
        notifications=notifications,
        kinds=Kinds(page=notifications),
        shootdown_cycles=flat(3),
        shootdown_by_class=ByClass(none=flat(3), idle=NONE, in_flight=flat(41, n=5)),
        floor_cycles=flat(0),
        callback_ns=flat(830),
        ptl_hold_ns=flat(ptl),
        ptl_wait_ns=flat(0),
        rmap_hold_ns=flat(rmap),
        rmap_wait_ns=NONE,
        clear_to_drained_ns=flat(900),
        unmap_to_free_ns=None,
    )


EXAMINED = {"I1": 20, "I2": 300, "I3": 0, "I4": 7000, "I6": 7000}


def outcome(policy, paths, violations=(), scenario=None, cpus=4):
    return Outcome(
        examined=EXAMINED,
        kinds="B",
        config=RunConfig(policy=policy, cpus=cpus, scenario=scenario),
        frames=100,
        run=RunResult(
            policy=policy,
            cpus=cpus,
            paths=paths,
            device=DeviceCounters(accesses=1, tlb_hits=1, walks=0, faults=0, bytes=64),
            pages=PageCounters(allocated=1, freed=1, reclaimed=0, written_back=0),
            cycles=1000,
            wall_s=1.0,
            violations=list(violations),
        ),
        scenario=None
        if scenario is None
        else ScenarioResult(name=scenario, policy=policy, outcome="forbidden", expected=True),
    )


def violation(invariant="I4", *, expected=True, kinds="B"):
    return ViolationResult(
        invariant=invariant,
        expected=expected,
        path="do_wp_page",
        cycle=456,
        thread="D",
        what="the device read the old page",
        kinds=kinds,
    )


def printed(replays, scenarios=()):
    text = io.StringIO()
    print_report(Console(file=text, width=400), replays, scenarios, 10)
    return text.getvalue()


def test_a_path_is_a_block_and_a_run_a_column():
    text = printed([outcome("v9", {"page_mkclean_one": path()}), outcome("seed", {})])
    assert "v9, 4 CPUs" in text
    assert "seed, 4 CPUs" in text
    assert "200 / 0 / 0" in text
    assert "3 / 3 / 3" in text
    assert "30 / 30 / 30 ns" in text
    assert "in flight 41 / - / 41 (5)" in text
    assert "RTL" in text
    assert "cost table" in text
    assert "unmap to free" not in text


def test_a_percentile_without_samples_enough_is_a_dash():
    few = {"page_mkclean_one": path()}
    few["page_mkclean_one"] = PathResult(
        **{
            name: getattr(few["page_mkclean_one"], name)
            for name in PathResult.__struct_fields__
            if name != "shootdown_cycles"
        },
        shootdown_cycles=flat(7, n=20),
    )
    assert "7 / - / 7" in printed([outcome("v9", few)])


def test_the_verdict_names_what_was_kept_and_what_was_broken_where_and_why():
    scenario = outcome("seed", {"do_wp_page": path()}, [violation()], scenario="L1")
    text = printed([outcome("v9", {"do_wp_page": path()})], [scenario])
    assert "v9: kept (things examined): I1 (20), I2 (300), I4 (7000)." in text
    assert "v9: I6 on do_wp_page did not show, though it can (" in text
    assert "seed: kept (things examined): I1 (20), I2 (300)." in text
    assert "seed: not exercised: I3, I7" in text
    assert "seed: I4, I5 on __xip_unmap did not show" in text
    assert "seed: broke I4 on do_wp_page 1 times, first in cycle 456 of seed-L1 (expected: " in text
    assert "safe" not in text


def test_the_verdict_shouts_where_a_violation_is_not_expected():
    text = printed([outcome("v9", {"do_wp_page": path()}, [violation("I1", expected=False)])])
    assert "UNEXPECTED: the device read the old page" in text


def test_what_one_kind_of_device_is_excused_for_does_not_hide_what_another_is_not():
    """Both on one path; a device that pins its pages is excused for reasons of its own."""
    both = [violation(kinds="P"), violation(expected=False)]
    text = printed([outcome("v9", {"do_wp_page": path()}, both)])
    assert "(expected: a device that pins its pages is told of nothing" in text
    assert "UNEXPECTED: the device read the old page" in text


@pytest.mark.parametrize(("rmap", "says"), [(1090, True), (600, False)])
def test_the_wait_has_moved_only_where_the_rmap_lock_is_held_as_long(rmap, says):
    replays = [
        outcome("v9", {"page_mkclean_one": path(ptl=1000, rmap=1100)}),
        outcome("seed", {"page_mkclean_one": path(ptl=150, rmap=rmap)}),
    ]
    text = printed(replays)
    assert "page_mkclean_one 1000 to 150" in text
    assert ("the wait has moved to the rmap lock" in text) == says


def test_a_path_that_notified_nobody_is_silent():
    paths = {"do_wp_page": path(), "page_mkclean_one": path(notifications=0)}
    silent = silent_paths([outcome("v9", paths)])
    assert ("v9-4cpu", "page_mkclean_one") in silent
    assert ("v9-4cpu", "__xip_unmap") in silent
    assert ("v9-4cpu", "do_wp_page") not in silent
