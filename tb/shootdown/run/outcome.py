"""What one run came to: measured and checked, as one file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from hostmm.scenarios import find
from shootdown.checks import Violation, check, examined
from shootdown.collector import no_collection
from shootdown.history import History
from shootdown.report.measures import (
    class_latencies,
    device_counters,
    end_to_end,
    measure,
    page_counters,
)
from shootdown.report.results import RunResult, ScenarioResult, ViolationCount, ViolationResult
from shootdown.run.config import RunConfig
from shootdown.run.execute import RunData
from shootdown.run.store import save_timeline

__all__ = ["KEPT_VIOLATIONS", "Outcome", "analyse"]

KEPT_VIOLATIONS = 1000
"""Violations that a run's result holds one by one; a fault switched on gives tens of thousands."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One run's configuration, result and, where it was one, scenario.

    Attributes
    ----------
    frames : int
        The limit that applied.
    examined : dict
        For each invariant, how many things it could have failed on.
    kinds : str
        Kinds of device that took part, as in :mod:`shootdown.checks.expectations`.
    """

    config: RunConfig
    frames: int
    run: RunResult
    scenario: ScenarioResult | None
    examined: dict[str, int]
    kinds: str

    @property
    def unexpected(self) -> list[ViolationResult]:
        """Violations that the policy is not known to allow."""
        return [violation for violation in self.run.violations if not violation.expected]

    def save(self, file: Path) -> None:
        """Write it."""
        file.write_bytes(msgspec.json.encode(self))

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what :meth:`save` wrote."""
        return msgspec.json.decode(file.read_bytes(), type=cls)


def _cap(
    violations: Sequence[Violation],
) -> tuple[list[ViolationResult], list[ViolationCount]]:
    """Keep the first violations, unexpected ones before others, in order of cycle; count the rest."""
    ranked = sorted(violations, key=lambda violation: violation.expected)
    kept = sorted(ranked[:KEPT_VIOLATIONS], key=lambda violation: violation.cycle)
    rest = Counter((v.invariant, v.expected, v.path) for v in ranked[KEPT_VIOLATIONS:])
    names = ViolationResult.__struct_fields__
    return (
        [ViolationResult(**{name: getattr(v, name) for name in names}) for v in kept],
        [
            ViolationCount(invariant=invariant, expected=excused, path=path, count=count)
            for (invariant, excused, path), count in sorted(rest.items())
        ],
    )


@no_collection()
def analyse(config: RunConfig, data: RunData, *, wall_s: float, folder: Path | None) -> Outcome:
    """Check and measure a finished run; leaves its timeline as ``timeline.parquet`` in ``folder``, if there is one."""
    history = History(data.timeline, data.policy)
    kept, left_off = _cap(check(history, stuck=data.stuck))
    if folder is not None:
        save_timeline(history, folder / "timeline.parquet")
    run = RunResult(
        policy=config.policy,
        cpus=config.cpus,
        paths=measure(history),
        device=device_counters(history, data.counters),
        pages=page_counters(history),
        end_to_end=end_to_end(history),
        cycles=data.cycles,
        wall_s=round(wall_s, 3),
        violations=kept,
        violations_left_off=left_off,
    )
    scenario = None
    if config.scenario is not None:
        played = find(config.scenario)
        outcome = played.outcome(history.rows.columns, {v.invariant for v in kept})
        scenario = ScenarioResult(
            name=played.name,
            policy=config.policy,
            outcome=outcome.outcome,
            expected=outcome.outcome == played.expected(config.policy, config.subscriber),
            detail=outcome.detail,
            violations=kept,
            classes=class_latencies(history),
        )
    return Outcome(
        config=config,
        frames=data.frames,
        run=run,
        scenario=scenario,
        examined=examined(history),
        kinds="".join(sorted({subscription.kind for subscription in history.subscriptions})),
    )
