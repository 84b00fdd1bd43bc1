"""Performs runs: each in a simulator of its own, two at a time, their results in one folder."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from hostmm.errors import HostError
from hostmm.model import Model
from hostmm.trace import load
from shootdown.cases.run_cases import (
    CALLER_ENV,
    CONFIG_ENV,
    ERROR_FILE,
    LAST_CYCLE_ENV,
    OUTCOME_FILE,
    PROGRESS_FILE,
)
from shootdown.collector import no_collection
from shootdown.errors import ShootdownError, SimulationError, UsageError
from shootdown.report.results import ViolationResult
from shootdown.run.carriers import drive_model
from shootdown.run.config import MODEL, RunConfig
from shootdown.run.execute import run_session
from shootdown.run.jobs import Job, run_jobs
from shootdown.run.outcome import Outcome, analyse
from shootdown.simulators import simulate
from shootdown.simulators.designs import emulator_design, emulator_verilog
from shootdown.simulators.waves import dump_of, enum_names, write_save_file

__all__ = [
    "Recording",
    "fresh_folder",
    "perform",
    "perform_all",
    "perform_on_model",
    "record_part",
    "record_unexpected",
    "write_wave_files",
]

_MODULE = "shootdown.cases.run_cases"
_TIMEOUT_S = 1800.0
_MARK = ".shootdown-results"
"""A file that says that a folder is ours to replace."""
_AT_ONCE = 2
_CYCLES_BEFORE = 2000
_CYCLES_AFTER = 500
_PART_FOLDER = "part"


class Recording(NamedTuple):
    """A waveform: of which run, and the violation that its marker stands on."""

    config: RunConfig
    marked: ViolationResult | None

    @property
    def what(self) -> str:
        """What the marker stands on."""
        return f"{self.marked.invariant} in cycle {self.marked.cycle}" if self.marked else "nothing"

    @property
    def cycles(self) -> tuple[int, int] | None:
        """First and last emulated cycle, None where the whole run was recorded."""
        if self.config.waves or self.marked is None:
            return None
        return max(self.marked.cycle - _CYCLES_BEFORE, 0), self.marked.cycle + _CYCLES_AFTER


def perform(config: RunConfig, folder: Path) -> None:
    """Run one configuration; leaves ``outcome.json``, ``timeline.parquet`` and perhaps a waveform in ``folder``.

    Raises
    ------
    ShootdownError
        It could not be built or run; the text is one line.
    """
    if config.simulator == MODEL:
        folder.mkdir(parents=True, exist_ok=True)
        perform_on_model(config, folder).save(folder / OUTCOME_FILE)
        return
    built = simulate.build(emulator_design(config.emulator), _simulator(config), waves=config.waves)
    results = simulate.run(
        built,
        _MODULE,
        cases=["one_run"],
        seed=config.seed,
        env=_environment(config),
        out=folder,
        timeout_s=_TIMEOUT_S,
    )
    error = folder / ERROR_FILE
    if error.exists():
        raise UsageError(error.read_text())
    if not results[0].passed:
        reason = results[0].message.strip().splitlines()[-1]
        raise SimulationError(f"{reason}: see {folder / simulate.LOG_NAME}")


def perform_on_model(config: RunConfig, folder: Path | None = None) -> Outcome:
    """Run one configuration on the model, in this process; leaves its timeline in ``folder``, if there is one.

    Raises
    ------
    HostError
        The host model cannot run it.
    """
    begun = time.monotonic()
    model = Model(memory_bytes=config.emulator.memory_bytes)

    def note(done: float) -> None:
        if folder is not None:
            (folder / PROGRESS_FILE).write_text(f"{done:.3f}")

    with no_collection():
        data = drive_model(run_session(config, note), model)
    return analyse(config, data, wall_s=time.monotonic() - begun, folder=folder)


def _environment(config: RunConfig) -> dict[str, str]:
    return {CONFIG_ENV: config.to_json().decode(), CALLER_ENV: str(Path.cwd())}


def _simulator(config: RunConfig) -> simulate.Simulator:
    return "verilator" if config.simulator == "verilator" else "icarus"


def perform_all(configs: Sequence[RunConfig], folder: Path) -> list[Outcome]:
    """Run every configuration, two at a time, each in ``folder/NAME``; return their outcomes in order.

    Raises
    ------
    UsageError
        A configuration cannot be run, or two have one name.
    ShootdownError
        One could not be built or run.
    """
    names = Counter(config.name for config in configs)
    for name, count in names.items():
        if count > 1:
            raise UsageError(f"{count} runs would be called {name}: give files names of their own")
    for trace in dict.fromkeys(c.trace_path for c in configs if c.scenario is None):
        try:
            load(trace)  # a bad trace is refused before anything is built
        except HostError as error:
            raise UsageError(str(error)) from None
    for config in configs:
        # Compiled here, once, so that two runs do not wait for the same model.
        if config.simulator != MODEL:
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


def record_part(config: RunConfig, cycles: tuple[int, int], folder: Path) -> None:
    """Repeat a run up to the last of ``cycles``; leave a waveform from the first on in ``folder``.

    A run is the same each time, so what happened in a cycle happens in it again.

    Raises
    ------
    ShootdownError
        It could not be built or run.
    """
    config = msgspec.structs.replace(config, waves=True)
    built = simulate.build(emulator_design(config.emulator), _simulator(config), waves=True)
    part = folder / _PART_FOLDER
    results = simulate.run(
        built,
        _MODULE,
        cases=["part_of_a_run"],
        seed=config.seed,
        env=_environment(config) | {LAST_CYCLE_ENV: str(cycles[1])},
        out=part,
        timeout_s=_TIMEOUT_S,
        waves_from=cycles[0],
    )
    if not results[0].passed:
        raise SimulationError(results[0].message.strip().splitlines()[-1])
    dump = dump_of(part)
    dump.replace(folder / dump.name)
    shutil.rmtree(part)


def record_unexpected(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Give each run with an unexpected violation, and without waves, a waveform of the cycles around the first one.

    Raises
    ------
    ShootdownError
        One could not be recorded.
    """
    jobs = []
    simulated = [o for o in outcomes if o.unexpected and o.config.simulator != MODEL]
    for recording in [_recording(outcome) for outcome in simulated]:
        config, cycles = recording.config, recording.cycles
        if cycles is not None:
            simulate.build(emulator_design(config.emulator), _simulator(config), waves=True)
            own = folder / config.name
            progress = own / _PART_FOLDER / PROGRESS_FILE
            jobs.append(Job(f"{config.name} waves", record_part, (config, cycles, own), progress))
    run_jobs(jobs, at_once=_AT_ONCE)


