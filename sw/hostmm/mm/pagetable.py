"""Sv39 page tables as real bits in the emulated memory, written through a shadow that host reads come from.

Svade: only the host writes page tables, so the shadow is exact; :meth:`PageTable.words` lets a test compare.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hostmm.driver.pack import packer, unpacker
from hostmm.errors import HostError
from hostmm.machine.locks import Lock
from hostmm.machine.timeline import LockClass, Row
from hostmm.mm.frames import PAGE_WORDS, Page
from hostmm.mm.rights import Rights
from secmmu.layouts import PPN_BITS, FrameKind, PteLayout

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = [
    "PTE_A",
    "PTE_D",
    "PTE_R",
    "PTE_SOFT_DIRTY",
    "PTE_SPLITTING",
    "PTE_U",
    "PTE_V",
    "PTE_W",
    "PTE_X",
    "PageTable",
    "file_entry",
    "huge_base",
    "huge_words",
    "is_file_entry",
    "is_migration_entry",
    "is_swap_entry",
    "make_pte",
    "migration_entry",
    "pte_pfn",
    "software_value",
    "swap_entry",
    "table_pte",
]

_pack = packer(PteLayout())
_unpack = unpacker(PteLayout())

PTE_V = _pack(v=1)
PTE_R = _pack(r=1)
PTE_W = _pack(w=1)
PTE_X = _pack(x=1)
PTE_U = _pack(u=1)
PTE_A = _pack(a=1)
PTE_D = _pack(d=1)
PTE_SOFT_DIRTY = _pack(rsw=1)
PTE_SPLITTING = _pack(rsw=2)
_PPN_SHIFT = _pack(ppn=1).bit_length() - 1

_LEVELS = 3
_INDEX_BITS = 9


def make_pte(pfn: int, bits: int) -> int:
    """Return a leaf PTE of ``pfn`` with the given PTE_* bits, valid and user."""
    return pfn << _PPN_SHIFT | bits | PTE_V | PTE_U


def table_pte(pfn: int) -> int:
    """Return a PTE that points to the table in a frame."""
    return pfn << _PPN_SHIFT | PTE_V


def pte_pfn(pte: int) -> int:
    """Frame number of a PTE."""
    return pte >> _PPN_SHIFT & ((1 << PPN_BITS) - 1)


def huge_base(vpn: int) -> int:
    """Return the first page of the 2 MiB around ``vpn``."""
    return vpn & ~(PAGE_WORDS - 1)


def huge_words(leaf: int) -> list[int]:
    """Return the PTEs of the base pages of a 2 MiB leaf."""
    return [leaf + (offset << _PPN_SHIFT) for offset in range(PAGE_WORDS)]


def swap_entry(slot: int) -> int:
    """Return the software entry (``v`` clear) of a page in slot ``slot`` of the backing store."""
    return slot << 3 | 0b010


def file_entry(index: int) -> int:
    """Return the software entry (``v`` clear) of page offset ``index`` in a nonlinear mapping (``pgoff_to_pte``)."""
    return index << 3 | 0b100


def migration_entry(pfn: int, *, write: bool) -> int:
    """Return the software entry (``v`` clear) of a page that is being migrated from ``pfn``."""
    return (pfn << 1 | write) << 3 | 0b110


def is_swap_entry(word: int) -> bool:
    """Whether a PTE word names a swap slot."""
    return word & 0b111 == 0b010


def is_file_entry(word: int) -> bool:
    """Whether a PTE word names a file offset (``pte_file``)."""
    return word & 0b111 == 0b100


def is_migration_entry(word: int) -> bool:
    """Whether a PTE word stands for a page that is being migrated."""
    return word & 0b111 == 0b110


def software_value(word: int) -> int:
    """Return the slot or the file offset of a software entry; of a migration entry ``pfn << 1 | write``."""
    return word >> 3


class PageTable:
    """The tables of one address space; each leaf table has a lock of its own (split PT locks).

    A 2 MiB leaf (:meth:`set_huge`) has no leaf table below it. It is read as its base pages, and the timeline has it
    as those, too; :meth:`lock` is then that of the table which holds it. A non-present PTE is 0 or a software entry
    (``v`` clear): a swap slot or a file offset, as the mm keeps it.

    Parameters
    ----------
    machine : Machine
    mm : int
        Address-space number, for the timeline.

    Attributes
    ----------
    rights : Rights
        What a device bound to the address space may do with the frames it maps.
    """

    def __init__(self, machine: "Machine", mm: int) -> None:
        self._machine = machine
        self._mm = mm
        self._shadow: dict[int, list[int]] = {}
        self._locks: dict[int, Lock] = {}
        self._tables: dict[int, Page] = {}
        self._spans: dict[int, tuple[int, int]] = {}
        self._leaf_vpn: dict[int, int] = {}
        self._huge: dict[int, None] = {}
        self._deposits: dict[int, int] = {}
        self.rights = Rights(machine)
        self.root = self._new_table(0, _LEVELS - 1)

    def _new_table(self, vpn: int, level: int) -> int:
        """Make an empty table of a level: the one over ``vpn``."""
        page = self._machine.frames.alloc(FrameKind.TABLE)
        self._machine.link.fill(self._machine.sched.now, page.address, 0, PAGE_WORDS)
        self._shadow[page.pfn] = [0] * PAGE_WORDS
        self._tables[page.pfn] = page
        self._spans[page.pfn] = vpn >> (level + 1) * _INDEX_BITS << (level + 1) * _INDEX_BITS, level
        self._log_table(page.pfn, linked=True)
        return page.pfn

    def _log_table(self, pfn: int, *, linked: bool) -> None:
        first, level = self._spans[pfn]
        self._machine.sched.log(
            Row.TABLE, mm=self._mm, vpn=first, pfn=pfn, tag=int(linked), a=level
        )

    def _slot(self, vpn: int, *, create: bool) -> tuple[int, int] | None:
        if self.root not in self._shadow:
            if create:
                raise self._ended()
            return None
        table = self.root
        for level in range(_LEVELS - 1, 0, -1):
            index = vpn >> level * _INDEX_BITS & (PAGE_WORDS - 1)
            entry = self._shadow[table][index]
            if not entry & PTE_V:
                if not create:
                    return None
                child = self._new_table(vpn, level - 1)
                self._store(table, index, child << _PPN_SHIFT | PTE_V)
                if level == 1:
                    self._locks[child] = self._machine.new_lock(
                        f"ptl {self._mm}:{child}", LockClass.PTL
                    )
                    self._leaf_vpn[child] = vpn & ~(PAGE_WORDS - 1)
                table = child
            elif entry & (PTE_R | PTE_X):
                return None
            else:
                table = pte_pfn(entry)
        return table, vpn & (PAGE_WORDS - 1)

    def _store(self, table: int, index: int, word: int) -> None:
        self._shadow[table][index] = word
        self._machine.link.write(self._machine.sched.now, (table << 12) + 8 * index, (word,))

    def lock(self, vpn: int) -> Lock | None:
        """Return the lock over what translates ``vpn``; None where nothing can (``!pmd_present``)."""
        slot = self._slot(vpn, create=False)
        if slot is None:
            return self.pmd_lock(vpn) if self.huge(vpn) else None
        return self._locks[slot[0]]

    def place(self, vpn: int, lock: Lock) -> int:
        """Return where the PTE now is that was ``vpn``'s when the lock over it was taken: its table may have moved."""
        if self.lock(vpn) is lock:
            return vpn
        base = next(
            (b for t, b in self._leaf_vpn.items() if self._locks[t] is lock), huge_base(vpn)
        )
        return base + (vpn & (PAGE_WORDS - 1))

    def pmd_lock_in_use(self, vpn: int) -> Lock | None:
        """Return the lock over the 2 MiB entry of ``vpn`` if somebody holds it, else None."""
        lock = self._locks.get(self._huge_slot(vpn)[0])
        return lock if lock is not None and lock.held else None

    def pmd_lock(self, vpn: int) -> Lock:
        """Return the lock over the 2 MiB entry of ``vpn`` (``pmd_lock``); where both are held, taken before :meth:`lock`."""
        table, _ = self._huge_slot(vpn)
        if table not in self._locks:
            self._locks[table] = self._machine.new_lock(
                f"pmd lock {self._mm}:{table}", LockClass.PTL, key="pmd"
            )
        return self._locks[table]

    def alloc(self, vpn: int) -> Lock:
        """Make the tables down to ``vpn`` (``pte_alloc``); return the page-table lock over it."""
        slot = self._slot(vpn, create=True)
        assert slot is not None
        return self._locks[slot[0]]

    def get(self, vpn: int) -> int:
        """Read the PTE word, that of a base page where there is a 2 MiB leaf; 0 where there is no table."""
        slot = self._slot(vpn, create=False)
        if slot is None:
            leaf = self.huge(vpn)
            return leaf + ((vpn & (PAGE_WORDS - 1)) << _PPN_SHIFT) if leaf else 0
        return self._shadow[slot[0]][slot[1]]

    def mark(self, vpn: int, bits: int = 0, *, clear: int = 0) -> None:
        """Set and clear bits, but not V, R, W or X, in whatever translates ``vpn``."""
        leaf = self.huge(vpn)
        if leaf:
            self.set_huge(huge_base(vpn), (leaf | bits) & ~clear)
        else:
            self.set(vpn, (self.get(vpn) | bits) & ~clear)

    def set(self, vpn: int, word: int) -> None:
        """Write the PTE word (``set_pte_at``); the tables must be there."""
        slot = self._slot(vpn, create=False)
        assert slot is not None, f"no page table for vpn {vpn:#x}"
        old = self._shadow[slot[0]][slot[1]]
        pfn = pte_pfn(word) if word & PTE_V else -1
        if word & PTE_V:
            self.rights.gain(pfn, read=bool(word & PTE_R), write=bool(word & PTE_W))
        self._store(*slot, word)
        self._machine.sched.log(Row.PTE_SET, mm=self._mm, vpn=vpn, pfn=pfn, a=word, b=old)
        self._lose(vpn, old)

    def clear(self, vpn: int) -> int:
        """Clear the PTE and return the old word (``ptep_get_and_clear``); the CPU flush is the caller's."""
        slot = self._slot(vpn, create=False)
        assert slot is not None, f"no page table for vpn {vpn:#x}"
        old = self._shadow[slot[0]][slot[1]]
        self._store(*slot, 0)
        self._machine.sched.log(Row.PTE_CLEAR, mm=self._mm, vpn=vpn, pfn=pte_pfn(old), a=old)
        self._lose(vpn, old)
        return old

    # --- 2 MiB at a time ---------------------------------------------------------------------------------

    def huge(self, vpn: int) -> int:
        """Return the word of the 2 MiB leaf over ``vpn``, 0 where there is none."""
        if self.root not in self._shadow:
            return 0
        top = self._shadow[self.root][vpn >> 2 * _INDEX_BITS & (PAGE_WORDS - 1)]
        if not top & PTE_V or top & (PTE_R | PTE_X):
            return 0
        word = self._shadow[pte_pfn(top)][vpn >> _INDEX_BITS & (PAGE_WORDS - 1)]
        return word if word & PTE_V and word & (PTE_R | PTE_X) else 0

    def huge_leaves(self, first: int, last: int) -> list[int]:
        """Return the first vpn of every 2 MiB leaf that overlaps ``first`` to ``last``, ascending; needs no lock."""
        return [base for base in sorted(self._huge) if base <= last and base + PAGE_WORDS > first]

    def set_huge(self, vpn: int, word: int) -> None:
        """Write a 2 MiB leaf PTE; ``vpn`` and its frame are aligned, and no leaf table may be there."""
        table, index = self._huge_slot(vpn)
        old = self._shadow[table][index]
        for pte in huge_words(word):
            self.rights.gain(pte_pfn(pte), read=bool(pte & PTE_R), write=bool(pte & PTE_W))
        self._store(table, index, word)
        self._huge[vpn] = None
        self._log(Row.PMD_SET, vpn, word, old)
        before = huge_words(old) if old & PTE_V else [0] * PAGE_WORDS
        for offset, (pte, was) in enumerate(zip(huge_words(word), before, strict=True)):
            self._log(Row.PTE_SET, vpn + offset, pte, was, tag=1)
            self._lose(vpn + offset, was)

    def clear_huge(self, vpn: int, *, leaves: bool = False) -> int:
        """Clear a 2 MiB leaf PTE and return the old word; the CPU flush is the caller's.

        Who looks at it without its lock (:meth:`huge_leaves`) sees nothing there; with ``leaves`` a leaf that is being
        changed (``pmdp_invalidate``).
        """
        table, index = self._huge_slot(vpn)
        old = self._shadow[table][index]
        self._store(table, index, 0)
        if not leaves:
            del self._huge[vpn]
        self._log(Row.PMD_CLEAR, vpn, old)
        for offset, pte in enumerate(huge_words(old)):
            self._log(Row.PTE_CLEAR, vpn + offset, pte, tag=1)
            self._lose(vpn + offset, pte)
        return old

    def take_table(self, vpn: int) -> int:
        """Take the leaf table over ``vpn`` out of the tables and return its frame; the CPU flush is the caller's."""
        upper, index = self._huge_slot(vpn)
        word = self._shadow[upper][index]
        table, base = pte_pfn(word), huge_base(vpn)
        self._store(upper, index, 0)
        del self._leaf_vpn[table]
        self._log(Row.PMD_CLEAR, base, word)
        self._log_table(table, linked=False)
        for offset, pte in enumerate(self._shadow[table]):
            if pte:
                self._log(Row.PTE_CLEAR, base + offset, pte, tag=1)
                self._lose(base + offset, pte)
        return table

    def put_table(self, vpn: int, table: int) -> None:
        """Put a leaf table that was taken out over ``vpn``, where nothing may be."""
        upper, index = self._huge_slot(vpn)
        base = huge_base(vpn)
        assert not self._shadow[upper][index], f"vpn {vpn:#x} has a table or a 2 MiB leaf already"
        for pte in self._shadow[table]:
            if pte & PTE_V:
                self.rights.gain(pte_pfn(pte), read=bool(pte & PTE_R), write=bool(pte & PTE_W))
        word = table << _PPN_SHIFT | PTE_V
        self._store(upper, index, word)
        self._leaf_vpn[table], self._spans[table] = base, (base, 0)
        self._log_table(table, linked=True)
        self._log(Row.PMD_SET, base, word)
        for offset, pte in enumerate(self._shadow[table]):
            if pte:
                self._log(Row.PTE_SET, base + offset, pte, tag=1)

    def taken(self, table: int) -> list[int]:
        """Return the words of a leaf table that was taken out."""
        return list(self._shadow[table])

    def fill_taken(self, table: int, words: Sequence[int]) -> None:
        """Write the words of a leaf table that was taken out, which nobody walks."""
        for index, word in enumerate(words):
            if self._shadow[table][index] != word:
                self._store(table, index, word)

    def deposit(self, vpn: int, table: int) -> None:
        """Keep a table for the day when the 2 MiB leaf at ``vpn`` is split (``pgtable_trans_huge_deposit``)."""
        self._deposits[vpn] = table

    def withdraw(self, vpn: int) -> int:
        """Return the table that was kept for ``vpn``."""
        return self._deposits.pop(vpn)

    def free_taken(self, table: int) -> None:
        """Free a table that was taken out (``pte_free``)."""
        self._machine.frames.put(self._tables.pop(table))
        for kept in (self._shadow, self._locks, self._spans):
            del kept[table]

    def _log(self, kind: Row, vpn: int, new: int, old: int = 0, *, tag: int = 0) -> None:
        pfn = pte_pfn(new) if new & PTE_V else -1
        self._machine.sched.log(kind, mm=self._mm, vpn=vpn, pfn=pfn, tag=tag, a=new, b=old)

    def _huge_slot(self, vpn: int) -> tuple[int, int]:
        """Return the level-1 table over ``vpn``, made if need be, and the index in it."""
        if self.root not in self._shadow:
            raise self._ended()
        top = vpn >> 2 * _INDEX_BITS & (PAGE_WORDS - 1)
        entry = self._shadow[self.root][top]
        if not entry & PTE_V:
            entry = self._new_table(vpn, 1) << _PPN_SHIFT | PTE_V
            self._store(self.root, top, entry)
        return pte_pfn(entry), vpn >> _INDEX_BITS & (PAGE_WORDS - 1)

    def _ended(self) -> HostError:
        return HostError(f"mm {self._mm}: nothing can be mapped, as the address space has ended")

    def _lose(self, vpn: int, old: int) -> None:
        if old & PTE_V:
            self.rights.lose(vpn, pte_pfn(old), read=bool(old & PTE_R), write=bool(old & PTE_W))

    def entries(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield (vpn, PTE word) of every non-zero PTE from ``first`` to ``last``, ascending."""
        for table, base in sorted(self._leaf_vpn.items(), key=lambda item: item[1]):
            if base > last or base + PAGE_WORDS <= first:
                continue
            for index, word in enumerate(self._shadow[table]):
                if word and first <= base + index <= last:
                    yield base + index, word

    def leaves(self, first: int, last: int) -> list[tuple[int, int, Lock]]:
        """Yield the leaf tables over ``first`` to ``last``: (first vpn, last vpn, lock), clipped to it, ascending."""
        return sorted(
            (
                (max(base, first), min(base + PAGE_WORDS - 1, last), self._locks[table])
                for table, base in self._leaf_vpn.items()
                if base <= last and base + PAGE_WORDS > first
            ),
            key=lambda leaf: leaf[0],
        )

    def free_tables(self) -> None:
        """Free every page-table page, root last (``free_pgtables`` and ``pgd_free`` of exit)."""
        for pfn in sorted(self._tables, key=lambda pfn: pfn == self.root):
            if pfn not in self._deposits.values():
                self._log_table(pfn, linked=False)
            self._machine.frames.put(self._tables[pfn])
        for kept in (self._tables, self._shadow, self._leaf_vpn, self._huge):
            kept.clear()

    def words(self) -> dict[int, list[int]]:
        """Return the shadow: table frame to its 512 words."""
        return self._shadow
