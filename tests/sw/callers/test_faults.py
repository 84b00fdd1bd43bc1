"""Page faults: what each kind of mapping becomes, what it contains, and that every count stays right."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostmm.audit import audit
from hostmm.callers.faults import FaultResult, handle_mm_fault, touch
from hostmm.callers.filemap import original_content, xip_file_write
from hostmm.callers.reclaim import pte_alloc
from hostmm.callers.shrink import shrink
from hostmm.callers.syscalls import fork, mmap, mprotect, munmap
from hostmm.machine.locks import Acquire
from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import (
    PTE_A,
    PTE_D,
    PTE_R,
    PTE_W,
    file_entry,
    is_swap_entry,
    pte_pfn,
)
from hostmm.mm.space import Vma
from hostmm.paths.try_to_unmap import SwapResult, try_to_unmap
from hostmm.policies import SEED, V9
from hostmm.subscribers.sva import Sva
from secmmu.layouts import Event, FrameKind
from tests.sw.hosts import Host

VPN = 0x400
RIGHTS = PTE_R | PTE_W | PTE_A | PTE_D


class Space:
    """A host with one address space and one vma, no device."""

    def __init__(self, *, policy=V9, file=None, pages=4, **vma):
        self.host = Host(policy=policy)
        self.machine = self.host.machine
        self.mm = self.machine.new_mm()
        self.file = file and self.machine.new_file("f", tmpfs=file == "tmpfs")
        self.vma = Vma(self.mm, VPN, VPN + pages, **{"read": True, "write": True} | vma)
        self.vma.file, self.vma.pgoff = self.file, 0 if file else VPN
        if file:
            self.file.vmas.append(self.vma)
        self.mm.insert(self.vma)

    def run(self, *threads):
        """Run threads at once, then audit."""
        self.host.run(*threads)
        self.host.run(audit(self.machine))

    def touch(self, *, write=False, vpn=VPN, into=None):
        """One CPU access; its PTE goes to ``into``."""
        pte = yield from touch(self.machine, self.mm, vpn, write=write)
        if into is not None:
            into.append(pte)

    def rights(self, vpn=VPN):
        """The PTE's bits."""
        return self.mm.tables.get(vpn) & RIGHTS

    def word(self, vpn=VPN):
        """First word of the page, as the hardware finds it."""
        return self.host.word(self.host.translate(self.mm, vpn))

    def page(self, vpn=VPN):
        """The page behind a present PTE."""
        return self.machine.frames.pages[pte_pfn(self.mm.tables.get(vpn))]


@pytest.mark.parametrize("write", [False, True])
def test_an_anonymous_fault_allocates_even_for_a_read(write):
    space = Space()
    space.run(space.touch(write=write))
    assert space.rights() == RIGHTS
    assert space.word() == 0
    assert space.page().active


@pytest.mark.parametrize(
    ("file", "shared", "write", "rights"),
    [
        ("disk", False, False, PTE_R | PTE_A),
        ("disk", False, True, RIGHTS),
        ("disk", True, False, PTE_R | PTE_A),
        ("disk", True, True, RIGHTS),
        ("tmpfs", True, False, PTE_R | PTE_W | PTE_A),
        ("tmpfs", True, True, RIGHTS),
        ("tmpfs", False, False, PTE_R | PTE_A),
    ],
)
def test_a_file_fault(file, shared, write, rights):
    space = Space(file=file, shared=shared)
    space.vma.pgoff = 2
    space.run(space.touch(write=write))
    assert space.rights() == rights
    assert space.word() == (original_content(space.file, 2) if file == "disk" else 0)
    assert space.file.pages[2].dirty is (write and shared)
    assert (space.page() is space.file.pages[2]) is not (write and not shared)


