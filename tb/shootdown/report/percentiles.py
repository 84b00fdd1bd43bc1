"""Exact percentiles of samples, and when there are enough of them to speak of one."""

from collections.abc import Iterable

from shootdown.report.results import Distribution

__all__ = ["SAMPLES_NEEDED", "distribution", "percentile"]

SAMPLES_NEEDED = {"p50": 1, "p90": 1, "p99": 100, "p999": 1000}
"""Samples without which a percentile is not given."""

_PER_MILLE = {"p50": 500, "p90": 900, "p99": 990, "p999": 999}


def percentile(ordered: list[int], per_mille: int) -> int:
    """Return the nearest-rank percentile of ascending samples: the least one that so many of 1000 do not exceed.

    Raises
    ------
    ValueError
        There are no samples, or ``per_mille`` is not from 1 to 1000.
    """
    if not ordered or not 1 <= per_mille <= 1000:
        raise ValueError(f"a percentile needs samples and 1 to 1000 per mille, not {per_mille}")
    return ordered[-(-len(ordered) * per_mille // 1000) - 1]


def distribution(samples: Iterable[int]) -> Distribution:
    """Summarise samples."""
    ordered = sorted(samples)
    count = len(ordered)
    values = {
        name: percentile(ordered, _PER_MILLE[name]) if count >= needed else None
        for name, needed in SAMPLES_NEEDED.items()
    }
    return Distribution(n=count, max=ordered[-1] if ordered else None, **values)
