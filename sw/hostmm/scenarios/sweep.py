"""A sweep: one shootdown after the other, aimed at the moment at which the device's walk of the page fills the TLB."""

import random
from typing import TYPE_CHECKING

from hostmm.callers.cpu import access
from hostmm.callers.syscalls import mmap, munmap
from hostmm.driver.dma import Transfer
from hostmm.machine.scheduler import Steps
from hostmm.mm.space import MmStruct, Vma

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["measure_walk", "sweep"]

_SWEPT_PAGES = 4
_MEASURED = 4
_LINES = 64
_BEATS = 8
_SPREAD_NS = 60
_STEP_NS = 20
_LEADING_STEPS = ("syscall", "lock", "vma_lookup", "notifier_call")
"""What munmap does between its call and the moment at which its first command leaves."""


def measure_walk(machine: "Machine", mm: MmStruct, vpn: int) -> Steps:
    """Return how many ns longer a burst takes that walks, on an idle device; the page is unmapped again.

    The shortest of several is taken, because a thread may be interrupted.
    """
    walked, hit = [], []
    for _ in range(_MEASURED):
        yield from mmap(machine, mm, _one_page(mm, vpn))
        yield from access(machine, mm, vpn, 0, write=True)
        walked.append((yield from _burst_ns(machine, mm, vpn)))
        hit.append((yield from _burst_ns(machine, mm, vpn)))
        yield from munmap(machine, mm, vpn, vpn)
    return min(walked) - min(hit)


def _burst_ns(machine: "Machine", mm: MmStruct, vpn: int) -> Steps:
    begun = machine.sched.now
    transfer = yield from machine.driver.submit(0, mm.number, vpn << 12, 1, write=False)
    yield from machine.driver.wait(transfer)
    return machine.sched.now - begun


def sweep(
    machine: "Machine",
    mm: MmStruct,
    first: int,
    walk_ns: int,
    rng: random.Random,
    *,
    rounds: int,
) -> Steps:
    """Map a page, let the device walk for it, and unmap it at the moment of the fill, over and over."""
    lead_ns = sum(machine.costs.ns(step) for step in _LEADING_STEPS)
    pending: list[Transfer | None] = [None] * _SWEPT_PAGES
    for count in range(rounds):
        page = count % _SWEPT_PAGES
        vpn, before = first + page, pending[page]
        if before is not None:
            yield from machine.driver.wait(before)
        yield from mmap(machine, mm, _one_page(mm, vpn))
        yield from access(machine, mm, vpn, rng.randrange(_LINES), write=True)
        begun = machine.sched.now
        va, write = vpn << 12, rng.random() < 0.5
        pending[page] = yield from machine.driver.submit(0, mm.number, va, _BEATS, write=write)
        moment = begun + walk_ns - lead_ns + rng.randint(-_SPREAD_NS, _SPREAD_NS)
        yield from _sleep_until(machine, moment)
        yield from munmap(machine, mm, vpn, vpn)
    for last in pending:
        if last is not None:
            yield from machine.driver.wait(last)


def _one_page(mm: MmStruct, vpn: int) -> Vma:
    return Vma(mm, vpn, vpn + 1, True, True, pgoff=vpn)


def _sleep_until(machine: "Machine", ns: int) -> Steps:
    """Sleep in short steps: the jitter of what each takes evens out."""
    while machine.sched.now < ns:
        yield min(_STEP_NS, ns - machine.sched.now)
