"""Entries that software offers to the MMU (*drop-ins*), and whether it took them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hostmm.driver.pack import unpacker
from hostmm.machine.locks import Signal, Wait
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import pte_pfn
from secmmu.layouts import Event, RecordLayout

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["DropInQueue"]

_TAGS = 1 << 16
_record = unpacker(RecordLayout())


class DropInQueue:
    """Sends drop-ins and wakes who waits for the answers.

    Parameters
    ----------
    machine : Machine
    """

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._open: dict[int, Signal] = {}
        self._last_tag = -1
        machine.sched.handle(Event.DROPPED, self._dropped)

    @property
    def outstanding(self) -> int:
        """Drop-ins sent and not answered."""
        return len(self._open)

    def send(self, asid: int, vpn: int, pte: int, *, epoch: int) -> Steps:
        """Offer a base page's PTE; returns whether the MMU took it. Spins."""
        tag = self._last_tag = (self._last_tag + 1) % _TAGS
        answer = self._open[tag] = Signal(f"answer to drop-in {tag}")

        def issue(ns: int) -> None:
            row = {"mm": asid, "vpn": vpn, "pfn": pte_pfn(pte), "tag": tag, "a": pte, "b": epoch}
            self._machine.sched.log(Row.DROP_IN, **row)
            self._machine.link.drop_in(ns, asid=asid, tag=tag, vpn=vpn, pte=pte, epoch=epoch)

        self._machine.sched.post(issue)
        yield "mmio_write"
        self._machine.sched.stops.add(Event.DROPPED)
        taken = yield Wait(answer)
        if not self._open:
            self._machine.sched.stops.discard(Event.DROPPED)
        return bool(taken)

    def _dropped(self, record: Sequence[int]) -> None:
        head = _record(record[0])
        self._machine.sched.fire(self._open.pop(head["tag"]), head["arg"])
