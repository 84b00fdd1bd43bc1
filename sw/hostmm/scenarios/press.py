"""One page that engines are kept busy with, dropped or aged over and over in the middle of its walks and uses."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hostmm.callers.cpu import access
from hostmm.callers.faults import touch
from hostmm.callers.syscalls import madvise_dontneed
from hostmm.driver.dma import Transfer
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.pagetable import pte_pfn
from hostmm.mm.space import MmStruct
from hostmm.paths.page_referenced import page_referenced

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["age", "press", "random_burst"]

_BURSTS = 12
_PAUSE_NS = 500
_AGE_NS = 3_000
_LINES = 64
_LINE_BYTES = 64
_BEATS = 8


def press(
    machine: "Machine",
    mm: MmStruct,
    vpn: int,
    engine: int,
    rng: random.Random,
    *,
    write: bool,
    rounds: int,
) -> Steps:
    """Keep a queue of bursts to a page of a private mapping, and zap the page at seeded moments.

    The device gets its page back from a CPU that stores to it, in time for most of the bursts that were held up.
    """
    pending: list[Transfer] = []
    for _ in range(rounds):
        yield from access(machine, mm, vpn, rng.randrange(_LINES), write=True)
        pending = [transfer for transfer in pending if not transfer.done.fired]
        while len(pending) < _BURSTS:
            pending.append((yield from random_burst(machine, engine, mm, vpn, rng, write=write)))
        yield rng.randrange(_PAUSE_NS)
        yield from madvise_dontneed(machine, mm, vpn, vpn)
    for transfer in pending:
        yield from machine.driver.wait(transfer)


def age(
    machine: "Machine",
    mm: MmStruct,
    vpn: int,
    engines: Sequence[int],
    rng: random.Random,
    *,
    rounds: int,
) -> Steps:
    """Take the accessed bit away from a page that all engines read and write, at seeded moments.

    It is the device's faults that give it back: behind each the driver flushes the page, without a hold, while
    other bursts walk for it again.
    """
    pte = yield from touch(machine, mm, vpn, write=True)
    page = machine.frames.pages[pte_pfn(pte)]
    pending: list[Transfer] = []
    for _ in range(rounds):
        pending = [transfer for transfer in pending if not transfer.done.fired]
        while len(pending) < _BURSTS:
            engine, write = rng.choice(engines), rng.random() < 0.5
            pending.append((yield from random_burst(machine, engine, mm, vpn, rng, write=write)))
        yield rng.randrange(_AGE_NS)
        yield Acquire(page.lock)
        yield from page_referenced(machine, page)
        machine.sched.release(page.lock)
    for transfer in pending:
        yield from machine.driver.wait(transfer)


def random_burst(
    machine: "Machine", engine: int, mm: MmStruct, vpn: int, rng: random.Random, *, write: bool
) -> Steps:
    """Submit a burst to somewhere in a page; returns its Transfer."""
    va, beats = (vpn << 12) + _LINE_BYTES * rng.randrange(_LINES), rng.randint(1, _BEATS)
    return (yield from machine.driver.submit(engine, mm.number, va, beats, write=write))
