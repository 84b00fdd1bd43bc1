"""Hand-made timelines: a scene is told cycle by cycle, host rows and hardware records apart."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hostmm.driver.pack import packer
from hostmm.machine.timeline import LockClass, Notification, Row, Timeline
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_R, PTE_W, make_pte
from hostmm.policies import SEED, Policy
from secmmu.layouts import (
    AccessArg,
    CommandKind,
    Event,
    FillArg,
    FrameKind,
    LoadArg,
    RecordLayout,
    Response,
    Verdict,
)
from shootdown.checks import Violation, check
from shootdown.history import History

__all__ = ["CYCLE_NS", "PAGE", "Scene", "pte"]

CYCLE_NS = 10
PAGE = 4096

_record = packer(RecordLayout())
_access = packer(AccessArg())
_fill = packer(FillArg())
_load = packer(LoadArg())


def pte(pfn: int, *, writable: bool) -> int:
    """A leaf PTE as the host writes it."""
    return make_pte(pfn, PTE_R | PTE_A | (PTE_W | PTE_D if writable else 0))


class Scene:
    """One run, told by hand. Host rows go at :attr:`now` (a cycle); hardware records name their cycle."""

    def __init__(self, policy: Policy = SEED) -> None:
        self.policy = policy
        self.timeline = Timeline(cycle_ns=CYCLE_NS)
        self.now = 0
        self._records: list[tuple[int, int]] = []
        self._thread = self.timeline.thread("cpu0")
        self._frames: list[tuple[int, int]] = [(0, 0)]
        self._spans = itertools.count(1)
        self._callbacks = itertools.count(1)
        self._callback = 0
        self._subscribers = 0

    # --- the host ------------------------------------------------------------------------------------

    def at(self, cycle: int) -> "Scene":
        """Go to ``cycle``."""
        self.now = cycle
        return self

    @contextmanager
    def thread(self, name: str) -> Iterator[None]:
        """Rows in here are another thread's."""
        before, frames = self._thread, self._frames
        known = self.timeline.threads
        self._thread = known.index(name) if name in known else self.timeline.thread(name)
        self._frames = [(0, 0)]
        yield
        self._thread, self._frames = before, frames

    @contextmanager
    def path(self, name: str, *, result: int = 0) -> Iterator[None]:
        """An instance of an mm path, and what it returns."""
        self._frames.append((self.timeline.path(name), next(self._spans)))
        self.row(Row.PATH_BEGIN)
        yield
        self.row(Row.PATH_END, a=result)
        self._frames.pop()

    def row(self, kind: Row, **fields: int) -> None:
        """Append any host row."""
        path, span = self._frames[-1]
        place = {"cycle": self.now, "ns": self.now * CYCLE_NS, "thread": self._thread}
        self.timeline.append(kind, path=path, span=span, **place, **fields)

    def subscribe(self, mm: int, *kinds: Notification) -> int:
        """A subscriber is registered with the chain of ``mm``, with methods for ``kinds`` (none named: all)."""
        self._subscribers += 1
        mask = sum(1 << kind for kind in kinds or Notification)
        self.row(Row.SUBSCRIBE, mm=mm, tag=1, a=mask, b=self._subscribers)
        return self._subscribers

    def alloc(self, *pfns: int) -> None:
        """Frames get an owner."""
        for pfn in pfns:
            self.row(Row.ALLOC, pfn=pfn, tag=FrameKind.USER.value)

    def free(self, pfn: int) -> None:
        """A frame is freed."""
        self.row(Row.FREE, pfn=pfn)

    def pte_set(self, mm: int, vpn: int, pfn: int, *, writable: bool = False, old: int = 0) -> None:
        """A leaf PTE is set."""
        self.row(Row.PTE_SET, mm=mm, vpn=vpn, pfn=pfn, a=pte(pfn, writable=writable), b=old)

    def pte_clear(self, mm: int, vpn: int, pfn: int, *, writable: bool = False) -> None:
        """A leaf PTE is cleared."""
        self.row(Row.PTE_CLEAR, mm=mm, vpn=vpn, pfn=pfn, a=pte(pfn, writable=writable))

    def store(self, mm: int, va: int, pfn: int, value: int) -> None:
        """A CPU stores a word."""
        self.row(Row.STORE, mm=mm, vpn=va // PAGE, pfn=pfn, a=pfn * PAGE + va % PAGE, b=value)

    def fill_page(self, pfn: int, value: int) -> None:
        """Every word of a page is set to ``value``."""
        self.row(Row.FILL, pfn=pfn, tag=512, a=pfn * PAGE, b=value)

    def copy_page(self, destination: int, source: int) -> None:
        """A page is copied; both are frame numbers."""
        self.row(Row.COPY, pfn=destination, tag=512, a=destination * PAGE, b=source * PAGE)

    def write_out(self, slot: int, pfn: int) -> None:
        """A page is copied to the backing store; the row names the frame that was read."""
        self.row(Row.WRITEBACK, pfn=pfn, a=slot * PAGE)
        self.row(Row.COPY, pfn=pfn, tag=512, a=slot * PAGE, b=pfn * PAGE)

    def lock(self, lock_class: LockClass, number: int, *, waited: int = 0) -> None:
        """A lock is taken, after ``waited`` ns."""
        self.row(Row.LOCK, tag=lock_class, a=number, b=waited)

    def unlock(self, lock_class: LockClass, number: int, *, held: int) -> None:
        """It is given back, after ``held`` ns."""
        self.row(Row.UNLOCK, tag=lock_class, a=number, b=held)

    @contextmanager
    def notify(
        self,
        kind: Notification,
        mm: int,
        first: int,
        last: int | None = None,
        *,
        subscriber: int = 1,
        result: int = 0,
    ) -> Iterator[None]:
        """One callback; commands issued in here are its own."""
        last = first if last is None else last
        number, before = next(self._callbacks), self._callback
        row = {"mm": mm, "vpn": first, "tag": kind, "b": number, "c": subscriber}
        self.row(Row.NOTIFY_BEGIN, **row, a=last)
        self._callback = number
        yield
        self._callback = before
        self.row(Row.NOTIFY_END, **row, a=result)

    def command(
        self,
        mm: int,
        first: int,
        last: int | None = None,
        *,
        tag: int = 1,
        kind: CommandKind = CommandKind.RANGE,
        invalidated: int = 1,
        drained: int | None = 2,
        killed: tuple[int, ...] = (),
        phase: Event = Event.DRAINED,
        flags: int = 0,
    ) -> None:
        """A command that is accepted now; its answers come so many cycles later (``drained`` None: never).

        The clock goes on to the cycle behind the last answer.
        """
        last = first if last is None else last
        self.row(Row.INV_ISSUE, mm=mm, vpn=first, tag=tag, a=last, b=self._callback, c=flags)
        accepted = self.now
        self.hardware(accepted, Event.ACCEPTED, tag=tag, arg=kind.value, a=first, b=last)
        if killed:
            self.hardware(accepted, Event.KILL, b=sum(1 << entry for entry in killed))
        if phase is Event.DRAINED:
            self.hardware(accepted + invalidated, Event.INVALIDATED, tag=tag)
        if drained is not None:
            self.hardware(accepted + drained, phase, tag=tag)
            self.now = accepted + drained + 1

    # --- the hardware --------------------------------------------------------------------------------

    def hardware(self, cycle: int, kind: Event, **fields: int) -> None:
        """Add any record."""
        word = _record(kind=kind.value, cycle=cycle, **fields)
        self._records.append((cycle, word))

    def walk(self, cycle: int, asid: int, vpn: int, *, id: int = 0) -> None:
        """A walk begins."""
        self.hardware(cycle, Event.WALK, arg=_access(asid=asid, id=id, beats=1), a=vpn)

    def walk_killed(self, cycle: int, asid: int, vpn: int) -> None:
        """A walk ends without a fill."""
        self.hardware(cycle, Event.WALK_KILLED, arg=_access(asid=asid, beats=1), a=vpn)

    def walked(
        self, cycle: int, asid: int, vpn: int, pfn: int, *, id: int = 0, writable: bool = False
    ) -> None:
        """A walk has its answer."""
        arg = _access(asid=asid, id=id, beats=1)
        self.hardware(cycle, Event.WALKED, arg=arg, a=vpn, b=pte(pfn, writable=writable))

    def fault(self, cycle: int, asid: int, va: int) -> None:
        """An access is refused."""
        self.hardware(cycle, Event.FAULT, arg=_access(asid=asid, beats=1), a=va)

    def fill(
        self,
        cycle: int,
        asid: int,
        vpn: int,
        pfn: int,
        *,
        entry: int = 0,
        writable: bool = False,
        level: int = 0,
        walked: int | None = None,
    ) -> None:
        """A fill and, ``walked`` cycles before it (3 where not told), its walk."""
        self.walk(cycle - (3 if walked is None else walked), asid, vpn)
        arg = _fill(asid=asid, entry=entry, level=level)
        first = vpn >> 9 * level << 9 * level
        self.hardware(cycle, Event.FILL, arg=arg, a=first, b=pte(pfn, writable=writable))

    def kill(self, cycle: int, *entries: int) -> None:
        """TLB entries die."""
        self.hardware(cycle, Event.KILL, b=sum(1 << entry for entry in entries))

    def use(
        self,
        begin: int,
        end: int | None,
        asid: int,
        va: int,
        pfn: int,
        *,
        id: int = 0,
        write: bool = False,
        beats: int = 1,
    ) -> None:
        """A burst on the memory side."""
        fields = {"asid": asid, "id": id, "write": write, "beats": beats}
        self.hardware(begin, Event.USE_BEGIN, arg=_access(**fields), a=va, b=pfn * PAGE + va % PAGE)
        if end is not None:
            self.hardware(end, Event.USE_END, arg=_access(**fields))

    def load(
        self,
        begin: int,
        end: int,
        asid: int,
        va: int,
        pfn: int,
        words: tuple[int, ...],
        *,
        id: int = 0,
        tag: int = 1,
    ) -> None:
        """A device read that is issued at ``begin``, used one cycle later, and ends with data at ``end``."""
        self.use(begin + 1, end, asid, va, pfn, id=id, beats=len(words))
        for beat in range(0, len(words), 2):
            pair = words[beat : beat + 2]
            arg = _load(asid=asid, id=id, beat=beat, count=len(pair))
            data = {"a": pair[0], "b": pair[1] if len(pair) > 1 else 0}
            self.hardware(end, Event.LOAD, tag=tag, arg=arg, **data)
        self._done(begin, end, asid, va, id=id, tag=tag, write=False, beats=len(words))

    def device_write(
        self,
        begin: int,
        end: int,
        asid: int,
        va: int,
        pfn: int,
        data: int,
        *,
        id: int = 0,
        tag: int = 1,
        beats: int = 1,
    ) -> None:
        """A device write whose descriptor is submitted now, issued at ``begin`` and done at ``end``."""
        self.row(Row.DMA_SUBMIT, mm=asid, vpn=va // PAGE, tag=tag, a=va, b=data)
        self.use(begin + 1, end, asid, va, pfn, id=id, write=True, beats=beats)
        self._done(begin, end, asid, va, id=id, tag=tag, write=True, beats=beats)

    def refused(
        self, begin: int, end: int, asid: int, va: int, *, tag: int = 1, write: bool = False
    ) -> None:
        """An access that is issued at ``begin`` and refused at ``end``."""
        fields = {"id": 0, "write": write, "beats": 1, "tag": tag}
        self._done(begin, end, asid, va, **fields, code=Response.SLVERR.value)

    def _done(
        self,
        begin: int,
        end: int,
        asid: int,
        va: int,
        code: int = Response.OKAY.value,
        **fields: int,
    ) -> None:
        arg = {name: fields[name] for name in ("id", "write", "beats")}
        packed = _access(asid=asid, code=code, **arg)
        self.hardware(end, Event.DMA_DONE, tag=fields["tag"], arg=packed, a=va, b=begin)

    def violation(
        self,
        cycle: int,
        asid: int,
        address: int,
        verdict: Verdict,
        *,
        id: int = 0,
        write: bool = False,
        walker: bool = False,
        beats: int = 1,
    ) -> None:
        """A record of the frame sanitizer."""
        arg = _access(asid=asid, id=id, write=write, code=verdict.value, beats=beats)
        self.hardware(cycle, Event.VIOLATION, source=int(walker), arg=arg, a=address)

    # --- the end -------------------------------------------------------------------------------------

    def history(self) -> History:
        """The finished run."""
        ordered = sorted(self._records, key=lambda record: record[0])
        words = [
            [record >> 64 * index & (1 << 64) - 1 for index in range(4)] for _, record in ordered
        ]
        self.timeline.append_records(np.array(words, np.uint64).reshape(-1, 4))
        return History(self.timeline, self.policy)

    def violations(self, *invariants: str) -> list[Violation]:
        """Run every check; keep the named invariants (all, where none is named)."""
        found = check(self.history())
        return [v for v in found if not invariants or v.invariant in invariants]
