"""Replaying a recorded program: its system calls, its accesses on several CPUs, a device that takes part in them."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from hostmm.callers.reclaim import kswapd
from hostmm.callers.writeback import pdflush, pdflush_timer
from hostmm.driver.dma import Transfer
from hostmm.errors import DeadlockError, HostError
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.space import MmStruct, Vma
from hostmm.replay.added import choose_holes, choose_nonlinear, shuffle, write_holes
from hostmm.replay.config import ReplayConfig, ReplayCounts, frame_limit, least_frames
from hostmm.replay.process import Process
from hostmm.replay.workload import Partition
from hostmm.subscribers.sva import Sva
from hostmm.trace import Trace

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["Replay", "ReplayConfig", "ReplayCounts", "frame_limit"]

_ASIDS = 16
_WATCH_NS = 2_000_000
_STUCK_PERIODS = 100

Bind = Callable[["Machine", MmStruct], Steps]
"""Gives an address space to the device, with its subscriber."""


class Replay:
    """A trace on a machine; :meth:`start` makes the threads, the machine's scheduler runs them.

    Parameters
    ----------
    machine : Machine
        With a driver.
    trace : Trace
    config : ReplayConfig
    bind : callable
        Called as ``bind(machine, mm)``: steps that give an address space to the device and register its subscriber.
    progress : callable or None
        Called with the share of the trace's windows that have begun, 0 to 1, when it has grown by a percent.

    Raises
    ------
    HostError
        The machine has too few frames for the trace.
    """

    def __init__(
        self,
        machine: "Machine",
        trace: Trace,
        config: ReplayConfig,
        *,
        bind: Bind = Sva.bind,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.machine = machine
        self.config = config
        self.counts = ReplayCounts()
        self._trace = trace
        self._bind = bind
        self._progress = progress
        self._total = max(len(trace.windows()), 1)
        self._shown = 0
        self._running = 0
        self._flying: list[list[Transfer]] = [[] for _ in range(config.engines)]
        self._submitting = [0] * config.engines
        self._rng = random.Random(config.seed)
        self._nonlinear = choose_nonlinear(trace) if config.nonlinear else None
        self.files = [
            machine.new_file(file.name, tmpfs=file.id == self._nonlinear) for file in trace.files
        ]
        self._holes = choose_holes(trace, config.xip_pages) if config.xip else []
        self._check_frames()
        for file, index in self._holes:
            self.files[file].holes.add(index)
        self.counts.xip_pages = len(self._holes)

    def _check_frames(self) -> None:
        frames = self.machine.frames.total
        # The blocks that holes get are the storage itself: nothing reclaims them.
        least = least_frames(self._trace, frames, self.config.cpus) + len(self._holes)
        if frames < least:
            raise HostError(
                f"a limit of {frames} frames is too small to run {self._trace.name}; "
                f"it needs at least {least}"
            )

    def start(self) -> None:
        """Start the first process, kswapd, writeback, and what the options add."""
        machine, sched = self.machine, self.machine.sched
        sched.spawn("kswapd", kswapd(machine))
        sched.spawn("pdflush", pdflush(machine))
        sched.spawn("pdflush timer", pdflush_timer(machine))
        sched.spawn("watchdog", self._watch())
        self.forked(self._trace.processes[0].pid, machine.new_mm())
        if self._holes:
            pages = [(self.files[file], index) for file, index in self._holes]
            self._rng.shuffle(pages)
            sched.spawn("writer", self._write_holes(pages))

    def _watch(self) -> Steps:
        """End a run in which timers tick but no process gets any further."""
        seen, still = -1, 0
        while self._running:
            still = still + 1 if self.counts.accesses == seen else 0
            seen = self.counts.accesses
            if still == _STUCK_PERIODS:
                raise DeadlockError(
                    f"no process has made an access for {still * _WATCH_NS // 1_000_000} ms "
                    f"of emulated time, at {self.machine.sched.now} ns"
                )
            yield _WATCH_NS

    def _write_holes(self, pages: list[tuple[AddressSpace, int]]) -> Steps:
        yield from write_holes(
            self.machine,
            pages,
            period_ns=self.config.xip_period_ns,
            running=lambda: bool(self._running),
            wrote=self._wrote,
        )

    def _wrote(self) -> None:
        self.counts.xip_writes += 1

    # --- for the processes -------------------------------------------------------------------------------

    def partition(self, pid: int) -> Partition:
        """Return how the accesses of a process are dealt."""
        config = self.config
        return Partition(
            seed=config.seed * 1009 + pid,
            cpus=config.cpus,
            device_share=config.device_share,
            instruction_ns=config.instruction_ns,
        )

    def forked(self, pid: int, mm: MmStruct) -> None:
        """Start a process on its address space; the device takes part in the first."""
        index = next(i for i, process in enumerate(self._trace.processes) if process.pid == pid)
        self._running += 1
        Process(self, self._trace.processes[index], mm, device=index == 0).start()

    def ended(self) -> None:
        """Take note that a process has ended; with the last, everything ends."""
        self._running -= 1
        if not self._running:
            self.machine.reclaim.stop(self.machine)
            self.machine.writeback.stop(self.machine)

    def window_begun(self) -> None:
        """Count a window, and show the progress."""
        self.counts.windows += 1
        percent = 100 * self.counts.windows // self._total
        if self._progress is not None and percent > self._shown:
            self._shown = percent
            self._progress(self.counts.windows / self._total)

    def bind(self, mm: MmStruct) -> Steps:
        """Give an address space of the first process to the device; returns whether it has an asid for it."""
        if mm.number >= _ASIDS:
            self.counts.unbound += 1
            return False
        yield from self._bind(self.machine, mm)
        return True

    def submit(self, cpu: int, asid: int, va: int, *, write: bool) -> Steps:
        """Have the device access a line; waits while too much is in flight on the CPU's engine."""
        config, driver = self.config, self.machine.driver
        engine = cpu % config.engines
        flying = self._flying[engine]
        while True:
            flying[:] = [transfer for transfer in flying if not transfer.done.fired]
            if len(flying) + self._submitting[engine] < config.outstanding:
                break
            if flying:
                yield from driver.wait(flying[0])
            else:
                yield "mmio_write"
        self._submitting[engine] += 1
        transfer = yield from driver.submit(engine, asid, va, config.burst_beats, write=write)
        self._submitting[engine] -= 1
        flying.append(transfer)

    def is_nonlinear(self, vma: Vma) -> bool:
        """Whether the option makes this mapping nonlinear."""
        return (
            self._nonlinear is not None and vma.shared and vma.file is self.files[self._nonlinear]
        )

    def shuffle(self, vma: Vma) -> Steps:
        """Make a mapping nonlinear."""
        self.counts.nonlinear_pages += vma.end - vma.start
        yield from shuffle(self.machine, vma, self._rng)
