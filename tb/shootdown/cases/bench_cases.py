"""Runs one session under cocotb with a stop-watch, for ``shootdown bench``."""

import json
import os
import time
from pathlib import Path
from typing import Any

import cocotb

from shootdown.carriers import CocotbCarrier, drive
from shootdown.linkfile import LinkRecorder
from shootdown.stretch import stretch


@cocotb.test
async def device_only(dut: Any) -> None:
    """The stretch of :mod:`shootdown.stretch`; options in SHOOTDOWN_BENCH, figures to ``bench.json``."""
    options = json.loads(os.environ["SHOOTDOWN_BENCH"])
    with LinkRecorder(Path("link.words")) as recorder:
        carrier = CocotbCarrier(dut, recorder.record)
        session = stretch(**options, seed=cocotb.RANDOM_SEED)
        begin = time.process_time()
        records = await drive(session, carrier)
        seconds = time.process_time() - begin
        recorder.finish(cycles=carrier.cycle, records=records)
    figures = {
        "cycles": carrier.cycle,
        "seconds": seconds,
        "wakes": carrier.wakes,
        "records": records,
    }
    Path("bench.json").write_text(json.dumps(figures))
