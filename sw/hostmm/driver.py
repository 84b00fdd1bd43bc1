"""The driver of the secondary MMU: the one place that knows how this hardware is programmed."""

from typing import TYPE_CHECKING

from hostmm.commands import Command, CommandQueue
from hostmm.dma import DmaQueue, Transfer
from hostmm.errors import HostError
from hostmm.mm.space import MmStruct
from hostmm.scheduler import Steps
from hostmm.timeline import Row
from secmmu.csr import context_register
from secmmu.layouts import VPN_BITS, CommandKind

if TYPE_CHECKING:
    from hostmm.machine import Machine

__all__ = ["Command", "Driver", "Transfer"]

_SV39 = 8
_GROUP_SHIFT = 44
_MODE_SHIFT = 60
_LAST_VPN = (1 << VPN_BITS) - 1


class Driver:
    """Gives address spaces to the device, invalidates, and submits transfers.

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
        self._spaces: dict[int, MmStruct] = {}
        self.commands = CommandQueue(machine, commands)
        self.dma = DmaQueue(machine, self, engines=engines, depth=descriptors)
        machine.driver = self
        machine.sched.busy = lambda: bool(self.commands.undrained or self.dma.in_hardware)

    # --- contexts ----------------------------------------------------------------------------------------

    def mm_of(self, asid: int) -> MmStruct | None:
        """Return the address space bound to ``asid``, None where there is none."""
        return self._spaces.get(asid)

    def attach(self, mm: MmStruct) -> Steps:
        """Let the device walk the page tables of ``mm``; returns its asid, which is the number of the mm."""
        asid = mm.number
        mm.tables.rights.bind(asid)
        self._spaces[asid] = mm
        yield from self._write_context(asid, mm, mm.tables.root)
        return asid

    def detach(self, asid: int, *, callback: int = 0) -> Steps:
        """Stop the device in an address space for good; returns when its last access has ended.

        The hold keeps every access out while the context changes; the release lets those that wait see that it
        is gone, so that they end with an access fault.

        Raises
        ------
        HostError
            No address space is bound to ``asid``.
        """
        space = self._spaces.get(asid)
        if space is None:
            raise HostError(f"asid {asid} is not bound to a device")
        whole = {"asid": asid, "first": 0, "last": _LAST_VPN, "callback": callback}
        command = yield from self.commands.send(CommandKind.ASID, **whole, hold=True)
        yield from self.commands.wait_drained(command)
        yield from self._write_context(asid, space, None)
        yield from self.commands.send(CommandKind.RELEASE, **whole, whole_asid=True)
        space.tables.rights.unbind()
        del self._spaces[asid]

    def _write_context(self, asid: int, mm: MmStruct, root: int | None) -> Steps:
        """Give the device the tables that begin in frame ``root`` (None: none) for ``mm``."""
        row = {"mm": mm.number, "pfn": -1 if root is None else root, "tag": int(root is not None)}
        value = 0 if root is None else root | asid << _GROUP_SHIFT | _SV39 << _MODE_SHIFT

        def write(ns: int) -> None:
            self._machine.sched.log(Row.CONTEXT, **row, a=asid)
            self._machine.link.csr_write(ns, context_register(asid), value)

        self._machine.sched.post(write)
        yield "mmio_write"

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

        It says that only leaf PTEs changed: page-table pages are freed at exit alone, behind :meth:`detach`. So a
        walk of a neighbouring page does not hold it up.
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
                leaf_only=True,
            )
        )

    def unhold(self, asid: int, first: int, last: int, *, callback: int = 0) -> Steps:
        """Release one hold of the span; posted."""
        yield from self.commands.send(
            CommandKind.RELEASE, asid=asid, first=first, last=last, callback=callback
        )

    # --- transfers ---------------------------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Transfers submitted and not ended."""
        return self.dma.outstanding

    def submit(self, engine: int, asid: int, va: int, beats: int, *, write: bool) -> Steps:
        """Submit one burst (see :meth:`DmaQueue.submit`); returns its :class:`Transfer`."""
        return (yield from self.dma.submit(engine, asid, va, beats, write=write))

    def wait(self, transfer: Transfer) -> Steps:
        """Sleep until the transfer has ended."""
        yield from self.dma.wait(transfer)

    def wait_below(self, limit: int) -> Steps:
        """Sleep until fewer than ``limit`` transfers are outstanding; 1 waits for all."""
        yield from self.dma.wait_below(limit)
