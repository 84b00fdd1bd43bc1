"""One run of a catalogue's entry on the model, checked even where its threads wait for ever."""

from dataclasses import dataclass

from hostmm.scenarios import FORBIDDEN, find
from secmmu.layouts import Event
from shootdown.checks import Violation, check
from shootdown.history import History
from shootdown.run.config import RunConfig
from shootdown.run.execute import play_on_model

__all__ = ["Played", "play"]


@dataclass(frozen=True)
class Played:
    """What a run showed.

    Attributes
    ----------
    violations : list of Violation
        In order of cycle.
    forbidden : bool
        The script's forbidden outcome came out.
    detail : str
        Its registers.
    touched : bool
        The frame sanitizer reported a touch.
    stuck : str or None
        Who waited for what for ever.
    """

    violations: list[Violation]
    forbidden: bool
    detail: str
    touched: bool
    stuck: str | None = None

    @property
    def broken(self) -> list[str]:
        """Invariants that broke, in order of their first violation."""
        return list(dict.fromkeys(violation.invariant for violation in self.violations))

    def first(self, invariant: str) -> Violation:
        """First violation of an invariant."""
        return next(v for v in self.violations if v.invariant == invariant)


def play(config: RunConfig) -> Played:
    """Run a configuration on the model and check it."""
    machine, stuck = play_on_model(config)
    history = History(machine.timeline, machine.policy)
    violations = check(history, stuck=stuck)
    assert config.scenario is not None
    scenario = find(config.scenario)
    outcome = scenario.outcome(history.rows.columns, {v.invariant for v in violations})
    touched = bool(len(history.rows.of(Event.VIOLATION.value)))
    return Played(violations, outcome.outcome == FORBIDDEN, outcome.detail, touched, stuck)
