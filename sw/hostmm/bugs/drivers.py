"""Drivers as they once were: subscribers with one mechanism wrong each, beside those of hostmm.subscribers.mutants."""

from typing import TYPE_CHECKING

from hostmm.driver.contexts import DeviceFault
from hostmm.machine.locks import Acquire, Signal, Wait
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import PAGE_BYTES
from hostmm.mm.pagetable import PTE_A, PTE_U, PTE_V, PTE_W, pte_pfn
from hostmm.mm.space import MmStruct
from hostmm.paths.tlb import LAST_VPN
from hostmm.subscribers.base import permits
from hostmm.subscribers.gru import Gru
from hostmm.subscribers.kvm import Kvm
from hostmm.subscribers.sva import Sva, SvaA
from secmmu.layouts import Event

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = [
    "AbortsOddSlots",
    "AsksTheUnplugged",
    "FlushesEmptyRange",
    "FlushesPageByPage",
    "FlushesUntagged",
    "ForgetsYoung",
    "GruCountsTenBits",
    "GruReadsFreedState",
    "KvmActsAtEnd",
    "KvmKeepsPfn",
    "KvmLeaks",
    "KvmRefreshesAtStart",
    "KvmTakesHinted",
    "OverflowsAtTheEnd",
    "ResetsFenced",
    "ResetsUnfenced",
    "StopsWaiting",
    "TakesTimeOutForDone",
    "Unpluggable",
    "WindowUnmasked",
]

_SIGNAL_NS = 300
_RESET_NS = 30_000
_POLL_NS = 50


class KvmRefreshesAtStart(Kvm):
    """Looks its special page up again at range start, where mm still shows the old one (B14, e649b3f0188f)."""

    def invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Zap the range, then refresh what stood there."""
        special = self._tables.mapped(first, last)
        yield from super().invalidate_range_start(first, last, callback=callback)
        yield Acquire(self._lock)
        for vpn in special:
            pte = self._mm.tables.get(vpn)
            if pte & PTE_V:
                yield from self._install(vpn, pte)
        self._machine.sched.release(self._lock)


class KvmActsAtEnd(Kvm):
    """Ignores range start, and zaps when the range has changed: KVM as it was in March 2008, without its pins (S7)."""

    def invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Do nothing."""
        yield from ()

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """Zap the range, and turn away the faults that looked at it before."""
        yield Acquire(self._lock)
        self._seq += 1
        yield from self._zap(first, last, callback)
        self._machine.sched.release(self._lock)


class KvmLeaks(Kvm):
    """Takes a reference to each page that it maps, and never gives one back (for S12)."""

    def _install(self, vpn: int, pte: int | None) -> Steps:
        page = None if pte is None else self._machine.frames.pages.get(pte_pfn(pte))
        if page is not None:
            self._machine.frames.get(page)
        yield from super()._install(vpn, pte)


class KvmKeepsPfn(Kvm):
    """Remembers the translation of each page across invalidations, beside its shadow tables (B17)."""

    def __init__(self, machine: "Machine", mm: MmStruct) -> None:
        super().__init__(machine, mm)
        self._cache: dict[int, int] = {}

    def _user_pte(self, fault: DeviceFault) -> Steps:
        kept = self._cache.get(fault.vpn, 0)
        # What was looked up for a load does not serve a store, or its fault would never end.
        if not permits(kept | PTE_A, write=fault.write):
            kept = yield from super()._user_pte(fault)
            if kept is None:
                return None
            self._cache[fault.vpn] = kept
        return kept


class KvmTakesHinted(Kvm):
    """Maps, to read, what NUMA balancing has closed, as gup_fast did before 2b4847e73004 (for B10)."""

    def _user_pte(self, fault: DeviceFault) -> Steps:
        pte = self._mm.tables.get(fault.vpn)
        if pte & PTE_V and not pte & PTE_U and not fault.write:
            yield "pte_read"
            return pte & ~PTE_W
        return (yield from super()._user_pte(fault))


class OverflowsAtTheEnd(SvaA):
    """Rounds the end of a range up: that of the whole address space becomes 0, and nothing is flushed (B29)."""

    def invalidate_range(self, first: int, last: int, *, callback: int) -> Steps:
        """Invalidate what is left of the range."""
        if last < LAST_VPN:
            yield from super().invalidate_range(first, last, callback=callback)


class FlushesEmptyRange(SvaA):
    """Lets the start move to the end as it goes through the range, and flushes behind that (B30)."""

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        yield from super()._invalidate(last + 1, last + 1, hold=hold, callback=callback)


class FlushesPageByPage(Sva):
    """Sends a command for each page of a range, however long it is (B31)."""

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        for vpn in range(first, last + 1):
            yield from super()._invalidate(vpn, vpn, hold=False, callback=callback)
        if hold:
            yield from super()._invalidate(first, last, hold=True, callback=callback)


