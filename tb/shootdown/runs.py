"""Performs runs: each in a simulator of its own, two at a time, their results in one folder."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hostmm.errors import HostError
from hostmm.trace import load
from shootdown import simulate
from shootdown.cases.run_cases import CONFIG_ENV, ERROR_FILE, OUTCOME_FILE, PROGRESS_FILE
from shootdown.config import RunConfig
from shootdown.designs import emulator_design, emulator_verilog
from shootdown.errors import ShootdownError, SimulationError, UsageError
from shootdown.jobs import Job, run_jobs
from shootdown.outcome import Outcome
from shootdown.waves import dump_of, enum_names, write_save_file

__all__ = ["fresh_folder", "perform", "perform_all", "write_wave_files"]

_MODULE = "shootdown.cases.run_cases"
_TIMEOUT_S = 1800.0
_AT_ONCE = 2


def perform(config: RunConfig, folder: Path) -> None:
    """Run one configuration; leaves ``outcome.json``, ``timeline.parquet`` and perhaps a waveform in ``folder``.

    Raises
    ------
    ShootdownError
        It could not be built or run; the text is one line.
    """
    built = simulate.build(emulator_design(config.emulator), _simulator(config), waves=config.waves)
    results = simulate.run(
        built,
        _MODULE,
        cases=["one_run"],
        seed=config.seed,
        env={CONFIG_ENV: config.to_json().decode()},
        out=folder,
        timeout_s=_TIMEOUT_S,
    )
    error = folder / ERROR_FILE
    if error.exists():
        raise UsageError(error.read_text())
    if not results[0].passed:
        reason = results[0].message.strip().splitlines()[-1]
        raise SimulationError(f"{config.name}: {reason}: see {folder / simulate.LOG_NAME}")


def _simulator(config: RunConfig) -> simulate.Simulator:
    return "verilator" if config.simulator == "verilator" else "icarus"


def perform_all(configs: Sequence[RunConfig], folder: Path) -> list[Outcome]:
    """Run every configuration, two at a time, each in ``folder/NAME``; return their outcomes in order."""
    for trace in {config.trace_path for config in configs}:
        try:
            load(trace)  # a bad trace is refused before anything is built
        except HostError as error:
            raise UsageError(str(error)) from None
    for config in configs:
        # Compiled here, once, so that two runs do not wait for the same model.
        simulate.build(emulator_design(config.emulator), _simulator(config), waves=config.waves)
    jobs = [
        Job(
            config.name,
            perform,
            (config, folder / config.name),
            folder / config.name / PROGRESS_FILE,
        )
        for config in configs
    ]
    run_jobs(jobs, at_once=_AT_ONCE)
    return [Outcome.load(folder / config.name / OUTCOME_FILE) for config in configs]


def write_wave_files(outcomes: Sequence[Outcome], out: Path) -> None:
    """Write the GTKWave save file of every run that has a waveform; the marker stands on its first violation."""
    for outcome in outcomes:
        if outcome.config.waves:
            marked = outcome.unexpected or outcome.run.violations
            write_save_file(
                dump_of(out.absolute() / outcome.config.name),
                enum_names(emulator_verilog(outcome.config.emulator)),
                marker_cycle=marked[0].cycle if marked else None,
            )


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``out`` when the block ends well.

    When a simulation failed it is kept as ``out-failed``, for its logs; otherwise nothing is left of it.

    Raises
    ------
    UsageError
        The folder cannot be written.
    """
    out = out.absolute()
    work = out.with_name(f".{out.name}.{os.getpid()}")
    failed = out.with_name(f"{out.name}-failed")
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from None
    try:
        yield work
        shutil.rmtree(out, ignore_errors=True)
        work.replace(out)
    except SimulationError as error:
        shutil.rmtree(failed, ignore_errors=True)
        work.replace(failed)
        raise ShootdownError(str(error).replace(str(work), str(failed))) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
