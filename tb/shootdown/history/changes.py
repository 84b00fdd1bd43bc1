"""What the host did to leaf PTEs, and in which pass through which mm path."""

from dataclasses import dataclass

from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import PTE_R, PTE_U, PTE_V, PTE_W, pte_pfn
from shootdown.history.facts import NEVER
from shootdown.history.rows import Rows

__all__ = ["Pass", "PteChange", "passes", "pte_changes"]


@dataclass(slots=True, eq=False)
class PteChange:
    """A leaf PTE word ``old`` became ``new``; 0 where it was, or is, clear."""

    row: int
    mm: int
    vpn: int
    old: int
    new: int
    path: int
    span: int
    thread: int

    @property
    def old_pfn(self) -> int:
        """Frame that the page had, -1 for none."""
        return pte_pfn(self.old) if self.old & PTE_V else -1

    @property
    def new_pfn(self) -> int:
        """Frame that the page has now, -1 for none."""
        return pte_pfn(self.new) if self.new & PTE_V else -1

    @property
    def unmaps(self) -> bool:
        """Whether a present PTE went away."""
        return bool(self.old & PTE_V and not self.new & PTE_V)

    @property
    def maps(self) -> bool:
        """Whether a frame stands there that did not before."""
        return bool(self.new & PTE_V and self.new_pfn != self.old_pfn)

    @property
    def loses(self) -> bool:
        """Whether a present PTE let a device do something that the new one does not."""
        if not self.old & PTE_V:
            return False
        lost = any(self.old & bit and not self.new & bit for bit in (PTE_V, PTE_R, PTE_W, PTE_U))
        return lost or self.old_pfn != self.new_pfn

    @property
    def loses_write(self) -> bool:
        """Whether a frame was writable there and is no more."""
        could = bool(self.old & PTE_V and self.old & PTE_W)
        can = bool(self.new & PTE_V and self.new & PTE_W)
        return could and not (can and self.new_pfn == self.old_pfn)

    @property
    def upgrades(self) -> bool:
        """Whether a present frame became writable where it stands."""
        same = self.old & PTE_V and self.new & PTE_V and self.new_pfn == self.old_pfn
        return bool(same and self.new & PTE_W and not self.old & PTE_W)


@dataclass(slots=True, eq=False)
class Pass:
    """One pass through an mm path, from its first row to its last (NEVER: it did not return)."""

    path: int
    thread: int
    begin: int
    end: int = NEVER
    result: int = 0


def pte_changes(rows: Rows) -> list[PteChange]:
    """Return every change of a leaf PTE, in order."""
    index = rows.of(Row.PTE_SET, Row.PTE_CLEAR)
    names = ("kind", "mm", "vpn", "path", "span", "thread", "a", "b")
    return [
        PteChange(
            row,
            mm,
            vpn,
            old=a if kind == Row.PTE_CLEAR else b,
            new=0 if kind == Row.PTE_CLEAR else a,
            path=path,
            span=span,
            thread=thread,
        )
        for row, kind, mm, vpn, path, span, thread, a, b in rows.take(index, *names)
    ]


def passes(rows: Rows) -> dict[int, Pass]:
    """Return every pass by its span."""
    found: dict[int, Pass] = {}
    index = rows.of(Row.PATH_BEGIN, Row.PATH_END)
    for row, kind, path, span, thread, a in rows.take(index, "kind", "path", "span", "thread", "a"):
        if kind == Row.PATH_BEGIN:
            found[span] = Pass(path, thread, row)
        else:
            found[span].end, found[span].result = row, a
    return found
