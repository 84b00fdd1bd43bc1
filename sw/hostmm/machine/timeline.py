"""The timeline: one append-only record of what happened when; every measure and check is computed from it.

Host rows are appended in the order in which the host performs them; hardware records arrive in blocks. The exact
emulated cycle of a host row is known once the hardware has answered (a command may wait at its port), so
:meth:`Timeline.columns` computes it at the end: a row performed at cycle *c* came before everything that the
hardware did in cycle *c*.
"""

import enum
from dataclasses import dataclass

import numpy as np

from secmmu.layouts import Event

__all__ = [
    "COLUMNS",
    "HARDWARE",
    "INTERVAL",
    "CommandFlag",
    "LockClass",
    "Notification",
    "Row",
    "Timeline",
]

COLUMNS = (
    "cycle",
    "ns",
    "hw",
    "kind",
    "thread",
    "path",
    "span",
    "mm",
    "vpn",
    "pfn",
    "tag",
    "a",
    "b",
    "c",
)
"""Columns of the merged timeline, all int64 but ``a`` and ``b`` (uint64).

``cycle``  emulated cycle; ``ns`` host time (for hardware rows: cycle times clock period)
``hw``     1 for a hardware record, 0 for a host row
``kind``   :class:`Row` or, where ``hw``, :class:`secmmu.layouts.Event`
``thread`` index into :attr:`Timeline.threads`; for hardware rows the record's ``source``
``path``   index into :attr:`Timeline.paths` (0: outside every mm path); for hardware rows 0
``span``   number of the path instance (0: none); for hardware rows the record's ``arg``
``mm``     address-space number (0: none); ``vpn``, ``pfn`` -1 where they mean nothing
``tag``    see :class:`Row`; for hardware rows the record's tag
``c``      see :class:`Row`; 0 for hardware rows
"""

HARDWARE = 1
_LAST_ANSWER = Event.CSR_DATA.value
"""Records up to this kind answer the host, and tell nothing of what the MMU does: ADVANCED, READ_DATA, SWAPPED."""


class LockClass(enum.IntEnum):
    """What a lock protects; the ``tag`` of lock rows."""

    PTL = 0
    RMAP = 1
    MMAP = 2
    PAGE = 3
    DRIVER = 4


class Notification(enum.IntEnum):
    """Kinds of callback that a notifier chain delivers; the ``tag`` of notification rows."""

    INVALIDATE_PAGE = 0
    CLEAR_FLUSH_YOUNG = 1
    RANGE_START = 2
    RANGE_END = 3
    RELEASE = 4
    INVALIDATE_RANGE = 5
    CHANGE_PTE = 6
    TEST_YOUNG = 7


INTERVAL = 1 << 15
"""Beside the bits of SUBSCRIBE's ``a``: interval notifiers, of which a start that is refused has begun nothing."""


class CommandFlag(enum.IntFlag):
    """What a command says beside its kind and span; the ``c`` of INV_ISSUE rows."""

    HOLD = 1
    LEAF_ONLY = 2
    WHOLE_ASID = 4


