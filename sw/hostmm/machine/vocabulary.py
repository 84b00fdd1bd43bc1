"""What a path did, read off the timeline in the words of docs/contract.md 0: :data:`WORDS`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hostmm.machine.timeline import LockClass, Notification, Row, Timeline
from hostmm.mm.pagetable import (
    PTE_A,
    PTE_D,
    PTE_R,
    PTE_SPLITTING,
    PTE_V,
    PTE_W,
    PTE_X,
    is_file_entry,
    is_migration_entry,
    is_swap_entry,
)

__all__ = ["CALLS", "WORDS", "Passage", "fold", "passages"]

WORDS = {
    "PTL PTU": "a page-table lock was taken, dropped",
    "RLK RLU": "a lock of the reverse maps (i_mmap, anon_vma)",
    "PGL PGU": "a page lock",
    "MM-R MM-W MMU": "mmap_sem was taken shared, exclusive; dropped",
    "FC": "flush_cache_page",
    "CLR": "a PTE was cleared and the CPUs' TLBs were flushed at once (ptep_clear_flush)",
    "clr": "a PTE was cleared, the flush is still owed",
    "FLUSH": "a range was flushed from the CPUs' TLBs",
    "SET(x)": "a PTE was written: W or RO, D dirty; or what is not present: swap, file, migration; or a table",
    "YNG": "the CPU's young bit was cleared, with its flush",
    "DRT CLN": "PG_dirty was set, cleared",
    "GET PUT FREE": "a reference was taken, dropped; the last one was",
    "COPY ZERO": "a page was copied; was filled with one value",
    "RM+ RM-": "a mapcount went up, down",
    "RSS": "the counters of the address space changed",
    "INVP": "callback invalidate_page",
    "CFY": "callback clear_flush_young",
    "RS RE": "callbacks invalidate_range_start and _end",
    "IVR": "callback invalidate_range (6.6: arch_invalidate_secondary_tlbs)",
    "CHG": "callback change_pte",
    "ARCH": "arch_exit_mmap, the architecture's part",
    "REL UNHASH": "callback release; a subscriber left the chain",
    "word.2M": "it was a 2 MiB leaf or a whole table, not a PTE",
    "{a b}*3": "a b three times",
}
"""Every word, and what it means."""

CALLS = {
    Notification.INVALIDATE_PAGE: "INVP",
    Notification.CLEAR_FLUSH_YOUNG: "CFY",
    Notification.RANGE_START: "RS",
    Notification.RANGE_END: "RE",
    Notification.RELEASE: "REL",
    Notification.INVALIDATE_RANGE: "IVR",
    Notification.CHANGE_PTE: "CHG",
    Notification.TEST_YOUNG: "TYN",
}
"""The word of each callback."""

_LOCKS = {
    LockClass.PTL: ("PTL", "PTU"),
    LockClass.RMAP: ("RLK", "RLU"),
    LockClass.PAGE: ("PGL", "PGU"),
}
_SIMPLE = {
    Row.CACHE_FLUSH: "FC",
    Row.GET: "GET",
    Row.PUT: "PUT",
    Row.COPY: "COPY",
    Row.FILL: "ZERO",
    Row.RSS: "RSS",
    Row.ARCH_EXIT: "ARCH",
}
_PAIRS = {Row.PAGE_DIRTY: ("CLN", "DRT"), Row.MAPCOUNT: ("RM-", "RM+")}

_Values = Mapping[str, int]


@dataclass(frozen=True)
class Passage:
    """One passage through a path.

    Attributes
    ----------
    path : str
    held : tuple of str
        The locks that its thread held when it began, in the order of taking.
    words : tuple of str
        Its steps.
    """

    path: str
    held: tuple[str, ...]
    words: tuple[str, ...]


class _Reader:
    """Collects the words of one passage."""

    def __init__(self, held: Iterable[str]) -> None:
        self.held = tuple(held)
        self.words: list[str] = []
        self._cleared: tuple[int, int] | None = None

    def read(self, row: _Values) -> None:
        kind, tag = Row(row["kind"]), row["tag"]
        part = kind in (Row.PTE_CLEAR, Row.PTE_SET) and tag
        if part or kind is Row.TABLE:
            return
        cleared, self._cleared = self._cleared, None
        if kind is Row.CPU_FLUSH:
            self._flush(row, cleared)
        elif kind in (Row.PTE_CLEAR, Row.PMD_CLEAR):
            self._cleared = (row["vpn"], row["vpn"] if kind is Row.PTE_CLEAR else row["vpn"] + 511)
            self.words.append("clr" + _size(kind))
        elif kind is Row.FREE:
            self.words[-1] = "FREE"
        else:
            word = _word(kind, row)
            if word is not None:
                self.words.append(word)

    def _flush(self, row: _Values, cleared: tuple[int, int] | None) -> None:
        if row["tag"]:
            return
        if cleared == (row["vpn"], row["a"]):
            self.words[-1] = self.words[-1].replace("clr", "CLR")
        else:
            self.words.append("FLUSH")


@dataclass
class _Thread:
    """The locks that a thread holds, by number, and the passages that it is in, by span."""

    held: dict[int, str] = field(default_factory=dict)
    inside: dict[int, _Reader] = field(default_factory=dict)

    def hold(self, row: _Values) -> None:
        if row["kind"] == Row.LOCK:
            word = _lock(row)
            if word is not None:
                self.held[row["a"]] = word
        elif row["kind"] == Row.UNLOCK:
            self.held.pop(row["a"], None)


def _size(kind: Row) -> str:
    return ".2M" if kind in (Row.PMD_CLEAR, Row.PMD_SET) else ""


def _word(kind: Row, row: _Values) -> str | None:
    tag = row["tag"]
    if kind in (Row.LOCK, Row.UNLOCK):
        return _lock(row)
    if kind in (Row.PTE_SET, Row.PMD_SET):
        return _set(row) + _size(kind)
    if kind is Row.NOTIFY_BEGIN:
        return CALLS[Notification(tag)]
    if kind is Row.SUBSCRIBE:
        return None if tag else "UNHASH"
    if kind in _PAIRS:
        return _PAIRS[kind][bool(tag)]
    return _SIMPLE.get(kind)


def _lock(row: _Values) -> str | None:
    lock, kind = LockClass(row["tag"]), Row(row["kind"])
    if lock is LockClass.MMAP:
        return "MMU" if kind is Row.UNLOCK else "MM-R" if row["mm"] else "MM-W"
    if lock not in _LOCKS:
        return None
    return _LOCKS[lock][kind is Row.UNLOCK]


def _set(row: _Values) -> str:
    new, old = row["a"], row["b"]
    if new & PTE_V and new ^ old == PTE_A and old & PTE_A:
        return "YNG"
    if not new & (PTE_R | PTE_X) and new & PTE_V:
        what = "table"
    elif new & PTE_SPLITTING:
        what = "splitting"
    elif not new & PTE_V:
        names = {"swap": is_swap_entry, "file": is_file_entry, "migration": is_migration_entry}
        what = next((name for name, test in names.items() if test(new)), "0")
    else:
        what = ("W" if new & PTE_W else "RO") + (",D" if new & PTE_D else "")
    return f"SET({what})"


def passages(timeline: Timeline, *paths: str) -> list[Passage]:
    """Return every passage through ``paths``, in the order in which they began, with what they go through inside."""
    columns = timeline.columns()
    wanted = {number for number, name in enumerate(timeline.paths) if name in paths}
    threads: dict[int, _Thread] = {}
    readers: list[tuple[str, _Reader]] = []
    for index in np.flatnonzero(columns["hw"] == 0):
        row = {name: int(column[index]) for name, column in columns.items()}
        thread = threads.setdefault(row["thread"], _Thread())
        if row["kind"] == Row.PATH_BEGIN and row["path"] in wanted:
            thread.inside[row["span"]] = _Reader(thread.held.values())
            readers.append((timeline.paths[row["path"]], thread.inside[row["span"]]))
        for reader in thread.inside.values():
            reader.read(row)
        if row["kind"] == Row.PATH_END:
            thread.inside.pop(row["span"], None)
        thread.hold(row)
    return [Passage(path, reader.held, tuple(reader.words)) for path, reader in readers]


def fold(words: Sequence[str]) -> list[str]:
    """Write what repeats as ``{a b}*n``: at each place the repetition that covers most, shortest unit first."""
    folded: list[str] = []
    at = 0
    while at < len(words):
        unit, times = _repetition(words, at)
        if times > 1:
            folded.append("{" + " ".join(words[at : at + unit]) + "}*" + str(times))
        else:
            folded.append(words[at])
        at += unit * times
    return folded


def _repetition(words: Sequence[str], at: int) -> tuple[int, int]:
    best = (1, 1)
    for unit in range(1, (len(words) - at) // 2 + 1):
        times = 1
        while words[at : at + unit] == words[at + times * unit : at + (times + 1) * unit]:
            times += 1
        if times > 1 and unit * times > best[0] * best[1]:
            best = unit, times
    return best
