"""What every subscriber is: bound to an address space, told of its changes, and asked to serve the device's faults."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hostmm.callers.faults import FaultResult, handle_mm_fault
from hostmm.driver.contexts import Context, DeviceFault
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_R, PTE_U, PTE_V, PTE_W
from hostmm.mm.space import MmStruct

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["DeviceSubscriber", "Flushable", "Removable", "Resettable", "permits"]


def permits(pte: int, *, write: bool) -> bool:
    """Whether a device may use a PTE as it stands: accessed, and writable and dirty for a write."""
    needed = PTE_V | PTE_U | PTE_A | (PTE_W | PTE_D if write else PTE_R)
    return pte & needed == needed


@runtime_checkable
class Resettable(Protocol):
    """A driver that can reset its device while the address space is in use."""

    def reset(self) -> Steps:
        """Reset the device; returns when it works again."""
        ...


@runtime_checkable
class Flushable(Protocol):
    """A driver that flushes its device's TLB when a program asks for it."""

    def flush(self, first: int, last: int) -> Steps:
        """Flush pages ``first`` to ``last``."""
        ...


@runtime_checkable
class Removable(Protocol):
    """A driver whose device can be unplugged while the address space is in use."""

    def unplug(self) -> Steps:
        """Take the device away."""
        ...


class DeviceSubscriber(ABC):
    """The driver of one kind of device for one address space; make one with :meth:`bind`.

    Its callbacks are methods of :class:`hostmm.notifier.Subscriber`, each in the class that has it.

    Parameters
    ----------
    machine : Machine
    mm : MmStruct

    Attributes
    ----------
    context : Context
        The device's view of the address space; set by :meth:`start`.
    released : bool
        The address space is gone for the device; only callbacks that had begun may still come.
    """

    stalls = False
    """Accesses that fault wait in the MMU, which must be able to keep them."""
    context: Context
    _asid: int

    def __init__(self, machine: "Machine", mm: MmStruct) -> None:
        self._machine = machine
        self._driver = machine.driver
        self._mm = mm
        self.released = False

    @classmethod
    def bind(cls, machine: "Machine", mm: MmStruct) -> Steps:
        """Let the device use ``mm``; returns the subscriber, registered."""
        subscriber = cls(machine, mm)
        yield from subscriber.start()
        # No program has a handle yet, so the device caches nothing before the chain knows the subscriber (I14).
        yield from mm.notifiers.subscribe(subscriber)
        return subscriber

    def unbind(self) -> Steps:
        """Take the address space from the device at run time; may sleep. Nothing of it runs afterwards (I15)."""
        yield from self._mm.notifiers.unregister(self)

    @property
    def handle(self) -> int:
        """What programs submit accesses with."""
        return self.context.handle

    @abstractmethod
    def start(self) -> Steps:
        """Make the context."""

    def _attach(
        self, *, root: int | None = None, stall: bool = False, follows: bool = True
    ) -> Steps:
        """Make the context, with an asid that it keeps (see :meth:`Driver.attach`)."""
        self.context = yield from self._driver.attach(
            self._mm, self, root=root, stall=stall, follows=follows
        )
        assert self.context.asid is not None
        self._asid = self.context.asid

    def prepare(self) -> Steps:
        """Get ready for an access: nothing to do for a context that keeps its asid."""
        yield from ()

    @abstractmethod
    def fault(self, fault: DeviceFault) -> Steps:
        """Serve a fault, in a thread of its own; return whether the access is to be tried again."""

    def _resolve(self, fault: DeviceFault) -> Steps:
        """Have mm resolve a fault as if a CPU had taken it (``get_user_pages``); returns whether it may be."""
        result = yield from handle_mm_fault(
            self._machine, self._mm, fault.vpn, write=fault.write, device=True
        )
        return result is FaultResult.OK

    def _user_pte(self, fault: DeviceFault) -> Steps:
        """Return a PTE that permits the access, as mm has it at some moment; None where the access may not be.

        May sleep. Nothing keeps the page where it is afterwards (``hmm_range_fault``), and the CPU's accessed bit is
        neither asked for nor set: these devices have one of their own.
        """
        while True:
            ptl = self._mm.tables.lock(fault.vpn)
            if ptl is not None:
                yield Acquire(ptl)
                yield "pte_read"
                pte = self._mm.tables.get(fault.vpn)
                self._machine.sched.release(ptl)
                yield "unlocked"
                if permits(pte | PTE_A, write=fault.write):
                    return pte
            if not (yield from self._resolve(fault)):
                return None
