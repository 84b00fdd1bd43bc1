"""The steps of litmus tests: what each verb does, as steps of a host thread."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from hostmm.callers.faults import touch
from hostmm.callers.filemap import xip_file_write
from hostmm.callers.shrink import shrink_page
from hostmm.callers.syscalls import (
    exit_process,
    fork,
    madvise_dontneed,
    madvise_free,
    mmap,
    mprotect,
    mremap,
    msync,
    munmap,
)
from hostmm.callers.vmas import copy_vma
from hostmm.errors import HostError
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Fetch, Steps
from hostmm.machine.timeline import Row
from hostmm.mm.frames import PAGE_BYTES, Page
from hostmm.mm.pagetable import PTE_V, huge_base, pte_pfn
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.collapse_huge_page import collapse_huge_page
from hostmm.paths.gather import MmuGather
from hostmm.paths.kernel_tables import vmap, vunmap
from hostmm.paths.ksm import RmapItem, try_to_merge_two_pages
from hostmm.paths.migrate import migrate_page
from hostmm.paths.migrate_huge import migrate_misplaced_transhuge_page
from hostmm.paths.migrate_vma import migrate_vma
from hostmm.paths.page_referenced import page_referenced
from hostmm.paths.soft_dirty import clear_refs_write, soft_dirty
from hostmm.paths.truncate import truncate_page, truncate_range
from hostmm.paths.zap import zap_page_range, zap_vma
from hostmm.scenarios.litmus.script import DENIED, Address, Step
from hostmm.subscribers.base import DeviceSubscriber, Flushable, Removable, Resettable

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["VERBS", "Stage", "Verb", "device_step"]

_BITS = {"none": (False, False), "r": (True, False), "rw": (True, True)}


@dataclass
class Stage:
    """What the steps of one run work on.

    Attributes
    ----------
    mms, vmas, subscribers : dict
        Address spaces by name; the vma that each named page was mapped by at the start; what stands behind the
        notifiers, by device.
    home : str
        Name of the address space of a step that names none.
    """

    machine: "Machine"
    home: str
    mms: dict[str, MmStruct] = field(default_factory=dict)
    vmas: dict[str, Vma] = field(default_factory=dict)
    subscribers: dict[str, DeviceSubscriber] = field(default_factory=dict)

    def mm(self, address: Address) -> MmStruct:
        """Address space of an address."""
        return self.space(address.mm or self.home)

    def space(self, name: str) -> MmStruct:
        """Address space by name.

        Raises
        ------
        HostError
            It is a child's, and its fork has failed or not ended.
        """
        if name not in self.mms:
            raise HostError(f"there is no address space {name}: its fork has failed, or not ended")
        return self.mms[name]

    def vpn(self, address: Address) -> int:
        """First page of an address."""
        return self.vmas[address.page].start + (address.offset or 0)

    def span(self, address: Address) -> tuple[int, int]:
        """First and last page: of the whole run of pages where the address names no single one."""
        vma = self.vmas[address.page]
        if address.offset is None:
            return vma.start, vma.end - 1
        return vma.start + address.offset, vma.start + address.offset

    def page(self, address: Address) -> Page | None:
        """Return the page that stands there, else the one that the file has cached for it."""
        pte = self.mm(address).tables.get(self.vpn(address))
        if pte & PTE_V:
            return self.machine.frames.pages.get(pte_pfn(pte))
        vma = self.vmas[address.page]
        if vma.file is None:
            return None
        return vma.file.pages.get(vma.linear_index(self.vpn(address)))


_Play: TypeAlias = Callable[[Stage, Step], Steps]


@dataclass(frozen=True)
class Verb:
    """A verb of the language.

    Parameters
    ----------
    syntax, operands : str
        How it reads, for people; a regular expression for what follows the verb.
    play : callable
        Its steps on a CPU; they return the result.
    result, device : bool
        Whether it has a result; whether a device can do it.
    kind : str or None
        The only kind of page that it works on.
    path : str or None
        The mm path without which no kernel can do it.
    """

    syntax: str
    operands: str
    play: _Play
    result: bool = False
    device: bool = False
    kind: str | None = None
    path: str | None = None


def device_step(stage: Stage, engine: int, handle: int, step: Step) -> Steps:
    """Let an engine load or store a word; returns (tag of the transfer, whether it was refused)."""
    assert step.address is not None
    driver = stage.machine.driver
    va = stage.vpn(step.address) * PAGE_BYTES + 8 * step.address.word
    transfer = yield from driver.submit(
        engine, handle, va, 1, write=step.verb == "store", data=step.value
    )
    yield from driver.wait(transfer)
    return transfer.tag, transfer.dropped


def _store(stage: Stage, step: Step) -> Steps:
    assert step.address is not None
    assert step.value is not None
    mm, vpn = stage.mm(step.address), stage.vpn(step.address)
    low = 8 * step.address.word
    pte = yield from touch(stage.machine, mm, vpn, write=True, low=low)
    if pte is None:
        return DENIED
    stage.machine.store(mm, vpn, pte_pfn(pte) * PAGE_BYTES + 8 * step.address.word, step.value)
    yield "cpu_access"
    return step.value


def _load(stage: Stage, step: Step) -> Steps:
    assert step.address is not None
    mm, vpn = stage.mm(step.address), stage.vpn(step.address)
    low = 8 * step.address.word
    pte = yield from touch(stage.machine, mm, vpn, write=False, low=low)
    if pte is None:
        return DENIED
    physical = pte_pfn(pte) * PAGE_BYTES + 8 * step.address.word
    stage.machine.sched.log(Row.LOAD, mm=mm.number, vpn=vpn, pfn=physical >> 12, a=physical)
    (word,) = yield Fetch(physical, 1)
    yield "cpu_access"
    return word


def _over_range(call: Callable[["Machine", MmStruct, int, int], Steps]) -> _Play:
    def play(stage: Stage, step: Step) -> Steps:
        assert step.address is not None
        yield from call(stage.machine, stage.mm(step.address), *stage.span(step.address))

    return play


def _mmap(stage: Stage, step: Step) -> Steps:
    assert step.address is not None
    vma, mm = stage.vmas[step.address.page], stage.mm(step.address)
    first, last = stage.span(step.address)
    fresh = copy_vma(vma, mm, first, last + 1, vma.linear_index(first))
    fresh.anon_vma = None
    yield from mmap(stage.machine, mm, fresh)


def _mprotect(stage: Stage, step: Step) -> Steps:
    assert step.address is not None
    assert step.name is not None
    read, write = _BITS[step.name]
    mm = stage.mm(step.address)
    yield from mprotect(stage.machine, mm, *stage.span(step.address), read=read, write=write)


def _mremap(stage: Stage, step: Step) -> Steps:
    assert step.address is not None
    assert step.target is not None
    first, last = stage.span(step.address)
    pages, new = last - first + 1, stage.vpn(step.target)
    yield from mremap(stage.machine, stage.mm(step.address), first, pages, new, pages)


def _fork(stage: Stage, step: Step) -> Steps:
    assert step.name is not None
    child = yield from fork(stage.machine, stage.space(stage.home))
    if child is None:
        return DENIED
    stage.mms[step.name] = child
    return 0


def _exit(stage: Stage, step: Step) -> Steps:
    assert step.name is not None
    yield from exit_process(stage.machine, stage.space(step.name))


def _reclaim(stage: Stage, step: Step) -> Steps:
    """Return 1 where the page was freed."""
    assert step.address is not None
    page = stage.page(step.address)
    if page is None:
        return 0
    return int((yield from shrink_page(stage.machine, page)))


def _age(stage: Stage, step: Step) -> Steps:
    """Return how often the page was found used."""
    assert step.address is not None
    page = stage.page(step.address)
    if page is None:
        return 0
    stage.machine.frames.get(page)
    yield Acquire(page.lock)
    used = yield from page_referenced(stage.machine, page)
    stage.machine.sched.release(page.lock)
    stage.machine.frames.put(page)
    return used


def _truncate(stage: Stage, step: Step) -> Steps:
    """Take pages out of their file."""
    assert step.address is not None
    vma = stage.vmas[step.address.page]
    first, last = (vma.linear_index(vpn) for vpn in stage.span(step.address))
    yield "syscall"
    if vma.file is not None:
        yield from truncate_range(stage.machine, vma.file, first, last)


def _uncache(stage: Stage, step: Step) -> Steps:
    """Drop pages from the page cache, unmapping only what is still mapped: the second half of a truncation."""
    assert step.address is not None
    vma = stage.vmas[step.address.page]
    for vpn in range(stage.span(step.address)[0], stage.span(step.address)[1] + 1):
        if vma.file is not None:
            yield from truncate_page(stage.machine, vma.file, vma.linear_index(vpn))


def _migrate(stage: Stage, step: Step) -> Steps:
    """Move a page to another frame, a huge one whole where the kernel does that; returns 1 where it moved."""
    assert step.address is not None
    mm, vpn = stage.mm(step.address), stage.vpn(step.address)
    page, vma = stage.page(step.address), mm.find_vma(vpn)
    whole = stage.machine.policy.has("migrate_misplaced_transhuge_page")
    if whole and vma is not None and not vma.hugetlb and mm.tables.huge(vpn):
        yield Acquire(mm.mmap_sem, shared=True)
        moved = yield from migrate_misplaced_transhuge_page(stage.machine, vma, huge_base(vpn))
        stage.machine.sched.release(mm.mmap_sem)
        return int(moved)
    return 0 if page is None else int((yield from migrate_page(stage.machine, page)))


def _evacuate(stage: Stage, step: Step) -> Steps:
    """Have a driver move pages by their addresses; returns how many moved. Huge and raw ones it cannot."""
    assert step.address is not None
    first, last = stage.span(step.address)
    vma = stage.mm(step.address).find_vma(first)
    if vma is None or vma.hugetlb or vma.pfnmap:
        yield "vma_lookup"
        return 0
    return (yield from migrate_vma(stage.machine, vma, first, min(last, vma.end - 1)))


def _collapse(stage: Stage, step: Step) -> Steps:
    """Put one leaf in the place of a table of PTEs; returns 1 where that could be done."""
    assert step.address is not None
    mm, vpn = stage.mm(step.address), stage.vpn(step.address)
    return int((yield from collapse_huge_page(stage.machine, mm, vpn)))


def _merge(stage: Stage, step: Step) -> Steps:
    """Make two places map one page, if their contents are equal; returns 1 where they do."""
    assert step.address is not None
    assert step.target is not None
    items = [RmapItem(stage.mm(a), stage.vpn(a)) for a in (step.address, step.target)]
    return int((yield from try_to_merge_two_pages(stage.machine, *items)))


def _soft_dirty(stage: Stage, step: Step) -> Steps:
    assert step.name is not None
    yield from clear_refs_write(stage.machine, stage.space(step.name))


def _starve(stage: Stage, step: Step) -> Steps:
    """Let so many more page tables be allocated where that may fail."""
    stage.machine.reclaim.tables_left = step.value
    yield "refcount"


def _reap(stage: Stage, step: Step) -> Steps:
    """Drop pages as the OOM reaper does, which must not block; returns 1 where nobody objected."""
    assert step.address is not None
    mm, (first, last) = stage.mm(step.address), stage.span(step.address)
    if not (yield from mm.notifiers.invalidate_range_start_nonblock(first, last)):
        return 0
    # It unmaps as madvise does, and its flushes notify as those.
    gather = MmuGather(stage.machine, mm, "zap_page_range")
    for vma in mm.overlapping(first, last):
        yield from zap_vma(
            stage.machine, vma, max(first, vma.start), min(last, vma.end - 1), gather
        )
    yield from gather.finish()
    yield from mm.notifiers.invalidate_range_end(first, last)
    return 1


def _unbind(stage: Stage, step: Step) -> Steps:
    """Take an address space from a device at run time."""
    assert step.name is not None
    yield from stage.subscribers[step.name].unbind()


def _fill(stage: Stage, step: Step) -> Steps:
    """Write a block into a hole of an execute-in-place file."""
    assert step.address is not None
    vma = stage.vmas[step.address.page]
    if vma.file is not None:
        yield "syscall"
        yield from xip_file_write(
            stage.machine, vma.file, vma.linear_index(stage.vpn(step.address))
        )


def _disk(stage: Stage, step: Step) -> Steps:
    """Return the word that the file's place on the backing store holds; 0 where it has none."""
    assert step.address is not None
    vma = stage.vmas[step.address.page]
    index = vma.linear_index(stage.vpn(step.address))
    slot = vma.file.slots.get(index) if vma.file is not None else None
    if slot is None:
        return 0
    (word,) = yield Fetch(slot + 8 * step.address.word, 1)
    return word


