"""The case behind ``shootdown run``: one run of the host model against the emulator's RTL."""

import gc
import os
import time
from pathlib import Path
from typing import Any

import cocotb

from hostmm.errors import HostError
from shootdown.carriers import CocotbCarrier, drive
from shootdown.config import RunConfig
from shootdown.execute import run_session
from shootdown.outcome import analyse

__all__ = ["CONFIG_ENV", "ERROR_FILE", "OUTCOME_FILE", "PROGRESS_FILE", "one_run"]

CONFIG_ENV = "SHOOTDOWN_RUN"
OUTCOME_FILE = "outcome.json"
ERROR_FILE = "error.txt"
PROGRESS_FILE = "progress"


@cocotb.test()
async def one_run(dut: Any) -> None:
    """The configured run reaches its end, or an error that a user can read."""
    config = RunConfig.from_json(os.environ[CONFIG_ENV].encode())
    carrier = CocotbCarrier(dut)
    # The timeline's rows live to the end: looking through them again and again costs a tenth of the run.
    gc.disable()
    begun = time.monotonic()
    try:
        data = await drive(run_session(config, _note), carrier)
    except HostError as error:
        Path(ERROR_FILE).write_text(str(error))
        return
    wall_s = time.monotonic() - begun
    analyse(config, data, wall_s=wall_s, folder=Path()).save(Path(OUTCOME_FILE))


def _note(done: float) -> None:
    Path(PROGRESS_FILE).write_text(f"{done:.3f}")
