"""Flushing the CPUs' TLBs, and with them the caches of whoever follows these flushes (6.6 and later)."""

from typing import TYPE_CHECKING

from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import Row
from hostmm.policies import Point
from secmmu.layouts import VPN_BITS

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine
    from hostmm.mm.space import MmStruct

__all__ = ["LAST_VPN", "flush_tlb_mm", "flush_tlb_range"]

LAST_VPN = (1 << VPN_BITS) - 1
"""The last page of an address space, as ``~0`` is the last address to a notifier."""


def flush_tlb_range(
    machine: "Machine", mm: "MmStruct", first: int, last: int, *, path: str | None = None
) -> Steps:
    """Flush pages ``first`` to ``last`` from the TLBs of every CPU that runs ``mm``.

    ``path`` names the mm path whose ``FLUSHED`` point this is, where it has one.
    """
    yield machine.costs.flush_tlb_ns(mm.cpus)
    machine.sched.log(Row.CPU_FLUSH, mm=mm.number, vpn=first, a=last)
    if path is not None:
        yield from mm.notifiers.at(path, Point.FLUSHED, first, last)
    if machine.policy.flush_invalidates:
        yield from mm.notifiers.invalidate_range(first, last)


def flush_tlb_mm(machine: "Machine", mm: "MmStruct") -> Steps:
    """Flush everything of ``mm``."""
    yield from flush_tlb_range(machine, mm, 0, LAST_VPN)