class Row(enum.IntEnum):
    """Kinds of host row. Columns not named are 0 (-1 for vpn and pfn).

    ====================  ===============================================================================
    ``PATH_BEGIN/END``    an mm path begins / returns; ``a`` of END: its result
    ``PTE_SET``           mm, vpn, pfn; ``a`` new PTE word, ``b`` old PTE word; ``tag`` 1 where it is a base page of
                          what ``PMD_SET`` or ``PMD_CLEAR``, just before it, changed as a whole
    ``PTE_CLEAR``         mm, vpn, pfn (of the old PTE); ``a`` old PTE word; ``tag`` as PTE_SET
    ``PMD_SET``           a 2 MiB leaf or a leaf table is put into the tables: as PTE_SET, ``a``, ``b`` the words there
    ``PMD_CLEAR``         it is taken out: as PTE_CLEAR
    ``LOCK``              ``tag`` LockClass, ``a`` lock number, ``b`` ns waited; ``mm`` 1 where it is taken shared
    ``UNLOCK``            the same, ``b`` ns held
    ``ALLOC`` ``FREE``    pfn; ``tag`` FrameKind at ALLOC
    ``GET`` ``PUT``       pfn; ``a`` references after it
    ``MAPCOUNT``          pfn; ``tag`` 1 up, 0 down; ``a`` mapcount after it; ``c`` 1 anonymous
    ``RSS``               the mm maps ``a`` pages of a kind (``tag`` 1 anonymous, 0 of files), before it was ``b``
    ``PAGE_DIRTY``        pfn; ``tag`` 1 set, 0 cleared; ``a`` 1 where PG_dirty changed
    ``WRITEBACK``         pfn; the page's content is taken for the store now (copied to ``a``, bytes)
    ``NOTIFY_BEGIN/END``  one callback to one subscriber: mm, vpn first page, ``tag`` Notification,
                          ``a`` last page (inclusive), ``b`` callback number, ``c`` the subscriber's number;
                          END: ``a`` its result
    ``INV_ISSUE``         a command reaches the MMU's port: mm, vpn first, ``tag`` command tag, ``a`` last,
                          ``b`` callback number, ``c`` :class:`CommandFlag`
    ``STORE``             a CPU stores: mm, vpn, pfn; ``a`` physical address, ``b`` value
    ``LOAD``              a CPU loads: mm, vpn, pfn; ``a`` physical address
    ``COPY``              pfn destination frame; ``tag`` words; ``a`` destination, ``b`` source (bytes)
    ``FILL``              pfn; ``tag`` words; ``a`` destination, ``b`` value
    ``DMA_SUBMIT``        a descriptor reaches its queue: mm, vpn; ``tag`` its tag; ``a`` va, ``b`` data
    ``DMA_DROP``          the access was given up (its address is gone): as DMA_SUBMIT
    ``FAULT_BEGIN/END``   a fault (CPU's or device's) is handled: mm, vpn; ``tag`` 1 device; ``a`` 1 write
    ``TEARDOWN``          exit_mmap is about to clear its first PTE: mm
    ``ARCH_EXIT``         ``arch_exit_mmap``, the architecture's part of exit_mmap, is called: mm
    ``OBJECT``            an object of a driver's is read (``tag`` 0) or freed (1): ``a`` its number
    ``RECLAIMED``         pfn is about to be freed by reclaim
    ``ADDED``             something that the trace does not hold was added: ``tag`` 1 nonlinear, 2 xip
    ``SUBSCRIBE``         a subscriber is registered with (``tag`` 1) or leaves (0) a notifier chain: mm; ``a`` has
                          a bit for each kind of Notification that it has a method for, :data:`INTERVAL`, ``b`` its
                          number, ``c``
                          the handle of its device's context (0: it has none)
    ``SLEEP_IN_ATOMIC``   the thread may sleep where it must not (I12): ``tag`` :class:`hostmm.machine.lockdep.Atomic`, ``a``
                          the number of the innermost spinlock it holds (0: none), ``b`` its LockClass
    ``LOCK_INVERSION``    a lock is wanted under another, against the order of their classes so far: ``tag`` its
                          LockClass, ``a`` its number, ``b`` the other's
    ``CPU_FLUSH``         the CPUs' TLBs have been flushed: mm, vpn first page, ``a`` last page; ``tag`` 1 where only
                          accessed bits changed
    ``CACHE_FLUSH``       flush_cache_page: mm, vpn
    ``UNREGISTERED``      unregistration of a subscriber returns: mm; ``b`` its number
    ``TABLE``             a page-table page is linked (``tag`` 1) or unlinked (0): mm, vpn first page below it, pfn its
                          frame, ``a`` its level (0: it holds base PTEs)
    ``CONTEXT``           the device is given an address space (``tag`` 1), or loses it (0): mm, pfn the root of the
                          tables that it walks, ``a`` the asid, ``c`` the context's handle
    ``DROP_IN``           an entry is offered to the MMU: mm, vpn, pfn; ``tag`` its tag, ``a`` PTE, ``b`` epoch
    ``RESUME``            a stalled access goes on: mm, vpn; ``tag`` its place, ``a`` 1 to try again, 0 to fail
    ``CONTEXT``           the device is given an address space (``tag`` 1), or loses it (0): mm, ``a`` the asid
    ``REGISTER``          a litmus test's register is set: ``tag`` its number, ``a`` 0 to ``b``, 1 to what the device's
                          transfer with tag ``b`` loaded, 2: the access was refused
    ====================  ===============================================================================
    """

    PATH_BEGIN = 64
    PATH_END = 65
    PTE_SET = 66
    PTE_CLEAR = 67
    LOCK = 68
    UNLOCK = 69
    ALLOC = 70
    FREE = 71
    GET = 72
    PUT = 73
    MAPCOUNT = 74
    PAGE_DIRTY = 75
    WRITEBACK = 76
    NOTIFY_BEGIN = 77
    NOTIFY_END = 78
    INV_ISSUE = 79
    STORE = 80
    LOAD = 81
    COPY = 82
    FILL = 83
    DMA_SUBMIT = 84
    DMA_DROP = 85
    FAULT_BEGIN = 86
    FAULT_END = 87
    TEARDOWN = 88
    RECLAIMED = 89
    ADDED = 90
    SUBSCRIBE = 91
    SLEEP_IN_ATOMIC = 92
    LOCK_INVERSION = 93
    CPU_FLUSH = 94
    CACHE_FLUSH = 95
    UNREGISTERED = 96
    TABLE = 97
    CONTEXT = 98
    RSS = 99
    PMD_SET = 100
    PMD_CLEAR = 101
    DROP_IN = 102
    RESUME = 103
    ARCH_EXIT = 104
    OBJECT = 105
    REGISTER = 120


@dataclass
class _Block:
    """Hardware records received when ``host_rows`` host rows had been appended."""

    host_rows: int
    records: np.ndarray


