"""Files: ``struct address_space`` with its page cache and the store behind it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hostmm.machine.locks import Lock
from hostmm.mm.frames import Page

if TYPE_CHECKING:
    from hostmm.mm.space import Vma

__all__ = ["AddressSpace"]


@dataclass(eq=False)
class AddressSpace:
    """One file's ``struct address_space``.

    Attributes
    ----------
    i_mmap_lock : Lock
        The file's rmap lock.
    vmas, nonlinear : list of Vma
        Linear mappings (``i_mmap``), nonlinear ones (``i_mmap_nonlinear``).
    pages : dict
        Page cache: page offset to Page.
    slots : dict
        Page offset to slot of the backing store, for pages that were ever written there.
    tmpfs : bool
        No dirty accounting, no writeback to a disk: pages go to swap (``shmem``).
    hugetlb : bool
        Its pages are 2 MiB (``hugetlbfs``); ``pages`` has each of the 512 base pages.
    holes : set
        Page offsets without a block (execute-in-place file): they map the shared sparse page.
    """

    number: int
    name: str
    i_mmap_lock: Lock
    vmas: "list[Vma]" = field(default_factory=list)
    nonlinear: "list[Vma]" = field(default_factory=list)
    pages: dict[int, Page] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)
    tmpfs: bool = False
    hugetlb: bool = False
    holes: set[int] = field(default_factory=set)
