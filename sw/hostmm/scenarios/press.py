"""Pressing: one page that an engine is kept busy with, dropped over and over in the middle of its uses."""

import random
from typing import TYPE_CHECKING

from hostmm.cpu import access
from hostmm.dma import Transfer
from hostmm.mm.space import MmStruct
from hostmm.scheduler import Steps
from hostmm.syscalls import madvise_dontneed

if TYPE_CHECKING:
    from hostmm.machine import Machine

__all__ = ["press", "random_burst"]

_ROUNDS = 66
_BURSTS = 12
_PAUSE_NS = 500
_LINES = 64
_LINE_BYTES = 64
_BEATS = 8


def press(
    machine: "Machine", mm: MmStruct, vpn: int, engine: int, rng: random.Random, *, write: bool
) -> Steps:
    """Keep a queue of bursts to a page of a private mapping, and zap the page at seeded moments.

    The device gets its page back from a CPU that stores to it, in time for most of the bursts that were held up.
    """
    pending: list[Transfer] = []
    for _ in range(_ROUNDS):
        yield from access(machine, mm, vpn, rng.randrange(_LINES), write=True)
        pending = [transfer for transfer in pending if not transfer.done.fired]
        while len(pending) < _BURSTS:
            pending.append((yield from random_burst(machine, engine, mm, vpn, rng, write=write)))
        yield rng.randrange(_PAUSE_NS)
        yield from madvise_dontneed(machine, mm, vpn, vpn)
    for transfer in pending:
        yield from machine.driver.wait(transfer)


def random_burst(
    machine: "Machine", engine: int, mm: MmStruct, vpn: int, rng: random.Random, *, write: bool
) -> Steps:
    """Submit a burst to somewhere in a page; returns its Transfer."""
    va, beats = (vpn << 12) + _LINE_BYTES * rng.randrange(_LINES), rng.randint(1, _BEATS)
    return (yield from machine.driver.submit(engine, mm.number, va, beats, write=write))
