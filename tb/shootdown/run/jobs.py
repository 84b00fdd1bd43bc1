"""Runs several simulations at once, each in a process of its own, and shows how far they are."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from hostmm.errors import HostError
from shootdown.errors import ShootdownError, SimulationError, UsageError

__all__ = ["Job", "run_jobs"]

_POLL_S = 0.2
_PLAIN_EVERY_S = 5.0


@dataclass(frozen=True)
class Job:
    """One call: ``work(*arguments)`` in a process; ``progress`` is a file with a number from 0 to 1 in it."""

    name: str
    work: Callable[..., None]
    arguments: tuple[object, ...]
    progress: Path


def _child(job: Job, answer: Connection) -> None:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        job.work(*job.arguments)
    except (UsageError, HostError) as error:
        answer.send((UsageError, str(error)))
    except (ShootdownError, OSError) as error:
        answer.send((SimulationError, str(error)))
    except KeyboardInterrupt:
        pass  # the parent has it too
    else:
        answer.send(None)


class _Display:
    """One line that is rewritten on a terminal; a line every few seconds elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._terminal = sys.stderr.isatty()
        self._shown = 0.0

    def show(self, running: Sequence[Job], finished: int) -> None:
        """Print how far the running jobs are."""
        now = time.monotonic()
        if not self._terminal and now - self._shown < _PLAIN_EVERY_S:
            return
        self._shown = now
        parts = "  ".join(f"{job.name} {100 * _fraction(job.progress):3.0f}%" for job in running)
        text = f"{finished}/{self._total} runs done  {parts}"
        if self._terminal:
            print(
                f"\r\033[K{text[: os.get_terminal_size(2).columns - 1]}",
                end="",
                file=sys.stderr,
                flush=True,
            )
        else:
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave the terminal's line empty."""
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _fraction(file: Path) -> float:
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return 0.0


def run_jobs(jobs: Sequence[Job], *, at_once: int) -> None:
    """Run every job, ``at_once`` at a time, in order.

    Raises
    ------
    UsageError
        A job was refused.
    SimulationError
        A job failed otherwise. In both cases it is the first such job. However this call ends, none is left running.
    """
    context = multiprocessing.get_context("spawn")
    waiting, finished = list(jobs), 0
    running: dict[Connection, tuple[Job, BaseProcess]] = {}
    display = _Display(len(jobs))
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(
                    target=_child, args=(job, theirs), name=job.name
                )
                _start(process)
                theirs.close()
                running[ours] = (job, process)
            for answer in wait(list(running), _POLL_S):
                assert isinstance(answer, Connection)
                job, process = running.pop(answer)
                finished += 1
                _finish(job, process, answer)
            display.show([job for job, _ in running.values()], finished)
    finally:
        display.clear()
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def _start(process: BaseProcess) -> None:
    """Start a process that Ctrl-C does not reach before it can deal with it, while it loads its modules."""
    # Started by the way, it would unblock the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _finish(job: Job, process: BaseProcess, answer: Connection) -> None:
    problem: tuple[type[ShootdownError], str] | None
    try:
        problem = answer.recv()
    except EOFError:
        process.join()
        problem = SimulationError, f"its process ended with status {process.exitcode}"
    process.join()
    if problem is not None:
        kind, text = problem
        raise kind(f"{job.name}: {text}")