def _dirty(stage: Stage, step: Step) -> Steps:
    """Return 1 where the page is marked dirty."""
    assert step.address is not None
    yield "page_cache"
    page = stage.page(step.address)
    return int(page is not None and page.dirty)


def _mapped(stage: Stage, step: Step) -> Steps:
    """Return 1 where the page table maps the page."""
    assert step.address is not None
    yield "pte_read"
    return stage.mm(step.address).tables.get(stage.vpn(step.address)) & PTE_V


def _marked(stage: Stage, step: Step) -> Steps:
    """Return 1 where the page counts as written since the last soft-dirty sweep."""
    assert step.address is not None
    yield "pte_read"
    return int(soft_dirty(stage.mm(step.address), stage.vpn(step.address)))


def _revoke(stage: Stage, step: Step) -> Steps:
    """Have the driver of a raw frame take it back: unmap it where it finds it mapped, then free it."""
    assert step.address is not None
    machine, vma, vpn = stage.machine, stage.vmas[step.address.page], stage.vpn(step.address)
    yield "syscall"
    with machine.sched.path("revoke"):
        if vma.mm.tables.get(vpn) & PTE_V:
            yield from zap_page_range(machine, vma, vpn, vpn)
        yield "free_page"
        frame = machine.frames.pages.get(vma.linear_index(vpn))
        if frame is None:
            raise HostError(f"vpn {vpn:#x}: its driver has taken the raw frame back already")
        machine.frames.put(frame)


