"""I24: a base page of a 2 MiB translation is replaced, and the device is told of that page alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hostmm.machine.locks import Signal, Wait
from hostmm.machine.scheduler import Steps
from hostmm.mm.frames import Page
from hostmm.mm.pages import page_add_rmap
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_R, PTE_W, make_pte
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.ptes import anon_vma_prepare, user_pte
from hostmm.scenarios.base import ALLOWED, FORBIDDEN, Bind, LoadScenario, device_load, spawn
from secmmu.layouts import FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["I24"]

_ORDER = 9
_PAGES = 1 << _ORDER
_FIRST = 0x400
_MIDDLE = _FIRST + _PAGES // 2 + 3
_OLD = 0x24_0000_0000_0001
_NEW = 0x24_0000_0000_0002
_BITS = PTE_R | PTE_W | PTE_A | PTE_D


class I24(LoadScenario):
    """A 2 MiB leaf is split, one page in its middle replaced: invalidating that page must kill the whole entry."""

    name = "I24"
    title = (
        "a page inside a 2 MiB translation is invalidated and replaced, then the device loads it"
    )
    values: Mapping[int, str] = {_OLD: FORBIDDEN, _NEW: ALLOWED}
    expectations: Mapping[str, str] = {"v9": ALLOWED, "seed": ALLOWED}
    frames = 2 * _PAGES + 256

    def build(self, machine: "Machine", bind: Bind) -> None:
        """Spawn C0, which splits, and D, the device."""
        mm = machine.new_mm()
        frames = machine.frames.alloc_block(FrameKind.USER, _ORDER)
        machine.fill_page(frames[_MIDDLE - _FIRST], _OLD)
        # A driver's contiguous buffer: it has no struct pages, so nothing but this scenario touches its PTEs.
        mm.insert(Vma(mm, _FIRST, _FIRST + _PAGES, True, True, pfnmap=True, pgoff=frames[0].pfn))
        warm, split = Signal("warm"), Signal("split")

        def c0() -> Steps:
            yield Wait(warm)
            yield from _replace_middle(machine, mm, frames)
            machine.sched.fire(split)

        def device() -> Steps:
            mm.tables.set_huge(_FIRST, make_pte(frames[0].pfn, _BITS))
            yield from bind(machine, mm)
            yield from device_load(machine, mm, _MIDDLE)
            machine.sched.fire(warm)
            yield Wait(split)
            yield from device_load(machine, mm, _MIDDLE)

        spawn(machine, C0=c0(), D=device())


def _replace_middle(machine: "Machine", mm: MmStruct, frames: list[Page]) -> Steps:
    """Split the leaf and put a new page in the place of the middle one, with one notification for that one."""
    vma = mm.find_vma(_MIDDLE)
    assert vma is not None
    with machine.sched.path("split_huge_page"):
        new = machine.frames.alloc(FrameKind.USER)
        machine.fill_page(new, _NEW)
        yield "pte_clear"
        mm.tables.clear_huge(_FIRST)
        yield machine.costs.flush_tlb_ns(mm.cpus)
        yield from mm.notifiers.invalidate_page(_MIDDLE)
        mm.tables.alloc(_FIRST)
        for vpn in range(_FIRST, _FIRST + _PAGES):
            replaced = vpn == _MIDDLE
            pfn = new.pfn if replaced else frames[vpn - _FIRST].pfn
            mm.tables.set(vpn, user_pte(vma, pfn, write=True, dirty=True))
        # As copy-on-write leaves it: the one page of the mapping that has a struct page.
        new.mapping, new.index = anon_vma_prepare(machine, vma), vma.linear_index(_MIDDLE)
        page_add_rmap(machine, new)
        mm.add_rss(1, anon=True)
        yield "pte_write"
