"""The things a timeline tells of, each with the rows (positions in the merged timeline) at which it began and ended.

A *row* orders everything exactly; a *cycle* says what happened together. What one emulated cycle holds is
compared by cycle: a fill or a use that begins in the very cycle of a command's handshake counts as before it.
"""

from dataclasses import dataclass, field

from hostmm.machine.timeline import CommandFlag, Notification
from secmmu.config import SWEEP_CYCLES
from secmmu.layouts import PAGE_BITS, CommandKind, Event

__all__ = ["NEVER", "Callback", "Command", "Entry", "Freed", "Use", "Walk"]

NEVER = 1 << 62
"""Row and cycle of what did not happen."""

_INVALIDATING = (CommandKind.PAGE, CommandKind.RANGE, CommandKind.ASID, CommandKind.ALL)


@dataclass(slots=True, eq=False)
class Command:
    """One invalidation command at the MMU's port.

    Attributes
    ----------
    asid, first, last : int
        What it names; ``last`` inclusive.
    mm : int
        The address space that the asid stands for.
    path, span, thread, callback : int
        Who issued it, from its INV_ISSUE row; ``callback`` 0 where no notifier did.
    flags : CommandFlag
    entries, uses : list
        Overlapping TLB entries and uses in flight at its handshake.
    open_at_drained : list of Use
        Overlapping uses that were open when *drained* came (ones that end in that cycle included).
    """

    tag: int
    kind: CommandKind
    asid: int
    mm: int
    first: int
    last: int
    path: int
    span: int
    thread: int
    callback: int
    flags: CommandFlag
    issue: int
    issue_cycle: int
    accepted: int = NEVER
    accepted_cycle: int = NEVER
    invalidated: int = NEVER
    invalidated_cycle: int = NEVER
    drained: int = NEVER
    drained_cycle: int = NEVER
    refused: bool = False
    timed_out: int = NEVER
    entries: "list[Entry]" = field(default_factory=list)
    uses: "list[Use]" = field(default_factory=list)
    open_at_drained: "list[Use]" = field(default_factory=list)

    @property
    def invalidates(self) -> bool:
        """Whether anything dies of it: not a fence, not a release, not refused."""
        return self.kind in _INVALIDATING and not self.refused

    def overlaps(self, asid: int, first: int, last: int) -> bool:
        """Whether it names a page from ``first`` to ``last`` of ``asid``."""
        match self.kind:
            case CommandKind.PAGE:
                return asid == self.asid and first <= self.first <= last
            case CommandKind.RANGE:
                return asid == self.asid and first <= self.last and last >= self.first
            case CommandKind.ASID:
                return asid == self.asid
            case CommandKind.ALL:
                return True
        return False

    def covers(self, mm: int, vpn: int) -> bool:
        """Whether it names a page of an address space."""
        return (mm == self.mm or self.kind is CommandKind.ALL) and self.overlaps(
            self.asid, vpn, vpn
        )

    def outdates(self, use: "Use") -> bool:
        """Whether the translation of ``use`` was obtained before the handshake."""
        if use.begin_cycle <= self.accepted_cycle:
            return True
        return use.entry is not None and use.entry.obtained_cycle < self.accepted_cycle


@dataclass(slots=True, eq=False)
class Walk:
    """One page-table walk. ``doom`` is the first overlapping command accepted while it ran."""

    asid: int
    mm: int
    id: int
    write: bool
    vpn: int
    begin: int
    begin_cycle: int
    end: int = NEVER
    outcome: Event | None = None
    doom: Command | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """One TLB entry while it was valid: pages ``first`` to ``last`` of ``asid`` map to frames from ``frame`` on.

    ``mm`` is the address space that the asid stood for. ``walk`` is the walk that it came of; of a drop-in it is
    None, and ``latched`` the last cycle of which software says that its PTE was true.

    ``doom`` is the first overlapping command accepted while it was valid; ``killed`` says that a KILL ended it
    (else it was replaced, or lived to the end).
    """

    index: int
    asid: int
    mm: int
    first: int
    last: int
    frame: int
    writable: bool
    begin: int
    begin_cycle: int
    walk: Walk | None
    end: int = NEVER
    end_cycle: int = NEVER
    killed: bool = False
    doom: Command | None = None
    latched: int | None = None

    def hits_behind(self, row: int) -> bool:
        """Whether it may hit behind a row: it is there, and no command that overlaps it was invalidated."""
        dead = self.doom is not None and self.doom.invalidates and self.doom.invalidated < row
        return self.end > row and not dead

    def outlives(self, command: Command) -> bool:
        """Whether it is there for longer than dead entries take to be cleared."""
        return command.invalidates and self.end_cycle > command.invalidated_cycle + SWEEP_CYCLES

    @property
    def obtained_cycle(self) -> int:
        """When its walk began, or its drop-in was latched: it may hold a PTE as old as that."""
        if self.walk:
            return self.walk.begin_cycle
        return self.begin_cycle if self.latched is None else self.latched

    def translates(self, vpn: int, pfn: int) -> bool:
        """Whether it maps ``vpn`` to ``pfn``."""
        return self.first <= vpn <= self.last and self.frame + vpn - self.first == pfn

    def maps(self, pfn: int) -> bool:
        """Whether any of its pages is ``pfn``."""
        return self.frame <= pfn <= self.frame + self.last - self.first


@dataclass(slots=True, eq=False)
class Use:
    """One burst on the memory side. ``entry`` is the translation it went through, None when none ever said so."""

    asid: int
    mm: int
    id: int
    write: bool
    beats: int
    va: int
    pa: int
    begin: int
    begin_cycle: int
    end: int = NEVER
    end_cycle: int = NEVER
    code: int = 0
    entry: Entry | None = None
    from_free: bool = False
    """Whether its frame was free when it began."""

    @property
    def vpn(self) -> int:
        """Virtual page."""
        return int(self.va >> PAGE_BITS)

    @property
    def pfn(self) -> int:
        """Physical frame."""
        return int(self.pa >> PAGE_BITS)

    @property
    def name(self) -> str:
        """How a message calls it."""
        kind = "write" if self.write else "read"
        return f"{kind} of asid {self.asid} id {self.id} at va {self.va:#x} (frame {self.pfn:#x})"


@dataclass(slots=True, eq=False)
class Callback:
    """One call of one subscriber, with what it returned.

    ``open_at_end`` are the uses of its pages in flight when it returned.
    """

    number: int
    subscriber: int
    kind: Notification
    mm: int
    first: int
    last: int
    path: int
    span: int
    thread: int
    begin: int
    end: int = NEVER
    result: int = 0
    commands: list[Command] = field(default_factory=list)
    open_at_end: list[Use] = field(default_factory=list)

    def covers(self, mm: int, vpn: int) -> bool:
        """Whether it is about that page."""
        return mm == self.mm and self.first <= vpn <= self.last


@dataclass(slots=True, eq=False)
class Freed:
    """A frame was freed: the entries and uses that still reached it at that moment."""

    row: int
    pfn: int
    entries: list[Entry]
    uses: list[Use]
