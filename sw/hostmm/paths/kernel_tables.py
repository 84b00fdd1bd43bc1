"""Kernel addresses, which a device that walks the CPU's tables can reach through the root (mm/vmalloc.c, x86 pgtable.c).

No device may use them, but its walks go through their tables, and a walk cache keeps what they read. So a table that is
freed (``pmd_free_pte_page``) is of concern to whoever walks; nobody told it before iommu_sva_invalidate_kva_range (2025).
Here each address space has kernel tables of its own, in the upper half under its root.
"""

from typing import TYPE_CHECKING

from hostmm.callers.reclaim import pte_alloc, reserve_frames
from hostmm.errors import HostError
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_R, PTE_U, PTE_W, make_pte, pte_pfn
from secmmu.layouts import VPN_BITS, FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine
    from hostmm.mm.space import MmStruct

__all__ = ["KERNEL_VPN", "vmap", "vunmap"]

KERNEL_VPN = (1 << VPN_BITS) - (1 << 26)
"""First page of the upper half of Sv39."""


def vmap(machine: "Machine", mm: "MmStruct", vpn: int) -> Steps:
    """Map a new frame at a kernel page, for the kernel alone.

    Raises
    ------
    HostError
        It is no kernel page, or something is mapped there.
    """
    if vpn < KERNEL_VPN or mm.tables.get(vpn):
        raise HostError(f"vpn {vpn:#x}: vmap wants a page of kind kernel that is not mapped")
    yield from reserve_frames(machine, 1)
    frame = machine.frames.alloc(FrameKind.RESERVED)
    lock = yield from pte_alloc(machine, mm, vpn)
    assert lock is not None
    yield "pte_write"
    mm.tables.set(vpn, make_pte(frame.pfn, PTE_R | PTE_W | PTE_A | PTE_D) & ~PTE_U)


def vunmap(machine: "Machine", mm: "MmStruct", vpn: int) -> Steps:
    """Unmap the kernel page, and free it and the table over it, which maps nothing else.

    Raises
    ------
    HostError
        Nothing was mapped there by :func:`vmap`.
    """
    if vpn < KERNEL_VPN or not mm.tables.get(vpn):
        raise HostError(f"vpn {vpn:#x}: vunmap wants a page of kind kernel that is mapped")
    with machine.sched.path("pmd_free_pte_page") as result:
        frame = machine.frames.pages[pte_pfn(mm.tables.get(vpn))]
        yield "pte_clear"
        table = mm.tables.take_table(vpn)
        yield machine.costs.flush_tlb_ns(mm.cpus)
        machine.sched.log(Row.CPU_FLUSH, mm=mm.number, vpn=vpn, a=vpn)
        if machine.policy.kernel_flush_invalidates:
            yield from mm.notifiers.invalidate_range(vpn, vpn)
        yield "free_page"
        machine.frames.put(frame)
        mm.tables.free_taken(table)
        result.append(1)