def _reset(stage: Stage, step: Step) -> Steps:
    """Reset a device, if its driver can."""
    assert step.name is not None
    subscriber = stage.subscribers[step.name]
    if isinstance(subscriber, Resettable):
        yield from subscriber.reset()


def _unplug(stage: Stage, step: Step) -> Steps:
    """Take a device away, if its driver knows what that is."""
    assert step.name is not None
    subscriber = stage.subscribers[step.name]
    if isinstance(subscriber, Removable):
        yield from subscriber.unplug()


def _flush(stage: Stage, step: Step) -> Steps:
    """Flush a device's TLB at the program's request, if its driver does that."""
    assert step.name is not None
    assert step.address is not None
    subscriber = stage.subscribers[step.name]
    if isinstance(subscriber, Flushable):
        yield "syscall"
        yield from subscriber.flush(*stage.span(step.address))


def _wait(stage: Stage, step: Step) -> Steps:
    assert step.value is not None
    yield step.value


def _at_page(call: Callable[["Machine", MmStruct, int], Steps]) -> _Play:
    def play(stage: Stage, step: Step) -> Steps:
        assert step.address is not None
        yield from call(stage.machine, stage.mm(step.address), stage.vpn(step.address))

    return play


_AT = r"(?P<address>\S+)"
VERBS: dict[str, Verb] = {
    "store": Verb("store ADDRESS = VALUE", rf"{_AT} *= *(?P<value>\w+)", _store, device=True),
    "load": Verb("[R =] load ADDRESS", _AT, _load, result=True, device=True),
    "mmap": Verb("mmap PAGES", _AT, _mmap),
    "munmap": Verb("munmap PAGES", _AT, _over_range(munmap)),
    "dontneed": Verb("dontneed PAGES", _AT, _over_range(madvise_dontneed)),
    "free": Verb("free PAGES", _AT, _over_range(madvise_free), path="madvise_free_single_vma"),
    "msync": Verb("msync PAGES", _AT, _over_range(msync)),
    "mprotect": Verb("mprotect PAGES none|r|rw", rf"{_AT} +(?P<name>none|r|rw)", _mprotect),
    "mremap": Verb("mremap PAGES to ADDRESS", rf"{_AT} +to +(?P<target>\S+)", _mremap),
    "fork": Verb("[R =] fork MM", r"(?P<name>\w+)", _fork, result=True),
    "exit": Verb("exit MM", r"(?P<name>\w+)", _exit),
    "reclaim": Verb("[R =] reclaim ADDRESS", _AT, _reclaim, result=True),
    "age": Verb("[R =] age ADDRESS", _AT, _age, result=True),
    "uncache": Verb("uncache PAGES", _AT, _uncache),
    "migrate": Verb("[R =] migrate ADDRESS", _AT, _migrate, result=True),
    "evacuate": Verb(
        "[R =] evacuate PAGES", _AT, _evacuate, result=True, path="migrate_vma_collect"
    ),
    "collapse": Verb(
        "[R =] collapse ADDRESS", _AT, _collapse, result=True, path="collapse_huge_page"
    ),
    "merge": Verb(
        "[R =] merge ADDRESS with ADDRESS",
        rf"{_AT} +with +(?P<target>\S+)",
        _merge,
        result=True,
        path="write_protect_page",
    ),
    "softdirty": Verb("softdirty MM", r"(?P<name>\w+)", _soft_dirty, path="clear_refs_write"),
    "reap": Verb("[R =] reap PAGES", _AT, _reap, result=True),
    "unbind": Verb("unbind DEVICE", r"(?P<name>\w+)", _unbind),
    "marked": Verb("R = marked ADDRESS", _AT, _marked, result=True),
    "revoke": Verb("revoke ADDRESS", _AT, _revoke, kind="pfn"),
    "reset": Verb("reset DEVICE", r"(?P<name>\w+)", _reset),
    "flush": Verb("flush DEVICE PAGES", rf"(?P<name>\w+) +{_AT}", _flush),
    "unplug": Verb("unplug DEVICE", r"(?P<name>\w+)", _unplug),
    "vmap": Verb("vmap ADDRESS", _AT, _at_page(vmap), kind="kernel"),
    "vunmap": Verb("vunmap ADDRESS", _AT, _at_page(vunmap), kind="kernel"),
    "starve": Verb("starve TABLES", r"(?P<value>\d+)", _starve),
    "truncate": Verb("truncate PAGES", _AT, _truncate),
    "fill": Verb("fill ADDRESS", _AT, _fill, kind="hole"),
    "disk": Verb("R = disk ADDRESS", _AT, _disk, result=True),
    "dirty": Verb("R = dirty ADDRESS", _AT, _dirty, result=True),
    "mapped": Verb("R = mapped ADDRESS", _AT, _mapped, result=True),
    "wait": Verb("wait NANOSECONDS", r"(?P<value>\d+)", _wait, device=True),
}
"""The language's verbs."""
