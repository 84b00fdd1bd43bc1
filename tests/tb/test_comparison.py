"""When a difference is claimed: ranges over seeds apart, and what other costs do to it."""

import pytest
from msgspec.structs import replace

from shootdown.comparison import Range, differences
from tests.tb.test_report import outcome, path


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
    (found,) = [d for d in differences(outcomes, "v9", "seed") if d.figure == "ptl_hold_ns p50"]
    return found


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
