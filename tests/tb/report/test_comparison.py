"""When a difference is claimed: ranges over seeds apart, and what other costs do to it."""

import pytest
from msgspec.structs import replace

from shootdown.report.comparison import (
    WHOLE_RUN,
    Difference,
    Effect,
    Range,
    Setting,
    differences,
    effects,
    summary,
)
from shootdown.report.comparison_table import COLUMNS, PATH_COLUMNS, markdown, path_rows, rows
from shootdown.report.results import EndToEnd
from tests.tb.report.test_report import flat, outcome, path


def runs(policy, holds, scale):
    found = []
    for seed, hold in enumerate(holds, 1):
        one = outcome(policy, {"page_mkclean_one": path(ptl=hold)})
        config = {"seed": seed, "scale_link": scale, "scale_ipi": scale}
        found.append(replaced(one, config))
    return found


def replaced(one, config):
    return replace(one, config=replace(one.config, **config))


def compare(before, after, *, quarter=None, four=None):
    outcomes = []
    for scale, (old, new) in ((1.0, (before, after)), (0.25, quarter), (4.0, four)):
        outcomes += runs("v9", old, scale) + runs("seed", new, scale)
    found = differences(outcomes, "v9", "seed")
    (held,) = [d for d in found if (d.figure, d.percentile) == ("ptl_hold_ns", "p50")]
    return held


def test_ranges_that_overlap_claim_nothing():
    same = ([100, 120], [119, 130])
    found = compare(*same, quarter=same, four=same)
    assert found.direction == 0
    assert not found.survives


def test_a_difference_survives_only_in_the_same_direction_at_every_scale():
    apart, overlapping, reverse = ([100, 120], [50, 60]), ([100, 120], [90, 110]), ([1, 2], [3, 4])
    assert compare(*apart, quarter=apart, four=apart).survives
    assert not compare(*apart, quarter=overlapping, four=apart).survives
    assert not compare(*apart, quarter=apart, four=reverse).survives


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [((1, 2), (3, 4), -1), ((5, 6), (3, 4), 1), ((1, 3), (3, 4), 0)],
)
def test_apart(one, other, apart):
    assert Range(*one).apart(Range(*other)) == apart


def test_a_figure_that_a_seed_lacks_is_not_compared():
    outcomes = runs("v9", [1, 2], 1.0)
    outcomes.append(replaced(outcome("seed", {}), {"seed": 1}))
    assert differences(outcomes, "v9", "seed") == []


def test_without_other_costs_nothing_has_been_survived():
    outcomes = runs("v9", [100, 110], 1.0) + runs("seed", [50, 60], 1.0)
    found = [d for d in differences(outcomes, "v9", "seed") if d.figure == "ptl_hold_ns"]
    assert {(d.direction, d.survives, d.lasting) for d in found} == {(-1, None, True)}


def test_other_speeds_of_memory_count_as_other_costs():
    usual = runs("v9", [100, 110], 1.0) + runs("seed", [50, 60], 1.0)
    slow = runs("v9", [100, 110], 1.0) + runs("seed", [105, 130], 1.0)
    outcomes = usual + [replaced(one, {"memory_latency": 80}) for one in slow]
    found = [d for d in differences(outcomes, "v9", "seed") if d.figure == "ptl_hold_ns"]
    assert {(d.direction, d.survives, d.lasting) for d in found} == {(-1, False, False)}


def test_settings_are_not_mixed():
    outcomes = runs("v9", [100, 110], 1.0) + runs("seed", [50, 60], 1.0)
    outcomes += [replaced(one, {"subscriber": "odp"}) for one in outcomes]
    found = [d for d in differences(outcomes, "v9", "seed") if d.figure == "ptl_hold_ns"]
    assert {d.setting.subscriber for d in found} == {"sva", "odp"}
    assert len(found) == 4


def test_the_whole_run_is_compared():
    outcomes = []
    for policy, ns in (("v9", 700), ("seed", 900)):
        for one in runs(policy, [100, 110], 1.0):
            whole = EndToEnd(reclaim_ns=flat(ns))
            outcomes.append(replace(one, run=replace(one.run, end_to_end=whole)))
    found = [d for d in differences(outcomes, "v9", "seed") if d.path == WHOLE_RUN]
    assert {(d.figure, d.percentile, d.direction) for d in found} == {
        ("reclaim_ns", "p50", 1),
        ("reclaim_ns", "p99", 1),
    }