class Timeline:
    """Collects host rows and hardware records of one run.

    Parameters
    ----------
    cycle_ns : int
        Period of the emulated clock in ns.
    """

    def __init__(self, *, cycle_ns: int) -> None:
        self.cycle_ns = cycle_ns
        self.threads: list[str] = ["-"]
        self.paths: list[str] = ["-"]
        self._path_numbers = {"-": 0}
        self._rows: list[tuple[int, ...]] = []
        self._blocks: list[_Block] = []

    def thread(self, name: str) -> int:
        """Register a thread; return its number."""
        self.threads.append(name)
        return len(self.threads) - 1

    def path(self, name: str) -> int:
        """Return the number of a path name, registering it the first time."""
        if name not in self._path_numbers:
            self._path_numbers[name] = len(self.paths)
            self.paths.append(name)
        return self._path_numbers[name]

    def append(
        self,
        kind: Row,
        *,
        cycle: int,
        ns: int,
        thread: int,
        path: int,
        span: int,
        mm: int = 0,
        vpn: int = -1,
        pfn: int = -1,
        tag: int = 0,
        a: int = 0,
        b: int = 0,
        c: int = 0,
    ) -> None:
        """Append one host row; ``cycle`` is the cycle planned for it."""
        self._rows.append((cycle, ns, 0, kind, thread, path, span, mm, vpn, pfn, tag, a, b, c))

    def append_records(self, records: np.ndarray) -> None:
        """Append a block of hardware records, shape (n, 4) uint64, as they came over the link."""
        if len(records):
            self._blocks.append(_Block(len(self._rows), records))

    def columns(self) -> dict[str, np.ndarray]:
        """Merge everything in order of cycle; host rows of a cycle precede its hardware records.

        Returns
        -------
        dict
            One array a column of :data:`COLUMNS`, all of the same length.
        """
        records = (
            np.concatenate([block.records for block in self._blocks])
            if self._blocks
            else np.zeros((0, 4), np.uint64)
        )
        host = self._host_columns(records)
        hardware = self._hardware_columns(records)
        merged = {name: np.concatenate([host[name], hardware[name]]) for name in COLUMNS}
        order = np.lexsort((merged["hw"], merged["cycle"]))
        return {name: column[order] for name, column in merged.items()}

    def _host_columns(self, records: np.ndarray) -> dict[str, np.ndarray]:
        values = zip(*self._rows, strict=True) if self._rows else [()] * len(COLUMNS)
        host = {
            name: np.array(column, np.uint64 if name in "ab" else np.int64)
            for name, column in zip(COLUMNS, values, strict=True)
        }
        accepted = records[(records[:, 0] & np.uint64(0xFF)) == Event.ACCEPTED.value, 1].astype(
            np.int64
        )
        host["cycle"] = _exact_cycles(host["cycle"], host["kind"], accepted)
        return host

    def _hardware_columns(self, records: np.ndarray) -> dict[str, np.ndarray]:
        head = records[:, 0].astype(np.uint64)
        kind = (head & np.uint64(0xFF)).astype(np.int64)
        keep = kind > _LAST_ANSWER
        records, head, kind = records[keep], head[keep], kind[keep]
        count = len(records)
        cycle = records[:, 1].astype(np.int64)
        zero, none = np.zeros(count, np.int64), np.full(count, -1, np.int64)
        return {
            "cycle": cycle,
            "ns": cycle * self.cycle_ns,
            "hw": np.full(count, HARDWARE, np.int64),
            "kind": kind,
            "thread": ((head >> np.uint64(8)) & np.uint64(0xFF)).astype(np.int64),
            "path": zero,
            "span": (head >> np.uint64(32)).astype(np.int64),
            "mm": zero,
            "vpn": none,
            "pfn": none,
            "tag": ((head >> np.uint64(16)) & np.uint64(0xFFFF)).astype(np.int64),
            "a": records[:, 2],
            "b": records[:, 3],
            "c": zero,
        }


def _exact_cycles(planned: np.ndarray, kinds: np.ndarray, accepted: np.ndarray) -> np.ndarray:
    """Replay the link's order: each row comes no earlier than its plan and than the row before it.

    A command runs the clock until the port takes it (the n-th INV_ISSUE is the n-th ACCEPTED), a descriptor, a
    drop-in and a resume for one cycle; what follows comes after that.
    """
    least = planned.copy()
    commands = np.flatnonzero(kinds == Row.INV_ISSUE)[: len(accepted)]
    after = commands + 1
    inside = after < len(least)
    np.maximum.at(least, after[inside], accepted[: len(commands)][inside] + 1)
    # exact[i] = max(least[i], exact[i - 1] + taken[i - 1]): a running maximum once the cycles taken are subtracted.
    single = np.isin(kinds[:-1], (Row.DMA_SUBMIT, Row.DROP_IN, Row.RESUME))
    taken = np.concatenate([[0], np.cumsum(single)]) if len(kinds) else 0
    exact: np.ndarray = np.maximum.accumulate(least - taken) + taken
    return exact
