"""What one run came to: measured and checked, as one file."""

from pathlib import Path
from typing import Self

import msgspec

from hostmm.scenarios import SCENARIOS
from shootdown.checks import check
from shootdown.config import RunConfig
from shootdown.execute import RunData
from shootdown.history import History
from shootdown.measures import device_counters, measure, page_counters
from shootdown.results import RunResult, ScenarioResult, ViolationResult
from shootdown.store import save_timeline

__all__ = ["Outcome", "analyse"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One run's configuration, result and, where it was one, scenario; ``frames`` is the limit that applied."""

    config: RunConfig
    frames: int
    run: RunResult
    scenario: ScenarioResult | None

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


def analyse(config: RunConfig, data: RunData, *, wall_s: float, folder: Path) -> Outcome:
    """Check and measure a finished run; leaves its timeline as ``timeline.parquet`` in ``folder``."""
    history = History(data.timeline, data.policy)
    violations = check(history)
    save_timeline(history, folder / "timeline.parquet")
    run = RunResult(
        policy=config.policy,
        cpus=config.cpus,
        paths=measure(history),
        device=device_counters(history, data.counters),
        pages=page_counters(history),
        cycles=data.cycles,
        wall_s=round(wall_s, 3),
        violations=[
            ViolationResult(
                **{name: getattr(v, name) for name in ViolationResult.__struct_fields__}
            )
            for v in violations
        ],
    )
    scenario = None
    if config.scenario is not None:
        played = SCENARIOS[config.scenario]
        outcome = played.outcome(history.rows.columns)
        scenario = ScenarioResult(
            name=config.scenario,
            policy=config.policy,
            outcome=outcome.outcome,
            expected=outcome.outcome == played.expected(config.policy),
        )
    return Outcome(config=config, frames=data.frames, run=run, scenario=scenario)
