"""Run a program under valgrind and condense what it prints while it runs."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostmm.trace import VERSION, Item, Process, Trace, Window
from shootdown.record.descriptors import MappedFiles
from shootdown.record.errors import RecordError
from shootdown.record.image import STACK_BYTES
from shootdown.record.pipes import PipePool
from shootdown.record.process import ProcessRecorder
from shootdown.simulators import toolchain

__all__ = ["Recording", "record"]

READ_BYTES = 1 << 18
POLL_MS = 20
MAX_PROCESSES = 1 << 16
TOOL = (
    "--tool=lackey",
    "--basic-counts=no",
    "--trace-mem=yes",
    "--trace-syscalls=yes",
    "--trace-children=yes",
    "--vgdb=no",
    f"--main-stacksize={STACK_BYTES}",
)


@dataclass
class _Stream:
    recorder: ProcessRecorder
    descriptor: int
    writer: bool = False


class Recording:
    """Collects the items of every process while they come.

    Attributes
    ----------
    instructions, windows : int
        Progress so far.
    """

    def __init__(self, window_instructions: int) -> None:
        self.instructions = 0
        self.windows = 0
        self.processes: list[ProcessRecorder] = []
        self._window_instructions = window_instructions
        self._files = MappedFiles()
        self._items: list[list[Item]] = []
        self._order: list[tuple[int, int]] = []

    def start(self, pid: int, parent: ProcessRecorder | None) -> ProcessRecorder:
        """Add a process; ``parent`` is None for the program itself."""
        if len(self.processes) >= MAX_PROCESSES:
            raise RecordError(f"the program started more than {MAX_PROCESSES} processes")
        recorder = ProcessRecorder(
            pid,
            len(self.processes) + 1,
            window_instructions=self._window_instructions,
            files=self._files,
            emit=self._emit,
            fork=lambda maker, child: self.start(child, maker).number,
            parent=parent,
        )
        self.processes.append(recorder)
        self._items.append([])
        return recorder

    def _emit(self, recorder: ProcessRecorder, item: Item) -> None:
        items = self._items[recorder.number - 1]
        self._order.append((recorder.number - 1, len(items)))
        items.append(item)
        if isinstance(item, Window):
            self.windows += 1
            self.instructions += item.instructions

    def trace(self, name: str, command: Sequence[str]) -> Trace:
        """Return what has been collected."""
        return Trace(
            version=VERSION,
            name=name,
            command=tuple(command),
            window_instructions=self._window_instructions,
            files=self._files.table(),
            processes=tuple(
                Process(p.number, p.parent.number if p.parent else None, tuple(items))
                for p, items in zip(self.processes, self._items, strict=True)
            ),
            order=tuple(self._order),
            dropped_accesses=sum(p.dropped for p in self.processes),
            synthesized_pages=sum(p.synthesized_pages for p in self.processes),
        )


def record(
    program: Sequence[str],
    *,
    name: str,
    command: Sequence[str],
    window_instructions: int,
    progress: Callable[[Recording], None],
) -> Trace:
    """Run ``program`` with its children under valgrind and return its trace.

    Parameters
    ----------
    program : sequence of str
        Program and arguments; its standard streams are the caller's.
    name, command
        Stored in the trace.
    window_instructions : int
        Instructions a window.
    progress : callable
        Called now and then.

    Raises
    ------
    RecordError
        The program cannot be found, was killed, or left no accesses.
    ToolError
        valgrind is missing.
    """
    toolchain.require("valgrind")
    if shutil.which(program[0]) is None:
        raise RecordError(f"program not found: {program[0]}")
    recording = Recording(window_instructions)
    pool = PipePool()
    try:
        _run(program, recording, pool, progress)
    finally:
        pool.close()
    if not recording.windows:
        raise RecordError(f"valgrind recorded nothing of {program[0]}")
    return recording.trace(name, command)


def _run(
    program: Sequence[str],
    recording: Recording,
    pool: PipePool,
    progress: Callable[[Recording], None],
) -> None:
    child = subprocess.Popen(
        ["valgrind", *TOOL, f"--log-file={pool.directory}/%p", *program],
        start_new_session=True,
    )
    try:
        root = recording.start(child.pid, None)
        _Multiplexer(recording, pool).run(progress)
        status = child.wait()
    finally:
        _kill(child, recording)
    number = root.signal or (-status if status < 0 else None)
    if number is not None:
        name = signal.Signals(number).name
        raise RecordError(f"{program[0]} was killed by signal {number} ({name}); no trace written")


def _kill(child: subprocess.Popen[bytes], recording: Recording) -> None:
    """Leave no process behind: neither in the group, nor one that has left it."""
    if child.poll() is not None and all(recorder.ended for recorder in recording.processes):
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    for recorder in recording.processes:
        if not recorder.ended and recorder.pid != child.pid and _alive(recorder.pid):
            os.kill(recorder.pid, signal.SIGKILL)
    child.wait()


class _Multiplexer:
    """Reads every process's pipe in turn."""

    def __init__(self, recording: Recording, pool: PipePool) -> None:
        self._recording = recording
        self._pool = pool
        self._streams: list[_Stream] = []
        self._opened = 0

    def run(self, progress: Callable[[Recording], None]) -> None:
        """Read until every process is gone."""
        self._open_new()
        while self._streams:
            self._pool.top_up()
            self._wait()
            # Older processes are read first and newer ones handled first: what a parent wrote after
            # it had waited for its child is then never handled before what the child wrote.
            chunks = [(stream, _read(stream)) for stream in self._streams]
            for stream, chunk in reversed(chunks):
                if chunk:
                    stream.recorder.feed(chunk)
                elif chunk == b"":
                    self._no_writer(stream)
            self._find_vforked([stream for stream, chunk in chunks if chunk is None])
            self._open_new()
            progress(self._recording)

    def _wait(self) -> None:
        poller = select.poll()
        for stream in self._streams:
            if stream.writer:
                poller.register(stream.descriptor, select.POLLIN)
        every = all(stream.writer for stream in self._streams)
        poller.poll(POLL_MS if every else 1)

    def _find_vforked(self, silent: list[_Stream]) -> None:
        """Look for children whose parent cannot say their name yet."""
        for stream in silent:
            if stream.recorder.forking:
                known = {other.recorder.pid for other in self._streams}
                for pid in _children(stream.recorder.pid):
                    if pid not in known and _alive(pid):
                        stream.recorder.announce(pid)

    def _open_new(self) -> None:
        for recorder in self._recording.processes[self._opened :]:
            descriptor = self._pool.open(recorder.pid)
            if descriptor is None:
                raise RecordError(
                    f"process {recorder.pid} started before its pipe was there; record again"
                )
            self._streams.append(_Stream(recorder, descriptor))
        self._opened = len(self._recording.processes)

    def _no_writer(self, stream: _Stream) -> None:
        """Tell the end of a process from the gap before a start or an exec."""
        stream.writer = False
        if _alive(stream.recorder.pid):
            return
        # What it wrote between the last read and its death is still there.
        while chunk := _read(stream):
            stream.recorder.feed(chunk)
        stream.recorder.close()
        os.close(stream.descriptor)
        self._streams.remove(stream)


def _read(stream: _Stream) -> bytes | None:
    """Return what is there: None when the writer is silent, b"" when there is no writer."""
    try:
        chunk = os.read(stream.descriptor, READ_BYTES)
    except BlockingIOError:
        stream.writer = True
        return None
    stream.writer = bool(chunk)
    return chunk


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in tasks.read_text().split()]
        except OSError:
            continue
    return found


def _alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")
