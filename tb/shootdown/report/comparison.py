"""Which differences between two policies hold over schedule seeds, which survive other costs, and what they come to."""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hostmm.policies import PATHS
from shootdown.report.results import Distribution
from shootdown.run.outcome import Outcome

__all__ = [
    "END_TO_END",
    "FIGURES",
    "WHOLE_RUN",
    "Costs",
    "Difference",
    "Effect",
    "Range",
    "Setting",
    "costs_of",
    "differences",
    "effects",
    "setting_of",
    "summary",
]

FIGURES = (
    "shootdown_cycles",
    "notified_ns",
    "ptl_hold_ns",
    "ptl_wait_ns",
    "rmap_hold_ns",
    "rmap_wait_ns",
    "clear_to_drained_ns",
    "unmap_to_free_ns",
)
"""Distributions of a path that are compared, each by its p50 and, where there are samples enough, its p99."""
END_TO_END = (
    "cpu_fault_ns",
    "device_fault_ns",
    "reclaim_ns",
    "shootdown_cycles",
    "ptl_hold_ns",
    "ptl_wait_ns",
    "rmap_hold_ns",
    "rmap_wait_ns",
)
"""The same of a run as a whole."""
WHOLE_RUN = "whole run"

_PERCENTILES = ("p50", "p99")
_LATER = ("rmap_wait_ns", "unmap_to_free_ns", "cpu_fault_ns", "device_fault_ns", "reclaim_ns")
"""What falls where others wait for less; that a shootdown comes sooner is no gain by itself."""
_WORTH_PERCENT = 2
"""A difference of less is in the table, and in no verdict."""
_MOVED_PERCENT = 10
"""A reverse-map lock counts as not relieved when its hold fell by less than this."""


@dataclass(frozen=True)
class Costs:
    """What may be other than usual: a factor on link and IPI costs, and the latency of memory in cycles."""

    scale: float = 1.0
    memory_latency: int = 20

    @property
    def name(self) -> str:
        """How a column calls it: by what is not usual."""
        usual = Costs()
        scale = "" if self.scale == usual.scale else f"link, IPI x {self.scale:g}"
        memory = (
            "" if self.memory_latency == usual.memory_latency else f"memory {self.memory_latency}"
        )
        return ", ".join(filter(None, (scale, memory))) or "usual"


@dataclass(frozen=True)
class Setting:
    """What two runs that are compared have in common."""

    trace: str
    cpus: int
    subscriber: str
    carrier: str

    @property
    def name(self) -> str:
        """How a message calls it."""
        plural = "s" * (self.cpus > 1)
        return f"{self.trace}, {self.cpus} CPU{plural}, {self.subscriber}, on {self.carrier}"


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
    """One figure of one path in one setting, under both policies.

    Parameters
    ----------
    setting : Setting
    policy : str
        The one that is compared with the first.
    path, figure, percentile : str
    before, after : Range
        The first and the second policy at the usual costs.
    direction : int
        Of the second policy: -1 lower, 1 higher, 0 not claimed.
    survives : bool or None
        Claimed in the same direction with all other costs that were tried; None: none were.
    """

    setting: Setting
    policy: str
    path: str
    figure: str
    percentile: str
    before: Range
    after: Range
    direction: int
    survives: bool | None

    @property
    def lasting(self) -> bool:
        """Whether it is claimed, and no other costs speak against it."""
        return self.direction != 0 and self.survives is not False

    @property
    def matters(self) -> bool:
        """Whether the ranges lie so far apart that anybody would care."""
        low, high = sorted((self.before, self.after), key=lambda spread: spread.low)
        return 100 * (high.low - low.high) >= _WORTH_PERCENT * self.before.low


class Effect(enum.Enum):
    """What calling elsewhere does on a path."""

    GAINS = "gains"
    MOVES = "only moves the wait to the rmap lock (S6)"
    COSTS = "costs"


def costs_of(outcome: Outcome) -> Costs:
    """Return the costs that a run was made with."""
    return Costs(outcome.config.scale_link, outcome.config.memory_latency)


def setting_of(outcome: Outcome) -> Setting:
    """Return what a run has in common with those it is compared with."""
    config = outcome.config
    return Setting(config.trace, config.cpus, config.subscriber, config.simulator)


