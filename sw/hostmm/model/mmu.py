"""The MMU of the model: front-ends, walks, uses, faults that stall, drop-ins."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from hostmm.driver.pack import packer, unpacker
from hostmm.model.clock import Clock
from hostmm.model.commands import Commands, Waitable
from hostmm.model.tlb import Entry, Span, Tlb, is_leaf, is_malformed, permits
from secmmu.csr import CONTEXT_BASE, CONTEXT_STRIDE, REGISTERS
from secmmu.layouts import (
    GRAIN_SHIFTS,
    PPN_BITS,
    AccessArg,
    Cause,
    CommandKind,
    Event,
    FillArg,
    FrameKind,
    PteLayout,
    Verdict,
)

__all__ = ["Access", "Mmu"]

_ARG = packer(AccessArg())
_FILL = packer(FillArg())
_PTE = unpacker(PteLayout())
_LEVELS = 3
_INDEX = 511
_SV39 = 8
_WALKER_GRAINS = tuple(GRAIN_SHIFTS.index(9 * level) for level in range(_LEVELS))
"""The grain of a leaf at each level of Sv39; the walker of the model knows no other."""


@dataclass(eq=False)
class Access:
    """One burst on its way: ``granted(pa)`` or ``faulted(cause)`` is called once."""

    asid: int
    id: int
    write: bool
    va: int
    beats: int
    granted: Callable[[int], None]
    faulted: Callable[[Cause], None]
    epoch: int = 0
    """Commands accepted, and soft resets, before its last lookup."""

    @property
    def vpn(self) -> int:
        """The page that it touches."""
        return self.va >> 12

    def arg(self, code: int = 0, *, stalled: bool = False) -> int:
        """Pack it as a record's ``arg``."""
        return _ARG(
            asid=self.asid,
            id=self.id,
            write=self.write,
            code=code,
            beats=self.beats,
            stalled=stalled,
        )

    def cause(self, *, page: bool) -> Cause:
        """Return what its fault is called."""
        if page:
            return Cause.STORE_PAGE if self.write else Cause.LOAD_PAGE
        return Cause.STORE_ACCESS if self.write else Cause.LOAD_ACCESS


@dataclass(eq=False)
class _Walk:
    access: Access
    killed: bool = False

    @property
    def asid(self) -> int:
        return self.access.asid

    def arg(self, code: int = 0) -> int:
        """Pack it as a record's ``arg``: each direction has one walk, whose number is the direction's."""
        access = self.access
        return _ARG(
            asid=access.asid,
            id=int(access.write),
            write=access.write,
            code=code,
            beats=access.beats,
        )


@dataclass(eq=False)
class _Use:
    """An access that has been granted and has not ended, and the entry that translated it."""

    access: Access
    entry: Entry

    @property
    def asid(self) -> int:
        return self.access.asid


@dataclass
class _Context:
    """One row of the context table; ``fenced`` since a command gave up on it, until software unfences it."""

    word: int = 0
    fenced: bool = False

    @property
    def root(self) -> int:
        return self.word & ((1 << PPN_BITS) - 1)

    @property
    def group(self) -> int:
        return self.word >> 44 & 0xFF

    @property
    def stall(self) -> bool:
        return bool(self.word >> 52 & 1) and not self.fenced

    @property
    def walkable(self) -> bool:
        return self.word >> 60 == _SV39 and not self.fenced


@dataclass
class _Front:
    """One direction: accesses in order of arrival, and the walk of the first of them."""

    queue: list[Access] = field(default_factory=list)
    walk: _Walk | None = None


