"""Physical frames: the allocator, ``struct page`` with its counts, and the memory map."""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hostmm.errors import HostError
from hostmm.machine.locks import Lock
from hostmm.machine.timeline import LockClass, Row
from secmmu.layouts import PAGE_BITS, FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine
    from hostmm.mm.files import AddressSpace
    from hostmm.mm.rmap import AnonVma

__all__ = ["FIRST_FRAME", "PAGE_BYTES", "PAGE_WORDS", "FrameAllocator", "Page"]

PAGE_BYTES = 1 << PAGE_BITS
PAGE_WORDS = PAGE_BYTES // 8
FIRST_FRAME = 16
"""Frames below it are never handed out: a translation to physical address 0 is always a bug."""


@dataclass(eq=False)
class Page:
    """One ``struct page``.

    Attributes
    ----------
    refcount, mapcount : int
        References; PTEs that map it. The frame is free when refcount reaches 0.
    mapping : AddressSpace or AnonVma or None
        What it belongs to; ``index`` is the page offset in the file, or the vpn it was faulted at.
    dirty, swap_slot
        PG_dirty; the slot of the backing store that holds (or will hold) its content.
    lock : Lock
        PG_locked.
    lazyfree : bool
        Its content need not be kept (MADV_FREE; ``!PageSwapBacked``): unmapped and clean, it is dropped.
    huge : bool
        It is the first of 512 that one 2 MiB leaf maps; of these it alone is on the LRU lists.
    pins : int
        References that devices without a notifier hold (``get_user_pages``); they are in ``refcount`` too.
    lru, active, referenced
        Whether it is on the LRU lists, on the active one, and PG_referenced.
    """

    pfn: int
    kind: FrameKind
    lock: Lock
    refcount: int = 1
    mapcount: int = 0
    mapping: "AddressSpace | AnonVma | None" = None
    index: int = 0
    dirty: bool = False
    swap_slot: int | None = None
    lru: bool = False
    active: bool = False
    referenced: bool = False
    under_writeback: bool = False
    lazyfree: bool = False
    huge: bool = False
    pins: int = 0
    read_rights: int = field(default=0)
    write_rights: int = field(default=0)

    @property
    def address(self) -> int:
        """Physical byte address."""
        return self.pfn << PAGE_BITS


class FrameAllocator:
    """Hands out frames, first freed first reused, and keeps the sanitizer's tags true.

    Parameters
    ----------
    machine : Machine
    frames : int
        How many frames may be in use at once.

    Raises
    ------
    HostError
        By :meth:`alloc`, when none is left.
    """

    def __init__(self, machine: "Machine", frames: int) -> None:
        self._machine = machine
        self.total = frames
        self._free = deque(range(FIRST_FRAME, FIRST_FRAME + frames))
        self.pages: dict[int, Page] = {}
        self.allocated = 0
        self.freed = 0

    @property
    def free_frames(self) -> int:
        """Frames nobody uses."""
        return len(self._free)

    def alloc(self, kind: FrameKind) -> Page:
        """Take a frame; its content is whatever was there."""
        if not self._free:
            raise HostError(
                f"out of frames: all {self.total} are in use; give the run more (--frames)"
            )
        return self._take(self._free.popleft(), kind)

    def _take(self, pfn: int, kind: FrameKind) -> Page:
        page = Page(pfn, kind, self._machine.new_lock(f"page {pfn}", LockClass.PAGE))
        self.pages[pfn] = page
        self.allocated += 1
        self._machine.sched.log(Row.ALLOC, pfn=pfn, tag=kind.value)
        self.tag(page)
        return page

    def alloc_block(self, kind: FrameKind, order: int) -> list[Page]:
        """Take ``2 ** order`` contiguous frames, the lowest ones free that are aligned to their size.

        Raises
        ------
        HostError
            There are none.
        """
        block = self._block(order)
        if block is None:
            raise HostError(
                f"no {1 << order} contiguous frames are free; give the run more (--frames)"
            )
        self._free = deque(pfn for pfn in self._free if pfn not in block)
        return [self._take(pfn, kind) for pfn in block]

    def has_block(self, order: int) -> bool:
        """Whether :meth:`alloc_block` would find one."""
        return self._block(order) is not None

    def _block(self, order: int) -> range | None:
        size, free = 1 << order, set(self._free)
        blocks = (range(at, at + size) for at in range(0, max(free, default=0) + 1, size))
        return next((block for block in blocks if free.issuperset(block)), None)

    def get(self, page: Page) -> None:
        """Take a reference."""
        page.refcount += 1
        self._machine.sched.log(Row.GET, pfn=page.pfn, a=page.refcount)

    def put(self, page: Page) -> bool:
        """Drop a reference; the last one frees the frame. Returns whether it did."""
        page.refcount -= 1
        self._machine.sched.log(Row.PUT, pfn=page.pfn, a=page.refcount)
        if page.refcount:
            return False
        self._machine.sched.log(Row.FREE, pfn=page.pfn)
        self._machine.link.tag(self._machine.sched.now, page.pfn, kind=FrameKind.FREE.value)
        self._machine.lru.remove(page)
        del self.pages[page.pfn]
        self._free.append(page.pfn)
        self.freed += 1
        return True

    def tag(self, page: Page) -> None:
        """Send the page's kind and rights to the frame sanitizer."""
        self._machine.link.tag(
            self._machine.sched.now,
            page.pfn,
            kind=page.kind.value,
            read=page.read_rights,
            write=page.write_rights,
        )
