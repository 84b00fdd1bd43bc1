"""Runs one session under cocotb with a stop-watch, for ``shootdown bench``."""

import gc
import json
import os
import time
from pathlib import Path
from typing import Any

import cocotb

from shootdown.bench.stretch import stretch
from shootdown.run.carriers import CocotbCarrier, Session, drive
from shootdown.run.config import RunConfig
from shootdown.run.execute import run_session
from shootdown.run.linkfile import LinkRecorder

__all__ = ["FIGURES_FILE", "OPTIONS_ENV", "WORDS_FILE", "device_only", "replay"]

OPTIONS_ENV = "SHOOTDOWN_BENCH"
FIGURES_FILE = "bench.json"
WORDS_FILE = "link.words"


async def _measure(dut: Any, session: Session[Any], limit: int | None = None) -> None:
    records = 0

    def counted() -> Session[None]:
        nonlocal records
        try:
            words = next(session)
            while True:
                answer = yield words
                records += len(answer)
                if limit is not None and answer[-1, 1] >= limit:
                    return
                words = session.send(answer)
        except StopIteration:
            return

    with LinkRecorder(Path(WORDS_FILE)) as recorder:
        carrier = CocotbCarrier(dut, recorder.record)
        gc.disable()  # as shootdown run does
        begun = time.process_time()
        await drive(counted(), carrier)
        seconds = time.process_time() - begun
        recorder.finish(cycles=carrier.cycle, records=records)
    figures = {"seconds": seconds, "cycles": carrier.cycle, "records": records}
    Path(FIGURES_FILE).write_text(json.dumps(figures | {"wakes": carrier.wakes}))


@cocotb.test
async def device_only(dut: Any) -> None:
    """The stretch of :mod:`shootdown.bench.stretch` reaches its end."""
    options = json.loads(os.environ[OPTIONS_ENV])
    await _measure(dut, stretch(**options, seed=cocotb.RANDOM_SEED))


@cocotb.test
async def replay(dut: Any) -> None:
    """The configured replay reaches the given cycle."""
    options = json.loads(os.environ[OPTIONS_ENV])
    config = RunConfig.from_json(options["config"].encode())
    await _measure(dut, run_session(config, lambda _done: None), options["cycles"])
