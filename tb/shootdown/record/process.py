"""Turn the stream of one process into windows and events."""

import re
from collections.abc import Callable, Iterable

from hostmm.trace import (
    PAGE_BYTES,
    PAGE_BYTES_LOG2,
    Access,
    Brk,
    Exec,
    Exit,
    Fork,
    Item,
    Madvise,
    Mmap,
    Mprotect,
    Mremap,
    Msync,
    Munmap,
    Window,
)
from shootdown.record.condense import WindowBuilder
from shootdown.record.descriptors import Descriptors, MappedFiles
from shootdown.record.elf import PROT_READ, PROT_WRITE
from shootdown.record.image import MAP_ANONYMOUS, MAP_PRIVATE, initial_mappings
from shootdown.record.lackey import Accesses, LackeyParser
from shootdown.record.space import MappedRanges
from shootdown.record.syscalls import Call, CallReader

__all__ = ["ProcessRecorder"]

BANNER = "== Lackey, an example Valgrind tool"
KILLED = "Process terminating with default action of signal "
FORKING = re.compile(r"SYSCALL\[\d+,\d+\]\( *\d+\) sys_(?:clone|fork|vfork) ")
PROT_MASK = 0xFFFF_FFFF


class ProcessRecorder:
    """The state of one recorded process.

    Parameters
    ----------
    pid : int
        Operating-system process id.
    number : int
        Number in the trace.
    window_instructions : int
        See :class:`WindowBuilder`.
    files : MappedFiles
        Shared by the whole recording.
    emit : callable
        Receives each item, in order.
    fork : callable
        Receives this recorder and the process id of a new child; returns the child's number.
    parent : ProcessRecorder or None
        Whose address space and descriptors the process starts with.
    """

    def __init__(
        self,
        pid: int,
        number: int,
        *,
        window_instructions: int,
        files: MappedFiles,
        emit: Callable[["ProcessRecorder", Item], None],
        fork: Callable[["ProcessRecorder", int], int],
        parent: "ProcessRecorder | None",
    ) -> None:
        self.pid = pid
        self.number = number
        self.parent = parent
        self.ended = False
        self.signal: int | None = None
        self.synthesized_pages = 0
        self._files = files
        self._emit_item = emit
        self._fork = fork
        self._parser = LackeyParser()
        self._calls = CallReader()
        self._builder = WindowBuilder(window_instructions)
        self._new_image = False
        self._early: list[Accesses] = []
        self._started = parent is not None
        self._child_banner = parent is not None
        self._heap: tuple[int, int] = (0, 0) if parent is None else parent._heap
        self._space: MappedRanges = MappedRanges() if parent is None else parent._space.copy()
        self._descriptors: Descriptors = (
            Descriptors(pid) if parent is None else parent._descriptors.forked(pid)
        )
        self._announced: set[int] = set()
        self._handlers: dict[str, Callable[[Call], None]] = {
            "mmap": self._mmap,
            "munmap": self._munmap,
            "mprotect": self._mprotect,
            "mremap": self._mremap,
            "madvise": self._madvise,
            "brk": self._brk,
            "msync": self._msync,
            "exit_group": self._exit_group,
        }

    @property
    def dropped(self) -> int:
        """Accesses outside the user half that were left out."""
        return self._builder.dropped

    @property
    def forking(self) -> bool:
        """Whether the process is inside a fork that has not reported its child yet."""
        return FORKING.match(self._parser.unfinished) is not None

    def announce(self, child: int) -> None:
        """Take the child of the fork that the process is in, ahead of the report.

        A process that waits in vfork reports its child after the child has executed its image, and
        the child waits for its pipe before.
        """
        if child not in self._announced:
            self._announced.add(child)
            self._fork_child(child)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the stream."""
        for part in self._parser.feed(chunk):
            if self.ended:
                return
            if isinstance(part, str):
                self._line(part)
            else:
                self._accesses(part)

    def close(self) -> None:
        """End the stream: the process is gone."""
        if not self.ended:
            self._line(self._parser.unfinished)
        if not self.ended:
            self._event(Exit())
            self.ended = True

    def _accesses(self, accesses: Accesses) -> None:
        if self._new_image:
            self._early.append(accesses)
            stores = accesses.pages[(accesses.kinds & Access.STORE) != 0]
            if stores.size:
                self._begin_image(int(stores[0]))
        else:
            self._windows(self._builder.add(accesses))

    def _begin_image(self, stack_page: int) -> None:
        """Emit the initial mappings; an image's first store pushes its first return address."""
        self._new_image = False
        for mapping in initial_mappings(self.pid, stack_page, self._files):
            self._event(mapping)
            self._space.add(mapping.addr, mapping.length)
        early, self._early = self._early, []
        for accesses in early:
            self._windows(self._builder.add(accesses))

    def _windows(self, windows: Iterable[Window]) -> None:
        for window in windows:
            for addr, length in self._space.strays(window.pages):
                self.synthesized_pages += length // PAGE_BYTES
                self._space.add(addr, length)
                flags = MAP_PRIVATE | MAP_ANONYMOUS
                self._emit(Mmap(addr, length, PROT_READ | PROT_WRITE, flags, None, 0))
            self._emit(window)

    def _emit(self, item: Item) -> None:
        self._emit_item(self, item)

    def _event(self, event: Item) -> None:
        self._windows(self._builder.flush())
        self._emit(event)

    def _line(self, line: str) -> None:
        if BANNER in line:
            self._banner()
        elif KILLED in line:
            self.signal = int(line.split(KILLED)[1].split()[0])
            self._event(Exit())
            self.ended = True
        else:
            call = self._calls.feed(line)
            if call is not None:
                self._call(call)

    def _banner(self) -> None:
        """Take the first line of a log: the program's start, a fork's new log, or an exec's."""
        if self._child_banner:
            self._child_banner = False
            return
        if self._started:
            self._event(Exec())
            self._space = MappedRanges()
            self._heap = (0, 0)
            self._descriptors.exec()
        self._started = True
        self._new_image = True
        self._calls = CallReader()

    def _call(self, call: Call) -> None:
        self._descriptors.take(call)
        if call.child is not None:
            if call.child not in self._announced:
                self._fork_child(call.child)
            self._announced.discard(call.child)
        elif call.name in self._handlers:
            self._handlers[call.name](call)

    def _fork_child(self, pid: int) -> None:
        self._windows(self._builder.flush())
        self._emit(Fork(self._fork(self, pid)))

    def _mmap(self, call: Call) -> None:
        _, length, prot, flags, descriptor, offset = call.args
        size = _pages(length)
        file = None
        if not flags & MAP_ANONYMOUS:
            file = self._files.add(self._descriptors.file(descriptor), offset + length)
        self._event(Mmap(call.result, size, prot, flags, file, offset >> PAGE_BYTES_LOG2))
        self._space.add(call.result, size)

    def _munmap(self, call: Call) -> None:
        addr, length = call.args
        self._event(Munmap(addr, _pages(length)))
        self._space.remove(addr, _pages(length))

    def _mprotect(self, call: Call) -> None:
        addr, length, prot = call.args
        if length:
            self._event(Mprotect(addr, _pages(length), prot & PROT_MASK))

    def _mremap(self, call: Call) -> None:
        old, old_length, new_length, flags, *_ = call.args
        before, after = _pages(old_length), _pages(new_length)
        if before:
            self._event(Mremap(old, before, call.result, after, flags))
            self._space.remove(old, before)
        self._space.add(call.result, after)

    def _madvise(self, call: Call) -> None:
        addr, length, advice = call.args
        if length:
            self._event(Madvise(addr, _pages(length), advice))

    def _msync(self, call: Call) -> None:
        addr, length, flags = call.args
        if length:
            self._event(Msync(addr, _pages(length), flags))

    def _brk(self, call: Call) -> None:
        end = _pages(call.result)
        start, before = self._heap
        if start == 0:
            self._heap = (end, end)
        elif end != before and end >= start:
            self._event(Brk(start, end))
            self._space.remove(start, before - start)
            self._space.add(start, end - start)
            self._heap = (start, end)

    def _exit_group(self, _call: Call) -> None:
        self._event(Exit())
        self.ended = True


def _pages(length: int) -> int:
    """Round ``length`` up to whole pages, as the kernel does."""
    return -(-length // PAGE_BYTES) * PAGE_BYTES
