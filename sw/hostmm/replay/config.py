"""How a trace is replayed, what a replay counts, and how many frames it needs."""

from dataclasses import dataclass

from hostmm.callers.reclaim import Reclaim
from hostmm.errors import HostError
from hostmm.trace import Exec, Trace, Window

__all__ = ["ReplayConfig", "ReplayCounts", "frame_limit", "least_frames"]


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
    frames = _tables(trace) + round(fraction * footprint)
    least = least_frames(trace, frames, cpus)
    if frames < least:
        raise HostError(
            f"{fraction:g} of a footprint of {footprint} pages, page tables included, are {frames} frames: "
            f"too few to run; it needs at least {least}"
        )
    return frames


def least_frames(trace: Trace, frames: int, cpus: int) -> int:
    """Return below how many frames a run is refused: page tables, watermarks, a few pages for each CPU."""
    return _tables(trace) + Reclaim(frames).high + 8 * cpus * len(trace.processes)


def _tables(trace: Trace) -> int:
    """Count the page tables of all processes at once, each at its largest image."""
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
