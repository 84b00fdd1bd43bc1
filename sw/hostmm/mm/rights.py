"""What a bound device may do with each frame, as the frame sanitizer is told: granted by a PTE, taken back by a callback.

A right is granted before the PTE that gives it is stored. It is taken back when the callback that covers the change
(``INVALIDATE_PAGE``, or ``RANGE_END`` of a bracket) has returned: until then a translation cached before the change
is within the contract, from then on it is a violation. A change that nobody is notified of (an upgrade, or the
missing call of review note S1) takes nothing back. Frames that are freed lose every right by being freed.
"""

from typing import TYPE_CHECKING

from hostmm.errors import HostError

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine
    from hostmm.mm.frames import Page

__all__ = ["Rights", "allow"]

_ASIDS = 16
_ALL = (1 << _ASIDS) - 1


class Rights:
    """The rights of one address space; the page table reports every change of a leaf PTE here.

    R and W decide; A and D do not, as they only decide whether an access faults first.

    Parameters
    ----------
    machine : Machine
    """

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._mask = 0
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
            The sanitizer's tags have no bit for this asid.
        """
        if not 0 < asid < _ASIDS:
            raise HostError(f"a device's asid must be from 1 to {_ASIDS - 1}, not {asid}")
        self._mask |= 1 << asid
        for pfn in self._mapped:
            self._settle(pfn, keep=True)

    def unbind(self, asid: int) -> None:
        """Take every right of ``asid`` back: the device has been stopped there."""
        mask = 1 << asid
        for page in self._machine.frames.pages.values():
            if (page.read_rights | page.write_rights) & mask:
                page.read_rights &= ~mask
                page.write_rights &= ~mask
                self._machine.frames.tag(page)
        self._mask &= ~mask
        if not self._mask:
            self._lost.clear()

    def _settle(self, pfn: int, *, keep: bool) -> None:
        page = self._machine.frames.pages.get(pfn)
        if page is not None and (wanted := self._wanted(page, keep=keep)) != _held(page):
            page.read_rights, page.write_rights = wanted
            self._machine.frames.tag(page)

    def _wanted(self, page: "Page", *, keep: bool) -> tuple[int, int]:
        """Read and write rights of the page by its PTEs; ``keep``: and those it has already."""
        mask = self._mask
        kept = _ALL if keep else _ALL & ~mask
        readers, writers = self._mapped.get(page.pfn, (0, 0))
        return (
            page.read_rights & kept | (mask if readers else 0),
            page.write_rights & kept | (mask if writers else 0),
        )


def allow(machine: "Machine", page: "Page", asid: int, *, read: bool, write: bool) -> None:
    """Say what ``asid`` may do with a page, whatever the address space maps: the device's own reference keeps it."""
    mask = 1 << asid
    page.read_rights = page.read_rights & ~mask | (mask if read else 0)
    page.write_rights = page.write_rights & ~mask | (mask if write else 0)
    machine.frames.tag(page)


def _held(page: "Page") -> tuple[int, int]:
    return page.read_rights, page.write_rights