class FlushesUntagged(SvaA):
    """Flushes entries without an asid, and the device's all have one (B34)."""

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        yield from self._driver.invalidate(0, first, last, hold=hold, callback=callback)


class TakesTimeOutForDone(Sva):
    """Takes a command that timed out for one that is done (B39, CVE-2021-28692)."""

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        command = yield from self._driver.post_invalidate(
            self._asid, first, last, hold=hold, callback=callback
        )
        yield from self._driver.commands.wait(command.drained, Event.DRAINED)


class Unpluggable(SvaA):
    """Lets go of the address space when the device is unplugged, and sends it no invalidation any more (4fc82cd907ac)."""

    _gone = False

    def unplug(self) -> Steps:
        """Take the device away: it answers nothing from now on."""
        self._gone = True
        yield from self._driver.detach(self.context, callback=0)

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        if not self._gone:
            yield from super()._invalidate(first, last, hold=hold, callback=callback)

    def release(self, *, callback: int) -> Steps:
        """Freeze the device, where it is still there."""
        if not self._gone:
            yield from super().release(callback=callback)


class AsksTheUnplugged(Unpluggable):
    """Sends invalidations to a device that is gone, and spins until it answers (B32)."""

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        if self._gone:
            yield Wait(Signal("the answer of a device that is unplugged"))
        yield from super()._invalidate(first, last, hold=hold, callback=callback)


class AbortsOddSlots(Sva):
    """Where a command timed out, takes back what odd slots hold, and waits for ever for the others (B33)."""

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        gave_up = 1
        while gave_up:
            command = yield from self._driver.post_invalidate(
                self._asid, first, last, hold=hold, callback=callback
            )
            gave_up = yield from self._driver.commands.wait(command.drained, Event.DRAINED)
            if gave_up and not command.tag % 2:
                yield Wait(Signal(f"the abort of slot {command.tag}"))


class ResetsFenced(SvaA):
    """Keeps the device out of the address space while it is reset (f5b16b802174)."""

    def reset(self) -> Steps:
        """Reset the device."""
        yield from self._invalidate(0, LAST_VPN, hold=True, callback=0)
        yield _RESET_NS
        yield from self._driver.unhold(self._asid, 0, LAST_VPN)


class ResetsUnfenced(SvaA):
    """Resets a device that goes on, and ignores invalidations meanwhile (B35)."""

    _in_reset = False

    def reset(self) -> Steps:
        """Reset the device."""
        self._in_reset = True
        yield _RESET_NS
        self._in_reset = False

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        if not self._in_reset:
            yield from super()._invalidate(first, last, hold=hold, callback=callback)


class ForgetsYoung(Sva):
    """Told of a page, takes the accessed bit from the PTE that stands there by then (for S13)."""

    def invalidate_page(self, address: int, *, callback: int) -> Steps:
        """Invalidate the page, and lose what nobody asked for."""
        yield from super().invalidate_page(address, callback=callback)
        vpn = address // PAGE_BYTES
        if self._mm.tables.get(vpn) & PTE_V:
            yield "pte_write"
            self._mm.tables.mark(vpn, clear=PTE_A)


class WindowUnmasked(Sva):
    """Takes the whole pages from an address on for PAGE_SIZE bytes, which is the next one where low bits are set (S15)."""

    def invalidate_page(self, address: int, *, callback: int) -> Steps:
        """Invalidate the first page that does not begin before ``address``."""
        vpn = -(-address // PAGE_BYTES)
        yield from self._invalidate(vpn, vpn, hold=False, callback=callback)


class StopsWaiting(Sva):
    """Waits until the use has ended or a signal arrives, whichever is first (B40)."""

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        command = yield from self._driver.post_invalidate(
            self._asid, first, last, hold=hold, callback=callback
        )
        yield from self._driver.commands.wait_invalidated(command)
        waited = 0
        while not command.drained.fired and waited < _SIGNAL_NS:
            yield _POLL_NS
            waited += _POLL_NS


class GruReadsFreedState(Gru):
    """Reads the thread's state once more when its lock is dropped, and it may be free (B42)."""

    def _purge(self, first: int, last: int, callback: int) -> Steps:
        if not callback:
            self._touch_state()
        yield from super()._purge(first, last, callback)


class GruCountsTenBits(Gru):
    """Gives the hardware the number of pages in a field of 10 bits (B41)."""

    def _purge(self, first: int, last: int, callback: int) -> Steps:
        pages = last - first + 1
        if pages >= 1 << 10:
            pages = max(pages & (1 << 10) - 1, 1)
        asid = self.context.asid
        if asid is not None:
            yield from self._driver.invalidate(asid, first, first + pages - 1, callback=callback)
