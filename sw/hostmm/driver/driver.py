"""The driver of the secondary MMU: the one place that knows how this hardware is programmed."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from hostmm.driver.commands import Command, CommandQueue
from hostmm.driver.contexts import Context, Contexts, DeviceFault, FaultService
from hostmm.driver.dma import DmaQueue, Transfer
from hostmm.driver.dropins import DropInQueue
from hostmm.errors import HostError
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import Row
from hostmm.mm.space import MmStruct
from secmmu.csr import REGISTERS, context_register
from secmmu.layouts import VPN_BITS, CommandKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["Command", "Driver", "Transfer"]

_T = TypeVar("_T")

_SV39 = 8
_GROUP_SHIFT = 44
_STALL_SHIFT = 52
_MODE_SHIFT = 60
_LAST_VPN = (1 << VPN_BITS) - 1


def _asid(context: Context) -> int:
    if context.asid is None:
        raise HostError(f"context {context.handle:#x} has no asid")
    return context.asid


class Driver:
    """Gives address spaces to the device, invalidates, answers its faults, and submits transfers.

    Register writes, commands and descriptors are posted: they reach the hardware one link latency later, in the
    order in which a thread made them.

    Parameters
    ----------
    machine : Machine
        Its ``driver`` becomes this one.
    commands : int
        Undrained commands that the MMU takes (``SecmmuConfig.commands``).
    engines, descriptors : int
        DMA engines; descriptors that one queues (``EmulatorConfig``).
    """

    def __init__(
        self, machine: "Machine", *, commands: int = 8, engines: int = 2, descriptors: int = 64
    ) -> None:
        self._machine = machine
        self._shared: dict[type, object] = {}
        self.contexts = Contexts(machine)
        self.commands = CommandQueue(machine, commands)
        self.drop_ins = DropInQueue(machine)
        self.dma = DmaQueue(machine, self, engines=engines, depth=descriptors)
        machine.driver = self
        machine.sched.busy = lambda: bool(
            self.dma.in_hardware or self.commands.undrained or self.drop_ins.outstanding
        )

    # --- contexts ----------------------------------------------------------------------------------------

    def open(self, mm: MmStruct, service: FaultService, *, follows: bool = True) -> Context:
        """Make a context of ``mm``, whose faults ``service`` serves; the device cannot use it before :meth:`load`."""
        return self.contexts.open(mm, service, follows=follows)

    def attach(
        self,
        mm: MmStruct,
        service: FaultService,
        *,
        root: int | None = None,
        stall: bool = False,
        follows: bool = True,
    ) -> Steps:
        """Open a context and let the device use it under an asid of its own; returns it.

        Parameters
        ----------
        root : int or None
            Frame of the root table that the device walks; None: that of ``mm``.
        stall : bool
            Accesses that fault wait in the MMU; else they are refused, and submitted again.
        follows : bool
            See :class:`Context`.
        """
        context = self.open(mm, service, follows=follows)
        table = mm.tables.root if root is None else root
        yield from self.load(context, self.contexts.choose(mm), root=table, stall=stall)
        return context

    def load(self, context: Context, asid: int, *, root: int, stall: bool) -> Steps:
        """Give a context that has none an asid, and the device the tables under ``root``."""
        if context.follows:
            context.mm.tables.rights.bind(asid)
        self.contexts.load(context, asid)
        yield from self._write_context(context, root, stall=stall)

    def change(self, context: Context, *, root: int, stall: bool) -> Steps:
        """Have a live context walk other tables; returns when the last use that came of the old ones has ended."""
        asid = _asid(context)
        yield from self._write_context(context, root, stall=stall)
        command = yield from self.commands.send(
            CommandKind.CONTEXT, asid=asid, first=0, last=_LAST_VPN
        )
        yield from self.commands.wait_drained(command)

    def detach(self, context: Context, *, callback: int = 0) -> Steps:
        """Stop the device in an address space for good; returns when its last access has ended.

        The hold keeps every access out while the context changes; the release lets those that wait see that it
        is gone, so that they end with an access fault.
        """
        if context.asid is not None:
            asid = context.asid
            whole = {"asid": asid, "first": 0, "last": _LAST_VPN, "callback": callback}
            command = yield from self.commands.send(CommandKind.ASID, **whole, hold=True)
            yield from self.commands.wait_drained(command)
            yield from self._write_context(context, None)
            yield from self.commands.send(CommandKind.RELEASE, **whole, whole_asid=True)
            self._forget(context)
        self.contexts.close(context)

    def unload(self, context: Context) -> None:
        """Take away the asid of a context of which nothing is in use; posted.

        What the TLB holds of the asid stays there, out of reach: flush it before anybody else gets the asid.
        """
        self._post_context(context, None)
        self._forget(context)

    def _forget(self, context: Context) -> None:
        if context.follows:
            context.mm.tables.rights.unbind(_asid(context))
        self.contexts.unload(context)

    def shared(self, kind: type[_T], make: Callable[[], _T]) -> _T:
        """Return what all subscribers of one kind share on this device; made by the first that asks."""
        if kind not in self._shared:
            self._shared[kind] = make()
        found = self._shared[kind]
        assert isinstance(found, kind)
        return found

    def _write_context(self, context: Context, root: int | None, *, stall: bool = False) -> Steps:
        self._post_context(context, root, stall=stall)
        yield "mmio_write"

    def _post_context(self, context: Context, root: int | None, *, stall: bool = False) -> None:
        """Give the device the tables that begin in frame ``root`` (None: none) under the context's asid."""
        asid = _asid(context)
        row = {"mm": context.mm.number, "a": asid, "c": context.handle}
        value = 0
        if root is not None:
            value = root | asid << _GROUP_SHIFT | stall << _STALL_SHIFT | _SV39 << _MODE_SHIFT
        else:
            # Whoever takes a context away has seen to it that nothing uses it.
            self._machine.sched.log(Row.CONTEXT, **row)

        def write(ns: int) -> None:
            if root is not None:
                self._machine.sched.log(Row.CONTEXT, **row, pfn=root, tag=1)
            self._machine.link.csr_write(ns, context_register(asid), value)

        self._machine.sched.post(write)

    # --- invalidation ------------------------------------------------------------------------------------

    def invalidate(
        self, asid: int, first: int, last: int, *, hold: bool = False, callback: int = 0
    ) -> Steps:
        """Invalidate pages ``first`` to ``last`` (inclusive) and spin until *drained*.

        With ``hold``, no walk of them is answered until as many calls of :meth:`unhold` with the same span.
        """
        command = yield from self.post_invalidate(asid, first, last, hold=hold, callback=callback)
        yield from self.commands.wait_drained(command)

    def post_invalidate(
        self, asid: int, first: int, last: int, *, hold: bool = False, callback: int = 0
    ) -> Steps:
        """Send the command of :meth:`invalidate`; returns it without waiting for an answer.

        Where the policy's kernel frees page-table pages at exit alone, behind :meth:`detach`, it says that only leaf
        PTEs changed, so that a walk of a neighbouring page does not hold it up. Later ones take tables away and move
        them (huge pages, mremap).
        """
        kind = CommandKind.PAGE if first == last and not hold else CommandKind.RANGE
        return (
            yield from self.commands.send(
                kind,
                asid=asid,
                first=first,
                last=last,
                callback=callback,
                hold=hold,
                leaf_only=self._machine.policy.keeps_tables,
            )
        )

    def unhold(self, asid: int, first: int, last: int, *, callback: int = 0) -> Steps:
        """Release one hold of the span; posted."""
        yield from self.commands.send(
            CommandKind.RELEASE, asid=asid, first=first, last=last, callback=callback
        )

    def young(self, asid: int, vpn: int) -> Steps:
        """Ask the MMU whether it used its entry of a page since it was filled or last asked; returns 1 or 0."""
        command = yield from self.commands.send(CommandKind.YOUNG, asid=asid, first=vpn, last=vpn)
        return (yield from self.commands.wait_invalidated(command))

    def set_timeout(self, cycles: int) -> Steps:
        """Have commands give up on uses that last longer than ``cycles``; 0: never."""
        self._machine.sched.post(
            lambda ns: self._machine.link.csr_write(ns, REGISTERS["mmu.timeout"].address, cycles)
        )
        yield "mmio_write"

    # --- faults ------------------------------------------------------------------------------------------

    def drop_in(self, fault: DeviceFault, pte: int) -> Steps:
        """Offer the entry that a fault wants, a leaf PTE of a base page; returns whether the MMU took it.

        It does not if the page was invalidated since the fault, as far as it remembers.
        """
        return (yield from self.drop_ins.send(fault.asid, fault.vpn, pte, epoch=fault.epoch))

    def resume(self, fault: DeviceFault, *, retry: bool) -> Steps:
        """Let the access behind a stalled fault be translated again, or fail; posted."""
        place = fault.place
        assert place is not None

        def issue(ns: int) -> None:
            row = {"mm": fault.asid, "vpn": fault.vpn, "tag": place, "a": int(retry)}
            self._machine.sched.log(Row.RESUME, **row)
            self._machine.link.resume(ns, place=place, retry=int(retry))

        self._machine.sched.post(issue)
        yield "mmio_write"

    # --- transfers ---------------------------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Transfers submitted and not ended."""
        return self.dma.outstanding

    def submit(
        self,
        engine: int,
        handle: int,
        va: int,
        beats: int,
        *,
        write: bool,
        data: int | None = None,
    ) -> Steps:
        """Submit one burst (see :meth:`DmaQueue.submit`); returns its :class:`Transfer`."""
        return (yield from self.dma.submit(engine, handle, va, beats, write=write, data=data))

    def wait(self, transfer: Transfer) -> Steps:
        """Sleep until the transfer has ended."""
        yield from self.dma.wait(transfer)

    def wait_below(self, limit: int) -> Steps:
        """Sleep until fewer than ``limit`` transfers are outstanding; 1 waits for all."""
        yield from self.dma.wait_below(limit)
