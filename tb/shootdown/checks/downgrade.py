"""I10: once a downgrade's callback has returned, no device write succeeds through the old permission.

A path that takes a right away and tells nobody has taken it when it returns; the frame sanitizer hears nothing of that.

The timeline computes from PTEs and callbacks alone what the host tells the frame sanitizer, and both must come to the
same verdict on every write. A right belongs to a frame: where an address space maps it writable at another page too,
no write is wrong.
"""

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field

from hostmm.machine.timeline import Notification, Row
from hostmm.mm.pagetable import PTE_V, PTE_W, pte_pfn
from secmmu.layouts import Verdict
from shootdown.checks.blame import off_the_chain
from shootdown.checks.reports import Report, by_use, disagreement, reports
from shootdown.checks.violation import Finding, Findings
from shootdown.history import NEVER, Callback, History, Use

__all__ = ["check_downgrades", "count_downgrades"]

_OKAY = 0


def check_downgrades(history: History) -> Findings:
    """Yield device writes without the right, and verdicts that sanitizer and timeline do not share."""
    rights = _WriteRights(history)
    found = by_use(
        history, [r for r in reports(history) if r.write and r.verdict is Verdict.RIGHTS]
    )
    for use in history.uses:
        if not use.write or use.code != _OKAY or use.end == NEVER:
            continue
        reported = found.get(use, [])
        gap = rights.gap(use)
        if gap is not None and gap.certain(use):
            yield _write(history, use, gap)
        yield from _agree(use, None if gap is not None and gap.untold else gap, reported)


def _write(history: History, use: Use, gap: "_Gap") -> Finding:
    rows = history.rows
    path = off_the_chain(history, use, gap.change) or rows.path_of(gap.change)
    after = f"{path} had taken the right to it and told nobody"
    told = "the callback that took the right to it had returned"
    return Finding(
        "I10",
        path,
        use.begin_cycle,
        rows.thread_of(gap.change),
        f"the {use.name} began after {after if gap.untold else told}",
        use,
        excusable=False,
    )


def _agree(use: Use, gap: "_Gap | None", reported: list[Report]) -> Findings:
    what = f"a forbidden {use.name}"
    if reported and gap is None:
        yield disagreement(
            "I10", "the sanitizer", reported[0].cycle, what, "the right was there", use
        )
    certain = gap is not None and gap.certain(use)
    if certain and len(reported) < use.beats:
        beats = f"{len(reported)} of {use.beats} beats"
        yield disagreement("I10", "the timeline", use.begin_cycle, what, beats, use)


@dataclass(slots=True)
class _Gap:
    """A time without the right to write a frame, which the row ``change`` began.

    From cycle ``maybe`` on it may be gone, from ``gone`` on it is, until cycle ``end``. ``untold`` says that there was
    no callback.
    """

    change: int
    maybe: int
    gone: int = NEVER
    end: int = NEVER
    untold: bool = False

    def certain(self, use: Use) -> bool:
        """Whether no beat of the use can have had the right."""
        return self.gone < use.begin_cycle and use.end_cycle < self.end

    def possible(self, use: Use) -> bool:
        """Whether some beat of it may have had none."""
        return self.maybe <= use.end_cycle and use.begin_cycle <= self.end


@dataclass(slots=True)
class _Page:
    """A frame in one address space: how many writable PTEs it has, and its times without any."""

    writable: int = 0
    gaps: list[_Gap] = field(default_factory=list)


