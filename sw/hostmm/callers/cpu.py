"""A CPU's loads and stores: translate, set A and D as x86 does, fault, count what cannot be done.

CPUs of the model keep no TLB: an access uses the PTE of its moment. What the mm paths spend on flushing them is time.
"""

from typing import TYPE_CHECKING

from hostmm.callers.faults import touch
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_R, PTE_U, PTE_V, PTE_W, pte_pfn
from hostmm.mm.space import MmStruct

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["access", "try_access"]

_READABLE = PTE_V | PTE_R | PTE_U
_WRITABLE = PTE_V | PTE_W | PTE_U
_LINE_BYTES = 64


def try_access(machine: "Machine", mm: MmStruct, vpn: int, line: int, *, write: bool) -> bool:
    """Access the first word of a 64-byte line, at once; return False where the PTE does not permit it.

    A store writes a value never stored before.
    """
    pte = mm.tables.get(vpn)
    needed = _WRITABLE if write else _READABLE
    if pte & needed != needed:
        return False
    used = PTE_A | PTE_D if write else PTE_A
    if pte & used != used:
        mm.tables.mark(vpn, used)
    _perform(machine, mm, vpn, pte, line, write=write)
    return True


def _perform(
    machine: "Machine", mm: MmStruct, vpn: int, pte: int, line: int, *, write: bool
) -> None:
    address = (pte_pfn(pte) << 12) + line * _LINE_BYTES
    if write:
        machine.store(mm, vpn, address, machine.next_version())
    else:
        machine.sched.log(Row.LOAD, mm=mm.number, vpn=vpn, pfn=address >> 12, a=address)


def access(machine: "Machine", mm: MmStruct, vpn: int, line: int, *, write: bool) -> Steps:
    """Access a line, faulting as often as it takes; returns False where no vma permits it."""
    if try_access(machine, mm, vpn, line, write=write):
        return True
    low = line * _LINE_BYTES
    pte: int | None = yield from touch(machine, mm, vpn, write=write, low=low)
    if pte is None:
        return False
    _perform(machine, mm, vpn, pte, line, write=write)
    if write:
        machine.writeback.balance(machine)
    return True
