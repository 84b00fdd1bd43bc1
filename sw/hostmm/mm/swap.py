"""Swap: slots of the backing store with use counts, and the swap cache.

A slot's number is its byte address in the store divided by 4096; it is what a swap entry in a PTE holds. Its use
count has one for each PTE that names it and one for the swap cache (``swap_map`` of 2.6.25); at zero it is free.
"""

from typing import TYPE_CHECKING

from hostmm.errors import HostError
from hostmm.mm.frames import Page
from hostmm.mm.pages import set_page_dirty
from secmmu.layouts import PAGE_BITS

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["Swap"]


class Swap:
    """The swap area. All methods are atomic; who calls them spends the time.

    Attributes
    ----------
    uses : dict
        Slot to its use count, of slots in use.
    cache : dict
        Slot to the Page that holds (or will be filled with) its content.
    """

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._free: list[int] = []
        self.uses: dict[int, int] = {}
        self.cache: dict[int, Page] = {}

    @staticmethod
    def address(slot: int) -> int:
        """Byte address of a slot in the emulated memory."""
        address: int = slot << PAGE_BITS
        return address

    def add_to_swap(self, page: Page) -> int:
        """Give an anonymous page a slot and put it into the swap cache, dirty; return the slot (``add_to_swap``)."""
        slot: int = self._free.pop() if self._free else self._machine.new_slot() >> PAGE_BITS
        self.uses[slot] = 0
        self.add_to_cache(page, slot)
        set_page_dirty(self._machine, page)
        return slot

    def add_to_cache(self, page: Page, slot: int) -> None:
        """Put a page into the swap cache, which takes a reference and a use of the slot."""
        if page.swap_slot is not None or slot in self.cache:
            raise HostError(f"frame {page.pfn:#x}: slot {slot:#x} or the page is cached already")
        self._machine.frames.get(page)
        self.duplicate(slot)
        page.swap_slot = slot
        self.cache[slot] = page

    def delete_from_cache(self, page: Page) -> None:
        """Take a page out of the swap cache; drops the cache's reference and its use of the slot.

        The page becomes dirty, as what the slot holds is no longer tied to it (``delete_from_swap_cache``).
        """
        slot = self._forget(page)
        set_page_dirty(self._machine, page)
        self._machine.frames.put(page)
        self.free(slot)

    def remove_mapping(self, page: Page) -> None:
        """Drop a clean, unmapped page from the swap cache, as reclaim does: the slot keeps the content."""
        slot = self._forget(page)
        self._machine.frames.put(page)
        self.free(slot)

    def _forget(self, page: Page) -> int:
        slot = page.swap_slot
        assert slot is not None, "the page is in the swap cache"
        del self.cache[slot]
        page.swap_slot = None
        return slot

    def duplicate(self, slot: int) -> None:
        """One more PTE (or the cache) uses the slot (``swap_duplicate``)."""
        self.uses[slot] += 1

    def free(self, slot: int) -> None:
        """One user less; the last one frees the slot (``swap_free``)."""
        self.uses[slot] -= 1
        if self.uses[slot] == 0:
            del self.uses[slot]
            self._free.append(slot)

    def count(self, page: Page) -> int:
        """PTEs that name the page's slot; 0 for a page outside the swap cache (``page_swapcount``)."""
        return 0 if page.swap_slot is None else self.uses[page.swap_slot] - 1

    def can_share(self, page: Page) -> bool:
        """Whether the one PTE that maps the page may write it in place (``can_share_swap_page``)."""
        return page.mapcount + self.count(page) == 1

    def move(self, page: Page, new: Page) -> None:
        """Let ``new`` take the page's place in the swap cache, with its reference (migration)."""
        slot = self._forget(page)
        self._machine.frames.get(new)
        new.swap_slot, self.cache[slot] = slot, new
        self._machine.frames.put(page)

    def drop(self, page: Page) -> bool:
        """Take the page out of the swap cache if no PTE names its slot; return whether it did (``try_to_free_swap``)."""
        if page.swap_slot is None or self.count(page) or page.under_writeback:
            return False
        self.delete_from_cache(page)
        return True

    def remove_exclusive(self, page: Page) -> bool:
        """Drop the page from the swap cache if only the caller and the cache use it; return whether it did.

        For the last unmap of an anonymous page (``free_page_and_swap_cache``, ``remove_exclusive_swap_page``): the
        caller then drops its own reference.
        """
        if page.under_writeback or page.swap_slot is None:
            return False
        if page.refcount != 2 or self.count(page):
            return False
        self.delete_from_cache(page)
        return True