def _recording(outcome: Outcome) -> Recording:
    violations = outcome.unexpected or outcome.run.violations
    first = min(violations, key=lambda violation: violation.cycle, default=None)
    return Recording(outcome.config, first)


def write_wave_files(outcomes: Sequence[Outcome], out: Path) -> list[Recording]:
    """Write the GTKWave save file of every run that has a waveform and return these.

    The marker stands on the first violation, the first unexpected one where there is any.
    """
    found = []
    for outcome in outcomes:
        recording = _recording(outcome)
        try:
            dump = dump_of(out / outcome.config.name)
        except SimulationError:
            continue
        marked = recording.marked
        write_save_file(
            dump,
            enum_names(emulator_verilog(outcome.config.emulator)),
            marker=None if marked is None else (marked.cycle, marked.invariant),
        )
        found.append(recording)
    return found


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder whose content is not results of ours: it would be replaced."""
    if not folder.is_dir():
        if folder.exists():
            raise UsageError(f"cannot write {folder}: it is a file, results want a folder")
    elif not (folder / _MARK).is_file() and any(folder.iterdir()):
        raise UsageError(f"{folder} holds other things than results: name a new or an empty folder")


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``out`` when the block ends well.

    When a simulation failed it is kept as ``out-failed``, for its logs, until one does not; otherwise nothing is left of
    it. Only a folder that an earlier call made, or an empty one, is replaced.

    Raises
    ------
    UsageError
        The folder cannot be written, or holds something else.
    """
    out = Path(os.path.realpath(out))
    if Path.cwd().is_relative_to(out):
        raise UsageError(f"cannot write {out}: name a folder of its own for the results")
    work = out.with_name(f".{out.name}.{os.getpid()}")
    failed = out.with_name(f"{out.name}-failed")
    for folder in (out, failed):
        _refuse_foreign(folder)
    made = [parent for parent in work.parents if not parent.exists()]
    try:
        work.mkdir(parents=True)
        (work / _MARK).touch()
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from None
    try:
        yield work
        shutil.rmtree(out, ignore_errors=True)
        work.replace(out)
        if (failed / _MARK).is_file():
            shutil.rmtree(failed, ignore_errors=True)
    except SimulationError as error:
        shutil.rmtree(failed, ignore_errors=True)
        work.replace(failed)
        raise ShootdownError(str(error).replace(str(work), str(failed))) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # it is needed after all
                parent.rmdir()
