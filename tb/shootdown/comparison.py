"""Which differences between two policies hold over schedule seeds, and which survive other costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from hostmm.policies import PATHS
from shootdown.outcome import Outcome
from shootdown.results import Distribution

__all__ = ["FIGURES", "SCALES", "Difference", "Range", "differences"]

SCALES = (1.0, 0.25, 4.0)
"""Factors on link and IPI costs; the first is the table as it is."""

FIGURES = (
    "shootdown_cycles",
    "ptl_hold_ns",
    "ptl_wait_ns",
    "rmap_hold_ns",
    "rmap_wait_ns",
    "clear_to_drained_ns",
    "unmap_to_free_ns",
)
"""Distributions that are compared, each by its p50 and, where there are samples enough, its p99."""

_PERCENTILES = ("p50", "p99")


@dataclass(frozen=True)
class Range:
    """Least and greatest of one figure over the seeds."""

    low: int
    high: int

    def apart(self, other: "Range") -> int:
        """Return -1 or 1 where it lies wholly below or above ``other``, 0 where they overlap."""
        if self.high < other.low:
            return -1
        return int(self.low > other.high)


@dataclass(frozen=True)
class Difference:
    """One figure of one path on one trace, under both policies.

    Parameters
    ----------
    trace, path, figure : str
        What: the figure's name ends in its percentile.
    before, after : Range
        The first and the second policy at unscaled costs.
    direction : int
        Of the second policy: -1 lower, 1 higher, 0 not claimed.
    survives : bool
        Claimed in the same direction with every scale of the costs.
    """

    trace: str
    path: str
    figure: str
    before: Range
    after: Range
    direction: int
    survives: bool


def differences(outcomes: Sequence[Outcome], before: str, after: str) -> list[Difference]:
    """Compare two policies in every figure that both have for every seed, at unscaled costs first."""
    found = []
    for trace in dict.fromkeys(outcome.config.trace for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.config.trace == trace]
        for path in PATHS:
            for figure in FIGURES:
                for percentile in _PERCENTILES:
                    found += _compare(trace, path, figure, percentile, mine, before, after)
    return found


def _compare(
    trace: str,
    path: str,
    figure: str,
    percentile: str,
    outcomes: Sequence[Outcome],
    before: str,
    after: str,
) -> list[Difference]:
    pairs = []
    for scale in SCALES:
        costs = (scale, scale)
        scaled = [o for o in outcomes if (o.config.scale_link, o.config.scale_ipi) == costs]
        pairs.append(
            tuple(
                _range([o for o in scaled if o.config.policy == policy], path, figure, percentile)
                for policy in (before, after)
            )
        )
    old, new = pairs[0]
    if old is None or new is None:
        return []
    directions = [b.apart(a) if a is not None and b is not None else 0 for a, b in pairs]
    survives = directions[0] != 0 and len(set(directions)) == 1
    return [Difference(trace, path, f"{figure} {percentile}", old, new, directions[0], survives)]


def _range(outcomes: Sequence[Outcome], path: str, figure: str, percentile: str) -> Range | None:
    """Return the range over the seeds; None where a seed lacks the figure."""
    values = []
    for outcome in outcomes:
        result = outcome.run.paths.get(path)
        samples: Distribution | None = getattr(result, figure) if result else None
        values.append(getattr(samples, percentile) if samples else None)
    known = [value for value in values if value is not None]
    return Range(min(known), max(known)) if known and len(known) == len(values) else None