def differences(outcomes: Sequence[Outcome], before: str, after: str) -> list[Difference]:
    """Compare two policies in every figure that both have for every seed, setting by setting, at the usual costs."""
    found = []
    for setting in dict.fromkeys(setting_of(outcome) for outcome in outcomes):
        mine = [
            outcome
            for outcome in outcomes
            if setting_of(outcome) == setting and outcome.config.policy in (before, after)
        ]
        for path, figure in _figures():
            for percentile in _PERCENTILES:
                found += _compare(setting, mine, (before, after), path, figure, percentile)
    return found


def summary(found: Sequence[Difference]) -> str:
    """Say in a line how many figures were compared, how many differ, and how many of these at other costs, too."""
    claimed = [difference for difference in found if difference.direction]
    tried = [difference for difference in claimed if difference.survives is not None]
    lasting = sum(difference.lasting for difference in tried)
    costs = (
        f"at other costs {lasting} of {len(tried)} still do" if tried else "no other costs tried"
    )
    return (
        f"{len(found)} figures compared: {len(claimed)} differ ({costs}); "
        f"the other {len(found) - len(claimed)} differences are not claimed."
    )


def _figures() -> Iterable[tuple[str, str]]:
    yield from ((path, figure) for path in PATHS for figure in FIGURES)
    yield from ((WHOLE_RUN, figure) for figure in END_TO_END)


def _compare(
    setting: Setting,
    outcomes: Sequence[Outcome],
    policies: tuple[str, str],
    path: str,
    figure: str,
    percentile: str,
) -> list[Difference]:
    usual = _pair(
        [o for o in outcomes if costs_of(o) == Costs()], policies, path, figure, percentile
    )
    if usual is None:
        return []
    old, new = usual
    direction = new.apart(old)
    others = []
    for costs in dict.fromkeys(costs_of(outcome) for outcome in outcomes):
        if costs != Costs():
            mine = [outcome for outcome in outcomes if costs_of(outcome) == costs]
            pair = _pair(mine, policies, path, figure, percentile)
            others.append(pair[1].apart(pair[0]) if pair else 0)
    survives = direction != 0 and set(others) == {direction} if others else None
    return [
        Difference(setting, policies[1], path, figure, percentile, old, new, direction, survives)
    ]


def _pair(
    outcomes: Sequence[Outcome],
    policies: tuple[str, str],
    path: str,
    figure: str,
    percentile: str,
) -> tuple[Range, Range] | None:
    """Return the ranges of both policies over the seeds; None where a seed lacks the figure."""
    ranges = []
    for policy in policies:
        values = [
            _value(outcome, path, figure, percentile)
            for outcome in outcomes
            if outcome.config.policy == policy
        ]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        ranges.append(Range(min(known), max(known)))
    return ranges[0], ranges[1]


def _value(outcome: Outcome, path: str, figure: str, percentile: str) -> int | None:
    source: object = outcome.run.paths.get(path)
    if path == WHOLE_RUN:
        source = outcome.run.end_to_end
    samples: Distribution | None = getattr(source, figure) if source else None
    value: int | None = getattr(samples, percentile) if samples else None
    return value


def effects(found: Sequence[Difference]) -> dict[Effect, list[Difference]]:
    """Say what a policy does in one setting: the differences that speak for each effect.

    A path gains where its page-table lock is held, or waited for, less. Where the lock of the reverse map is held
    across the call and not relieved, nothing but the place of the wait has changed. It costs where anything takes
    longer. Differences that nobody would care for are left out.
    """
    by_place = {(d.path, d.figure, d.percentile): d for d in found}
    sorted_out: dict[Effect, list[Difference]] = {effect: [] for effect in Effect}
    for difference in found:
        if not difference.lasting or not difference.matters:
            continue
        if difference.direction > 0:
            sorted_out[Effect.COSTS].append(difference)
        elif difference.figure in ("ptl_hold_ns", "ptl_wait_ns"):
            rmap = by_place.get((difference.path, "rmap_hold_ns", difference.percentile))
            kept = rmap is not None and not _relieved(rmap)
            sorted_out[Effect.MOVES if kept else Effect.GAINS].append(difference)
        elif difference.figure == "rmap_hold_ns":
            if _relieved(difference):
                sorted_out[Effect.GAINS].append(difference)
        elif difference.figure in _LATER:
            sorted_out[Effect.GAINS].append(difference)
    return sorted_out


def _relieved(rmap: Difference) -> bool:
    """Whether the reverse-map lock is held for clearly less."""
    fell = rmap.before.low - rmap.after.high
    return rmap.lasting and rmap.direction < 0 and 100 * fell > _MOVED_PERCENT * rmap.before.low
