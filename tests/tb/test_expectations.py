"""Which violations are expected, and of whom."""

from hostmm.policies import POLICIES, SEED_PATHS
from shootdown.checks import INVARIANTS
from shootdown.expectations import EXPECTED, expected, reason


def test_the_whole_table() -> None:
    """Nothing else is ever excused."""
    excused = {
        (policy, invariant, path)
        for policy in POLICIES
        for invariant in INVARIANTS
        for path in (*SEED_PATHS, "unmap_region", "fork", "-")
        if expected(policy, invariant, path)
    }
    assert excused == {
        ("v9", "I6", "do_wp_page"),
        ("seed", "I4", "do_wp_page"),
        ("seed", "I4", "__xip_unmap"),
        ("seed", "I6", "do_wp_page"),
    }


def test_every_cell_has_its_reason() -> None:
    """The report quotes it; cells are named once."""
    for cell in EXPECTED:
        assert reason(cell.policy, cell.invariant, cell.path) == cell.why
        assert cell.policy in POLICIES
        assert cell.invariant in INVARIANTS
    assert len({(c.policy, c.invariant, c.path) for c in EXPECTED}) == len(EXPECTED)
    assert reason("v9", "I4", "do_wp_page") is None
