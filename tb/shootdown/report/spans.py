"""Times that span several rows: locks held around paths, PTEs cleared and then drained, frames unmapped and freed."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from hostmm.machine.timeline import LockClass, Row
from hostmm.mm.pagetable import PTE_V
from shootdown.history import NEVER, Command, History

__all__ = [
    "Hold",
    "callback_passes",
    "callback_times",
    "clear_to_drained",
    "fault_times",
    "lock_holds",
    "lock_passes",
    "lock_waits",
    "reclaim_times",
    "unmap_to_free",
]


_RECLAIM_PATHS = ("try_to_unmap_one", "try_to_unmap_cluster")


@dataclass(frozen=True)
class Hold:
    """A lock was waited for and held; ``paths`` are the numbers of the mm paths that it was held in or around."""

    wait_ns: int
    hold_ns: int
    paths: tuple[int, ...]


def lock_holds(history: History, lock_class: LockClass) -> Iterator[Hold]:
    """Yield every time a lock of the class was held, in order of release.

    A hold counts for each path in which it was taken or released, and for each that its thread entered meanwhile:
    the reverse-map locks are taken by the walkers, around the paths.
    """
    rows = history.rows
    entered = _entered(history)
    taken: dict[tuple[int, int], tuple[int, int, int]] = {}
    index = rows.of(Row.LOCK, Row.UNLOCK)
    index = index[rows["tag"][index] == lock_class]
    for row, kind, thread, path, lock, ns in rows.take(index, "kind", "thread", "path", "a", "b"):
        if kind == Row.LOCK:
            taken[thread, lock] = row, path, ns
            continue
        begin, first_path, waited = taken.pop((thread, lock), (row, path, 0))
        places, paths = entered.get(thread, ([], []))
        inside = paths[bisect_left(places, begin) : bisect_right(places, row)]
        found = dict.fromkeys((first_path, *inside, path))
        yield Hold(waited, ns, tuple(number for number in found if number))


def lock_passes(history: History, lock_class: LockClass) -> Iterator[Hold]:
    """Yield, for each pass through a path that notified, the sums over the locks of the class that it took itself.

    A path may take a lock twice, long and short (``do_wp_page``); their single holds would be two populations.
    """
    rows = history.rows
    notified = {callback.span for callback in history.callbacks}
    sums: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    index = rows.of(Row.LOCK, Row.UNLOCK)
    index = index[rows["tag"][index] == lock_class]
    for _, kind, path, span, ns in rows.take(index, "kind", "path", "span", "b"):
        if span in notified:
            sums[span, path][kind == Row.UNLOCK] += ns
    for (_, path), (waited, held) in sums.items():
        yield Hold(waited, held, (path,))


def lock_waits(history: History, lock_class: LockClass) -> Iterator[int]:
    """Yield how many ns each acquisition of a lock of the class waited, whoever made it."""
    rows = history.rows
    index = rows.of(Row.LOCK)
    index = index[rows["tag"][index] == lock_class]
    return (ns for _, ns in rows.take(index, "b"))


def _entered(history: History) -> dict[int, tuple[list[int], list[int]]]:
    """Rows at which each thread entered a path, and the path's number."""
    rows = history.rows
    found: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for row, thread, path in rows.take(rows.of(Row.PATH_BEGIN), "thread", "path"):
        found[thread][0].append(row)
        found[thread][1].append(path)
    return found


def callback_times(history: History) -> Iterator[tuple[int, int]]:
    """Yield (path, ns) of each callback that returned."""
    rows = history.rows
    begun: dict[int, int] = {}
    for _, kind, ns, path, number in rows.take(
        rows.of(Row.NOTIFY_BEGIN, Row.NOTIFY_END), "kind", "ns", "path", "b"
    ):
        if kind == Row.NOTIFY_BEGIN:
            begun[number] = ns
        else:
            yield path, ns - begun[number]


def callback_passes(history: History) -> Iterator[tuple[int, int]]:
    """Yield (path, ns) of each pass that notified: all its callbacks together, so that one call and a bracket compare."""
    rows = history.rows
    sums: dict[tuple[int, int], int] = defaultdict(int)
    for callback in history.callbacks:
        if callback.end != NEVER:
            ns = int(rows["ns"][callback.end] - rows["ns"][callback.begin])
            sums[callback.span, callback.path] += ns
    for (_, path), ns in sums.items():
        yield path, ns


