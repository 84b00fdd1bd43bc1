"""Replaying a recorded program: its system calls, its accesses on several CPUs, a device that takes part in them."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostmm.added import choose_holes, choose_nonlinear, shuffle, write_holes
from hostmm.dma import Transfer
from hostmm.errors import DeadlockError, HostError
from hostmm.mm.files import AddressSpace
from hostmm.mm.space import MmStruct, Vma
from hostmm.process import Process
from hostmm.reclaim import Reclaim, kswapd
from hostmm.scheduler import Steps
from hostmm.subscribers.sva import Sva
from hostmm.trace import Exec, Trace, Window
from hostmm.workload import Partition
from hostmm.writeback import pdflush, pdflush_timer

if TYPE_CHECKING:
    from hostmm.machine import Machine

__all__ = ["Replay", "ReplayConfig", "ReplayCounts", "frame_limit"]

_ASIDS = 16
_WATCH_NS = 2_000_000
_STUCK_PERIODS = 100

Bind = Callable[["Machine", MmStruct], Steps]
"""Gives an address space to the device, with its subscriber."""


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """How a trace is replayed.

    Parameters
    ----------
    cpus : int
        CPU threads of each process, 1 or more.
    device_share : float
        Share of the first process's loads and stores that the device makes instead, 0 to 1.
    burst_beats : int
        Words of 8 bytes of a device access: 1 to 8, inside one 64-byte line.
    outstanding : int
        Device accesses in flight on one engine; the thread that wants one more waits.
    engines : int
        DMA engines; a CPU thread uses always the same.
    seed : int
    instruction_ns : float
        Host time of one instruction; a window's time is spread over the threads.
    nonlinear : bool
        Add: make a MAP_SHARED mapping of the first process nonlinear, on a tmpfs-like file.
    xip : bool
        Add: make pages of private file mappings holes of execute-in-place files, which a thread writes.
    xip_pages : int
        Holes at most.
    xip_period_ns : int
        The writing thread pauses this long between two pages.
    """

    cpus: int = 4
    device_share: float = 0.3
    burst_beats: int = 8
    outstanding: int = 4
    engines: int = 2
    seed: int = 1
    instruction_ns: float = 1.0
    nonlinear: bool = False
    xip: bool = False
    xip_pages: int = 64
    xip_period_ns: int = 10_000

    def __post_init__(self) -> None:
        for name, low, high in (
            ("cpus", 1, 64),
            ("device_share", 0, 1),
            ("burst_beats", 1, 8),
            ("outstanding", 1, 1 << 12),
            ("engines", 1, 16),
            ("xip_pages", 1, 1 << 20),
            ("xip_period_ns", 1, 1 << 40),
        ):
            if not low <= getattr(self, name) <= high:
                raise HostError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")
        if self.instruction_ns < 0:
            raise HostError(f"instruction_ns must be 0 or more, not {self.instruction_ns}")


@dataclass
class ReplayCounts:
    """What a replay did that is not on the timeline.

    Attributes
    ----------
    windows : int
        Windows of the trace begun.
    accesses : int
        Accesses dealt with, by CPUs and device.
    skipped : int
        Of these, accesses outside every mapping, or not permitted by it: not executed.
    nonlinear_pages, xip_pages, xip_writes : int
        What was added: pages of nonlinear mappings, holes, writes into holes.
    unbound : int
        Address spaces of the first process whose number is too large for an asid of the device.
    """

    windows: int = 0
    accesses: int = 0
    skipped: int = 0
    nonlinear_pages: int = 0
    xip_pages: int = 0
    xip_writes: int = 0
    unbound: int = 0


def frame_limit(trace: Trace, fraction: float, *, cpus: int) -> int:
    """Return the frames of a run whose limit is ``fraction`` of the trace's footprint.

    Page tables come on top: they cannot be reclaimed.

    Raises
    ------
    HostError
        It would be too small to run.
    """
    footprint = trace.footprint_pages()
    tables = _tables(trace)
    frames = tables + round(fraction * footprint)
    least = tables + Reclaim(frames).high + 8 * cpus * len(trace.processes)
    if frames < least:
        raise HostError(
            f"{fraction:g} of a footprint of {footprint} pages, and {tables} page tables, make {frames} frames: "
            f"too few to run; it needs at least {least}"
        )
    return frames


def _tables(trace: Trace) -> int:
    """Page-table pages of every process at once, each at its largest image."""
    total = 0
    for process in trace.processes:
        images: list[set[int]] = [set()]
        for item in process.items:
            if isinstance(item, Exec):
                images.append(set())
            elif isinstance(item, Window):
                images[-1].update((item.pages >> 9).tolist())
        total += max(1 + len({leaf >> 9 for leaf in image}) + len(image) for image in images)
    return total


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
    progress : callable
        Called with the share of the trace's windows that have begun, 0 to 1, when it has grown by a percent.
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
        for file, index in self._holes:
            self.files[file].holes.add(index)
        self.counts.xip_pages = len(self._holes)

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
