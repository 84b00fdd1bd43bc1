"""``page_referenced``: was a page used lately? (2.6.25-rc4, mm/rmap.c)."""

from typing import TYPE_CHECKING

from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Steps
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import Page
from hostmm.mm.rmap import AnonVma
from hostmm.mm.space import Vma
from hostmm.paths.ptes import page_check_address, pte_unmap_unlock, ptep_clear_flush_young
from hostmm.paths.rmap_walk import candidates, rmap_lock, rmap_section
from hostmm.policies import Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["page_referenced"]

_NAME = "page_referenced_one"


def page_referenced(machine: "Machine", page: Page) -> Steps:
    """Return how many signs of use the page shows, and clear them: PG_referenced, and young PTEs that map it.

    Whether the running thread holds the page lock decides as the kernel's ``is_locked`` does: without it, a file
    page that somebody else has locked counts as used and its PTEs are not looked at.
    """
    referenced = int(page.referenced)
    page.referenced = False
    if not page.mapcount or page.mapping is None:
        return referenced
    if isinstance(page.mapping, AnonVma):
        anon = page.mapping
        return referenced + (yield from _walk(machine, page, anon))
    if page.lock.writer is machine.sched.current:
        return referenced + (yield from _walk(machine, page, page.mapping))
    if page.lock.held:
        return referenced + 1
    # TestSetPageLocked, which succeeds.
    yield Acquire(page.lock, ordered=False)
    mapping = page.mapping
    if mapping is not None:
        referenced += yield from _walk(machine, page, mapping)
    machine.sched.release(page.lock)
    return referenced


def _walk(machine: "Machine", page: Page, mapping: AnonVma | AddressSpace) -> Steps:
    """Ask each vma that may map the page, under the rmap lock; nonlinear mappings are not looked at."""
    with rmap_section(machine, mapping):
        referenced = yield from _ask_each(machine, page, mapping)
    return referenced


def _ask_each(machine: "Machine", page: Page, mapping: AnonVma | AddressSpace) -> Steps:
    referenced = 0
    yield Acquire(rmap_lock(mapping))
    left = page.mapcount
    for vma, vpn in candidates(page, mapping):
        if isinstance(mapping, AddressSpace) and vma.locked and vma.shared:
            referenced += 1
            break
        found, young = yield from _page_referenced_one(machine, page, vma, vpn)
        referenced += young
        left -= found
        if found and vma.locked:
            # One locked mapping is enough to keep the page.
            break
        if not left:
            break
    machine.sched.release(rmap_lock(mapping))
    return referenced


def _page_referenced_one(machine: "Machine", page: Page, vma: Vma, vpn: int) -> Steps:
    """Look at one PTE; returns (whether it maps the page, how much it was used)."""
    mm = vma.mm
    with machine.sched.path(_NAME) as result:
        ptl = yield from page_check_address(machine, page, mm, vpn)
        if ptl is None:
            return False, 0
        young = False
        if vma.locked:
            referenced = 1
        else:
            young = yield from ptep_clear_flush_young(machine, mm, vpn)
            # Under the lock the device's answer is OR-ed to the CPU's; behind it, added (review note S11).
            referenced = int(young | (yield from mm.notifiers.at(_NAME, Point.YOUNG, vpn)))
        yield from pte_unmap_unlock(machine, ptl)
        if not vma.locked and not (young and machine.policy.asks_old_only):
            referenced += yield from mm.notifiers.at(_NAME, Point.UNLOCKED, vpn)
        result.append(referenced)
        return True, referenced
