"""Runs one session under cocotb with a stop-watch, for ``shootdown bench``."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cocotb

from shootdown.carriers import CocotbCarrier, Records, Session, drive
from shootdown.config import RunConfig
from shootdown.execute import run_session
from shootdown.linkfile import LinkRecorder
from shootdown.stretch import stretch

__all__ = ["FIGURES_FILE", "OPTIONS_ENV", "WORDS_FILE", "device_only", "replay"]

OPTIONS_ENV = "SHOOTDOWN_BENCH"
FIGURES_FILE = "bench.json"
WORDS_FILE = "link.words"


class _Counter:
    """Passes a session on and counts its records."""

    def __init__(self) -> None:
        self.records = 0

    def counted(self, session: Session[Any]) -> Session[None]:
        answer: Records | None = None
        try:
            words = next(session)
            while True:
                answer = yield words
                self.records += len(answer)
                words = session.send(answer)
        except StopIteration:
            return


async def _measure(dut: Any, session: Session[Any], recorder: Callable[[Records], None]) -> int:
    carrier, counter = CocotbCarrier(dut, recorder), _Counter()
    wall, cpu = time.perf_counter(), time.process_time()
    await drive(counter.counted(session), carrier)
    figures = {
        "seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "cycles": carrier.cycle,
        "records": counter.records,
        "wakes": carrier.wakes,
    }
    Path(FIGURES_FILE).write_text(json.dumps(figures))
    return counter.records


@cocotb.test
async def device_only(dut: Any) -> None:
    """The stretch of :mod:`shootdown.stretch` reaches its end."""
    options = json.loads(os.environ[OPTIONS_ENV])
    with LinkRecorder(Path(WORDS_FILE)) as recorder:
        session = stretch(**options, seed=cocotb.RANDOM_SEED)
        records = await _measure(dut, session, recorder.record)
        recorder.finish(cycles=int(dut.cycle.value), records=records)


@cocotb.test
async def replay(dut: Any) -> None:
    """The configured replay reaches its end."""
    config = RunConfig.from_json(os.environ[OPTIONS_ENV].encode())
    with LinkRecorder(Path(WORDS_FILE)) as recorder:
        session = run_session(config, lambda _done: None)
        records = await _measure(dut, session, recorder.record)
        recorder.finish(cycles=int(dut.cycle.value), records=records)
