"""I13 and I20: range starts and ends pair up, and every subscriber gets every event."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from hostmm.machine.timeline import Notification
from shootdown.checks.violation import Findings, at_row
from shootdown.history import NEVER, Callback, History, PteChange, Subscription

__all__ = ["check_all_subscribers", "check_pairing"]

_TELLING = (
    Notification.INVALIDATE_PAGE,
    Notification.RANGE_START,
    Notification.RANGE_END,
    Notification.INVALIDATE_RANGE,
)
"""Kinds that say that pages are gone; the young calls and ``change_pte`` do not."""


def check_pairing(history: History) -> Findings:
    """I13: yield a subscriber's range ends without their start, and starts whose path ended without an end.

    An end without a start is a matter of I14 where the subscriber was registered in between.
    """
    known = {(s.mm, s.number): s for s in history.subscriptions}
    opened: Counter[_Bracket] = Counter()
    last: dict[_Bracket, Callback] = {}
    for callback in history.callbacks:
        key = (
            callback.subscriber,
            callback.span,
            callback.mm,
            callback.first,
            callback.last,
        )
        if callback.kind is Notification.RANGE_START and not _failed(history, callback):
            opened[key] += 1
            last[key] = callback
        elif callback.kind is Notification.RANGE_END:
            opened[key] -= 1
            if opened[key] < 0:
                opened[key] = 0
                late = _registered_inside(
                    history, known.get((callback.mm, callback.subscriber)), callback
                )
                what = f"range end of {_pages(callback)} without its start"
                if late:
                    what += ": the subscriber was registered in between"
                yield at_row(history, "I14" if late else "I13", callback.begin, what, callback)
    for key, count in opened.items():
        start = last.get(key)
        if count and start is not None and _owes_end(history, known, start):
            done = history.passes.get(start.span)
            row = done.end if done and done.end != NEVER else start.begin
            what = f"{count} range start of {_pages(start)} without an end"
            yield at_row(history, "I13", row, what, start)


_Bracket = tuple[int, int, int, int, int]
"""(subscriber, span, mm, first, last)."""


def _pages(callback: Callback) -> str:
    return f"pages {callback.first:#x} to {callback.last:#x} of mm {callback.mm}"


def _failed(history: History, callback: Callback) -> bool:
    """Whether a start said "again": it gets no end. Under EMM a result means something else."""
    return bool(callback.result) and not history.policy.stops_at_first


def _registered_inside(
    history: History, subscription: Subscription | None, callback: Callback
) -> bool:
    done = history.passes.get(callback.span)
    return subscription is not None and done is not None and subscription.begin > done.begin


def _owes_end(
    history: History, known: dict[tuple[int, int], Subscription], start: Callback
) -> bool:
    """Whether the subscriber of a start has a method for the end, and was there to be called."""
    subscription = known.get((start.mm, start.subscriber))
    if subscription is None:
        return True
    done = history.passes.get(start.span)
    left = done is not None and subscription.removed < done.end
    return subscription.has(Notification.RANGE_END) and not left


def check_all_subscribers(history: History) -> Findings:
    """I20: yield events that not every subscriber got, and cleared PTEs that no event told of."""
    yield from _short_walks(history)
    yield from _untold(history)


def _listeners(
    history: History, mm: int, row: int, kinds: Iterable[Notification], *, until: int | None = None
) -> int:
    """Count subscribers on the chain of ``mm`` at a row, and ``until`` another, with a method for any of ``kinds``."""
    wanted = tuple(kinds)
    last = row if until is None else until
    return sum(
        s.mm == mm and s.listens(row) and s.removed >= last and any(s.has(kind) for kind in wanted)
        for s in history.subscriptions
    )


def _short_walks(history: History) -> Findings:
    """Chain walks, one after the other in a thread, that are shorter than the list of subscribers."""
    walks: dict[tuple[int, ...], list[Callback]] = {}
    finished: list[list[Callback]] = []
    for callback in history.callbacks:
        if callback.kind is Notification.RELEASE:
            continue
        key = (
            callback.thread,
            callback.span,
            callback.mm,
            callback.kind,
            callback.first,
            callback.last,
        )
        walk = walks.setdefault(key, [])
        if walk and len(walk) >= _walked(history, walk[0]):
            finished.append(walk)
            walks[key] = walk = []
        walk.append(callback)
    for walk in sorted((*finished, *walks.values()), key=lambda walk: walk[0].begin):
        want = _walked(history, walk[0])
        if len(walk) < want:
            yield at_row(
                history,
                "I20",
                walk[-1].begin,
                f"{walk[0].kind.name.lower()} of {_pages(walk[0])} reached {len(walk)} of {want} subscribers",
            )


def _walked(history: History, first: Callback) -> int:
    """Count subscribers that a walk must reach: all with the method, but an end not those that refused the start."""
    refused = 0
    if first.kind is Notification.RANGE_END:
        starts = {
            c.subscriber: _failed(history, c)
            for c in history.callbacks_of[first.span]
            if c.kind is Notification.RANGE_START
            and (c.mm, c.first, c.last) == (first.mm, first.first, first.last)
            and c.end < first.begin
        }
        refused = sum(starts.values())
    return _listeners(history, first.mm, first.begin, (first.kind,)) - refused


def _stands_again(history: History, change: PteChange) -> bool:
    """Whether the pass itself put the page back, with no right less: a large leaf becomes a table."""
    changes = history.changes_of[change.mm, change.vpn]
    place = bisect_right(changes, change.row, key=lambda other: other.row)
    if place == len(changes) or changes[place].span != change.span:
        return False
    return not replace(change, new=changes[place].new).loses


def _untold(history: History) -> Findings:
    """Present PTEs cleared or downgraded on a path that notifies, with somebody to tell and no callback for the page.

    A COW without ``struct page`` is left to I4 where the policy itself does not notify it.
    """
    rows, policy = history.rows, history.policy
    for change in history.changes:
        name = rows.paths[change.path]
        kinds = [kind for kind in policy.points.get(name, {}).values() if kind in _TELLING]
        if not change.loses or not kinds:
            continue
        if name == "do_wp_page" and not policy.notifies_without_page:
            continue
        if _stands_again(history, change):
            continue
        told = [c for c in history.callbacks_of.get(change.span, ()) if c.kind in _TELLING]
        covered = any(callback.covers(change.mm, change.vpn) for callback in told)
        # Who left before the pass was over, as with the end of the address space, need not have been told.
        end = history.passes[change.span].end
        if not covered and _listeners(history, change.mm, change.row, kinds, until=end):
            how = "cleared" if change.unmaps else "downgraded"
            what = f"the PTE of page {change.vpn:#x} of mm {change.mm} was {how} and no subscriber was told"
            yield at_row(history, "I20", change.row, what)
