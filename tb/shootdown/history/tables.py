"""Which page an address space had at an address, and when: the history of its PTEs."""

from collections import defaultdict
from dataclasses import dataclass

from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import PTE_W
from shootdown.history.facts import NEVER
from shootdown.history.rows import Rows

__all__ = ["Mapping", "page_histories"]


@dataclass(slots=True, eq=False)
class Mapping:
    """A page stood at an address.

    Attributes
    ----------
    begin, end : int
        Row of its PTE_SET; row at which another page was set there that a CPU may store to. A page that was only
        cleared, or replaced by one that nobody can store to, may still be read.
    cleared : int
        Row of the PTE_CLEAR that took it away, NEVER while it stands.
    dropped : int
        Row at which COW dropped the mapcount that this PTE held: from here on another sharer may reuse the page.
    """

    pfn: int
    begin: int
    end: int = NEVER
    cleared: int = NEVER
    dropped: int = NEVER


def page_histories(rows: Rows) -> dict[tuple[int, int], list[Mapping]]:
    """Build the history of each (mm, vpn), oldest page first."""
    drops = _cow_drops(rows)
    histories: dict[tuple[int, int], list[Mapping]] = defaultdict(list)
    index = rows.of(Row.PTE_SET, Row.PTE_CLEAR)
    names = ("kind", "mm", "vpn", "pfn", "span", "a")
    for row, kind, mm, vpn, pfn, span, word in rows.take(index, *names):
        history = histories[mm, vpn]
        if kind == Row.PTE_CLEAR:
            for mapping in history:
                if mapping.pfn == pfn and mapping.cleared == NEVER:
                    mapping.cleared = row
                    mapping.dropped = drops.get((span, pfn), NEVER)
        elif pfn >= 0:
            _set(history, row, pfn, writable=bool(word & PTE_W))
    return histories


def _set(history: list[Mapping], row: int, pfn: int, *, writable: bool) -> None:
    same = history[-1] if history and history[-1].pfn == pfn else None
    for mapping in history:
        if mapping is not same and writable and mapping.end == NEVER:
            mapping.end = row
    if same:
        same.cleared = same.dropped = NEVER
    else:
        history.append(Mapping(pfn, row))


def _cow_drops(rows: Rows) -> dict[tuple[int, int], int]:
    """Mapcount drops of do_wp_page by (span, pfn).

    Only there may the page of a private mapping be reused in place by a sharer: a swapped page keeps its swap
    count, and a shared file's page is common property.
    """
    if "do_wp_page" not in rows.paths:
        return {}
    index = rows.of(Row.MAPCOUNT)
    index = index[
        (rows["path"][index] == rows.paths.index("do_wp_page")) & (rows["tag"][index] == 0)
    ]
    return {(span, pfn): row for row, span, pfn in rows.take(index, "span", "pfn")}
