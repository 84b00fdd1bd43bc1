"""Page tables that a subscriber keeps for its device, in emulated memory: shadow tables, translation tables of a NIC.

Sv39 as the CPU's, but under a root of their own. The subscriber's lock is what keeps them consistent.
"""

from typing import TYPE_CHECKING

from hostmm.callers.reclaim import reserve_frames
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import PAGE_WORDS, Page
from hostmm.mm.pagetable import PTE_V, pte_pfn, table_pte
from secmmu.layouts import FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["OwnTables"]

_INDEX_BITS = 9
_TOP = 2


class OwnTables:
    """Tables of one context; tables below the root are made when needed, and freed only with all of them.

    Parameters
    ----------
    machine : Machine
    """

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._tables: dict[int, Page] = {}
        self._shadow: dict[int, list[int]] = {}
        self._leaves: dict[int, int] = {}
        """PTE word of every page mapped, by vpn."""
        self.root = self._new_table()

    def _new_table(self) -> int:
        page = self._machine.frames.alloc(FrameKind.TABLE)
        self._machine.link.fill(self._machine.sched.now, page.address, 0, PAGE_WORDS)
        self._tables[page.pfn] = page
        self._shadow[page.pfn] = [0] * PAGE_WORDS
        self._machine.device_tables.add(page.pfn)
        return page.pfn

    def prepare(self, vpn: int) -> Steps:
        """Make the tables down to a page; may sleep."""
        yield from reserve_frames(self._machine, _TOP)
        if self._tables:
            self._table(vpn, create=True)

    def get(self, vpn: int) -> int:
        """Return the PTE word of a page; 0 where there is none."""
        return self._leaves.get(vpn, 0)

    def set(self, vpn: int, word: int) -> None:
        """Store the PTE word of a page (0 unmaps it); its tables must be there."""
        table = self._table(vpn, create=False)
        assert table is not None, f"no table of the device's own for vpn {vpn:#x}"
        self._store(table, vpn & (PAGE_WORDS - 1), word)
        if word:
            self._leaves[vpn] = word
        else:
            self._leaves.pop(vpn, None)

    def mapped(self, first: int, last: int) -> list[int]:
        """Return the pages from ``first`` to ``last`` that are mapped, ascending."""
        return sorted(vpn for vpn in self._leaves if first <= vpn <= last)

    def free(self) -> None:
        """Free every table, once the device no longer walks them."""
        for pfn, page in self._tables.items():
            self._machine.device_tables.remove(pfn)
            self._machine.frames.put(page)
        self._tables.clear()
        self._leaves.clear()

    def _table(self, vpn: int, *, create: bool) -> int | None:
        """Return the table that holds the PTE of a page."""
        table = self.root
        for level in range(_TOP, 0, -1):
            index = vpn >> level * _INDEX_BITS & (PAGE_WORDS - 1)
            entry = self._shadow[table][index]
            if not entry & PTE_V:
                if not create:
                    return None
                entry = table_pte(self._new_table())
                self._store(table, index, entry)
            table = pte_pfn(entry)
        return table

    def _store(self, table: int, index: int, word: int) -> None:
        self._shadow[table][index] = word
        self._machine.link.write(self._machine.sched.now, (table << 12) + 8 * index, (word,))
