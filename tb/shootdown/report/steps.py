"""What each policy really does on each mm path: played on the model of the emulator, read off the timeline, compared.

A stage (:mod:`hostmm.stages`) goes through a path once under each policy; the steps stand side by side, the same step
on the same line, so that a callback that moved shows as one word on two lines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hostmm.audit import audit
from hostmm.driver.driver import Driver
from hostmm.machine.machine import Machine, MachineConfig
from hostmm.machine.scheduler import Steps
from hostmm.machine.vocabulary import CALLS, Passage, fold, passages
from hostmm.model import Model
from hostmm.policies import POLICIES, Policy
from hostmm.stages import STAGES, Setting, Stage
from shootdown.errors import UsageError
from shootdown.run.carriers import drive_model

__all__ = ["Comparison", "Line", "compare", "merge", "select"]

_MEMORY_BYTES = 32 << 20
_CALLBACKS = frozenset(CALLS.values())


@dataclass(frozen=True)
class Line:
    """One step, and the policies that take it here.

    Attributes
    ----------
    word : str
        The step, or a repetition of steps (:func:`hostmm.machine.vocabulary.fold`).
    policies : frozenset of str
    """

    word: str
    policies: frozenset[str]

    @property
    def callback(self) -> bool:
        """Whether the notifier chain is called in it."""
        return any(word in _CALLBACKS for word in self.word.strip("{}*0123456789").split())


@dataclass(frozen=True)
class Comparison:
    """One stage under every policy.

    Attributes
    ----------
    stage : Stage
    passages : dict
        Policy name to what it did, None where its kernel had no such path.
    lines : list of Line
        The steps of all, merged in order.
    """

    stage: Stage
    passages: Mapping[str, Passage | None]
    lines: Sequence[Line]

    def common(self, line: Line) -> bool:
        """Whether every policy that has the path takes the step in this place."""
        return len(line.policies) == sum(p is not None for p in self.passages.values())


def select(names: Sequence[str]) -> list[Stage]:
    """Return the stages whose name or path is in ``names``; without names, all.

    Raises
    ------
    UsageError
        A name is neither.
    """
    known = {stage.name for stage in STAGES.values()} | {stage.path for stage in STAGES.values()}
    for name in names:
        if name not in known:
            raise UsageError(f"path must be one of {', '.join(STAGES)}, not {name!r}")
    return [s for s in STAGES.values() if not names or s.name in names or s.path in names]


def compare(stage: Stage) -> Comparison:
    """Play a stage under every policy."""
    played = {
        policy.name: _play(stage, policy) if stage.possible(policy) else None
        for policy in POLICIES.values()
    }
    words = {name: fold(done.words) for name, done in played.items() if done is not None}
    return Comparison(stage, played, merge(words))


def _play(stage: Stage, policy: Policy) -> Passage:
    config = MachineConfig(frames=stage.frames, memory_bytes=_MEMORY_BYTES)
    machine = Machine(config, policy)
    Driver(machine)
    setting = Setting(machine)

    def thread() -> Steps:
        yield from stage.play(setting)
        yield from audit(machine)

    machine.sched.spawn("C0", thread())
    drive_model(machine.sched.run(), Model(memory_bytes=_MEMORY_BYTES))
    return passages(machine.timeline, stage.path)[0]


def merge(sequences: Mapping[str, Sequence[str]]) -> list[Line]:
    """Merge the steps of policies, one after another, keeping the longest order that each has in common with the rest."""
    lines: list[Line] = []
    for name, words in sequences.items():
        lines = _merge_one(lines, words, name)
    return lines


def _merge_one(lines: Sequence[Line], words: Sequence[str], name: str) -> list[Line]:
    lengths = _common_lengths([line.word for line in lines], words)
    merged: list[Line] = []
    row = column = 0
    while row < len(lines) or column < len(words):
        if row < len(lines) and column < len(words) and lines[row].word == words[column]:
            merged.append(Line(words[column], lines[row].policies | {name}))
            row, column = row + 1, column + 1
        elif column == len(words) or (
            row < len(lines) and lengths[row + 1][column] >= lengths[row][column + 1]
        ):
            merged.append(lines[row])
            row += 1
        else:
            merged.append(Line(words[column], frozenset({name})))
            column += 1
    return merged


def _common_lengths(first: Sequence[str], second: Sequence[str]) -> list[list[int]]:
    """Return the length of the longest common subsequence of every pair of tails."""
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for row in reversed(range(len(first))):
        for column in reversed(range(len(second))):
            if first[row] == second[column]:
                lengths[row][column] = lengths[row + 1][column + 1] + 1
            else:
                lengths[row][column] = max(lengths[row + 1][column], lengths[row][column + 1])
    return lengths
