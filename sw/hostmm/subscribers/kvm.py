"""``kvm``: shadow tables that the device walks, filled by faults, kept true by the sequence count; docs/contract.md 5.3.

A fault waits while the page's range is changing, takes a snapshot of the sequence, lets mm resolve the page, which
may sleep, and then installs it under mmu_lock, unless a range that holds the page is changing or the sequence has
moved on (``mmu_notifier_retry``). No page is pinned: what keeps an installed page alive is that whoever unmaps it
calls first. Accessed bits are the shadow tables' own; one that has been cleared makes the next access fault, and that
sets it again. Callbacks spin.
"""

from typing import TYPE_CHECKING

from hostmm.driver.contexts import DeviceFault
from hostmm.machine.locks import Acquire, Signal, Wait
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import LockClass
from hostmm.mm.frames import PAGE_BYTES
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_R, PTE_W, make_pte, pte_pfn
from hostmm.mm.space import MmStruct
from hostmm.subscribers.base import DeviceSubscriber, permits
from hostmm.subscribers.brackets import Brackets
from hostmm.subscribers.tables import OwnTables

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["Kvm"]

_LAST_VPN = (1 << 26) - 1


class Kvm(DeviceSubscriber):
    """One virtual machine, whose memory is the address space at the same addresses."""

    def __init__(self, machine: "Machine", mm: MmStruct) -> None:
        super().__init__(machine, mm)
        self._lock = machine.new_lock(
            f"mmu_lock {mm.number}", LockClass.DRIVER, key="mmu_lock", sleeps=False
        )
        self._tables = OwnTables(machine)
        self._brackets = Brackets()
        self._seq = 0
        self._closed = Signal("a range has changed")

    def start(self) -> Steps:
        """Have the device walk the shadow tables, which are empty."""
        yield from self._attach(root=self._tables.root)

    # --- callbacks ---------------------------------------------------------------------------------------

    def invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Keep faults of the range from installing, zap it, flush."""
        yield Acquire(self._lock)
        self._brackets.start(first, last)
        yield from self._zap(first, last, callback)
        self._machine.sched.release(self._lock)

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """Let faults install again, but none that looked at the page before: sequence first, then the count."""
        yield Acquire(self._lock)
        self._seq += 1
        self._brackets.end(first, last)
        self._machine.sched.release(self._lock)
        self._wake()

    def invalidate_page(self, address: int, *, callback: int) -> Steps:
        """Zap one page, flush, and turn away the faults that looked at it before."""
        vpn = address // PAGE_BYTES
        yield Acquire(self._lock)
        self._seq += 1
        yield from self._zap(vpn, vpn, callback)
        self._machine.sched.release(self._lock)

    def clear_flush_young(self, vpn: int, *, callback: int) -> Steps:
        """Return the shadow accessed bit and clear it, so that the next access faults."""
        yield Acquire(self._lock)
        word = self._tables.get(vpn)
        young = int(bool(word & PTE_A))
        if young:
            yield "pte_write"
            self._tables.set(vpn, word & ~PTE_A)
            yield from self._flush(vpn, vpn, callback)
        self._machine.sched.release(self._lock)
        return young

    def test_young(self, vpn: int, *, callback: int) -> Steps:
        """Return the shadow accessed bit."""
        yield "pte_read"
        return int(bool(self._tables.get(vpn) & PTE_A))

    def change_pte(self, vpn: int, pte: int, *, callback: int) -> Steps:
        """Map the new page in the old one's place, read-only.

        Since 3.7 this finds nothing to change: a range start has zapped it.
        """
        yield Acquire(self._lock)
        self._seq += 1
        word = self._tables.get(vpn)
        if word:
            yield "pte_write"
            self._tables.set(vpn, make_pte(pte_pfn(pte), PTE_R | word & PTE_A))
            yield from self._flush(vpn, vpn, callback)
        self._machine.sched.release(self._lock)

    def release(self, *, callback: int) -> Steps:
        """Stop the device, drop every shadow page."""
        yield Acquire(self._lock)
        self.released = True
        self._seq += 1
        yield from self._zap(0, _LAST_VPN, callback)
        self._machine.sched.release(self._lock)
        self._wake()
        yield from self._driver.detach(self.context, callback=callback)
        self._tables.free()

    def _zap(self, first: int, last: int, callback: int) -> Steps:
        """Unmap pages in the shadow tables; under mmu_lock, so that nobody finds them gone before the flush."""
        found = self._tables.mapped(first, last)
        for vpn in found:
            yield "pte_clear"
            self._tables.set(vpn, 0)
        if found:
            yield from self._flush(first, last, callback)

    def _flush(self, first: int, last: int, callback: int) -> Steps:
        """Flush the device's TLB (``kvm_flush_remote_tlbs``)."""
        yield from self._driver.invalidate(self._asid, first, last, callback=callback)

    # --- faults ------------------------------------------------------------------------------------------

    def fault(self, fault: DeviceFault) -> Steps:
        """Install the page, unless mm begins to change it meanwhile; then the access faults once more."""
        while self._is_changing(fault.vpn) and not self.released:
            yield Wait(self._closed, sleeps=True)
        seq = self._seq
        if not permits(self._tables.get(fault.vpn) | PTE_A, write=fault.write):
            pte = yield from self._user_pte(fault)
            if pte is None:
                return False
            yield from self._tables.prepare(fault.vpn)
        else:
            pte = None
        yield Acquire(self._lock)
        if not self._must_retry(seq, fault.vpn):
            yield from self._install(fault.vpn, pte)
        self._machine.sched.release(self._lock)
        return not self.released

    def _must_retry(self, seq: int, vpn: int) -> bool:
        return self.released or self._is_changing(vpn) or self._seq != seq

    def _is_changing(self, vpn: int) -> bool:
        return self._brackets.holds(vpn)

    def _wake(self) -> None:
        """Let the faults go on that wait for the end of a change."""
        closed, self._closed = self._closed, Signal(self._closed.name)
        self._machine.sched.fire(closed)

    def _install(self, vpn: int, pte: int | None) -> Steps:
        """Map what mm maps; without ``pte``, mark what is mapped as accessed (``fast_page_fault``)."""
        yield "pte_write"
        if pte is None:
            self._tables.set(vpn, self._tables.get(vpn) | PTE_A)
            return
        # A page that may be written is dirty already, so that its dirty state need not be collected (I8).
        writable = pte & PTE_W and pte & PTE_D
        bits = PTE_R | PTE_A | (PTE_W | PTE_D if writable else 0)
        self._tables.set(vpn, make_pte(pte_pfn(pte), bits))