def test_a_page_that_was_written_to_the_store_is_read_back():
    space = Space(file="disk", shared=True)
    slot = space.machine.new_slot()
    space.host.model.memory[slot // 8] = 1234
    space.file.slots[0] = slot
    space.run(space.touch())
    assert space.word() == 1234


@pytest.mark.parametrize(
    ("vma", "write"),
    [({"write": False}, True), ({"read": False, "write": False}, False), (None, False)],
)
def test_a_fault_that_the_vma_does_not_allow_changes_nothing(vma, write):
    space, results = Space(**vma or {}), []
    if vma is None:
        space.mm.vmas.clear()
    space.run(space.touch(write=write, into=results))
    assert results == [None]
    assert not space.mm.tables.get(VPN)
    assert not space.mm.mmap_sem.held


def test_access_bits_that_the_device_needs_are_set_by_its_fault():
    space, results = Space(file="tmpfs", shared=True), []

    def thread():
        yield from space.touch()
        space.mm.tables.set(VPN, space.mm.tables.get(VPN) & ~PTE_A)
        result = yield from handle_mm_fault(space.machine, space.mm, VPN, write=True, device=True)
        results.append(result)

    space.run(thread())
    assert results == [FaultResult.OK]
    assert space.rights() == RIGHTS
    assert space.host.rows(Row.FAULT_BEGIN)[-1]["tag"] == 1


def test_the_cpu_sets_access_bits_without_a_fault():
    space = Space(file="tmpfs", shared=True)

    def thread():
        yield from space.touch()
        space.mm.tables.set(VPN, space.mm.tables.get(VPN) & ~PTE_A)
        faults = len(space.host.machine.timeline.columns()["kind"])
        yield from space.touch(write=True)
        assert len(space.host.machine.timeline.columns()["kind"]) == faults + 1, "one PTE_SET"

    space.run(thread())
    assert space.rights() == RIGHTS


@pytest.mark.parametrize("file", [None, "disk"])
def test_two_threads_that_fault_together_map_one_page(file):
    space, results = Space(file=file), []
    space.run(space.touch(into=results), space.touch(into=results))
    assert results[0] == results[1]


def test_a_bare_frame_is_mapped_and_copied_only_at_a_write():
    space = Space(pfnmap=True, pages=1)
    frame = space.machine.frames.alloc(FrameKind.USER)
    space.machine.fill_page(frame, 55)
    space.vma.pgoff = frame.pfn
    space.run(space.touch())
    assert space.page() is frame
    assert frame.mapcount == 0
    assert space.rights() == PTE_R | PTE_A
    space.run(space.touch(write=True))
    assert space.page() is not frame
    assert space.word() == 55


def test_a_nonlinear_entry_maps_its_own_offset():
    space = Space(file="tmpfs", shared=True)
    space.vma.nonlinear = True
    space.file.vmas.remove(space.vma)
    space.file.nonlinear.append(space.vma)
    space.mm.tables.alloc(VPN)
    space.mm.tables.set(VPN, file_entry(3))
    space.run(space.touch(write=True), space.touch(vpn=VPN + 1))
    assert space.page() is space.file.pages[3]
    assert space.page(VPN + 1) is space.file.pages[1]


def test_a_hole_maps_the_sparse_page_until_it_is_written():
    space = Space(file="disk")
    space.file.holes.update({0, 1})
    space.run(space.touch(), space.touch(vpn=VPN + 1))
    assert space.page() is space.page(VPN + 1) is space.machine.sparse_page
    assert space.rights() == PTE_R | PTE_A
    space.run(space.touch(write=True))
    assert space.page() is not space.machine.sparse_page
    assert space.machine.sparse_page.mapcount == 1
    assert 0 in space.file.holes, "a private write copies"
    write = (xip_file_write(space.machine, space.file, 1) for _ in range(2))
    space.run(*write)
    assert not space.mm.tables.get(VPN + 1)
    space.run(space.touch(vpn=VPN + 1))
    assert space.page(VPN + 1) is space.file.pages[1]
    assert space.word(VPN + 1) != 0


def test_a_hole_that_may_be_written_through_a_shared_mapping_gets_its_block():
    space = Space(file="disk", shared=True)
    space.file.holes.add(0)
    space.run(space.touch())
    space.run(space.touch(write=True))
    assert space.page() is space.file.pages[0]
    assert space.machine.sparse_page is None
    assert not space.file.holes


def swap_out(space):
    page = space.page()
    space.mm.tables.set(VPN, space.mm.tables.get(VPN) & ~PTE_A)
    yield Acquire(page.lock)
    slot = space.machine.swap.add_to_swap(page)
    space.machine.frames.get(page)
    assert (yield from try_to_unmap(space.machine, page)) is SwapResult.SUCCESS
    space.machine.copy_page(space.machine.swap.address(slot), page.address, pfn=page.pfn)
    page.dirty = False
    space.machine.swap.remove_mapping(page)
    space.machine.sched.release(page.lock)
    space.machine.frames.put(page)


@pytest.mark.parametrize("write", [False, True])
def test_a_page_comes_back_from_swap_with_its_content(write):
    space = Space()

    def thread():
        pte = yield from touch(space.machine, space.mm, VPN, write=True)
        space.machine.store(space.mm, VPN, pte_pfn(pte) << 12, 77)
        yield from swap_out(space)
        assert is_swap_entry(space.mm.tables.get(VPN))

    space.run(thread())
    space.run(space.touch(write=write), space.touch(write=write))
    assert space.word() == 77
    assert space.rights() == (RIGHTS if write else PTE_R | PTE_A)
    assert not space.machine.swap.uses.keys() - space.machine.swap.cache.keys()


def test_a_page_in_swap_that_two_share_is_copied_by_the_one_that_writes():
    space, children = Space(), []

    def thread():
        yield from space.touch(write=True)
        children.append((yield from fork(space.machine, space.mm)))
        children[0].tables.set(VPN, children[0].tables.get(VPN) & ~PTE_A)
        yield from swap_out(space)
        yield from touch(space.machine, children[0], VPN, write=True)
        yield from space.touch()

    space.run(thread())
    assert pte_pfn(space.mm.tables.get(VPN)) != pte_pfn(children[0].tables.get(VPN))


# --- random schedules ------------------------------------------------------------------------------------

OPERATIONS = st.tuples(
    st.sampled_from(
        ["cpu", "cpu", "cpu", "device", "device", "shrink", "unmap", "protect", "fork", "xip"]
    ),
    st.integers(0, 14),
    st.booleans(),
)
KINDS = ("anonymous", "private", "shared", "tmpfs", "nonlinear")
PAGES = 3


class Crowd:
    """One bound address space with a vma of each kind, and its children."""

    def __init__(self, policy, seed):
        self.host = Host(policy=policy, seed=seed)
        self.machine = self.host.machine
        self.mm = self.machine.new_mm()
        self.mm.cpus = 3
        self.spaces = [self.mm]
        self.files = [
            self.machine.new_file(name, tmpfs=kind >= KINDS.index("tmpfs"))
            for kind, name in enumerate(KINDS)
        ]
        self.files[1].holes.add(0)

    def map(self, kind):
        """Map a vma of a kind."""
        start = VPN + 4 * kind
        file = self.files[kind] if kind else None
        vma = Vma(self.mm, start, start + PAGES, True, True, shared=kind > 1, file=file)
        vma.pgoff = 0 if kind else start
        vma.nonlinear = KINDS[kind] == "nonlinear"
        yield from mmap(self.machine, self.mm, vma)
        if vma.nonlinear:
            yield from self.remap(vma)

    def remap(self, vma):
        """Make the pages of a nonlinear vma map the file backwards (``remap_file_pages``)."""
        for index in range(PAGES):
            ptl = yield from pte_alloc(self.machine, self.mm, vma.start + index)
            yield Acquire(ptl)
            if not self.mm.tables.get(vma.start + index) and vma in self.mm.vmas:
                self.mm.tables.set(vma.start + index, file_entry(PAGES - 1 - index))
            self.machine.sched.release(ptl)

    def thread(self, operations):
        """Perform operations one after another."""
        for what, where, flag in operations:
            kind, offset = divmod(where, PAGES)
            vpn = VPN + 4 * kind + offset
            yield from getattr(self, what)(vpn, kind, flag)

    def cpu(self, vpn, kind, flag):
        """Store or load in the newest address space, or in the bound one."""
        for mm in {self.mm: None, self.spaces[-1]: None}:
            pte = yield from touch(self.machine, mm, vpn, write=flag)
            if pte is not None and flag:
                self.machine.store(mm, vpn, pte_pfn(pte) << 12, self.machine.next_version())

    def device(self, vpn, kind, flag):
        """One burst."""
        transfer = yield from self.machine.driver.submit(kind & 1, 1, vpn << 12, 4, write=flag)
        yield from self.machine.driver.wait(transfer)

    def shrink(self, vpn, kind, flag):
        """A scan of the LRU."""
        yield from shrink(self.machine, 0 if flag else 12)

    def unmap(self, vpn, kind, flag):
        """Unmap a vma, and map it again."""
        first = VPN + 4 * kind
        yield from munmap(self.machine, self.mm, first, first + PAGES - 1)
        if self.mm.find_vma(first) is None:
            yield from self.map(kind)

    def protect(self, vpn, kind, flag):
        """Change what a page allows."""
        yield from mprotect(self.machine, self.mm, vpn, vpn, read=True, write=flag)

    def fork(self, vpn, kind, flag):
        """Fork the bound address space, a few times at most."""
        if len(self.spaces) < 4:
            self.spaces.append((yield from fork(self.machine, self.mm)))

    def xip(self, vpn, kind, flag):
        """Punch or fill a hole of the private file."""
        file = self.files[1]
        if 0 in file.holes:
            yield from xip_file_write(self.machine, file, 0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    policy=st.sampled_from([V9, SEED]),
    seed=st.integers(0, 1000),
    threads=st.lists(st.lists(OPERATIONS, max_size=25), min_size=1, max_size=4),
)
def test_random_schedules_keep_every_count_and_touch_nothing_freed(policy, seed, threads):
    crowd = Crowd(policy, seed)

    def setup():
        yield from Sva.bind(crowd.machine, crowd.mm)
        for kind in range(len(KINDS)):
            yield from crowd.map(kind)

    crowd.host.run(setup())
    crowd.host.run(*(crowd.thread(operations) for operations in threads))
    crowd.host.run(audit(crowd.machine))
    columns = crowd.machine.timeline.columns()
    assert not ((columns["hw"] == 1) & (columns["kind"] == Event.VIOLATION.value)).any()
    assert crowd.machine.driver.outstanding == 0
