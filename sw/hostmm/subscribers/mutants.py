"""Subscribers with one mechanism missing each, to show that the checks and scenarios find what it is for."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from hostmm.callers.gup import put_user_page
from hostmm.driver.commands import Command
from hostmm.driver.contexts import DeviceFault
from hostmm.machine.scheduler import Steps
from hostmm.mm.pagetable import PTE_W
from hostmm.mm.space import MmStruct
from hostmm.subscribers.asids import AsidPool
from hostmm.subscribers.base import DeviceSubscriber
from hostmm.subscribers.gru import Gru
from hostmm.subscribers.interval import IntervalNotifier
from hostmm.subscribers.kvm import Kvm
from hostmm.subscribers.odp import Odp
from hostmm.subscribers.pinned import Pinned
from secmmu.layouts import EPOCH_BITS

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["SUBSCRIBER_MUTANTS"]

SUBSCRIBER_MUTANTS: dict[str, type[DeviceSubscriber]] = {}
"""The mutants by name; the class says in its first line what is missing."""


def _mutant(
    name: str,
) -> Callable[[type[DeviceSubscriber]], type[DeviceSubscriber]]:
    def register(kind: type[DeviceSubscriber]) -> type[DeviceSubscriber]:
        SUBSCRIBER_MUTANTS[name] = kind
        return kind

    return register


@_mutant("kvm-no-sequence")
class KvmWithoutSequence(Kvm):
    """Installs although the page changed since it was looked up, if the change is over (I2)."""

    def _must_retry(self, seq: int, vpn: int) -> bool:
        return self.released or self._is_changing(vpn)


@_mutant("kvm-no-count")
class KvmWithoutCount(Kvm):
    """Installs a page of a range that is changing (I3)."""

    def _is_changing(self, vpn: int) -> bool:
        return False


@_mutant("kvm-late-snapshot")
class KvmLateSnapshot(Kvm):
    """Takes the snapshot behind the look-up that it should guard (13ec9308a857)."""

    def __init__(self, machine: "Machine", mm: MmStruct) -> None:
        super().__init__(machine, mm)
        self._late: dict[int, int] = {}

    def _user_pte(self, fault: DeviceFault) -> Steps:
        pte = yield from super()._user_pte(fault)
        self._late[fault.vpn] = self._seq
        return pte

    def _must_retry(self, seq: int, vpn: int) -> bool:
        return super()._must_retry(self._late.pop(vpn, seq), vpn)


@_mutant("kvm-count-first")
class KvmCountFirst(Kvm):
    """Ends the change before the sequence moves on, and without the lock."""

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """Drop the count, then move the sequence."""
        self._brackets.end(first, last)
        yield "refcount"
        self._seq += 1
        self._wake()


@_mutant("kvm-no-flush")
class KvmWithoutFlush(Kvm):
    """Clears the shadow tables and leaves the TLB alone (4539b35881a)."""

    def _flush(self, first: int, last: int, callback: int) -> Steps:
        yield from ()


@_mutant("kvm-misses-tail")
class KvmMissesTail(Kvm):
    """Takes the last page of a range for the first one behind it (I18)."""

    def _zap(self, first: int, last: int, callback: int) -> Steps:
        yield from super()._zap(first, max(first, last - 1), callback)


@_mutant("kvm-loses-young")
class KvmLosesYoung(Kvm):
    """Clears the accessed bit without telling (I9)."""

    def clear_flush_young(self, vpn: int, *, callback: int) -> Steps:
        """Return 0."""
        yield from super().clear_flush_young(vpn, callback=callback)
        return 0


@_mutant("kvm-no-release")
class KvmWithoutRelease(Kvm):
    """Goes on when the address space goes away (85db06e5144)."""

    def release(self, *, callback: int) -> Steps:
        """Do nothing."""
        yield from ()


@_mutant("gru-no-range-active")
class GruWithoutRangeActive(Gru):
    """Drops entries in although a range is changing (I3)."""

    def _wait_until_quiet(self) -> Steps:
        yield from ()


@_mutant("gru-no-epoch")
class GruWithoutEpoch(Gru):
    """Drops entries in however long ago the miss was, as on hardware that does not cancel them (I2)."""

    def _drop_in(self, fault: DeviceFault, pte: int) -> Steps:
        yield from super()._drop_in(replace(fault, epoch=(1 << EPOCH_BITS) - 1), pte)


class _Unflushed(AsidPool):
    def _flush(self) -> Steps:
        yield from ()


@_mutant("gru-reuses-asids")
class GruReusesAsids(Gru):
    """Begins a generation of asids without a flush (I23)."""

    def new_pool(self) -> AsidPool:
        """Make a pool that does not flush."""
        return _Unflushed(self._machine, self.asids)


@_mutant("gru-never-wakes")
class GruNeverWakes(Gru):
    """Leaves those who wait for the end of a change waiting (I22)."""

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """Count the end, and wake nobody."""
        self._ranges.end(first, last)
        yield "refcount"


@_mutant("gru-release-flag")
class GruReleaseFlag(Gru):
    """Sets the flag at release and leaves the context loaded (I16)."""

    def release(self, *, callback: int) -> Steps:
        """Set the flag."""
        self.released = True
        yield "pte_write"


@_mutant("odp-no-retry")
class OdpWithoutRetry(Odp):
    """Maps what it looked up although it changed since (I2)."""

    def _must_retry(self, seq: int) -> bool:
        return False


class _Impatient(IntervalNotifier):
    def read_begin(self) -> Steps:
        yield from ()
        return self._seq


@_mutant("odp-ignores-odd")
class OdpIgnoresOdd(Odp):
    """Does not wait for the end of a change before it looks pages up (I3)."""

    def __init__(self, machine: "Machine", mm: MmStruct) -> None:
        super().__init__(machine, mm)
        self._interval = _Impatient()


@_mutant("odp-never-waits")
class OdpNeverWaits(Odp):
    """Posts its work requests and returns (I19)."""

    def _wait(self, command: Command) -> Steps:
        yield from ()


@_mutant("odp-blocks")
class OdpBlocks(Odp):
    """Takes its mutex where it was asked not to sleep (I12; 4d4bbd8526a8)."""

    def try_invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Start as if sleeping were allowed."""
        yield from self.invalidate_range_start(first, last, callback=callback)
        return 0


@_mutant("pinned-frees-first")
class PinnedFreesFirst(Pinned):
    """Gives a page back before the device has let go of it (I1)."""

    def _unpin(self, vpn: int) -> Steps:
        page = self._pins.pop(vpn)
        written = bool(self._tables.get(vpn) & PTE_W)
        yield "pte_clear"
        self._tables.set(vpn, 0)
        yield from put_user_page(self._machine, page, dirty=written)
        yield from self._driver.invalidate(self._asid, vpn, vpn)
