"""Page allocation."""

from typing import TYPE_CHECKING

from hostmm.mm.space import MmStruct
from hostmm.scheduler import Steps
from secmmu.layouts import FrameKind

if TYPE_CHECKING:
    from hostmm.machine import Machine

__all__ = ["alloc_page", "pte_alloc"]


def alloc_page(machine: "Machine", kind: FrameKind) -> Steps:
    """Allocate a page (``alloc_page``): steps of the calling thread; returns the Page.

    The caller holds no page-table lock and no rmap lock.
    """
    yield "alloc_page"
    return machine.frames.alloc(kind)


def pte_alloc(machine: "Machine", mm: MmStruct, vpn: int) -> Steps:
    """Make the page tables down to ``vpn`` (``pte_alloc_map``); returns the page-table lock over it."""
    if mm.tables.lock(vpn) is None:
        yield "alloc_page"
    return mm.tables.alloc(vpn)
