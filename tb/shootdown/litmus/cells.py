"""One cell of the litmus table: a script under a policy with a subscriber."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from hostmm.errors import HostError
from hostmm.policies import PATHS, POLICIES, Chain
from hostmm.scenarios import FORBIDDEN, find
from hostmm.scenarios.litmus import Script
from hostmm.scenarios.litmus.steps import VERBS
from shootdown.errors import UsageError
from shootdown.run.config import RunConfig
from shootdown.run.outcome import Outcome
from shootdown.run.runs import perform_all, perform_on_model

__all__ = ["Cell", "cell", "missing", "observe", "observe_on_model"]

_PATH_OF_KIND = {"hole": "__xip_unmap", "nonlinear": "try_to_unmap_cluster"}
"""The mm path without which a kind of page cannot be."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What one cell came to.

    Attributes
    ----------
    absent : str or None
        Why the pair never existed; the other attributes mean nothing then.
    predicted, observed : str
        "allowed" or "forbidden": what the script predicts, and what came out.
    registers : str
        What decided it.
    violations : list of str
        Invariants that the run broke, in order.
    """

    litmus: str
    policy: str
    subscriber: str
    absent: str | None = None
    predicted: str = ""
    observed: str = ""
    registers: str = ""
    violations: list[str] = []
    replay: str = ""

    @property
    def passed(self) -> bool:
        """Whether it came out as predicted, or does not exist."""
        return self.absent is not None or self.predicted == self.observed

    @property
    def text(self) -> str:
        """The cell of the table."""
        if self.absent is not None:
            return "n/a"
        if self.passed:
            return "FORBIDDEN" if self.observed == FORBIDDEN else "allowed"
        return f"{self.observed}, not {self.predicted}!"


_SINCE = {"odp": "v4.13", "odp-stall": "v4.13", "ats": "v4.13"}
"""Subscribers that are younger than the first policies: with which one they came (``invalidate_range`` and ODP were merged in 3.19)."""


def missing(script: Script, policy: str, subscriber: str = "sva") -> str | None:
    """Return why a script cannot be played under a policy with a subscriber; None where it can."""
    names = list(POLICIES)
    since = _SINCE.get(subscriber, names[0])
    if names.index(policy) < names.index(since):
        return f"the kernel of policy {policy} has no {subscriber}"
    needed = [_PATH_OF_KIND[p.kind] for p in script.pages.values() if p.kind in _PATH_OF_KIND]
    steps = [step for row in script.rows for step in row.steps.values()]
    stalls = [step.stall for step in steps if step.stall is not None]
    needed += [stall.path for stall in stalls if stall.path in PATHS]
    verbs = {step.verb for step in steps}
    needed += [path for name in verbs & {*VERBS} if (path := VERBS[name].path) is not None]
    if "unbind" in verbs and POLICIES[policy].chain is Chain.LIST:
        return f"policy {policy} has no way to unregister"
    absent = [path for path in needed if not POLICIES[policy].has(path)]
    return f"the kernel of policy {policy} has no path {absent[0]}" if absent else None


def cell(outcome: Outcome) -> Cell:
    """Return the cell of a finished run."""
    config, scenario = outcome.config, outcome.scenario
    assert scenario is not None
    assert config.scenario is not None
    return Cell(
        litmus=scenario.name,
        policy=config.policy,
        subscriber=config.subscriber,
        predicted=find(config.scenario).expected(config.policy, config.subscriber),
        observed=scenario.outcome,
        registers=scenario.detail,
        violations=list(dict.fromkeys(v.invariant for v in outcome.run.violations)),
        replay=config.replay_command(),
    )


def observe(configs: Sequence[RunConfig], folder: Path) -> list[Outcome]:
    """Run cells on a simulator; only those that show the forbidden outcome keep their waveform."""
    outcomes = perform_all(configs, folder)
    for outcome in outcomes:
        assert outcome.scenario is not None
        if outcome.scenario.outcome != FORBIDDEN:
            for dump in (folder / outcome.config.name).glob("dump.*"):
                dump.unlink()
    return outcomes


def observe_on_model(configs: Sequence[RunConfig]) -> list[Outcome]:
    """Run cells on the model.

    Raises
    ------
    UsageError
        One cannot be run; its name comes first.
    """
    outcomes = []
    for config in configs:
        try:
            outcomes.append(perform_on_model(config))
        except HostError as error:
            raise UsageError(f"{config.name}: {error}") from None
    return outcomes
