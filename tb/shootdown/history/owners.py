"""Whose address space an asid of the device is, and which subscriber looks after it."""

from bisect import bisect_right
from collections import defaultdict

from hostmm.machine.timeline import Row
from shootdown.history.rows import Rows

__all__ = ["Binding", "Owners"]

Binding = tuple[int, int]
"""(row from which on, mm)."""


class Owners:
    """Bindings of asids, as the CONTEXT rows tell of them; where they tell nothing, an asid is the number of its mm.

    Parameters
    ----------
    rows : Rows

    Attributes
    ----------
    bindings : dict
        For each asid, every (row, mm) of its being given away, ascending.
    walked, shadowed : set of int
        Address spaces of which a device walks the own page tables, and tables made for it.
    """

    def __init__(self, rows: Rows) -> None:
        self.bindings: dict[int, list[Binding]] = defaultdict(list)
        self.walked: set[int] = set()
        self.shadowed: set[int] = set()
        self._handles: dict[int, dict[int, int]] = defaultdict(dict)
        self._asids: dict[int, set[int]] = defaultdict(set)
        self._taken: dict[int, list[int]] = defaultdict(list)
        roots: dict[int, int] = {}
        self._subscribers: dict[int, set[tuple[int, int]]] = defaultdict(set)
        index = rows.of(Row.TABLE, Row.CONTEXT)
        names = ("kind", "mm", "pfn", "tag", "a", "c")
        for row, kind, mm, pfn, tag, a, handle in rows.take(index, *names):
            if kind == Row.TABLE:
                roots[pfn] = mm
            elif not tag:
                self._taken[a].append(row)
            else:
                self.bindings[a].append((row, mm))
                self._asids[handle].add(a)
                (self.walked if roots.get(pfn) == mm else self.shadowed).add(mm)
        self._serve(rows)

    def _serve(self, rows: Rows) -> None:
        callers: dict[int, tuple[int, int]] = {}
        index = rows.of(Row.SUBSCRIBE)
        for _, mm, registers, number, handle in rows.take(index, "mm", "tag", "b", "c"):
            if registers and handle:
                self._handles[mm][number] = handle
        index = rows.of(Row.NOTIFY_BEGIN, Row.INV_ISSUE)
        for _, kind, mm, number, subscriber in rows.take(index, "kind", "mm", "b", "c"):
            if kind == Row.NOTIFY_BEGIN:
                callers[number] = mm, subscriber
            elif number in callers:
                self._subscribers[mm].add(callers[number])

    def mm(self, asid: int, row: int) -> int:
        """Return the number of the address space that an asid stands for at a row."""
        bindings = self.bindings.get(asid, [])
        place = bisect_right(bindings, row, key=lambda binding: binding[0])
        return bindings[place - 1][1] if place else asid

    def is_idle(self, asid: int, row: int) -> bool:
        """Whether an asid has been taken away and not been given again: what the TLB holds of it is out of reach."""
        taken = bisect_right(self._taken.get(asid, []), row)
        given = bisect_right(self.bindings.get(asid, []), row, key=lambda binding: binding[0])
        if not taken:
            return False
        return not given or self.bindings[asid][given - 1][0] < self._taken[asid][taken - 1]

    def looks_after(self, mm: int, subscriber: int, asid: int) -> bool:
        """Whether an asid is a subscriber's business.

        Where contexts have handles they say so; else it is one that ever sent a command for it; all, where nobody did.
        """
        handles = self._handles.get(mm)
        if handles:
            return asid in self._asids.get(handles.get(subscriber, 0), ())
        known = self._subscribers.get(asid)
        return known is None or (mm, subscriber) in known