class Mmu:
    """TLB, one walk and one front-end a direction, invalidation commands, drop-ins.

    An access that stalls leaves its front-end, so that it holds up no other; a resumed one queues again. Its place
    is its id and direction, so there is always one.

    Parameters
    ----------
    clock : Clock
    memory : numpy.ndarray
        The emulated memory, uint64 words.
    asids, entries : int
        Rows of the context table, entries of the TLB.
    check : callable
        ``check(pa, access or None)``: the frame sanitizer; None for a page-table read.
    latency : callable
        Current read latency of the memory in cycles.
    """

    def __init__(
        self,
        clock: Clock,
        memory: np.ndarray,
        *,
        asids: int,
        entries: int,
        check: Callable[[int, Access | None], None],
        latency: Callable[[], int],
    ) -> None:
        self._clock = clock
        self._memory = memory
        self._check = check
        self._latency = latency
        self._contexts = [_Context() for _ in range(asids)]
        self._tlb = Tlb(entries)
        self._fronts = {False: _Front(), True: _Front()}
        self._uses: list[_Use] = []
        self._stalled: dict[int, tuple[Access, Cause]] = {}
        self._commands = Commands(clock, kill=self._kill, timed_out=self._fence)
        self._counters = dict.fromkeys(REGISTERS, 0)
        self._counters["identity"] = 0x5ECC_0001

    # --- registers -----------------------------------------------------------------------------------

    def write_register(self, address: int, value: int) -> None:
        """Write a context row, the control register, the time-out or the asid to unfence."""
        row, offset = divmod(address - CONTEXT_BASE, CONTEXT_STRIDE)
        if address >= CONTEXT_BASE and not offset and row < len(self._contexts):
            self._contexts[row].word = value
        elif address == REGISTERS["mmu.timeout"].address:
            self._counters["mmu.timeout"] = self._commands.timeout = value
        elif address == REGISTERS["mmu.unfence"].address:
            # Refused while a use of it is left.
            context = self._contexts[value % len(self._contexts)]
            context.fenced = context.fenced and any(use.asid == value for use in self._uses)
        elif address == REGISTERS["control"].address and value & 1:
            self._tlb.clear()
            self._commands.clear()

    def read_register(self, address: int) -> int:
        """Read a register; 0 where there is none."""
        if address >= CONTEXT_BASE:
            return self._contexts[(address - CONTEXT_BASE) // CONTEXT_STRIDE].word
        waiting = self._stalled or any(front.queue for front in self._fronts.values())
        self._counters["status"] = int(not (self._uses or self._commands.busy or waiting))
        self._counters["mmu.commands"] = self._commands.accepted
        return next((self._counters[r.name] for r in REGISTERS.values() if r.address == address), 0)

    def _fence(self, asids: set[int]) -> None:
        for asid in asids:
            self._contexts[asid].fenced = True

    def _group(self, asid: int) -> int:
        return self._contexts[asid].group

    # --- accesses ------------------------------------------------------------------------------------

    def request(self, access: Access) -> None:
        """Take a burst; it waits behind earlier ones of its direction."""
        self._counters["mmu.accesses.writes" if access.write else "mmu.accesses.reads"] += 1
        self._enter(access)

    def _enter(self, access: Access) -> None:
        queue = self._fronts[access.write].queue
        queue.append(access)
        if len(queue) == 1:
            self._clock.at(self._clock.cycle + 2, lambda: self._lookup(access, first=True))

    def _next(self, write: bool) -> None:
        queue = self._fronts[write].queue
        queue.pop(0)
        if queue:
            self._clock.at(self._clock.cycle + 2, lambda: self._lookup(queue[0], first=True))

    def _lookup(self, access: Access, *, first: bool = False) -> None:
        access.epoch = self._commands.epoch
        if not self._contexts[access.asid].walkable:
            self._fault(access, access.cause(page=False))
            return
        entry = None
        if not self._commands.held(access.asid, access.vpn, access.vpn):
            entry = self._tlb.find(access.asid, self._group(access.asid), access.vpn)
        allowed = entry is not None and permits(entry.pte, access.write)
        if first:
            self._counters["mmu.tlb.hits" if allowed else "mmu.tlb.misses"] += 1
        if entry is not None and allowed:
            self._grant(access, entry)
        else:
            self._walk(access)

    def _grant(self, access: Access, entry: Entry) -> None:
        use = _Use(access, entry)
        self._uses.append(use)
        entry.used = True
        pa = entry.address(access.va)
        self._clock.record(Event.USE_BEGIN, arg=access.arg(), a=access.va, b=pa)
        access.granted(pa)
        self._next(access.write)

    def end(self, access: Access, code: int) -> None:
        """End a granted access: the memory side has handshaken its last R beat or its B."""
        use = next(u for u in self._uses if u.access is access)
        self._uses.remove(use)
        self._clock.record(Event.USE_END, arg=access.arg(code))
        self._commands.ended(use)

    def _fault(self, access: Access, cause: Cause) -> None:
        self._counters["mmu.faults"] += 1
        stalled = self._contexts[access.asid].stall
        place = access.id << 1 | access.write
        self._clock.record(
            Event.FAULT,
            tag=place if stalled else 0,
            arg=access.arg(cause.value, stalled=stalled),
            a=access.va,
            b=access.epoch,
        )
        if stalled:
            self._stalled[place] = access, cause
        else:
            access.faulted(cause)
        self._next(access.write)

    def resume(self, place: int, *, retry: bool) -> None:
        """Translate a stalled access again, or answer it SLVERR; nothing where none stalls in ``place``."""
        access, cause = self._stalled.pop(place, (None, None))
        if access is not None and retry:
            self._enter(access)
        elif access is not None and cause is not None:
            access.faulted(cause)

    # --- walks ---------------------------------------------------------------------------------------

    def _walk(self, access: Access) -> None:
        if self._commands.held(access.asid, access.vpn, access.vpn):
            return  # a release looks it up again
        if access.va + (1 << 38) & ((1 << 64) - 1) >= 1 << 39:
            self._fault(access, access.cause(page=True))
            return
        self._counters["mmu.walks"] += 1
        walk = _Walk(access)
        self._fronts[access.write].walk = walk
        self._clock.record(Event.WALK, arg=walk.arg(), a=access.vpn)
        self._read_table(walk, self._contexts[access.asid].root, _LEVELS - 1)

    def _read_table(self, walk: _Walk, table: int, level: int) -> None:
        address = (table << 12) + 8 * (walk.access.vpn >> 9 * level & _INDEX)
        sampled = self._clock.cycle + self._latency()
        self._clock.at(sampled, lambda: self._table_read(walk, address, level))

    def _table_read(self, walk: _Walk, address: int, level: int) -> None:
        access = walk.access
        if walk.killed:
            self._counters["mmu.walks.killed"] += 1
            self._end_walk(walk, Event.WALK_KILLED, walk.arg(), access.vpn)
            self._commands.ended(walk)
            self._clock.at(self._clock.cycle + 1, lambda: self._lookup(access))
            return
        if address >= self._memory.size * 8:
            self._refuse(walk, access.cause(page=False))
            return
        self._check(address, None)
        word = int(self._memory[address // 8])
        pte = _PTE(word)
        if is_malformed(pte, 9 * level):
            self._refuse(walk, access.cause(page=True))
        elif not is_leaf(pte):
            self._read_table(walk, pte["ppn"], level - 1)
        elif not permits(pte, access.write):
            self._refuse(walk, access.cause(page=True))
        else:
            self._end_walk(walk, Event.WALKED, walk.arg(), access.vpn, word)
            self._grant(
                access, self._fill(access.asid, access.vpn, word, _WALKER_GRAINS[level], level)
            )

    def _end_walk(self, walk: _Walk, kind: Event, arg: int, a: int, b: int = 0) -> None:
        self._fronts[walk.access.write].walk = None
        self._clock.record(kind, arg=arg, a=a, b=b)

    def _refuse(self, walk: _Walk, cause: Cause) -> None:
        self._end_walk(walk, Event.WALK_REFUSED, walk.arg(cause.value), walk.access.vpn)
        self._fault(walk.access, cause)

    def _fill(self, asid: int, vpn: int, word: int, grain: int, level: int) -> Entry:
        group = self._group(asid)
        entry = Entry.make(word, asid=asid, group=group, vpn=vpn, grain=grain)
        index = self._tlb.insert(entry, group, vpn)
        self._clock.record(
            Event.FILL, arg=_FILL(asid=asid, entry=index, level=level), a=entry.first, b=word
        )
        return entry

    def drop_in(self, *, asid: int, vpn: int, grain: int, pte: int, epoch: int, tag: int) -> None:
        """Take an entry that software offers, unless it may be stale (DropinLayout says when)."""
        taken = grain in _WALKER_GRAINS and self._fits(asid, vpn, grain, pte, epoch)
        if taken:
            self._fill(asid, vpn, pte, grain, _WALKER_GRAINS.index(grain))
        self._clock.record(Event.DROPPED, tag=tag, arg=int(taken))

    def _fits(self, asid: int, vpn: int, grain: int, pte: int, epoch: int) -> bool:
        fields = _PTE(pte)
        if is_malformed(fields, GRAIN_SHIFTS[grain]) or not is_leaf(fields):
            return False
        if not self._contexts[asid].walkable:
            return False
        entry = Entry.make(pte, asid=asid, group=self._group(asid), vpn=vpn, grain=grain)
        if self._commands.held(asid, entry.first, entry.last):
            return False
        return not self._commands.overtaken(epoch, asid, entry.group, entry.first, entry.last)

    # --- commands ------------------------------------------------------------------------------------

    def command(
        self,
        kind: CommandKind,
        *,
        asid: int,
        first: int,
        last: int,
        tag: int,
        hold: bool = False,
        keep_global: bool = False,
    ) -> None:
        """Accept an invalidation command in the current cycle."""
        self._clock.record(Event.ACCEPTED, tag=tag, arg=kind.value, a=first, b=last)
        group, young = self._group(asid), False
        if kind is CommandKind.PAGE:
            last = first
        span = Span(asid, group, first, last, keep_global)
        if kind in (CommandKind.ASID, CommandKind.CONTEXT):
            span = Span(asid, group, keep_global=keep_global and kind is CommandKind.ASID)
        elif kind is CommandKind.ALL:
            span = Span(None, group)
        elif kind is CommandKind.YOUNG:
            entry = self._tlb.find(asid, group, first)
            if entry is not None:
                young, entry.used = entry.used, False
        self._commands.accept(kind, span, tag=tag, hold=hold, young=young)
        if kind is CommandKind.RELEASE:
            self._release(span)

    def _kill(self, span: Span) -> list[Waitable]:
        for base, bits in self._tlb.kill(span):
            self._clock.record(Event.KILL, arg=base, b=bits)
        waits: list[Waitable] = [use for use in self._uses if span.covers(use.entry)]
        for front in self._fronts.values():
            walk = front.walk
            if walk is None:
                continue
            asid, vpn = walk.asid, walk.access.vpn
            # It may find a global entry, or one of its asid alone.
            if any(span.meets(asid, group, vpn, vpn) for group in (self._group(asid), None)):
                walk.killed = True
                waits.append(walk)
        return waits

    def _release(self, span: Span) -> None:
        self._commands.release(span)
        for front in self._fronts.values():
            if front.queue and front.walk is None:
                self._clock.at(self._clock.cycle + 1, partial(self._retry, front.queue[0]))

    def _retry(self, access: Access) -> None:
        front = self._fronts[access.write]
        if front.queue and front.queue[0] is access and front.walk is None:
            self._lookup(access)


VERDICT_OF_KIND = {
    FrameKind.FREE: Verdict.FREED,
    FrameKind.TABLE: Verdict.FOREIGN,
    FrameKind.RESERVED: Verdict.FOREIGN,
}
"""What the sanitizer says of a device access to a frame that is not the user's."""
