"""``exit_mmap``: the end of an address space (docs/contract.md 1.13, order of #v11)."""

from typing import TYPE_CHECKING

from hostmm.callers.vmas import detach, unlink
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import Row
from hostmm.mm.space import MmStruct
from hostmm.paths.gather import MmuGather
from hostmm.paths.zap import zap_vma

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["exit_mmap"]


def exit_mmap(machine: "Machine", mm: MmStruct) -> Steps:
    """Release the subscribers, unmap everything, free the page tables; no thread runs in ``mm`` any more.

    A device fault that was being served when the process died ends before the first PTE goes: it holds mmap_sem,
    as it would hold a reference to the address space in the kernel; one that comes later finds no vma.
    """
    early = machine.policy.arch_exit_first
    with machine.sched.path("exit_mmap") as result:
        if early:
            machine.sched.log(Row.ARCH_EXIT, mm=mm.number)
        yield from mm.notifiers.release()
        if not early:
            machine.sched.log(Row.ARCH_EXIT, mm=mm.number)
        yield Acquire(mm.mmap_sem)
        vmas = list(mm.vmas)
        detach(mm, vmas)
        machine.sched.log(Row.TEARDOWN, mm=mm.number)
        gather = MmuGather(machine, mm, None)
        for vma in vmas:
            yield from zap_vma(machine, vma, vma.start, vma.end - 1, gather)
        for vma in vmas:
            yield from unlink(machine, vma)
        yield from gather.finish()
        mm.tables.free_tables()
        machine.sched.release(mm.mmap_sem)
        result.append(gather.total)
