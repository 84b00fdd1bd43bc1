"""Asids of a device with fewer of them than address spaces: generations, as in the GRU driver; docs/contract.md I23.

Within a generation each asid is handed out at most once. When they run out the generation ends: the TLB is flushed of
all of them, and what idle contexts still have is worth nothing. A context in use keeps its asid across the end, and
nobody gets that asid in the new generation.
"""

from typing import TYPE_CHECKING, Protocol

from hostmm.driver.commands import Command
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import LockClass
from hostmm.mm.frames import PAGE_WORDS
from secmmu.layouts import VPN_BITS, CommandKind, FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["AsidOwner", "AsidPool"]

_LAST_VPN = (1 << VPN_BITS) - 1


class AsidOwner(Protocol):
    """A context that takes its asid from a pool."""

    def uses(self, asid: int) -> bool:
        """Whether the hardware may use it for this context right now."""
        ...

    def lose_asid(self, asid: int) -> None:
        """Give it up, if the context still has it, without a flush."""
        ...


class AsidPool:
    """The asids, and the empty root table of every context whose entries only software fills.

    Parameters
    ----------
    machine : Machine
    asids : range
        Which of the device's it takes, as far as they are free; nobody else gets them.
    """

    def __init__(self, machine: "Machine", asids: range) -> None:
        self._machine = machine
        self._asids = machine.driver.contexts.reserve(asids)
        self._left = list(self._asids)
        self._owners: dict[int, AsidOwner] = {}
        self._lock = machine.new_lock("asids", LockClass.DRIVER, key="asid_lock", sleeps=True)
        self.generation = 1
        root = machine.frames.alloc(FrameKind.TABLE)
        machine.link.fill(machine.sched.now, root.address, 0, PAGE_WORDS)
        machine.device_tables.add(root.pfn)
        self.root = root.pfn

    def assign(self, owner: AsidOwner) -> Steps:
        """Return an asid that the TLB holds nothing of; may sleep until one is idle."""
        yield Acquire(self._lock)
        asid = self._take(owner)
        while asid is None:
            yield from self._wrap()
            asid = self._take(owner)
            if asid is None:
                driver = self._machine.driver
                yield from driver.wait_below(driver.outstanding)
        self._machine.sched.release(self._lock)
        return asid

    def _take(self, owner: AsidOwner) -> int | None:
        """Hand out the next asid of the generation that is not in use; None where there is none left."""
        while self._left:
            asid = self._left.pop(0)
            before = self._owners.get(asid)
            if before is None or not before.uses(asid):
                if before is not None:
                    before.lose_asid(asid)
                self._owners[asid] = owner
                return asid
        return None

    def _wrap(self) -> Steps:
        """Begin a generation: contexts that are idle must ask anew, before anything of the old one is reused."""
        self.generation += 1
        self._left = list(self._asids)
        yield from self._flush()

    def _flush(self) -> Steps:
        commands = self._machine.driver.commands
        sent: dict[int, Command] = {}
        for asid in self._asids:
            sent[asid] = yield from commands.send(
                CommandKind.ASID, asid=asid, first=0, last=_LAST_VPN
            )
        for command in sent.values():
            yield from commands.wait_drained(command, sleeps=True)
