"""The harness of the proof of completion, simulated: more may happen in it than a solver can follow."""

import subprocess
from pathlib import Path

import pytest

from secmmu.emit import to_verilog
from shootdown.formal.whole import WholeHarness
from shootdown.simulators.builds import Design, build_bare

OPEN_CYCLES = 8
ANSWERED_WITHIN = 84
"""A few cycles more than 160,000 trials need (docs/secmmu.md, How long an answer takes)."""
TRIALS, LIMIT = 2000, 1000


@pytest.mark.slow
def test_what_is_offered_in_the_first_cycles_is_answered_within_the_bound() -> None:
    """Every input bit at random, and everybody else answers at once; replay one trial: ``sim 1 8 1000 TRIAL``."""
    harness = WholeHarness("completion", None, open_cycles=OPEN_CYCLES)
    design = Design(name="completion", verilog=to_verilog(harness, name="top"), top="top")
    program = build_bare(design, Path(__file__).with_name("completion.cpp"))
    command = [str(program), str(TRIALS), str(OPEN_CYCLES), str(LIMIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    cycles, trial = map(int, done.stdout.split())
    assert cycles <= ANSWERED_WITHIN, f"trial {trial}: {command}"
    # Or the trials hardly meet each other.
    assert cycles > OPEN_CYCLES + 60
