"""One named pipe a process, there before the process is.

valgrind opens ``DIRECTORY/PID`` when a process starts, when it forks and when it executes a new
image. If the name is a pipe, nothing is stored, and the process waits until the recorder reads. So
pipes must exist under the process ids that come next; the kernel hands those out in ascending order.
"""

import os
import shutil
import stat
import tempfile
from pathlib import Path

__all__ = ["PipePool"]

AHEAD = 2048
FIRST_PID_AFTER_WRAP = 300
"""The kernel's RESERVED_PIDS: where numbering starts again after pid_max."""


class PipePool:
    """Pipes named after the process ids that the kernel will hand out next."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="shootdown-record-"))
        self._limit = int(Path("/proc/sys/kernel/pid_max").read_text())
        self._made: set[int] = set()
        self._last = -1
        self.top_up()

    def top_up(self) -> None:
        """Make pipes for the ids that follow the newest process."""
        last = int(Path("/proc/loadavg").read_text().split()[-1])
        if last == self._last:
            return
        self._last = last
        for pid in range(last + 1, last + 1 + AHEAD):
            number = pid if pid < self._limit else pid - self._limit + FIRST_PID_AFTER_WRAP
            if number not in self._made:
                os.mkfifo(self.directory / str(number), 0o600)
                self._made.add(number)

    def open(self, pid: int) -> int | None:
        """Open the pipe of a process for reading, without waiting for its writer.

        Returns None when the process came too early and wrote an ordinary file.
        """
        path = self.directory / str(pid)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        return descriptor

    def close(self) -> None:
        """Remove every pipe."""
        shutil.rmtree(self.directory, ignore_errors=True)
