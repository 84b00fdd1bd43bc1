"""What a litmus test says, parsed: pages, threads, rows of steps, and the outcome that is forbidden."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

__all__ = [
    "DENIED",
    "FAULT",
    "Address",
    "Condition",
    "PageSpec",
    "Row",
    "Script",
    "Stall",
    "Step",
    "Term",
]

DENIED = -1
"""Value of a register whose access was refused: the address is not mapped, or not for this."""
FAULT = "fault"
"""Where a device's step stalls: in the thread that serves its fault."""


@dataclass(frozen=True)
class PageSpec:
    """A named run of pages and how it is mapped.

    Parameters
    ----------
    kind : str
        ``anon``, ``tmpfs``, ``file``, ``pfn``, ``hole``, ``nonlinear``, ``hugetlb`` or ``kernel``.
    shared : bool
    pages : int
    value : int
        What fills a ``pfn`` page at the start.
    """

    name: str
    kind: str
    shared: bool
    pages: int
    value: int


@dataclass(frozen=True)
class Address:
    """``C.p+1[3]``: word 3 of the second page of ``p`` in address space ``C`` (None: the thread's own)."""

    mm: str | None
    page: str
    offset: int | None
    word: int


@dataclass(frozen=True)
class Stall:
    """Where a step stops until its thread is told to go on: before the ``nth`` ``step`` of the mm path ``path``."""

    path: str
    step: str
    nth: int


@dataclass(frozen=True)
class Step:
    """One cell of the table.

    Attributes
    ----------
    verb : str
    address, value, name : Address, int, str or None
        Its operands, whichever the verb has; ``target`` is a second address.
    register : str or None
        What its result is called in the forbidden clause.
    """

    verb: str
    text: str
    address: Address | None = None
    target: Address | None = None
    value: int | None = None
    name: str | None = None
    register: str | None = None
    stall: Stall | None = None


@dataclass(frozen=True)
class Row:
    """Steps that begin together, one or none a thread; ``free`` rows wait for nobody but their own thread."""

    steps: Mapping[str, Step]
    free: bool


@dataclass(frozen=True)
class Term:
    """``r1 == 0``, or the name of an invariant that was broken, or ``any invariant``."""

    register: str | None
    equal: bool
    value: int
    invariant: str | None = None

    def holds(self, registers: Mapping[str, int], broken: Collection[str]) -> bool:
        """Whether it is so; a register that was never set makes it false."""
        if self.invariant == "any invariant":
            return bool(broken)
        if self.invariant is not None:
            return self.invariant in broken
        if self.register is None or self.register not in registers:
            return False
        return (registers[self.register] == self.value) is self.equal


@dataclass(frozen=True)
class Condition:
    """Terms joined by ``and``, these joined by ``or``."""

    text: str
    alternatives: tuple[tuple[Term, ...], ...]

    def holds(self, registers: Mapping[str, int], broken: Collection[str]) -> bool:
        """Whether the outcome is one that the test forbids."""
        return any(all(t.holds(registers, broken) for t in terms) for terms in self.alternatives)


@dataclass(frozen=True)
class Script:
    """A litmus test.

    Attributes
    ----------
    threads : tuple of str
        Columns, in order.
    devices : mapping
        Columns that are devices, each with the address space that it works in.
    kinds : mapping
        Devices with a kind of subscriber of their own.
    mms : mapping
        Address spaces that are there from the start, with the CPUs that run each.
    shows : tuple of (policy, subscriber)
        Pairs that are known to show the forbidden outcome; ``*`` stands for any.
    patience_ns : int
        How long a row waits for a step that cannot go on: a lock, a bracket, a stalled thread, or much to do.
    memory_cycles, timeout_cycles : int or None
        Latency of the emulated memory, where the test needs a slow one; cycles until the MMU gives up on a command.
    """

    name: str
    title: str
    source: str
    mms: Mapping[str, int]
    pages: Mapping[str, PageSpec]
    threads: tuple[str, ...]
    devices: Mapping[str, str]
    kinds: Mapping[str, str]
    rows: tuple[Row, ...]
    forbidden: Condition
    shows: tuple[tuple[str, str], ...]
    memory_cycles: int | None
    timeout_cycles: int | None
    patience_ns: int
    text: str

    @property
    def registers(self) -> tuple[str, ...]:
        """Every register, in order of its first step."""
        steps = (step for row in self.rows for step in row.steps.values())
        return tuple(dict.fromkeys(s.register for s in steps if s.register is not None))

    def shown_by(self, policy: str, subscriber: str) -> bool:
        """Whether this policy with this subscriber is known to show the forbidden outcome."""
        return any(p in ("*", policy) and s in ("*", subscriber) for p, s in self.shows)
