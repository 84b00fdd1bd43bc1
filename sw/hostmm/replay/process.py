"""One process of a replay: a leader that makes its system calls, and CPU threads that share its accesses."""

from typing import TYPE_CHECKING

from hostmm.callers import syscalls
from hostmm.callers.cpu import access, try_access
from hostmm.machine.locks import Signal, Wait
from hostmm.machine.scheduler import Steps
from hostmm.mm.space import MmStruct, Vma
from hostmm.replay.workload import CpuAccess, stretches
from hostmm.trace import (
    PAGE_BYTES,
    Brk,
    Event,
    Exec,
    Exit,
    Fork,
    Madvise,
    Mmap,
    Mprotect,
    Mremap,
    Msync,
    Munmap,
    Window,
)
from hostmm.trace import Process as TraceProcess

if TYPE_CHECKING:
    from hostmm.replay.replay import Replay

__all__ = ["Process"]

_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_SHARED = 1
_MADV_DONTNEED = 4
_MS_SYNC = 4
_TIME_STEP_NS = 1000
_LINE_BYTES = 64


class Process:
    """A process of the trace on its address space.

    Between two system calls its accesses run on the CPU threads at once; a system call waits for all of them. What
    a program would wait for before it unmaps or protects memory is waited for: the device's accesses in flight.

    Parameters
    ----------
    replay : Replay
    process : hostmm.trace.Process
        What it does.
    mm : MmStruct
    device : bool
        Whether the device takes part in it.
    """

    def __init__(
        self, replay: "Replay", process: TraceProcess, mm: MmStruct, *, device: bool
    ) -> None:
        self._replay = replay
        self._machine = replay.machine
        self._process = process
        self._partition = replay.partition(process.pid)
        self._cpus = replay.config.cpus
        self.mm = mm
        self.mm.cpus = self._cpus
        self._device = device
        self._bound = False
        self._alive = True
        self._go = Signal(f"work for the CPUs of process {process.pid}")
        self._joined = Signal(f"the CPUs of process {process.pid}")
        self._working = 0
        self._rounds = 0
        self._windows: tuple[Window, ...] = ()
        self._dealt: dict[int, tuple[list[list[CpuAccess]], int]] = {}

    def start(self) -> None:
        """Start the threads; the leader is the first CPU."""
        for cpu in range(1, self._cpus):
            self._machine.sched.spawn(f"p{self._process.pid}.cpu{cpu}", self._follow(cpu))
        self._machine.sched.spawn(f"p{self._process.pid}.cpu0", self._lead())

    def _lead(self) -> Steps:
        yield from self._bind()
        for stretch in stretches(self._process.items):
            if stretch.windows:
                yield from self._run(stretch.windows)
            if stretch.event is not None:
                yield from self._execute(stretch.event)
        if self._alive:
            yield from self._exit()
        self._ring(())
        self._replay.ended()

    def _bind(self) -> Steps:
        self._bound = self._device and (yield from self._replay.bind(self.mm))

    # --- accesses ----------------------------------------------------------------------------------------

    def _run(self, windows: tuple[Window, ...]) -> Steps:
        """Have every CPU make its accesses of these windows; returns when all have."""
        self._joined = Signal(self._joined.name)
        self._ring(windows)
        yield from self._share(0)
        yield Wait(self._joined)

    def _ring(self, windows: tuple[Window, ...]) -> None:
        """Set the CPUs to work; without windows, let them end."""
        self._windows = windows
        self._working = self._cpus
        self._rounds += 1
        go, self._go = self._go, Signal(self._go.name)
        self._machine.sched.fire(go)

    def _follow(self, cpu: int) -> Steps:
        done = 0
        while True:
            # The leader may have rung before this thread took its first step.
            if self._rounds == done:
                yield Wait(self._go)
            if not self._windows:
                return
            yield from self._share(cpu)
            done += 1

    def _share(self, cpu: int) -> Steps:
        """One CPU's accesses; plain ones are made in time steps of about a microsecond."""
        spent = 0
        for index in range(len(self._windows)):
            for vpn, line, write, device, gap in self._deal(index, cpu):
                if device and self._bound:
                    yield spent
                    spent = 0
                    yield from self._access_by_device(cpu, vpn, line, write)
                elif not try_access(self._machine, self.mm, vpn, line, write=write):
                    yield spent
                    spent = 0
                    if not (yield from access(self._machine, self.mm, vpn, line, write=write)):
                        self._replay.counts.skipped += 1
                self._replay.counts.accesses += 1
                spent += gap
                if spent >= _TIME_STEP_NS:
                    yield spent
                    spent = 0
        yield spent
        self._working -= 1
        if not self._working:
            self._machine.sched.fire(self._joined)

    def _deal(self, index: int, cpu: int) -> list[CpuAccess]:
        """Return the CPU's accesses of a window; who comes first deals for all, who comes last clears up."""
        if index not in self._dealt:
            self._replay.window_begun()
            self._dealt[index] = (self._partition.deal(self._windows[index]), self._cpus)
        dealt, left = self._dealt[index]
        if left == 1:
            del self._dealt[index]
        else:
            self._dealt[index] = (dealt, left - 1)
        return dealt[cpu]

    def _access_by_device(self, cpu: int, vpn: int, line: int, write: bool) -> Steps:
        vma = self.mm.find_vma(vpn)
        if vma is None or not (vma.write or (vma.read and not write)):
            self._replay.counts.skipped += 1
            return
        va = vpn * PAGE_BYTES + line * _LINE_BYTES
        yield from self._replay.submit(cpu, self.mm.number, va, write=write)

    # --- system calls ------------------------------------------------------------------------------------

    def _execute(self, event: Event) -> Steps:
        machine, mm = self._machine, self.mm
        match event:
            case Mmap():
                yield from self._mmap(event)
            case Munmap(addr, length):
                yield from self._quiesce()
                yield from syscalls.munmap(machine, mm, *_pages(addr, length))
            case Mprotect(addr, length, prot):
                yield from self._quiesce()
                read, write = _rights(prot)
                first, last = _pages(addr, length)
                yield from syscalls.mprotect(machine, mm, first, last, read=read, write=write)
            case Mremap(old, old_length, new, new_length):
                yield from self._quiesce()
                spans = (x // PAGE_BYTES for x in (old, old_length, new, new_length))
                yield from syscalls.mremap(machine, mm, *spans)
            case Madvise(addr, length, advice):
                if advice == _MADV_DONTNEED:
                    yield from syscalls.madvise_dontneed(machine, mm, *_pages(addr, length))
            case Brk(start, end):
                yield from syscalls.brk(machine, mm, start // PAGE_BYTES, end // PAGE_BYTES)
            case Msync(addr, length, flags):
                if flags & _MS_SYNC:
                    yield from syscalls.msync(machine, mm, *_pages(addr, length))
            case Fork(child):
                self._replay.forked(child, (yield from syscalls.fork(machine, mm)))
            case Exec():
                yield from self._quiesce()
                self.mm = yield from syscalls.execve(machine, mm)
                yield from self._bind()
            case Exit():
                yield from self._exit()

    def _quiesce(self) -> Steps:
        """Wait for the device's accesses in flight, as a program does before it changes its mappings."""
        if self._bound:
            yield from self._machine.driver.wait_below(1)

    def _exit(self) -> Steps:
        yield from self._quiesce()
        self._alive = False
        yield from syscalls.exit_process(self._machine, self.mm)

    def _mmap(self, event: Mmap) -> Steps:
        first, last = _pages(event.addr, event.length)
        if any(self.mm.overlapping(first, last)):
            yield from self._quiesce()
        read, write = _rights(event.prot)
        shared = bool(event.flags & _MAP_SHARED)
        file, pgoff = None, first
        if event.file is not None:
            file, pgoff = self._replay.files[event.file], event.offset_pages
        elif shared:
            file, pgoff = self._machine.new_file(f"shmem {first:#x}", tmpfs=True), 0
        vma = Vma(self.mm, first, last + 1, read, write, shared=shared, file=file, pgoff=pgoff)
        vma.nonlinear = self._device and self._replay.is_nonlinear(vma)
        yield from syscalls.mmap(self._machine, self.mm, vma)
        if vma.nonlinear:
            yield from self._replay.shuffle(vma)


def _pages(addr: int, length: int) -> tuple[int, int]:
    return addr // PAGE_BYTES, (addr + length) // PAGE_BYTES - 1


def _rights(prot: int) -> tuple[bool, bool]:
    return bool(prot & (_PROT_READ | _PROT_EXEC)), bool(prot & _PROT_WRITE)
