"""What a bound device may do with each frame, as the frame sanitizer is told: granted by a PTE, taken back by a callback.

A right is granted before the PTE that gives it is stored. It is taken back when the callback that covers the change
(``INVALIDATE_PAGE``, or ``RANGE_END`` of a bracket) has returned: until then a translation cached before the change
is within the contract, from then on it is a violation. A change that nobody is notified of (an upgrade, or the
missing call of review note S1) takes nothing back. Frames that are freed lose every right by being freed.
"""

from typing import TYPE_CHECKING

from hostmm.errors import HostError

if TYPE_CHECKING:
    from hostmm.machine import Machine
    from hostmm.mm.frames import Page

__all__ = ["Rights"]

_ASIDS = 16


class Rights:
    """The rights of one address space; the page table reports every change of a leaf PTE here.

    R and W decide; A and D do not, as they only decide whether an access faults first.

    Parameters
    ----------
    machine : Machine

    Attributes
    ----------
    asid : int or None
        The asid under which a device is bound to the address space; None while there is none.
    """

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self.asid: int | None = None
        self._mapped: dict[int, list[int]] = {}
        self._lost: dict[int, list[int]] = {}

    def gain(self, pfn: int, *, read: bool, write: bool) -> None:
        """Take note of a leaf PTE that is about to be stored."""
        counts = self._mapped.setdefault(pfn, [0, 0])
        counts[0] += read
        counts[1] += write
        self._settle(pfn, keep=True)

    def lose(self, vpn: int, pfn: int, *, read: bool, write: bool) -> None:
        """Take note of a leaf PTE of ``vpn`` that has just been overwritten or cleared."""
        counts = self._mapped[pfn]
        counts[0] -= read
        counts[1] -= write
        if counts == [0, 0]:
            del self._mapped[pfn]
        page = self._machine.frames.pages.get(pfn)
        if page is not None and self._wanted(page, keep=False) != _held(page):
            self._lost.setdefault(vpn, []).append(pfn)

    def lost(self, first: int, last: int) -> list[int]:
        """Take the frames that pages ``first`` to ``last`` mapped before, for :meth:`revoke` once the callback is done."""
        if last - first < len(self._lost):
            vpns = [vpn for vpn in range(first, last + 1) if vpn in self._lost]
        else:
            vpns = [vpn for vpn in self._lost if first <= vpn <= last]
        return [pfn for vpn in vpns for pfn in self._lost.pop(vpn)]

    def revoke(self, pfns: list[int]) -> None:
        """Reduce the rights to these frames to what the present PTEs give."""
        for pfn in dict.fromkeys(pfns):
            self._settle(pfn, keep=False)

    def bind(self, asid: int) -> None:
        """Grant ``asid`` what the present PTEs give.

        Raises
        ------
        HostError
            The sanitizer's tags have no bit for this asid, or one is bound already.
        """
        if not 0 < asid < _ASIDS:
            raise HostError(f"a device's asid must be from 1 to {_ASIDS - 1}, not {asid}")
        if self.asid is not None:
            raise HostError(f"the address space is bound to a device already, as asid {self.asid}")
        self.asid = asid
        for pfn in self._mapped:
            self._settle(pfn, keep=True)

    def unbind(self) -> None:
        """Take every right back: the device has been stopped."""
        assert self.asid is not None
        mask = 1 << self.asid
        for page in self._machine.frames.pages.values():
            if (page.read_rights | page.write_rights) & mask:
                page.read_rights &= ~mask
                page.write_rights &= ~mask
                self._machine.frames.tag(page)
        self._lost.clear()
        self.asid = None

    def _settle(self, pfn: int, *, keep: bool) -> None:
        page = self._machine.frames.pages.get(pfn)
        if page is not None and (wanted := self._wanted(page, keep=keep)) != _held(page):
            page.read_rights, page.write_rights = wanted
            self._machine.frames.tag(page)

    def _wanted(self, page: "Page", *, keep: bool) -> tuple[int, int]:
        """Read and write rights of the page by its PTEs; ``keep``: and those it has already."""
        if self.asid is None:
            return _held(page)
        mask = 1 << self.asid
        kept = 0xFFFF if keep else ~mask
        readers, writers = self._mapped.get(page.pfn, (0, 0))
        return (
            page.read_rights & kept | (mask if readers else 0),
            page.write_rights & kept | (mask if writers else 0),
        )


def _held(page: "Page") -> tuple[int, int]:
    return page.read_rights, page.write_rights
