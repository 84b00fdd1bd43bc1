"""Child processes that never outlive us: each runs in a process group of its own, which is killed as one."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Self

__all__ = ["run_group"]

_GRACE_S = 2.0
"""How long a group may take to end after SIGTERM, before SIGKILL."""


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
    # The leader may have gone first and left members behind.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


class _Sigterm:
    """While entered, SIGTERM kills the adopted child's group before the earlier handler has it."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._pending = False
        self._active = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._active:
            self._previous = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._active:
            signal.signal(signal.SIGTERM, self._previous)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # A signal that comes while the child is being started must not lose it.
        if self._child is None:
            self._pending = True
            return
        _kill_group(self._child)
        signal.signal(signal.SIGTERM, self._previous)
        os.kill(os.getpid(), number)

    def adopt(self, child: subprocess.Popen[bytes]) -> None:
        """Make ``child`` the one to kill."""
        self._child = child
        if self._pending:
            self._handle(signal.SIGTERM, None)


def run_group(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: BinaryIO,
    timeout_s: float | None = None,
) -> int:
    """Run ``command`` in a new process group and return its exit status.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    cwd : Path
        Working directory.
    env : mapping
        The whole environment of the child.
    log : binary file
        Receives standard output and standard error.
    timeout_s : float or None
        Wall-clock limit in seconds.

    Raises
    ------
    TimeoutError
        The limit passed; the group has been killed.
    """
    with _Sigterm() as sigterm:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            sigterm.adopt(child)
            return child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{command[0]} ran longer than {timeout_s:g} s") from None
        finally:
            if child.poll() is None:
                _kill_group(child)
