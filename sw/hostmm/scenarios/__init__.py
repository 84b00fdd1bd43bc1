"""Directed scenarios: races that a replay may miss, placed on purpose, each with an outcome that a policy predicts."""

from pathlib import Path

from hostmm.scenarios import litmus
from hostmm.scenarios.base import ALLOWED, FORBIDDEN, Bind, Outcome, Scenario
from hostmm.scenarios.huge import I24
from hostmm.scenarios.storm import AGE, PRESS, STORM, SWEEP

__all__ = ["ALLOWED", "FORBIDDEN", "SCENARIOS", "Bind", "Outcome", "Scenario", "find"]

SCENARIOS: dict[str, Scenario] = {
    **litmus.shipped(),
    **litmus.races(),
    **litmus.bugs(),
    **litmus.trial(),
    **litmus.hmm(),
    **{scenario.name: scenario for scenario in (I24(), SWEEP, AGE, PRESS, STORM)},
}
"""The scenarios by name: the litmus tests that come with the package, races to explore, scripts that expose
historic bugs, the kernel's hmm-tests, then the others."""


def find(name: str) -> Scenario:
    """Return a scenario by name, or the litmus test in a file.

    Raises
    ------
    LitmusError
        The file is no litmus test.
    KeyError
        There is no scenario of this name.
    """
    if name.endswith(litmus.SUFFIX):
        return litmus.Litmus(litmus.read(Path(name)))
    return SCENARIOS[name]
