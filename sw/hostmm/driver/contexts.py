"""Address spaces as the device knows them: contexts, the asids that they have, and the faults that they take."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hostmm.errors import HostError
from hostmm.machine.scheduler import Steps
from secmmu.layouts import Cause

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine
    from hostmm.mm.space import MmStruct

__all__ = ["ASIDS", "Context", "Contexts", "DeviceFault", "FaultService", "mm_of"]

ASIDS = 16
"""Asids of the device, 0 included, which is never given to an address space."""
_HANDLE_BITS = 16


def mm_of(handle: int) -> int:
    """Return the number of the address space behind a context's handle."""
    return handle & ((1 << _HANDLE_BITS) - 1)


@dataclass(frozen=True)
class DeviceFault:
    """One fault of the device.

    Attributes
    ----------
    asid, vpn, write
        What it wanted.
    cause : Cause or None
        None where the access ended before the report came.
    epoch : int
        Commands that the MMU had accepted before the miss.
    place : int or None
        Where the access waits for its resume; None where it was refused.
    """

    asid: int
    vpn: int
    write: bool
    cause: Cause | None
    epoch: int = 0
    place: int | None = None

    @property
    def denied(self) -> bool:
        """Whether no page table can help: the context is gone, or the access is no access."""
        return self.cause in (Cause.LOAD_ACCESS, Cause.STORE_ACCESS)


class FaultService(Protocol):
    """Who serves the faults of a context."""

    def prepare(self) -> Steps:
        """Get the context ready for an access that a program is about to submit."""
        ...

    def fault(self, fault: DeviceFault) -> Steps:
        """Serve a fault, in a thread of its own; return whether the access is to be tried again."""
        ...


@dataclass(eq=False)
class Context:
    """An address space on the device.

    Attributes
    ----------
    handle : int
        What programs call it when they submit accesses; the number of its mm for the first context of that mm.
    follows : bool
        The device may use what the address space maps, and no more; else its driver says what it may use.
    asid : int or None
        What the hardware calls it; None while it has no asid.
    """

    handle: int
    mm: "MmStruct"
    service: FaultService
    follows: bool
    asid: int | None = None


class Contexts:
    """The contexts of one device, by handle and by asid.

    Parameters
    ----------
    machine : Machine
    """

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._by_handle: dict[int, Context] = {}
        self._by_asid: dict[int, Context] = {}
        self._pooled: set[int] = set()

    def reserve(self, asids: range) -> list[int]:
        """Keep those of these asids that are free for whoever loads them itself (:meth:`load`); return them.

        Raises
        ------
        HostError
            None is free.
        """
        free = [asid for asid in asids if asid in self._free()]
        if not free:
            raise HostError(f"of asids {asids.start} to {asids.stop - 1} none is free")
        self._pooled.update(free)
        return free

    def _free(self) -> list[int]:
        return [a for a in range(1, ASIDS) if a not in self._by_asid and a not in self._pooled]

    def open(self, mm: "MmStruct", service: FaultService, *, follows: bool) -> Context:
        """Make a context of ``mm`` that has no asid yet."""
        handle = mm.number
        while handle in self._by_handle:
            handle += 1 << _HANDLE_BITS
        context = self._by_handle[handle] = Context(handle, mm, service, follows)
        return context

    def choose(self, mm: "MmStruct") -> int:
        """Return a free asid: the number of the mm where that is free, else the lowest.

        Raises
        ------
        HostError
            There is none.
        """
        free = self._free()
        if not free:
            raise HostError(f"a device has no more than {ASIDS - 1} asids, and all are in use")
        return mm.number if mm.number in free else free[0]

    def load(self, context: Context, asid: int) -> None:
        """Give a context its asid."""
        assert context.asid is None
        assert asid not in self._by_asid, f"asid {asid} is in use"
        context.asid = asid
        self._by_asid[asid] = context

    def unload(self, context: Context) -> None:
        """Take its asid away."""
        assert context.asid is not None
        del self._by_asid[context.asid]
        context.asid = None

    def close(self, context: Context) -> None:
        """Forget a context; what is submitted to it from now on is dropped."""
        del self._by_handle[context.handle]

    def of_handle(self, handle: int) -> Context | None:
        """Return the context with a handle, None where there is none (any more)."""
        return self._by_handle.get(handle)

    def of_asid(self, asid: int) -> Context | None:
        """Return the context that has an asid, None where there is none (any more)."""
        return self._by_asid.get(asid)
