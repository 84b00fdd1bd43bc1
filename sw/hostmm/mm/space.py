"""``struct mm_struct`` and ``struct vm_area_struct``."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostmm.machine.timeline import LockClass, Row
from hostmm.mm.files import AddressSpace
from hostmm.mm.pagetable import PageTable
from hostmm.mm.rmap import AnonVma
from hostmm.notifier import NotifierChain

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["MmStruct", "Vma"]


@dataclass(eq=False)
class Vma:
    """One ``vm_area_struct``: pages ``start`` to ``end - 1`` (vpns).

    Attributes
    ----------
    read, write : bool
        VM_READ (or VM_EXEC), VM_WRITE.
    shared, locked, pfnmap, nonlinear, heap : bool
        VM_SHARED, VM_LOCKED, VM_PFNMAP (no ``struct page`` behind its PTEs), VM_NONLINEAR; grown by ``brk``.
    file, pgoff
        The file it maps (None: anonymous) and the page offset of ``start`` in it; where it is anonymous, the
        vpn at which ``start`` was first mapped (it stays when mremap moves the pages).
    anon_vma : AnonVma or None
        Set by the first anonymous page (``anon_vma_prepare``).
    soft_dirty : bool
        It is newer than the last sweep of ``clear_refs_write`` (VM_SOFTDIRTY).
    cursor : int
        How far reclaim has swept a nonlinear vma, in pages (``vm_private_data``).
    """

    mm: "MmStruct"
    start: int
    end: int
    read: bool
    write: bool
    shared: bool = False
    locked: bool = False
    pfnmap: bool = False
    nonlinear: bool = False
    file: AddressSpace | None = None
    pgoff: int = 0
    anon_vma: AnonVma | None = None
    heap: bool = False
    soft_dirty: bool = True
    cursor: int = 0

    def linear_index(self, vpn: int) -> int:
        """Page offset in the file that ``vpn`` maps (``linear_page_index``)."""
        return vpn - self.start + self.pgoff

    def vpn_of(self, index: int) -> int | None:
        """Return the vpn that maps page offset ``index``; None where it lies outside (``vma_address``)."""
        vpn = self.start + index - self.pgoff
        return vpn if self.start <= vpn < self.end else None

    @property
    def hugetlb(self) -> bool:
        """Whether it maps a hugetlbfs file (``is_vm_hugetlb_page``)."""
        return self.file is not None and self.file.hugetlb

    @property
    def cow(self) -> bool:
        """A private mapping that may be written (``is_cow_mapping``)."""
        return not self.shared


class MmStruct:
    """One address space.

    Parameters
    ----------
    machine : Machine
    number : int
        1, 2, ...: names it in the timeline; equal to its asid once a device is bound.

    Attributes
    ----------
    cpus : int
        CPUs that run it: a TLB flush interrupts the others.
    notifiers : NotifierChain
        Its registered subscribers.
    rss : list of int
        Pages with a ``struct page`` that it maps: of files, anonymous.
    """

    def __init__(self, machine: "Machine", number: int) -> None:
        self._machine = machine
        self.number = number
        self.rss = [0, 0]
        self.mmap_sem = machine.new_lock(f"mmap_sem {number}", LockClass.MMAP)
        self.tables = PageTable(machine, number)
        self.vmas: list[Vma] = []
        self.notifiers: NotifierChain = machine.chain(machine, self)
        self.cpus = 1
        self.users = 1

    def add_rss(self, count: int, *, anon: bool) -> None:
        """Count pages that it maps now, or maps no more (``add_mm_counter``)."""
        if count:
            before = self.rss[anon]
            self.rss[anon] += count
            row = {"mm": self.number, "tag": int(anon), "a": self.rss[anon]}
            self._machine.sched.log(Row.RSS, **row, b=before)

    def find_vma(self, vpn: int) -> Vma | None:
        """Return the vma that holds ``vpn``, or None."""
        for vma in self.vmas:
            if vma.start <= vpn < vma.end:
                return vma
        return None

    def insert(self, vma: Vma) -> None:
        """Add a vma, keeping them in order of address; it must not overlap another."""
        self.vmas.append(vma)
        self.vmas.sort(key=lambda v: v.start)

    def overlapping(self, first: int, last: int) -> Iterator[Vma]:
        """Return the vmas that hold a page from ``first`` to ``last``."""
        return (vma for vma in list(self.vmas) if vma.start <= last and vma.end > first)
