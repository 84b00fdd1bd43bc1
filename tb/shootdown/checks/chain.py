"""I13 and I20: range starts and ends pair up, and every subscriber gets every event."""

from collections import Counter, defaultdict

from hostmm.mm.pagetable import PTE_R, PTE_U, PTE_V, PTE_W, pte_pfn
from hostmm.timeline import Notification, Row
from shootdown.checks.violation import Findings, at_row
from shootdown.history import Callback, History

__all__ = ["check_all_subscribers", "check_pairing"]


def check_pairing(history: History) -> Findings:
    """I13: yield range ends without their start, and starts whose path ended without an end."""
    rows = history.rows
    open_brackets: Counter[tuple[int, int, int, int]] = Counter()
    ended = {row_span: row for row, row_span in rows.take(rows.of(Row.PATH_END), "span")}
    last: dict[tuple[int, int, int, int], Callback] = {}
    for callback in history.callbacks:
        key = (callback.span, callback.mm, callback.first, callback.last)
        pages = f"pages {callback.first:#x} to {callback.last:#x} of mm {callback.mm}"
        if callback.kind is Notification.RANGE_START:
            open_brackets[key] += 1
            last[key] = callback
        elif callback.kind is Notification.RANGE_END:
            open_brackets[key] -= 1
            if open_brackets[key] < 0:
                open_brackets[key] = 0
                yield at_row(
                    history, "I13", callback.begin, f"range end of {pages} without its start"
                )
    for key, count in open_brackets.items():
        if count:
            callback = last[key]
            row = ended.get(callback.span, callback.begin)
            yield at_row(
                history,
                "I13",
                row,
                f"{count} range start of pages {callback.first:#x} to {callback.last:#x} of mm "
                f"{callback.mm} without an end",
            )


def check_all_subscribers(history: History) -> Findings:
    """I20: yield events that not every subscriber got, and cleared PTEs that no event told of."""
    registered = _Registered(history)
    yield from _short_walks(history, registered)
    yield from _untold(history, registered)


class _Registered:
    """How many subscribers an mm has, by row."""

    def __init__(self, history: History) -> None:
        rows = history.rows
        self._changes: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for row, mm, tag in rows.take(rows.of(Row.SUBSCRIBE), "mm", "tag"):
            self._changes[mm].append((row, 1 if tag else -1))

    def count(self, mm: int, row: int) -> int:
        return sum(change for when, change in self._changes.get(mm, ()) if when < row)


def _short_walks(history: History, registered: _Registered) -> Findings:
    """Chain walks, one after the other in a thread, that are shorter than the list of subscribers."""
    walks: dict[tuple[int, ...], list[Callback]] = {}
    finished: list[list[Callback]] = []
    for callback in history.callbacks:
        key = (
            callback.thread,
            callback.span,
            callback.mm,
            callback.kind,
            callback.first,
            callback.last,
        )
        walk = walks.setdefault(key, [])
        if walk and len(walk) >= registered.count(callback.mm, walk[0].begin):
            finished.append(walk)
            walks[key] = walk = []
        walk.append(callback)
    for walk in sorted((*finished, *walks.values()), key=lambda walk: walk[0].begin):
        want = registered.count(walk[0].mm, walk[0].begin)
        if len(walk) < want:
            yield at_row(
                history,
                "I20",
                walk[-1].begin,
                f"{walk[0].kind.name.lower()} of pages {walk[0].first:#x} to {walk[0].last:#x} of mm "
                f"{walk[0].mm} reached {len(walk)} of {want} subscribers",
            )


def _untold(history: History, registered: _Registered) -> Findings:
    """Present PTEs cleared or downgraded on a path that notifies, with subscribers there and no callback for the page.

    A COW without ``struct page`` is left to I4 where the policy itself does not notify it.
    """
    rows, policy = history.rows, history.policy
    told: dict[int, list[Callback]] = defaultdict(list)
    for callback in history.callbacks:
        told[callback.span].append(callback)
    index = rows.of(Row.PTE_CLEAR, Row.PTE_SET)
    names = ("kind", "path", "span", "mm", "vpn", "a", "b")
    for row, kind, path, span, mm, vpn, a, b in rows.take(index, *names):
        cleared = kind == Row.PTE_CLEAR
        old = a if cleared else b
        if not cleared and not _loses(old, a):
            continue
        name = rows.paths[path]
        notifies = bool(policy.points.get(name))
        if name == "do_wp_page" and not policy.notifies_without_page:
            continue
        covered = any(callback.covers(mm, vpn) for callback in told[span])
        if notifies and old & PTE_V and not covered and registered.count(mm, row):
            yield at_row(
                history,
                "I20",
                row,
                f"the PTE of page {vpn:#x} of mm {mm} was {'cleared' if cleared else 'downgraded'} and no "
                "subscriber was told",
            )


def _loses(old: int, new: int) -> bool:
    """Whether a present PTE ``old`` let a device do something that ``new`` in its place does not."""
    if not old & PTE_V:
        return False
    lost = any(old & bit and not new & bit for bit in (PTE_V, PTE_R, PTE_W, PTE_U))
    return lost or pte_pfn(old) != pte_pfn(new)
