"""The case behind ``shootdown run``: one run of the host model against the emulator's RTL."""

import contextlib
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cocotb

from hostmm.errors import HostError
from shootdown.run.carriers import CocotbCarrier, Records, Words, drive
from shootdown.run.config import RunConfig
from shootdown.run.execute import run_session
from shootdown.run.outcome import analyse

__all__ = [
    "CALLER_ENV",
    "CONFIG_ENV",
    "ERROR_FILE",
    "LAST_CYCLE_ENV",
    "OUTCOME_FILE",
    "PROGRESS_FILE",
    "one_run",
    "part_of_a_run",
]

CONFIG_ENV = "SHOOTDOWN_RUN"
CALLER_ENV = "SHOOTDOWN_CALLER"
"""The folder in which the command was given."""
LAST_CYCLE_ENV = "SHOOTDOWN_LAST_CYCLE"
OUTCOME_FILE = "outcome.json"
ERROR_FILE = "error.txt"
PROGRESS_FILE = "progress"


def _given() -> tuple[RunConfig, Path]:
    """Return the run, and the folder that its files go to; where the run names files, they are the caller's."""
    folder = Path.cwd()
    os.chdir(os.environ[CALLER_ENV])
    return RunConfig.from_json(os.environ[CONFIG_ENV].encode()), folder


def _note_in(folder: Path) -> Callable[[float], None]:
    def note(done: float) -> None:
        (folder / PROGRESS_FILE).write_text(f"{done:.3f}")

    return note


@cocotb.test()
async def one_run(dut: Any) -> None:
    """The configured run reaches its end, or an error that a user can read."""
    config, folder = _given()
    carrier = CocotbCarrier(dut)
    # The timeline's rows live to the end: looking through them again and again costs a tenth of the run.
    gc.disable()
    begun = time.monotonic()
    try:
        data = await drive(run_session(config, _note_in(folder)), carrier)
    except HostError as error:
        (folder / ERROR_FILE).write_text(str(error))
        return
    wall_s = time.monotonic() - begun
    analyse(config, data, wall_s=wall_s, folder=folder).save(folder / OUTCOME_FILE)


class _LastCycleError(Exception):
    """The part of the run that was asked for is over."""


class _PartCarrier(CocotbCarrier):
    """Ends the run with the batch that reaches a cycle."""

    def __init__(self, dut: Any, last_cycle: int) -> None:
        super().__init__(dut)
        self._last_cycle = last_cycle

    async def exchange(self, words: Words) -> Records:
        records = await super().exchange(words)
        if self.cycle >= self._last_cycle:
            raise _LastCycleError
        return records


@cocotb.test()
async def part_of_a_run(dut: Any) -> None:
    """The configured run reaches the cycle given; of no use but for its waves."""
    config, folder = _given()
    carrier = _PartCarrier(dut, int(os.environ[LAST_CYCLE_ENV]))
    with contextlib.suppress(_LastCycleError):
        await drive(run_session(config, _note_in(folder)), carrier)
