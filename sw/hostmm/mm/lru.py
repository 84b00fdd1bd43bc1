"""The LRU lists of user pages: what reclaim looks at, and in which order."""

from collections.abc import Iterator

from hostmm.mm.frames import Page

__all__ = ["Lru"]


class Lru:
    """The active and the inactive list, oldest page first (``struct zone`` of 2.6.25).

    A page leaves its list when its frame is freed, or while reclaim has isolated it; ``page.lru`` says whether it
    is on one, ``page.active`` on which.
    """

    def __init__(self) -> None:
        self._lists: dict[bool, dict[Page, None]] = {True: {}, False: {}}

    def __len__(self) -> int:
        return sum(len(pages) for pages in self._lists.values())

    def __iter__(self) -> Iterator[Page]:
        return (page for pages in self._lists.values() for page in pages)

    @property
    def active(self) -> int:
        """Pages on the active list."""
        return len(self._lists[True])

    @property
    def inactive(self) -> int:
        """Pages on the inactive list."""
        return len(self._lists[False])

    def add(self, page: Page, *, active: bool) -> None:
        """Put a page at the young end of a list (``lru_cache_add``, ``lru_cache_add_active``)."""
        self.remove(page)
        page.lru, page.active = True, active
        self._lists[active][page] = None

    def remove(self, page: Page) -> None:
        """Take a page off its list, if it is on one."""
        if page.lru:
            del self._lists[page.active][page]
            page.lru = False

    def isolate(self, *, active: bool, count: int) -> list[Page]:
        """Take up to ``count`` of the oldest pages off a list; the caller puts each back, or frees it."""
        pages = list(self._lists[active])[:count]
        for page in pages:
            self.remove(page)
        return pages

    def accessed(self, page: Page) -> None:
        """Note a use through a system call, or that it was young when unmapped (``mark_page_accessed``)."""
        if not page.referenced:
            page.referenced = True
        elif page.lru and not page.active:
            page.referenced = False
            self.add(page, active=True)
