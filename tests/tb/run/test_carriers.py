"""The mailbox of the simulation and the carriers, with both simulators."""

from pathlib import Path

import numpy as np

from shootdown.run.carriers import Records, Session, Words, drive_model, simulation_design
from shootdown.simulators.builds import Design
from tests.rtl import RtlCases


def _echo() -> Design:
    return simulation_design((Path(__file__).parents[1] / "echo_emulator.v").read_text())


cases = RtlCases(_echo, "tests.tb.mailbox_cases")


class _Doubler:
    def exchange(self, words: Words) -> Records:
        """Answer with twice the first word."""
        return np.array([[0, 2 * words[0], 0, 0]], np.uint64)


def test_model_is_driven_to_its_end() -> None:
    """The synchronous driver gives each answer to the session and returns its result."""

    def session() -> Session[list[int]]:
        got = []
        for word in (1, 2, 3):
            records = yield [word]
            got.append(int(records[-1, 1]))
        return got

    assert drive_model(session(), _Doubler()) == [2, 4, 6]
