"""The MMU of the model: TLB, walks, uses and the invalidation protocol."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from hostmm.model.clock import Clock
from hostmm.pack import packer, unpacker
from secmmu.csr import CONTEXT_BASE, CONTEXT_STRIDE, REGISTERS
from secmmu.layouts import (
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
_INVALIDATED_CYCLES = 2
_DRAINED_CYCLES = 3
_SV39 = 8


@dataclass(eq=False)
class Access:
    """One burst on its way: ``done(pa)`` or ``fault(cause)`` is called once."""

    asid: int
    id: int
    write: bool
    va: int
    beats: int
    granted: Callable[[int], None]
    faulted: Callable[[Cause], None]

    def arg(self, code: int = 0) -> int:
        """Pack it as a record's ``arg``."""
        return _ARG(asid=self.asid, id=self.id, write=self.write, code=code, beats=self.beats)


@dataclass(eq=False)
class _Entry:
    asid: int
    group: int | None
    first: int
    level: int
    pte: int

    @property
    def last(self) -> int:
        return self.first + (1 << 9 * self.level) - 1


@dataclass(eq=False)
class _Walk:
    access: Access
    killed: bool = False


@dataclass(eq=False)
class _Command:
    tag: int
    waits: set[object] = field(default_factory=set)
    invalidated: bool = False


@dataclass(eq=False)
class Use:
    """An access that has been granted and has not ended, and the entry that translated it."""

    access: Access
    entry: _Entry


