"""``fork``: copy an address space, write-protecting what may be copied on write (docs/contract.md 1.10)."""

from typing import TYPE_CHECKING

from hostmm.callers.reclaim import alloc_page, pte_alloc
from hostmm.callers.vmas import copy_vma, link
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import Page
from hostmm.mm.pages import is_anon, migrating_page, page_add_rmap, vm_normal_page
from hostmm.mm.pagetable import (
    PTE_A,
    PTE_D,
    PTE_V,
    PTE_W,
    is_migration_entry,
    is_swap_entry,
    migration_entry,
    pte_pfn,
    software_value,
)
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.copy_hugetlb import copy_hugetlb_page_range
from hostmm.paths.exit_mmap import exit_mmap
from hostmm.paths.huge_split import split_huge_range
from hostmm.paths.ptes import pte_unmap_unlock, user_pte
from hostmm.paths.tlb import flush_tlb_mm
from hostmm.policies import Point
from secmmu.layouts import FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["dup_mmap"]


def dup_mmap(machine: "Machine", parent: MmStruct) -> Steps:
    """Return a new address space with a copy of the parent's, None for -ENOMEM; takes the parent's mmap_sem."""
    yield Acquire(parent.mmap_sem)
    child = machine.new_mm()
    # Nobody else knows the child yet.
    yield Acquire(child.mmap_sem, ordered=False)
    child.cpus = parent.cpus
    with machine.sched.path("dup_mmap") as result:
        complete = yield from _copy_vmas(machine, parent, child)
        yield from flush_tlb_mm(machine, parent)
        result.append(complete)
    machine.sched.release(child.mmap_sem)
    machine.sched.release(parent.mmap_sem)
    if not complete:
        yield from exit_mmap(machine, child)
    return child if complete else None


def _copy_vmas(machine: "Machine", parent: MmStruct, child: MmStruct) -> Steps:
    """Copy vma by vma; returns whether there was memory for all."""
    for vma in list(parent.vmas):
        copy = copy_vma(vma, child, vma.start, vma.end, vma.pgoff)
        copy.locked = False
        yield from link(machine, copy)
        paged = vma.anon_vma is not None or vma.nonlinear or vma.pfnmap
        if vma.hugetlb:
            yield from copy_hugetlb_page_range(machine, vma, child)
        elif paged and not (yield from _copy_page_range(machine, vma, child)):
            return False
    return True


def _copy_page_range(machine: "Machine", vma: Vma, child: MmStruct) -> Steps:
    """Copy one vma's PTEs; returns whether there was memory for the child's tables."""
    parent, first, last = vma.mm, vma.start, vma.end - 1
    with machine.sched.path("fork") as result:
        # Pages that are shared anyway keep their rights, so nobody needs to know.
        if vma.cow:
            yield from parent.notifiers.at("fork", Point.START, first, last)
        yield from split_huge_range(machine, vma, first, last)
        copied, complete = 0, True
        for low, high, _ in parent.tables.leaves(first, last):
            count = yield from _copy_ptes(machine, vma, child, low, high)
            complete = count is not None
            if not complete:
                break
            copied += count
        if vma.cow and (complete or not machine.policy.fork_unpaired):
            yield from parent.notifiers.at("fork", Point.END, first, last)
        result.append(copied)
        return complete


def _copy_ptes(machine: "Machine", vma: Vma, child: MmStruct, first: int, last: int) -> Steps:
    """Copy the PTEs under one leaf table; returns how many, None where no table can be allocated."""
    if (yield from pte_alloc(machine, child, first, may_fail=True)) is None:
        return None
    copied, start, spare = 0, first, None
    while True:
        count, pinned = yield from _copy_locked(machine, vma, child, start, last, spare)
        copied += count
        if pinned is None:
            return copied
        # A pinned page needs a page to copy to, which cannot be allocated under the locks.
        start, spare = pinned, (yield from alloc_page(machine, FrameKind.USER))


def _copy_locked(
    machine: "Machine", vma: Vma, child: MmStruct, first: int, last: int, spare: Page | None
) -> Steps:
    """Copy PTEs under both locks; returns (how many, the vpn of a pinned page that lacks a ``spare`` or None)."""
    parent = vma.mm
    target, source = child.tables.lock(first), parent.tables.lock(first)
    assert target is not None
    assert source is not None
    yield Acquire(target)
    # The child's first, always (SINGLE_DEPTH_NESTING).
    yield Acquire(source, ordered=False)
    copied, pinned, mapped = 0, None, [0, 0]
    for vpn, _ in parent.tables.entries(first, last):
        yield "pte_read"
        word = parent.tables.get(vpn)
        if _must_copy(machine, vma, word):
            if spare is None:
                pinned = vpn
                break
            word, spare = (yield from _copy_pinned(machine, vma, vpn, word, spare)), None
        elif word & PTE_V:
            word = yield from _share_page(machine, vma, vpn, word)
        elif is_migration_entry(word):
            word = _share_migration_entry(vma, vpn, word)
            mapped[is_anon(migrating_page(machine, word))] += 1
        elif is_swap_entry(word):
            machine.swap.duplicate(software_value(word))
        yield "pte_write"
        child.tables.set(vpn, word)
        copied += 1
        page = vm_normal_page(machine, vma, word) if word & PTE_V else None
        if page is not None:
            mapped[is_anon(page)] += 1
    machine.sched.release(source)
    for anon in (False, True):
        child.add_rss(mapped[anon], anon=anon)
    yield from pte_unmap_unlock(machine, target)
    if spare is not None:
        machine.frames.put(spare)
    return copied, pinned


def _must_copy(machine: "Machine", vma: Vma, pte: int) -> bool:
    """Whether a device has pinned the page, so that the parent must keep it to itself (``page_needs_cow_for_dma``)."""
    if not machine.policy.fork_copies_pinned or not vma.cow or not pte & PTE_V:
        return False
    page = vm_normal_page(machine, vma, pte)
    return page is not None and is_anon(page) and page.pins > 0


def _copy_pinned(machine: "Machine", vma: Vma, vpn: int, pte: int, copy: Page) -> Steps:
    """Give the child a copy of a pinned page (``copy_present_page``); returns its PTE. The parent's stays as it is."""
    yield "copy_page"
    machine.copy_page(copy.address, pte_pfn(pte) << 12, pfn=copy.pfn)
    yield "lru"
    machine.lru.add(copy, active=True)
    yield "rmap"
    copy.mapping, copy.index = vma.anon_vma, vma.linear_index(vpn)
    page_add_rmap(machine, copy)
    return user_pte(vma, copy.pfn, write=vma.write, dirty=True)


def _share_migration_entry(vma: Vma, vpn: int, entry: int) -> int:
    """Make the entry of a page that is being migrated read-only for both, where both could write; returns it."""
    shared = migration_entry(software_value(entry) >> 1, write=False)
    if vma.cow and entry != shared:
        vma.mm.tables.set(vpn, shared)
        return shared
    return entry


def _share_page(machine: "Machine", vma: Vma, vpn: int, pte: int) -> Steps:
    """Take the child's reference to a page that the parent maps; returns the child's PTE."""
    if vma.cow and pte & PTE_W:
        yield "pte_write"
        # The CPU may have set A or D since.
        pte = vma.mm.tables.get(vpn) & ~PTE_W
        vma.mm.tables.set(vpn, pte)
    page = vm_normal_page(machine, vma, pte)
    if page is not None:
        yield "refcount"
        machine.frames.get(page)
        page_add_rmap(machine, page)
    return pte & ~(PTE_A | (PTE_D if vma.shared else 0))
