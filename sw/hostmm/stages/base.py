"""What a stage is, and what all of them stand on: one address space that a subscriber of every callback listens to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostmm.callers.faults import touch
from hostmm.callers.vmas import link
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import Page
from hostmm.mm.pagetable import PTE_A, pte_pfn
from hostmm.mm.space import Vma
from hostmm.policies import Policy

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["FIRST", "Setting", "Stage", "Witness"]

FIRST = 0x400
"""The first page of the mapping that a stage plays on; it begins a 2 MiB block."""


class Witness:
    """A subscriber with every method, none of which does anything: each call shows in the timeline."""

    def invalidate_page(self, address: int, *, callback: int) -> Steps:
        """Do nothing."""
        yield from ()

    def clear_flush_young(self, vpn: int, *, callback: int) -> Steps:
        """Do nothing; the page was not used."""
        yield from ()
        return 0

    def test_young(self, vpn: int, *, callback: int) -> Steps:
        """Do nothing; the page was not used."""
        yield from ()
        return 0

    def invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Do nothing."""
        yield from ()

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """Do nothing."""
        yield from ()

    def invalidate_range(self, first: int, last: int, *, callback: int) -> Steps:
        """Do nothing."""
        yield from ()

    def change_pte(self, vpn: int, pte: int, *, callback: int) -> Steps:
        """Do nothing."""
        yield from ()

    def release(self, *, callback: int) -> Steps:
        """Do nothing."""
        yield from ()


class Setting:
    """An address space on two CPUs with a :class:`Witness`, and the steps that stages have in common."""

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.mm = machine.new_mm()
        self.mm.cpus = 2
        self.mm.notifiers.register(Witness())

    def map(
        self, pages: int = 1, *, file: AddressSpace | None = None, shared: bool = False
    ) -> Steps:
        """Map pages from :data:`FIRST` on, readable and writable; returns the Vma."""
        pgoff = FIRST if file is None else 0
        vma = Vma(self.mm, FIRST, FIRST + pages, True, True, shared=shared, file=file, pgoff=pgoff)
        yield from link(self.machine, vma)
        return vma

    def map_written(
        self, pages: int = 1, *, file: AddressSpace | None = None, shared: bool = False
    ) -> Steps:
        """Map pages and write each; returns the Vma."""
        vma = yield from self.map(pages, file=file, shared=shared)
        for vpn in range(vma.start, vma.end):
            yield from self.touch(vpn, write=True)
        return vma

    def touch(self, vpn: int = FIRST, *, write: bool = False) -> Steps:
        """Access a page by a CPU."""
        pte = yield from touch(self.machine, self.mm, vpn, write=write)
        assert pte is not None, "the stage may access what it maps"

    def page(self, vpn: int = FIRST) -> Page:
        """Return the page that a present PTE maps."""
        return self.machine.frames.pages[pte_pfn(self.mm.tables.get(vpn))]

    def age(self, *vpns: int) -> None:
        """Make present PTEs old, outside every path."""
        for vpn in vpns:
            self.mm.tables.set(vpn, self.mm.tables.get(vpn) & ~PTE_A)

    def locked(self, operation: Callable[["Machine", Page], Steps], page: Page) -> Steps:
        """Run ``operation`` on a page under its lock, with a reference; returns what it returns."""
        self.machine.frames.get(page)
        yield Acquire(page.lock)
        result = yield from operation(self.machine, page)
        self.machine.sched.release(page.lock)
        self.machine.frames.put(page)
        return result


@dataclass(frozen=True)
class Stage:
    """One passage through an mm path, from nothing.

    Attributes
    ----------
    name : str
        Unique; the path's name, and what is special about this passage.
    path : str
        The path whose first passage is shown.
    section : str
        Where docs/contract.md describes it.
    title : str
        What happens, in one line.
    play : callable
        The steps of one thread, given a :class:`Setting`.
    frames : int
        Frames of the machine that it needs.
    needs : str or None
        Another path without which it cannot be played.
    """

    name: str
    path: str
    section: str
    title: str
    play: Callable[[Setting], Steps]
    frames: int = 256
    needs: str | None = None

    def possible(self, policy: Policy) -> bool:
        """Whether the policy's kernel had what it takes."""
        return policy.has(self.path) and (self.needs is None or policy.has(self.needs))