class Mmu:
    """TLB, one walk and one front-end a direction, invalidation commands.

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
        self._contexts = [0] * asids
        self._tlb: list[_Entry | None] = [None] * entries
        self._victim = 0
        self._front: dict[bool, list[Access]] = {False: [], True: []}
        self._walks: dict[bool, _Walk | None] = {False: None, True: None}
        self._uses: list[Use] = []
        self._commands: list[_Command] = []
        self._holds: list[tuple[int, int, int]] = []
        self.counters = dict.fromkeys(REGISTERS, 0)
        self.counters["identity"] = 0x5ECC_0001

    # --- registers -----------------------------------------------------------------------------------

    def write_register(self, address: int, value: int) -> None:
        """Write a context row or the control register."""
        row, offset = divmod(address - CONTEXT_BASE, CONTEXT_STRIDE)
        if address >= CONTEXT_BASE and not offset and row < len(self._contexts):
            self._contexts[row] = value
        elif address == REGISTERS["control"].address and value & 1:
            self._tlb = [None] * len(self._tlb)
            self._holds.clear()

    def read_register(self, address: int) -> int:
        """Read a register; 0 where there is none."""
        if address >= CONTEXT_BASE:
            return self._contexts[(address - CONTEXT_BASE) // CONTEXT_STRIDE]
        self.counters["status"] = int(
            not (self._uses or self._commands or any(self._front.values()))
        )
        return next((self.counters[r.name] for r in REGISTERS.values() if r.address == address), 0)

    # --- accesses ------------------------------------------------------------------------------------

    def request(self, access: Access) -> None:
        """Take a burst; it waits behind earlier ones of its direction."""
        self.counters["mmu.accesses.writes" if access.write else "mmu.accesses.reads"] += 1
        queue = self._front[access.write]
        queue.append(access)
        if len(queue) == 1:
            self._clock.at(self._clock.cycle + 2, lambda: self._lookup(access, first=True))

    def _next(self, write: bool) -> None:
        queue = self._front[write]
        queue.pop(0)
        if queue:
            self._clock.at(self._clock.cycle + 2, lambda: self._lookup(queue[0], first=True))

    def _group(self, asid: int) -> int:
        return self._contexts[asid] >> 44 & 0xFF

    def _held(self, asid: int, first: int, last: int) -> bool:
        return any(a == asid and f <= last and first <= e for a, f, e in self._holds)

    def _lookup(self, access: Access, *, first: bool = False) -> None:
        vpn = access.va >> 12
        entry = None
        if not self._held(access.asid, vpn, vpn):
            entry = next((e for e in self._tlb if e and self._matches(e, access.asid, vpn)), None)
        allowed = entry is not None and _permits(_PTE(entry.pte), access.write)
        if first:
            self.counters["mmu.tlb.hits" if allowed else "mmu.tlb.misses"] += 1
        if entry is not None and allowed:
            self._grant(access, entry)
        else:
            self._walk(access)

    def _matches(self, entry: _Entry, asid: int, vpn: int) -> bool:
        mine = entry.asid == asid if entry.group is None else entry.group == self._group(asid)
        return mine and entry.first <= vpn <= entry.last

    def _grant(self, access: Access, entry: _Entry) -> None:
        use = Use(access, entry)
        self._uses.append(use)
        span = (1 << 9 * entry.level) - 1
        ppn = _PTE(entry.pte)["ppn"] & ~span | access.va >> 12 & span
        pa = ppn << 12 | access.va & 0xFFF
        self._clock.record(Event.USE_BEGIN, arg=access.arg(), a=access.va, b=pa)
        access.granted(pa)
        self._next(access.write)

    def end(self, access: Access, code: int) -> None:
        """End a granted access: the memory side has handshaken its last R beat or its B."""
        use = next(u for u in self._uses if u.access is access)
        self._uses.remove(use)
        self._clock.record(Event.USE_END, arg=access.arg(code))
        self._ended(use)

    def _ended(self, what: object) -> None:
        for command in self._commands:
            command.waits.discard(what)
        self._complete()

    def _fault(self, access: Access, cause: Cause) -> None:
        self.counters["mmu.faults"] += 1
        self._clock.record(Event.FAULT, arg=access.arg(cause.value), a=access.va)
        access.faulted(cause)
        self._next(access.write)

    # --- walks ---------------------------------------------------------------------------------------

    def _walk(self, access: Access) -> None:
        vpn = access.va >> 12
        if self._held(access.asid, vpn, vpn):
            return  # a release looks it up again
        page = Cause.STORE_PAGE if access.write else Cause.LOAD_PAGE
        context = self._contexts[access.asid]
        if context >> 60 != _SV39:
            self._fault(access, Cause.STORE_ACCESS if access.write else Cause.LOAD_ACCESS)
        elif access.va + (1 << 38) & ((1 << 64) - 1) >= 1 << 39:
            self._fault(access, page)
        else:
            self.counters["mmu.walks"] += 1
            walk = _Walk(access)
            self._walks[access.write] = walk
            self._clock.record(Event.WALK, arg=access.arg(), a=vpn)
            self._read_table(walk, context & ((1 << PPN_BITS) - 1), _LEVELS - 1)

    def _read_table(self, walk: _Walk, table: int, level: int) -> None:
        address = (table << 12) + 8 * (walk.access.va >> 12 + 9 * level & _INDEX)
        sampled = self._clock.cycle + self._latency()
        self._clock.at(sampled, lambda: self._table_read(walk, address, level))

    def _table_read(self, walk: _Walk, address: int, level: int) -> None:
        access = walk.access
        if walk.killed:
            self.counters["mmu.walks.killed"] += 1
            self._walks[access.write] = None
            self._clock.record(Event.WALK_KILLED, arg=access.arg(), a=access.va >> 12)
            self._ended(walk)
            self._clock.at(self._clock.cycle + 1, lambda: self._lookup(access))
            return
        if address >= self._memory.size * 8:
            self._walks[access.write] = None
            self._fault(access, Cause.STORE_ACCESS if access.write else Cause.LOAD_ACCESS)
            return
        self._check(address, None)
        word = int(self._memory[address // 8])
        pte = _PTE(word)
        leaf = pte["r"] or pte["x"]
        reserved = pte["reserved"] or pte["pbmt"] or pte["n"] or (pte["w"] and not pte["r"])
        if (
            not pte["v"]
            or reserved
            or (not leaf and (level == 0 or pte["a"] or pte["d"] or pte["u"]))
        ):
            self._refuse(access)
        elif not leaf:
            self._read_table(walk, pte["ppn"], level - 1)
        elif pte["ppn"] & ((1 << 9 * level) - 1) or not _permits(pte, access.write):
            self._refuse(access)
        else:
            self._fill(access, word, level)

    def _refuse(self, access: Access) -> None:
        self._walks[access.write] = None
        self._fault(access, Cause.STORE_PAGE if access.write else Cause.LOAD_PAGE)

    def _fill(self, access: Access, word: int, level: int) -> None:
        self._walks[access.write] = None
        first = access.va >> 12 & ~((1 << 9 * level) - 1)
        group = self._group(access.asid) if _PTE(word)["g"] else None
        entry = _Entry(access.asid, group, first, level, word)
        index = next(
            (
                i
                for i, e in enumerate(self._tlb)
                if e and self._matches(e, access.asid, access.va >> 12)
            ),
            None,
        )
        if index is None:
            index = self._victim
            self._victim = (self._victim + 1) % len(self._tlb)
        self._tlb[index] = entry
        self._clock.record(
            Event.FILL, arg=_FILL(asid=access.asid, entry=index, level=level), a=first, b=word
        )
        self._grant(access, entry)

    # --- commands ------------------------------------------------------------------------------------

    def command(
        self, kind: CommandKind, *, asid: int, first: int, last: int, hold: bool, tag: int
    ) -> None:
        """Accept an invalidation command in the current cycle."""
        self.counters["mmu.commands"] += 1
        self._clock.record(Event.ACCEPTED, tag=tag, arg=kind.value, a=first, b=last)
        if kind is CommandKind.RANGE and last < first:
            self._clock.at(
                self._clock.cycle + 1, lambda: self._clock.record(Event.REFUSED, tag=tag)
            )
            return
        command = _Command(tag)
        if kind is CommandKind.PAGE:
            last = first
        elif kind in (CommandKind.ASID, CommandKind.ALL):
            first, last = 0, (1 << 52) - 1
        if kind is CommandKind.RELEASE:
            self._release(asid, first, last)
        elif kind is CommandKind.FENCE:
            command.waits = set(self._commands)
        else:
            self._kill(command, None if kind is CommandKind.ALL else asid, first, last)
            if hold:
                self._holds.append((asid, first, last))
        self._commands.append(command)
        accepted = self._clock.cycle
        self._clock.at(accepted + _INVALIDATED_CYCLES, lambda: self._invalidated(command))
        self._clock.at(accepted + _DRAINED_CYCLES, self._complete)

    def _kill(self, command: _Command, asid: int | None, first: int, last: int) -> None:
        def overlaps(entry: _Entry) -> bool:
            mine = asid is None or entry.asid == asid
            if asid is not None and entry.group is not None:
                mine = mine or entry.group == self._group(asid)
            return mine and entry.first <= last and first <= entry.last

        bitmap = 0
        for index, entry in enumerate(self._tlb):
            if entry and overlaps(entry):
                self._tlb[index] = None
                bitmap |= 1 << index
        for base in range(0, len(self._tlb), 64):
            if bits := bitmap >> base & ((1 << 64) - 1):
                self._clock.record(Event.KILL, arg=base, b=bits)
        command.waits |= {use for use in self._uses if overlaps(use.entry)}
        for walk in self._walks.values():
            if (
                walk
                and (asid is None or asid == walk.access.asid)
                and first <= walk.access.va >> 12 <= last
            ):
                walk.killed = True
                command.waits.add(walk)

    def _release(self, asid: int, first: int, last: int) -> None:
        if (asid, first, last) in self._holds:
            self._holds.remove((asid, first, last))
        for queue in self._front.values():
            if queue and self._walks[queue[0].write] is None:
                access = queue[0]
                self._clock.at(self._clock.cycle + 1, partial(self._retry, access))

    def _retry(self, access: Access) -> None:
        waiting = self._front[access.write]
        if waiting and waiting[0] is access and self._walks[access.write] is None:
            self._lookup(access)

    def _invalidated(self, command: _Command) -> None:
        command.invalidated = True
        self._clock.record(Event.INVALIDATED, tag=command.tag)

    def _complete(self) -> None:
        for command in list(self._commands):
            if command.invalidated and not command.waits:
                self._commands.remove(command)
                self._clock.record(Event.DRAINED, tag=command.tag)
                for later in self._commands:
                    later.waits.discard(command)


def _permits(pte: dict[str, int], write: bool) -> bool:
    """Whether a leaf lets a user-mode device access through (Svade: A, and D for a write, must be set)."""
    return bool(pte["u"] and pte["a"] and (pte["w"] and pte["d"] if write else pte["r"]))


VERDICT_OF_KIND = {
    FrameKind.FREE: Verdict.FREED,
    FrameKind.TABLE: Verdict.FOREIGN,
    FrameKind.RESERVED: Verdict.FOREIGN,
}
"""What the sanitizer says of a device access to a frame that is not the user's."""
