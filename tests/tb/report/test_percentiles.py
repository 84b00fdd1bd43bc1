"""Exact percentiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shootdown.report.percentiles import distribution, percentile

_SAMPLES = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=1200)


@given(_SAMPLES, st.integers(1, 1000))
def test_agrees_with_numpy(samples: list[int], per_mille: int) -> None:
    """Nearest rank is numpy's inverted_cdf."""
    ordered = sorted(samples)
    found = percentile(ordered, per_mille)
    # numpy computes ranks in floating point: one that is whole may come out a little too large.
    exact = np.percentile(np.array(ordered), per_mille / 10, method="inverted_cdf")
    below = np.percentile(np.array(ordered), per_mille / 10 - 1e-9, method="inverted_cdf")
    assert found in (exact, below)
    assert sum(sample <= found for sample in samples) * 1000 >= per_mille * len(samples)
    assert sum(sample < found for sample in samples) * 1000 < per_mille * len(samples)


@given(_SAMPLES)
def test_few_samples_give_no_high_percentiles(samples: list[int]) -> None:
    """p99 needs 100 samples, p99.9 needs 1000."""
    result = distribution(samples)
    assert result.n == len(samples)
    assert result.max == max(samples)
    assert (result.p99 is None) == (len(samples) < 100)
    assert (result.p999 is None) == (len(samples) < 1000)
    present = [p for p in (result.p50, result.p90, result.p99, result.p999) if p is not None]
    assert present == sorted(present)
    assert set(present) <= set(samples)


def test_by_hand() -> None:
    """1 to 1000, and nothing at all."""
    result = distribution(range(1, 1001))
    assert (result.p50, result.p90, result.p99, result.p999, result.max) == (
        500,
        900,
        990,
        999,
        1000,
    )
    empty = distribution([])
    assert (empty.n, empty.p50, empty.p90, empty.p99, empty.max) == (0, None, None, None, None)


@pytest.mark.parametrize(("samples", "per_mille"), [([], 500), ([1], 0), ([1], 1001)])
def test_nonsense_is_refused(samples: list[int], per_mille: int) -> None:
    """There is no percentile of nothing."""
    with pytest.raises(ValueError, match="a percentile needs samples and 1 to 1000 per mille"):
        percentile(samples, per_mille)
