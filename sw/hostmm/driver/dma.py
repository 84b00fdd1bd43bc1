"""The DMA engines: descriptors, their completions, and the page faults that they take."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hostmm.driver.contexts import DeviceFault, mm_of
from hostmm.driver.pack import unpacker
from hostmm.errors import HostError
from hostmm.machine.locks import Signal, Wait
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import Row
from hostmm.mm.frames import PAGE_BYTES
from secmmu.layouts import AccessArg, Cause, Event, RecordLayout, Response

if TYPE_CHECKING:
    from hostmm.driver.driver import Driver
    from hostmm.machine.machine import Machine

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
    handle : int
        Its context.
    tag : int
        The descriptor's, unique among those not ended; a fault does not change it.
    data : int
        Value of a write's first beat, one more in each next one; 0 for a read.
    done : Signal
        Fires when it has ended.
    asid : int
        What the hardware calls its context; 0 while the hardware does not have it.
    dropped : bool
        It was given up, because its address is not mapped (any more).
    """

    engine: int
    handle: int
    tag: int
    va: int
    beats: int
    write: bool
    data: int
    done: Signal
    asid: int = 0
    dropped: bool = False


class DmaQueue:
    """Keeps the engines' queues filled and serves their faults.

    Parameters
    ----------
    machine : Machine
    driver : Driver
        Knows the contexts, and resumes what stalls.
    engines, depth : int
        DMA engines; descriptors that one queues (``EmulatorConfig``).
    """

    def __init__(self, machine: "Machine", driver: "Driver", *, engines: int, depth: int) -> None:
        self._machine = machine
        self._driver = driver
        self._contexts = driver.contexts
        self._depth = depth
        self._queued = [0] * engines
        self._backlog: list[deque[Transfer]] = [deque() for _ in range(engines)]
        self._transfers: dict[int, Transfer] = {}
        self._last_tag = -1
        self._waiters: list[tuple[int, Signal]] = []
        self._faults: dict[tuple[int, int], deque[DeviceFault]] = {}
        self._unreported: Counter[tuple[int, int]] = Counter()
        machine.sched.handle(Event.FAULT, self._fault)
        machine.sched.handle(Event.DMA_DONE, self._done)
        machine.sched.stops.add(Event.FAULT)

    @property
    def outstanding(self) -> int:
        """Transfers submitted and not ended, those with a fault included."""
        return len(self._transfers)

    @property
    def in_hardware(self) -> bool:
        """Whether an engine has a descriptor, or gets one within a link latency."""
        return any(self._queued)

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
        """Queue one burst; returns its :class:`Transfer` without waiting for it.

        Parameters
        ----------
        handle : int
            The context; the first one of an address space has its number. Without one, the burst is dropped.
        va : int
            Byte address, a multiple of 8; the burst must not cross 4 KiB.
        beats : int
            Words of 8 bytes, 1 to 16.
        data : int or None
            What a write stores in its first word, one more in each next one; None: values never stored before.

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
        if data is None:
            data = self._machine.next_version(beats) if write else 0
        done = Signal(f"transfer {tag}")
        transfer = Transfer(engine, handle, tag, va, beats, write, data, done)
        self._transfers[tag] = transfer
        yield from self._enter(transfer)
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

    def _enter(self, transfer: Transfer) -> Steps:
        """Queue a transfer under the asid that its context has by now; drop it where there is no context."""
        context = self._contexts.of_handle(transfer.handle)
        if context is not None:
            yield from context.service.prepare()
        if context is None or context.asid is None:
            self._drop(transfer)
            return
        transfer.asid = context.asid
        self._enqueue(transfer)

    def flying(self, handle: int) -> bool:
        """Whether the hardware has, or gets, a transfer of a context; one that stalls counts, a refused one not."""
        return any(t.asid and t.handle == handle for t in self._transfers.values())

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
            mm=mm_of(transfer.handle),
            vpn=transfer.va // PAGE_BYTES,
            tag=transfer.tag,
            a=transfer.va,
            b=transfer.data,
        )

    def _rearm(self) -> None:
        """Have the hardware stop at a completion while one makes the host act: refill, wake or serve a fault."""
        stops = self._machine.sched.stops
        if self._waiters or self._faults or any(self._backlog):
            stops.add(Event.DMA_DONE)
        else:
            stops.discard(Event.DMA_DONE)

    # --- events ------------------------------------------------------------------------------------------

    def _fault(self, record: Sequence[int]) -> None:
        head = _record(record[0])
        arg = _arg(head["arg"])
        fault = DeviceFault(
            asid=arg["asid"],
            vpn=record[2] // PAGE_BYTES,
            write=bool(arg["write"]),
            cause=Cause(arg["code"]),
            epoch=record[3],
            place=head["tag"] if arg["stalled"] else None,
        )
        key = (fault.asid, record[2])
        if fault.place is not None:
            self._machine.sched.spawn("iopf", self._serve_stalled(fault, key))
        elif self._unreported[key]:
            self._unreported[key] -= 1
        else:
            self._report(key, fault)

    def _report(self, key: tuple[int, int], fault: DeviceFault) -> None:
        self._faults.setdefault(key, deque()).append(fault)
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
                fault = self._reported(transfer)
                self._machine.sched.spawn("iopf", self._resolve(transfer, fault))
            case _:
                raise HostError(
                    f"a burst at {transfer.va:#x} of asid {transfer.asid} was answered {response.name}"
                )

    def _reported(self, transfer: Transfer) -> DeviceFault:
        """Return what the fault report said, as far as it came before the completion."""
        key = (transfer.asid, transfer.va)
        faults = self._faults.get(key)
        if faults is None:
            self._unreported[key] += 1
            vpn = transfer.va // PAGE_BYTES
            return DeviceFault(asid=transfer.asid, vpn=vpn, write=transfer.write, cause=None)
        fault = faults.popleft()
        if not faults:
            del self._faults[key]
        self._rearm()
        return fault

    def _end(self, transfer: Transfer) -> None:
        del self._transfers[transfer.tag]
        self._machine.sched.fire(transfer.done)
        for limit, signal in self._waiters:
            if not signal.fired and self.outstanding < limit:
                self._machine.sched.fire(signal)

    def _drop(self, transfer: Transfer) -> None:
        transfer.dropped = True
        self._log(Row.DMA_DROP, transfer)
        self._end(transfer)

    def _resolve(self, transfer: Transfer, fault: DeviceFault) -> Steps:
        """Serve the fault behind a refused burst: have it resolved and issue the burst again, or give it up."""
        transfer.asid = 0
        if (yield from self._serve(fault)):
            yield from self._enter(transfer)
        else:
            self._drop(transfer)

    def _serve_stalled(self, fault: DeviceFault, key: tuple[int, int]) -> Steps:
        """Serve a fault whose burst waits in the MMU."""
        retry = yield from self._serve(fault)
        if not retry:
            # The refusal of the burst finds this report of an access that is none.
            self._report(key, replace(fault, cause=Cause.LOAD_ACCESS))
        yield from self._driver.resume(fault, retry=retry)

    def _serve(self, fault: DeviceFault) -> Steps:
        context = self._contexts.of_asid(fault.asid)
        if context is None or fault.denied:
            return False
        return (yield from context.service.fault(fault))
