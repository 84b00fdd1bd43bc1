"""Walking a reverse map: which lock it takes, and in what context the walk runs (mm/rmap.c)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hostmm.machine.locks import Lock
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import Page
from hostmm.mm.rmap import AnonVma
from hostmm.mm.space import Vma

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["candidates", "rmap_lock", "rmap_section"]


def rmap_lock(mapping: AnonVma | AddressSpace) -> Lock:
    """Return the lock of a reverse map."""
    return mapping.lock if isinstance(mapping, AnonVma) else mapping.i_mmap_lock


@contextmanager
def rmap_section(machine: "Machine", mapping: AnonVma | AddressSpace) -> Iterator[None]:
    """Be inside a walk; the caller takes :func:`rmap_lock` in it.

    While that is a spinlock, ``page_lock_anon_vma`` keeps the RCU read lock with which it found an ``anon_vma``.
    """
    if isinstance(mapping, AnonVma) and not machine.policy.rmap_sleeps:
        with machine.sched.rcu_read():
            yield
    else:
        yield


def candidates(page: Page, mapping: AnonVma | AddressSpace) -> list[tuple[Vma, int]]:
    """Return the linear mappings that may map the page: each vma with the vpn (``vma_address``)."""
    places = [(vma, vma.vpn_of(page.index)) for vma in mapping.vmas]
    return [(vma, vpn) for vma, vpn in places if vpn is not None]