def clear_to_drained(history: History) -> Iterator[tuple[int, int | None]]:
    """Yield (path, ns) of each present PTE that was cleared: until the path's notification of that page had drained.

    0 where it had drained before (a bracket); None where the path never notified (review note S1).
    """
    rows = history.rows
    commands: dict[int, list[Command]] = defaultdict(list)
    for command in history.commands:
        if command.span and command.invalidates and command.drained != NEVER:
            commands[command.span].append(command)
    index = rows.of(Row.PTE_CLEAR)
    names = ("cycle", "path", "span", "mm", "vpn", "a")
    for row, cycle, path, span, mm, vpn, old in rows.take(index, *names):
        if not path or not old & PTE_V:
            continue
        covering = [c for c in commands.get(span, ()) if c.covers(mm, vpn)]
        after = [c.drained_cycle for c in covering if c.drained > row]
        if after:
            yield path, (min(after) - cycle) * rows.cycle_ns
        else:
            yield path, 0 if covering else None


def unmap_to_free(history: History) -> Iterator[tuple[int, int]]:
    """Yield (path, ns) of each frame freed by the path that cleared its last PTE, or by the reclaim that ran it.

    Of a page that reclaim wrote out, the time from its copy to the end of the I/O is left out.
    """
    rows = history.rows
    out = dict(history.written_out)
    reclaim = {number for number, name in enumerate(rows.paths) if name in _RECLAIM_PATHS}
    unmapped: dict[int, tuple[int, int, int, int]] = {}
    written: dict[int, int] = {}
    reclaimed: dict[int, int] = {}
    index = rows.of(Row.PTE_CLEAR, Row.PTE_SET, Row.COPY, Row.RECLAIMED, Row.FREE)
    names = ("kind", "ns", "thread", "path", "span", "pfn")
    for row, kind, ns, thread, path, span, pfn in rows.take(index, *names):
        if kind == Row.PTE_CLEAR:
            unmapped[pfn] = ns, thread, path, span
            written.pop(pfn, None)
        elif kind == Row.PTE_SET:
            unmapped.pop(pfn, None)
        elif kind == Row.COPY:
            if row in out:
                written.setdefault(pfn, ns)
        elif kind == Row.RECLAIMED:
            reclaimed[pfn] = ns
        else:
            begin, who, where, instance = unmapped.pop(pfn, (0, -1, 0, -1))
            wrote, took = written.pop(pfn, None), reclaimed.pop(pfn, None)
            if took is not None and where in reclaim and who == thread:
                yield where, ns - begin - (took - wrote if wrote is not None else 0)
            elif took is None and where and instance == span:
                yield where, ns - begin


def fault_times(history: History) -> Iterator[tuple[bool, int]]:
    """Yield (whether the device took it, ns) of each fault that was handled to its end."""
    rows = history.rows
    begun: dict[tuple[int, int, int], int] = {}
    index = rows.of(Row.FAULT_BEGIN, Row.FAULT_END)
    names = ("kind", "ns", "thread", "mm", "vpn", "tag")
    for _, kind, ns, thread, mm, vpn, device in rows.take(index, *names):
        if kind == Row.FAULT_BEGIN:
            begun[thread, mm, vpn] = ns
        elif (thread, mm, vpn) in begun:
            yield bool(device), ns - begun.pop((thread, mm, vpn))


def reclaim_times(history: History) -> Iterator[int]:
    """Yield the ns of each page that reclaim freed, from the begin of the first pass that unmapped it.

    The time from its copy to the end of the I/O is left out.
    """
    rows = history.rows
    out = dict(history.written_out)
    reclaim = {number for number, name in enumerate(rows.paths) if name in _RECLAIM_PATHS}
    begun: dict[int, tuple[int, int]] = {}
    written: dict[int, int] = {}
    index = rows.of(Row.PTE_CLEAR, Row.PTE_SET, Row.COPY, Row.RECLAIMED)
    names = ("kind", "ns", "thread", "path", "span", "pfn")
    for row, kind, ns, thread, path, span, pfn in rows.take(index, *names):
        if kind == Row.PTE_CLEAR and path in reclaim:
            written.pop(pfn, None)
            begun.setdefault(pfn, (int(rows["ns"][history.passes[span].begin]), thread))
        elif kind == Row.PTE_SET:
            begun.pop(pfn, None)
        elif kind == Row.COPY and row in out:
            written.setdefault(pfn, ns)
        elif kind == Row.RECLAIMED:
            begin, who = begun.pop(pfn, (0, -1))
            wrote = written.pop(pfn, ns)
            if who == thread:
                yield ns - begin - (ns - wrote)
