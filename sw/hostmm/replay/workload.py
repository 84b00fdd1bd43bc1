"""Turning a process of a trace into work for CPU threads: stretches of accesses between mm system calls.

A trace has no thread ids. Its accesses are partitioned by page: a page belongs to one thread for the whole run, so
that the threads meet in the kernel, not in the data. All choices are hashes of the seed, so they need no state.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hostmm.trace import Access, Event, Item, Window

__all__ = ["CpuAccess", "Partition", "Stretch", "stretches"]

CpuAccess = tuple[int, int, bool, bool, int]
"""vpn, line, write, by the device, ns until the next one."""

_Words = npt.NDArray[np.uint64]


def _mix(words: _Words) -> _Words:
    """Hash 64-bit words (the finalizer of SplitMix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@dataclass(frozen=True)
class Stretch:
    """Windows between two system calls, and the call that ends them (None at the end of the process)."""

    windows: tuple[Window, ...]
    event: Event | None


def stretches(items: tuple[Item, ...]) -> Iterator[Stretch]:
    """Yield the stretches of a process, in order."""
    windows: list[Window] = []
    for item in items:
        if isinstance(item, Window):
            windows.append(item)
        else:
            yield Stretch(tuple(windows), item)
            windows = []
    if windows:
        yield Stretch(tuple(windows), None)


class Partition:
    """Deals the accesses of one process to CPU threads and to the device.

    Parameters
    ----------
    seed : int
    cpus : int
        CPU threads.
    device_share : float
        Share of loads and stores that the device makes instead (0 to 1); fetches stay on the CPUs.
    instruction_ns : float
        Host time of one instruction, spread over the threads.
    """

    def __init__(self, *, seed: int, cpus: int, device_share: float, instruction_ns: float) -> None:
        self._cpus = cpus
        self._seed = np.uint64((2 * seed + 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
        self._share = np.uint64(min(round(device_share * (1 << 63)), (1 << 63) - 1))
        self._instruction_ns = instruction_ns
        self._dealt = 0

    def deal(self, window: Window) -> list[list[CpuAccess]]:
        """Return each thread's accesses of a window, in the order of the trace."""
        pages, lines, kinds = (
            column.astype(np.int64) for column in (window.pages, window.lines, window.kinds)
        )
        accesses = [
            (np.flatnonzero(kinds & int(kind)), kind)
            for kind in (Access.FETCH, Access.LOAD, Access.STORE)
        ]
        # First access of each page first; a page's fetch and load come before its store.
        rows = np.concatenate([rows for rows, _ in accesses])
        which = np.concatenate([np.full(len(rows), int(kind)) for rows, kind in accesses])
        order = np.argsort(rows, kind="stable")
        rows, which = rows[order], which[order]
        chosen = self._by_device(len(rows)) & (which != int(Access.FETCH))
        gap = round(window.instructions * self._instruction_ns / max(len(rows), 1))
        dealt: list[list[Any]] = [[] for _ in range(self._cpus)]
        for cpu, vpn, line, write, device in zip(
            self._owner(pages[rows]),
            pages[rows].tolist(),
            lines[rows].tolist(),
            (which == int(Access.STORE)).tolist(),
            chosen.tolist(),
            strict=True,
        ):
            dealt[cpu].append((vpn, line, write, device, gap))
        return dealt

    def _owner(self, pages: npt.NDArray[np.int64]) -> list[int]:
        hashed = _mix(pages.astype(np.uint64) + self._seed)
        return [int(cpu) for cpu in hashed % np.uint64(self._cpus)]

    def _by_device(self, count: int) -> npt.NDArray[np.bool_]:
        numbers = np.arange(self._dealt, self._dealt + count, dtype=np.uint64)
        self._dealt += count
        return (_mix(numbers ^ self._seed) >> np.uint64(1)) < self._share