class _WriteRights:
    """When each address space had the right to write which frame.

    A right that a PTE gave goes when a callback over its page has returned to whoever made it. What the thread does
    next, outside every callback, shows that it has. Where there is none, it goes when the path returns, and the paths
    that this one is part of: fork flushes when all of it is copied.
    """

    def __init__(self, history: History) -> None:
        self._rows = history.rows
        self._pages: dict[tuple[int, int], _Page] = defaultdict(_Page)
        self._spaces: dict[int, set[int]] = defaultdict(set)
        self._lost: dict[int, dict[int, list[tuple[int, int]]]] = defaultdict(dict)
        self._taken: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        self._paths: dict[int, list[int]] = defaultdict(list)
        self._inside: dict[int, int] = {}
        self._settling: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        self._covering = _covering(history)
        self._callbacks = {callback.begin: callback for callback in history.callbacks}
        self._run()

    def gap(self, use: Use) -> _Gap | None:
        """Return the time without the right in which the use may have been."""
        page = self._pages.get((use.mm, use.pfn))
        if page is None:
            return None
        place = bisect_right(page.gaps, use.end_cycle, key=lambda gap: gap.maybe)
        found = page.gaps[place - 1] if place else None
        return found if found and found.possible(use) else None

    def _run(self) -> None:
        rows = self._rows
        kinds = (
            Row.PTE_SET,
            Row.PTE_CLEAR,
            Row.NOTIFY_BEGIN,
            Row.FREE,
            Row.LOCK,
            Row.UNLOCK,
            Row.PATH_BEGIN,
            Row.PATH_END,
        )
        names = ("kind", "cycle", "thread", "span", "mm", "vpn", "pfn", "a", "b")
        for row, kind, cycle, thread, span, mm, vpn, pfn, a, b in rows.take(
            rows.of(*kinds), *names
        ):
            if kind == Row.NOTIFY_BEGIN:
                self._notify(self._callbacks[row], cycle)
                continue
            if self._settling[thread] and row > self._inside[thread]:
                self._settle(thread, cycle)
            if kind == Row.FREE:
                self._freed(pfn, cycle)
            elif kind in (Row.PTE_SET, Row.PTE_CLEAR):
                old, new = (a, 0) if kind == Row.PTE_CLEAR else (b, a)
                self._gain(mm, new, cycle)
                if self._lose(mm, vpn, old, row) and span:
                    self._taken[span].append((mm, vpn, row))
            elif kind == Row.PATH_BEGIN:
                self._paths[thread].append(span)
            elif kind == Row.PATH_END:
                self._returned(thread, span, cycle)

    def _gain(self, mm: int, new: int, cycle: int) -> None:
        if new & PTE_V and new & PTE_W:
            page = self._pages[mm, pte_pfn(new)]
            self._spaces[pte_pfn(new)].add(mm)
            page.writable += 1
            if page.gaps and page.gaps[-1].end == NEVER:
                page.gaps[-1].end = cycle

    def _lose(self, mm: int, vpn: int, old: int, row: int) -> bool:
        """Take note of a PTE that is gone; returns whether the right went with it."""
        if not (old & PTE_V and old & PTE_W):
            return False
        pfn = pte_pfn(old)
        page = self._pages[mm, pfn]
        page.writable -= 1
        if not page.writable:
            self._lost[mm].setdefault(vpn, []).append((pfn, row))
        return not page.writable

    def _returned(self, thread: int, span: int, cycle: int) -> None:
        """Take note that a path returns: of what it has taken, only a path that it is part of may still tell."""
        taken, paths = self._taken.pop(span, []), self._paths[thread]
        paths.pop()
        if paths:
            self._taken[paths[-1]] += taken
            return
        for mm, vpn, change in taken:
            for pfn, row in self._lost[mm].get(vpn, ()):
                page = self._pages[mm, pfn]
                if not page.writable and row == change:
                    page.gaps.append(_Gap(row, cycle, gone=cycle, untold=True))

    def _notify(self, callback: Callback, cycle: int) -> None:
        self._inside[callback.thread] = callback.end
        if callback.kind not in self._covering:
            return
        lost = self._lost[callback.mm]
        for vpn in [vpn for vpn in lost if callback.covers(callback.mm, vpn)]:
            for pfn, row in lost.pop(vpn):
                page = self._pages[callback.mm, pfn]
                if not page.writable:
                    page.gaps.append(_Gap(row, cycle))
                    self._settling[callback.thread].append((callback.mm, pfn, row))

    def _settle(self, thread: int, cycle: int) -> None:
        for mm, pfn, change in self._settling.pop(thread):
            gap = self._pages[mm, pfn].gaps[-1]
            if gap.change == change and gap.end == NEVER:
                gap.gone = cycle

    def _freed(self, pfn: int, cycle: int) -> None:
        """Behind a free, whatever touches the frame is a matter of I1."""
        for mm in self._spaces.get(pfn, ()):
            page = self._pages[mm, pfn]
            if page.gaps and page.gaps[-1].end == NEVER:
                page.gaps[-1].end = cycle


def _covering(history: History) -> set[Notification]:
    """Kinds of callback behind which no older translation is left.

    For a device that follows the CPUs' TLB flushes, range end is early where it is no flush itself.
    """
    follows = any(s.has(Notification.INVALIDATE_RANGE) for s in history.subscriptions)
    found = {Notification.INVALIDATE_PAGE, Notification.RELEASE}
    if follows:
        found.add(Notification.INVALIDATE_RANGE)
    if not (follows and history.policy.flush_invalidates):
        found.add(Notification.RANGE_END)
    return found


def count_downgrades(history: History) -> int:
    """Count PTEs that lost W, or were cleared while writable."""
    return sum(change.loses_write for change in history.changes)
