"""The threads of the storm: what the CPUs do to the pages that both engines hammer."""

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from hostmm.callers.cpu import access
from hostmm.callers.shrink import PRIORITIES, shrink
from hostmm.callers.syscalls import (
    exit_process,
    fork,
    madvise_dontneed,
    mmap,
    mprotect,
    msync,
    munmap,
)
from hostmm.driver.dma import Transfer
from hostmm.machine.scheduler import Steps
from hostmm.mm.pagetable import PTE_A
from hostmm.mm.space import MmStruct, Vma
from hostmm.scenarios.press import random_burst

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["Weather", "map_regions", "map_taker"]

_MAPPED, _PROTECTED, _COPIED, _FILE = 0x420, 0x430, 0x440, 0x450
_ANONYMOUS = (_MAPPED, _PROTECTED, _COPIED)
"""First page of each region: private ones, and a shared file's."""
_PAGES = 2
_ENGINES = 2
_TAKEN = 0x800
"""First page of the address space that takes freed frames."""

_LINES = 64
_ROW = 4
_QUEUED = 6
"""Bursts that one engine has, queued or in flight."""
_BLIND_ONE_IN = 10
_POLL_NS = 250
_SPARE_FRAMES = 5
_CHUNK = 4

_Thread: TypeAlias = Callable[[random.Random], Steps]


def map_regions(machine: "Machine", mm: MmStruct) -> None:
    """Map what the storm is about."""
    for start in _ANONYMOUS:
        mm.insert(_anonymous(mm, start, _PAGES))
    file = machine.new_file(f"storm {mm.number}")
    vma = Vma(mm, _FILE, _FILE + _PAGES, True, True, shared=True, file=file)
    mm.insert(vma)
    file.vmas.append(vma)


def map_taker(mm: MmStruct, pages: int) -> None:
    """Map room for ``pages`` pages in the address space that takes freed frames."""
    mm.insert(_anonymous(mm, _TAKEN, pages))


def _anonymous(mm: MmStruct, start: int, pages: int) -> Vma:
    return Vma(mm, start, start + pages, True, True, pgoff=start)


class Weather:
    """Makes the threads of a storm.

    Parameters
    ----------
    machine : Machine
    spaces : list of MmStruct
        Address spaces with a device, prepared by :func:`map_regions`.
    taker : MmStruct
        Prepared by :func:`map_taker`.

    Attributes
    ----------
    over : bool
        Set when every thread is to stop.
    """

    def __init__(self, machine: "Machine", spaces: list[MmStruct], taker: MmStruct) -> None:
        self._machine = machine
        self._spaces = spaces
        self._taker = taker
        self.over = False

    def threads(self) -> dict[str, _Thread]:
        """Return every thread by name; each returns soon after ``over`` is set."""
        # Each in an address space of its own, for the mmap_sem of one would let only one of them go on.
        kinds = (self._remap, self._protect, self._copy, self._clean)
        made: dict[str, _Thread] = {}
        for index, kind in enumerate(kinds):
            mm = self._spaces[index % len(self._spaces)]
            name = f"{kind.__name__.lstrip('_')} {mm.number}"
            made[name] = partial(kind, mm)
        for engine in range(_ENGINES):
            made[f"engine {engine}"] = partial(self._hammer, engine)
        return made | {"reclaim": self._reclaim}

    # --- CPUs --------------------------------------------------------------------------------------------

    def _touch(self, mm: MmStruct, start: int, rng: random.Random) -> Steps:
        """Store something new in each page of a region, as far as it is writable."""
        for vpn in range(start, start + _PAGES):
            yield from access(self._machine, mm, vpn, rng.randrange(_LINES), write=True)

    def _remap(self, mm: MmStruct, rng: random.Random) -> Steps:
        while not self.over:
            yield from self._touch(mm, _MAPPED, rng)
            yield rng.randrange(2000)
            yield from munmap(self._machine, mm, _MAPPED, _MAPPED + _PAGES - 1)
            yield from mmap(self._machine, mm, _anonymous(mm, _MAPPED, _PAGES))

    def _protect(self, mm: MmStruct, rng: random.Random) -> Steps:
        last = _PROTECTED + _PAGES - 1
        while not self.over:
            yield from self._touch(mm, _PROTECTED, rng)
            yield rng.randrange(2000)
            for write in (False, True):
                yield from mprotect(self._machine, mm, _PROTECTED, last, read=True, write=write)

    def _copy(self, mm: MmStruct, rng: random.Random) -> Steps:
        """Fork, then copy on write on both sides."""
        while not self.over:
            yield from self._touch(mm, _COPIED, rng)
            child = yield from fork(self._machine, mm)
            yield rng.randrange(1000)
            for side in rng.sample([mm, child], 2):
                yield from self._touch(side, _COPIED, rng)
            yield from exit_process(self._machine, child)

    def _clean(self, mm: MmStruct, rng: random.Random) -> Steps:
        while not self.over:
            yield from self._touch(mm, _FILE, rng)
            yield rng.randrange(2000)
            yield from msync(self._machine, mm, _FILE, _FILE + _PAGES - 1)

    def _reclaim(self, rng: random.Random) -> Steps:
        while not self.over:
            yield rng.randrange(4000)
            yield from shrink(self._machine, PRIORITIES)

    # --- who takes frames, and the device -----------------------------------------------------------------

    def take(self, rng: random.Random) -> Steps:
        """Turn every frame that becomes free into one of another address space, with content of its own."""
        oldest = newest = 0
        room = self._machine.frames.total
        while not self.over:
            free = self._machine.frames.free_frames
            if free > _SPARE_FRAMES:
                vpn = _TAKEN + newest % room
                yield from access(
                    self._machine, self._taker, vpn, rng.randrange(_LINES), write=True
                )
                newest += 1
            elif free < _SPARE_FRAMES and newest - oldest >= _CHUNK:
                for count in range(oldest, oldest + _CHUNK):
                    vpn = _TAKEN + count % room
                    yield from madvise_dontneed(self._machine, self._taker, vpn, vpn)
                oldest += _CHUNK
            else:
                yield _POLL_NS

    def _target(self, rng: random.Random) -> tuple[MmStruct, int]:
        """Choose a page, mostly one that is mapped now: no shootdown meets a use of any other."""
        places = [
            (mm, start + page)
            for mm in self._spaces
            for start in (*_ANONYMOUS, _FILE)
            for page in range(_PAGES)
        ]
        mapped = [(mm, vpn) for mm, vpn in places if mm.tables.get(vpn) & PTE_A]
        return rng.choice(mapped if mapped and rng.randrange(_BLIND_ONE_IN) else places)

    def _hammer(self, engine: int, rng: random.Random) -> Steps:
        """Keep an engine's queue filled with bursts, several to a page in a row."""
        pending: list[Transfer] = []
        while not self.over:
            pending = [transfer for transfer in pending if not transfer.done.fired]
            if len(pending) > _QUEUED:
                yield _POLL_NS
                continue
            mm, vpn = self._target(rng)
            for _ in range(rng.randint(1, _ROW)):
                pending.append(
                    (
                        yield from random_burst(
                            self._machine, engine, mm, vpn, rng, write=rng.random() < 0.5
                        )
                    )
                )
        for transfer in pending:
            yield from self._machine.driver.wait(transfer)
