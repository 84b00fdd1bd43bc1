"""Page allocation."""

from typing import TYPE_CHECKING

from secmmu.layouts import FrameKind

from hostmm.scheduler import Steps

if TYPE_CHECKING:
    from hostmm.machine import Machine

__all__ = ["alloc_page"]


def alloc_page(machine: "Machine", kind: FrameKind) -> Steps:
    """Allocate a page (``alloc_page``): steps of the calling thread; returns the Page.

    The caller holds no page-table lock and no rmap lock.
    """
    yield "alloc_page"
    return machine.frames.alloc(kind)