def test_a_row_is_the_middle_over_the_seeds():
    """Of a policy in a setting at one cost; times in us, and nothing where a seed has too few samples."""
    outcomes = []
    for scale in (1.0, 4.0):
        for one, ns in zip(runs("v9", [1, 1, 1], scale), (1500, 9000, 2500), strict=True):
            whole = EndToEnd(ptl_wait_ns=flat(ns), reclaim_ns=replace(flat(ns), p99=None))
            whole = replace(whole, ptl_waited_ns=10 * ns, shootdown_cycles=flat(ns))
            outcomes.append(replace(one, run=replace(one.run, end_to_end=whole)))
    usual, dear = (dict(zip(COLUMNS, row, strict=True)) for row in rows(outcomes))
    assert usual["policy"] == "v9"
    assert (usual["costs"], dear["costs"]) == ("usual", "link, IPI x 4")
    assert usual["PT lock waited for"] == "2.50 / 2.50 (sum 25.00)"
    assert usual["reclaim of a page"] == "2.50 / -"
    assert usual["shootdown"] == "2500 / 2500"
    assert usual["CPU fault"] == "- / -"
    whole, _, by_path = markdown(outcomes).partition("\n\n")
    for text, columns in ((whole, COLUMNS), (by_path, PATH_COLUMNS)):
        lines = text.splitlines()
        assert len(lines) == 4
        assert {line.count("|") for line in lines} == {len(columns) + 1}


def test_a_path_has_a_row_for_each_policy_that_notifies_there():
    """Locks of its own passes."""
    outcomes = [*runs("v9", [900, 700, 800], 1.0), *runs("seed", [100, 300, 200], 1.0)]
    found = [dict(zip(PATH_COLUMNS, row, strict=True)) for row in path_rows(outcomes)]
    assert [(one["path"], one["policy"]) for one in found] == [
        ("page_mkclean_one", "v9"),
        ("page_mkclean_one", "seed"),
    ]
    assert [one["PT lock held"] for one in found] == ["0.80 / 0.80", "0.20 / 0.20"]


def difference(where, figure, before, after, *, survives=True):
    old, new = Range(before, before + 5), Range(after, after + 5)
    setting = Setting("shared", 4, "sva", "model")
    apart = new.apart(old)
    return Difference(setting, "seed", where, figure, "p50", old, new, apart, survives)


def test_where_it_gains_where_it_moves_the_wait_and_where_it_costs():
    found = [
        difference("do_wp_page", "ptl_hold_ns", 2700, 1800),
        difference("do_wp_page", "clear_to_drained_ns", 900, 2000),
        difference("page_mkclean_one", "ptl_hold_ns", 2700, 1800),
        difference("page_mkclean_one", "rmap_hold_ns", 3000, 2990),
        difference("try_to_unmap_one", "ptl_hold_ns", 2700, 1800),
        difference("try_to_unmap_one", "rmap_hold_ns", 3000, 1500),
        difference("fork", "ptl_hold_ns", 200, 100, survives=False),
        difference("mprotect", "notified_ns", 1000, 1010),
    ]
    sorted_out = {effect: [(d.path, d.figure) for d in ds] for effect, ds in effects(found).items()}
    assert sorted_out == {
        Effect.GAINS: [
            ("do_wp_page", "ptl_hold_ns"),
            ("try_to_unmap_one", "ptl_hold_ns"),
            ("try_to_unmap_one", "rmap_hold_ns"),
        ],
        Effect.MOVES: [("page_mkclean_one", "ptl_hold_ns")],
        Effect.COSTS: [("do_wp_page", "clear_to_drained_ns")],
    }


def test_the_summary_speaks_of_other_costs_only_where_they_were_tried():
    kept, lost = (difference("fork", "ptl_hold_ns", 200, 100, survives=s) for s in (True, False))
    same = difference("mprotect", "ptl_hold_ns", 100, 100)
    assert summary([kept, lost, same]) == (
        "3 figures compared: 2 differ (at other costs 1 of 2 still do);"
        " the other 1 differences are not claimed."
    )
    untried = difference("fork", "ptl_hold_ns", 200, 100, survives=None)
    assert "1 differ (no other costs tried)" in summary([untried])
