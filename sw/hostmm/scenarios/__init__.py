"""Directed scenarios: races that a replay may miss, placed on purpose, each with an outcome that a policy predicts."""

from hostmm.scenarios.base import ALLOWED, FORBIDDEN, Bind, Outcome, Scenario
from hostmm.scenarios.huge import I24
from hostmm.scenarios.litmus import L1, L3, S1
from hostmm.scenarios.storm import AGE, PRESS, STORM, SWEEP

__all__ = ["ALLOWED", "FORBIDDEN", "SCENARIOS", "Bind", "Outcome", "Scenario"]

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for scenario in (L1(), L3(), S1(), I24(), SWEEP, AGE, PRESS, STORM)
}
"""The scenarios by name."""
