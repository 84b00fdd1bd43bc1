"""The audit at the end of a run: page tables as the hardware sees them, and every count, against what should be."""

from collections import Counter
from typing import TYPE_CHECKING

from hostmm.errors import HostError
from hostmm.machine.scheduler import Fetch, Steps
from hostmm.mm.frames import PAGE_BYTES, PAGE_WORDS
from hostmm.mm.pages import is_anon, vm_normal_page
from hostmm.mm.pagetable import PTE_V, is_migration_entry, is_swap_entry, pte_pfn, software_value
from hostmm.paths.kernel_tables import KERNEL_VPN
from secmmu.layouts import VPN_BITS

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine
    from hostmm.mm.space import MmStruct

__all__ = ["audit", "check_counts"]

_LAST_VPN = (1 << VPN_BITS) - 1


def audit(machine: "Machine") -> Steps:
    """Compare the page tables in emulated memory with the host's view of them, then check every count.

    Steps of a thread, when no other thread is inside mm.

    Raises
    ------
    HostError
        Something differs; names the frame (or the swap slot).
    """
    for mm in machine.mms:
        for pfn, shadow in mm.tables.words().items():
            words = yield Fetch(pfn * PAGE_BYTES, PAGE_WORDS)
            if words != shadow:
                index = next(i for i in range(PAGE_WORDS) if words[i] != shadow[i])
                raise HostError(
                    f"frame {pfn:#x}: word {index} of the page table is {words[index]:#x} in memory, "
                    f"but the host stored {shadow[index]:#x}"
                )
    check_counts(machine)


def check_counts(machine: "Machine") -> None:
    """Check references and mapcounts against PTEs, page caches and swap, the uses of swap slots, and the LRU lists.

    Raises
    ------
    HostError
        As :func:`audit`.
    """
    references, mapped, slots = _owners(machine), Counter[int](), Counter[int]()
    for mm in machine.mms:
        rss = _count_ptes(machine, mm, mapped, slots)
        if rss != mm.rss:
            raise HostError(
                f"mm {mm.number}: counts {mm.rss} pages (of files, anonymous), but maps {rss}"
            )
    references += mapped
    for slot in machine.swap.cache:
        slots[slot] += 1
    for pfn, page in machine.frames.pages.items():
        if page.mapcount != mapped[pfn]:
            raise HostError(
                f"frame {pfn:#x}: mapcount is {page.mapcount}, but {mapped[pfn]} PTEs map it"
            )
        if page.refcount != references[pfn]:
            raise HostError(
                f"frame {pfn:#x}: refcount is {page.refcount}, but it has {references[pfn]} users"
            )
    for page in machine.lru:
        if machine.frames.pages.get(page.pfn) is not page:
            raise HostError(f"frame {page.pfn:#x}: it is on an LRU list, but was freed")
    if slots != machine.swap.uses:
        slot = next(iter(sorted(slots.items() ^ machine.swap.uses.items())))[0]
        raise HostError(
            f"swap slot {slot:#x}: use count is {machine.swap.uses.get(slot, 0)}, "
            f"but it has {slots[slot]} users"
        )


def _owners(machine: "Machine") -> Counter[int]:
    """Count references that are not PTEs': of caches, pins, page tables, owners of frames without ``struct page``."""
    owners = Counter[int](machine.device_tables)
    for file in machine.files:
        owners.update(page.pfn for page in file.pages.values())
    owners.update(page.pfn for page in machine.swap.cache.values())
    owners.update({pfn: page.pins for pfn, page in machine.frames.pages.items()})
    if machine.sparse_page is not None:
        owners[machine.sparse_page.pfn] += 1
    bare: set[int] = set()
    for mm in machine.mms:
        owners.update(mm.tables.words().keys())
        for vma in mm.vmas:
            if vma.pfnmap:
                bare.update(vma.linear_index(vpn) for vpn in range(vma.start, vma.end))
        if mm.tables.words():
            kernel = mm.tables.entries(KERNEL_VPN, _LAST_VPN)
            bare.update(pte_pfn(word) for _, word in kernel if word & PTE_V)
    owners.update(bare)
    return owners


def _count_ptes(
    machine: "Machine", mm: "MmStruct", mapped: Counter[int], slots: Counter[int]
) -> list[int]:
    rss = [0, 0]
    if not mm.tables.words():
        return rss
    leaves = mm.tables.huge_leaves(0, KERNEL_VPN - 1)
    huge = [(at, mm.tables.get(at)) for base in leaves for at in range(base, base + PAGE_WORDS)]
    for vpn, word in (*mm.tables.entries(0, KERNEL_VPN - 1), *huge):
        if is_migration_entry(word):
            raise HostError(f"mm {mm.number}: vpn {vpn:#x} still waits for a page that moved")
        if is_swap_entry(word):
            slots[software_value(word)] += 1
        if not word & PTE_V:
            continue
        vma, pfn = mm.find_vma(vpn), pte_pfn(word)
        if vma is None or pfn not in machine.frames.pages:
            what = "a page outside every vma" if vma is None else "a free frame"
            raise HostError(f"frame {pfn:#x}: mapped by mm {mm.number} at vpn {vpn:#x}, {what}")
        page = vm_normal_page(machine, vma, word)
        if page is not None:
            mapped[pfn] += 1
            rss[is_anon(page)] += 1
    return rss
