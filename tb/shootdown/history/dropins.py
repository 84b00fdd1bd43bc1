"""Which drop-in a fill is of."""

from dataclasses import dataclass

__all__ = ["DropIns"]


@dataclass
class _Offer:
    asid: int
    vpn: int
    latched: int
    taken: bool = False


class DropIns:
    """Entries that software has offered, until they are filled or refused.

    The MMU looks at them one by one. The model fills before it answers; the RTL answers first, and what it has taken
    may be invalidated on its way and never be filled.
    """

    def __init__(self) -> None:
        self._open: dict[int, _Offer] = {}

    def offer(self, tag: int, asid: int, vpn: int, latched: int) -> None:
        """Note an offer of which software says that it was true in cycle ``latched``."""
        self._open[tag] = _Offer(asid, vpn, latched)

    def answer(self, tag: int, *, taken: bool) -> None:
        """Note the answer to an offer."""
        if not taken:
            self._open.pop(tag, None)
        elif tag in self._open:
            self._open[tag].taken = True

    def fill(self, asid: int, vpn: int) -> int | None:
        """Return the ``latched`` of the offer that is filled now; None where nobody made one."""
        same = {t: o for t, o in self._open.items() if (o.asid, o.vpn) == (asid, vpn)}
        taken = [tag for tag, offer in same.items() if offer.taken]
        # Those taken before it have died.
        done = taken or list(same)[:1]
        for tag in done:
            del self._open[tag]
        return same[done[-1]].latched if done else None
