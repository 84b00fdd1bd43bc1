"""The DMA engines: descriptors, their completions, and the page faults that they take."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostmm.errors import HostError
from hostmm.faults import FaultResult, handle_mm_fault
from hostmm.locks import Signal, Wait
from hostmm.mm.frames import PAGE_BYTES
from hostmm.mm.pagetable import PTE_V
from hostmm.pack import unpacker
from hostmm.scheduler import Steps
from hostmm.timeline import Row
from secmmu.layouts import AccessArg, Cause, Event, RecordLayout, Response

if TYPE_CHECKING:
    from hostmm.driver import Driver
    from hostmm.machine import Machine

__all__ = ["DmaQueue", "Transfer"]

_TAGS = 1 << 16
_MAX_BEATS = 16
_record = unpacker(RecordLayout())
_arg = unpacker(AccessArg())


@dataclass(eq=False)
class Transfer:
    """One burst of an engine, from the call that submits it to its end.

    Attributes
    ----------
    tag : int
        The descriptor's, unique among those not ended; a fault does not change it.
    data : int
        Value of a write's first beat, one more in each next one; 0 for a read.
    done : Signal
        Fires when it has ended.
    dropped : bool
        It was given up, because its address is not mapped (any more).
    """

    engine: int
    asid: int
    tag: int
    va: int
    beats: int
    write: bool
    data: int
    done: Signal
    dropped: bool = False


class DmaQueue:
    """Keeps the engines' queues filled and serves their faults.

    Parameters
    ----------
    machine : Machine
    driver : Driver
        Knows which address space an asid stands for, and invalidates.
    engines, depth : int
        DMA engines; descriptors that one queues (``EmulatorConfig``).
    """

    def __init__(self, machine: "Machine", driver: "Driver", *, engines: int, depth: int) -> None:
        self._machine = machine
        self._driver = driver
        self._depth = depth
        self._queued = [0] * engines
        self._backlog: list[deque[Transfer]] = [deque() for _ in range(engines)]
        self._transfers: dict[int, Transfer] = {}
        self._last_tag = -1
        self._waiters: list[tuple[int, Signal]] = []
        self._causes: dict[tuple[int, int], deque[Cause]] = {}
        self._unreported: Counter[tuple[int, int]] = Counter()
        machine.sched.handle(Event.FAULT, self._fault)
        machine.sched.handle(Event.DMA_DONE, self._done)
        machine.sched.stops.add(Event.FAULT)

    @property
    def outstanding(self) -> int:
        """Transfers submitted and not ended, those with a fault included."""
        return len(self._transfers)

    @property
    def in_hardware(self) -> int:
        """Descriptors that an engine has, or gets within a link latency."""
        return sum(self._queued)

    def submit(self, engine: int, asid: int, va: int, beats: int, *, write: bool) -> Steps:
        """Queue one burst; returns its :class:`Transfer` without waiting for it.

        Parameters
        ----------
        va : int
            Byte address, a multiple of 8; the burst must not cross 4 KiB.
        beats : int
            Words of 8 bytes, 1 to 16.

        Raises
        ------
        HostError
            The burst or the engine does not exist.
        """
        if not 0 <= engine < len(self._queued):
            raise HostError(f"engine must be from 0 to {len(self._queued) - 1}, not {engine}")
        if not 1 <= beats <= _MAX_BEATS or va % 8 or va % PAGE_BYTES + 8 * beats > PAGE_BYTES:
            raise HostError(f"a burst of {beats} words at {va:#x} does not lie inside a page")
        tag = self._new_tag()
        data = self._machine.next_version(beats) if write else 0
        transfer = Transfer(engine, asid, tag, va, beats, write, data, Signal(f"transfer {tag}"))
        self._transfers[tag] = transfer
        self._enqueue(transfer)
        yield "mmio_write"
        return transfer

    def wait(self, transfer: Transfer) -> Steps:
        """Sleep until a transfer has ended."""
        yield from self._wait_on(transfer.done, 0)

    def wait_below(self, limit: int) -> Steps:
        """Sleep until fewer than ``limit`` transfers are outstanding; 1 waits for all."""
        if self.outstanding >= limit:
            yield from self._wait_on(Signal(f"fewer than {limit} transfers"), limit)

    def _wait_on(self, signal: Signal, limit: int) -> Steps:
        waiter = (limit, signal)
        self._waiters.append(waiter)
        self._rearm()
        yield Wait(signal)
        self._waiters.remove(waiter)
        self._rearm()

    def _new_tag(self) -> int:
        tag = (self._last_tag + 1) % _TAGS
        while tag in self._transfers:
            tag = (tag + 1) % _TAGS
        self._last_tag = tag
        return tag

    def _enqueue(self, transfer: Transfer) -> None:
        self._backlog[transfer.engine].append(transfer)
        self._refill(transfer.engine)

    def _refill(self, engine: int) -> None:
        backlog = self._backlog[engine]
        while backlog and self._queued[engine] < self._depth:
            self._queued[engine] += 1
            self._post(backlog.popleft())
        self._rearm()

    def _post(self, transfer: Transfer) -> None:
        def issue(ns: int) -> None:
            self._log(Row.DMA_SUBMIT, transfer)
            self._machine.link.descriptor(
                ns,
                engine=transfer.engine,
                asid=transfer.asid,
                tag=transfer.tag,
                beats=transfer.beats,
                write=int(transfer.write),
                va=transfer.va,
                data=transfer.data,
            )

        self._machine.sched.post(issue)

    def _log(self, kind: Row, transfer: Transfer) -> None:
        self._machine.sched.log(
            kind,
            mm=transfer.asid,
            vpn=transfer.va // PAGE_BYTES,
            tag=transfer.tag,
            a=transfer.va,
            b=transfer.data,
        )

    def _rearm(self) -> None:
        """Have the hardware stop at a completion while one makes the host act: refill, wake or serve a fault."""
        stops = self._machine.sched.stops
        if self._waiters or self._causes or any(self._backlog):
            stops.add(Event.DMA_DONE)
        else:
            stops.discard(Event.DMA_DONE)

    # --- events ------------------------------------------------------------------------------------------

    def _fault(self, record: Sequence[int]) -> None:
        arg = _arg(_record(record[0])["arg"])
        key = (arg["asid"], record[2])
        if self._unreported[key]:
            self._unreported[key] -= 1
            return
        self._causes.setdefault(key, deque()).append(Cause(arg["code"]))
        self._rearm()

    def _done(self, record: Sequence[int]) -> None:
        head = _record(record[0])
        transfer = self._transfers[head["tag"]]
        response = Response(_arg(head["arg"])["code"])
        self._queued[transfer.engine] -= 1
        self._refill(transfer.engine)
        match response:
            case Response.OKAY:
                self._end(transfer)
            case Response.SLVERR:
                self._machine.sched.spawn("iopf", self._resolve(transfer, self._cause(transfer)))
            case _:
                raise HostError(
                    f"a burst at {transfer.va:#x} of asid {transfer.asid} was answered {response.name}"
                )

    def _cause(self, transfer: Transfer) -> Cause | None:
        """Return what the fault report said; None where it comes after the completion."""
        key = (transfer.asid, transfer.va)
        causes = self._causes.get(key)
        if causes is None:
            self._unreported[key] += 1
            return None
        cause = causes.popleft()
        if not causes:
            del self._causes[key]
        self._rearm()
        return cause

    def _end(self, transfer: Transfer) -> None:
        del self._transfers[transfer.tag]
        self._machine.sched.fire(transfer.done)
        for limit, signal in self._waiters:
            if not signal.fired and self.outstanding < limit:
                self._machine.sched.fire(signal)

    def _resolve(self, transfer: Transfer, cause: Cause | None) -> Steps:
        """Serve one I/O page fault: let mm resolve it and issue the burst again, or give it up."""
        mm = self._driver.mm_of(transfer.asid)
        denied = cause in (Cause.LOAD_ACCESS, Cause.STORE_ACCESS)
        result = FaultResult.SEGV
        if mm is not None and not denied:
            vpn = transfer.va // PAGE_BYTES
            cached = mm.tables.get(vpn) & PTE_V
            result = yield from handle_mm_fault(
                self._machine, mm, vpn, write=transfer.write, device=True
            )
        if mm is None or result is FaultResult.SEGV:
            transfer.dropped = True
            self._log(Row.DMA_DROP, transfer)
            self._end(transfer)
            return
        if cached:
            # Nobody is notified of an upgrade (docs/contract.md 1.2, I11). If the MMU still holds the entry that
            # lacked the right, the burst would hit it and fault for ever: an IOMMU driver flushes what faulted.
            yield from self._driver.invalidate(transfer.asid, vpn, vpn)
        self._enqueue(transfer)
