"""2 MiB leaves: collapse, what splits them, what moves or unmaps them whole; content, rights and counts."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostmm.callers import syscalls
from hostmm.callers.gup import get_user_page, put_user_page
from hostmm.callers.shrink import PRIORITIES, shrink
from hostmm.errors import HostError
from hostmm.machine.locks import Acquire, Signal, Wait
from hostmm.machine.scheduler import Gate
from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import PTE_A, PTE_V
from hostmm.paths.collapse_huge_page import collapse_huge_page
from hostmm.paths.ksm import RmapItem, try_to_merge_two_pages
from hostmm.paths.migrate import migrate_page
from hostmm.paths.migrate_huge import migrate_misplaced_transhuge_page
from hostmm.paths.page_referenced import page_referenced
from hostmm.paths.soft_dirty import clear_refs_write, soft_dirty
from hostmm.paths.try_to_unmap import try_to_unmap
from hostmm.policies import POLICIES, V2_6_27, V3_7, V6_6
from hostmm.scenarios.base import store
from hostmm.subscribers.sva import Sva
from tests.sw.hosts import Host

BASE = 0x1000
PAGES = 512
TARGET = 0x9000
WRITTEN = (0, 3, 511)

policies = pytest.mark.parametrize("policy", ["v3.7", "v4.13", "v6.6"])


class Huge(Host):
    """A bound address space with 512 pages; those of WRITTEN hold their offset plus 100."""

    def __init__(self, policy, *, frames=1900):
        policy = POLICIES[policy] if isinstance(policy, str) else policy
        super().__init__(policy=policy, frames=frames)
        self.mm = self.machine.new_mm()
        self.tables = self.mm.tables

    def prepare(self, pages=PAGES):
        yield from Sva.bind(self.machine, self.mm)
        yield from syscalls.mmap(self.machine, self.mm, self.anonymous(self.mm, BASE, pages))
        for offset in WRITTEN:
            if offset < pages:
                yield from self.store(offset, offset + 100)

    def store(self, offset, value):
        yield from store(self.machine, self.mm, BASE + offset, value)

    def collapse(self, results=None):
        done = yield from collapse_huge_page(self.machine, self.mm, BASE + 77)
        if results is not None:
            results.append(done)

    def call(self, name, first, last, **rights):
        yield from getattr(syscalls, name)(
            self.machine, self.mm, BASE + first, BASE + last, **rights
        )

    def page(self, offset=0, mm=None, at=BASE):
        frame = self.translate_now(mm or self.mm, at + offset) >> 12
        return self.machine.frames.pages[frame]

    def contents(self, mm=None, at=BASE):
        """What each mapped page of WRITTEN holds, less 100; None for one that is not mapped."""
        found = []
        for offset in WRITTEN:
            mapped = (mm or self.mm).tables.get(at + offset) & PTE_V
            page = self.page(offset, mm, at) if mapped else None
            found.append(None if page is None else self.word(page.address) - 100)
        return found

    def is_huge(self, at=BASE):
        return bool(self.tables.huge(at))

    def device(self, offset, *, write=False):
        va = BASE + offset << 12
        transfer = yield from self.machine.driver.submit(0, self.mm.number, va, 1, write=write)
        yield from self.machine.driver.wait(transfer)
        return transfer


# --- collapse --------------------------------------------------------------------------------------------


@policies
def test_pages_and_holes_become_one_leaf(policy):
    host, results = Huge(policy), []
    host.play(host.prepare())
    before = {host.page(offset).pfn for offset in WRITTEN}
    host.play(host.collapse(results))
    assert results == [True]
    assert host.is_huge()
    assert host.contents() == list(WRITTEN)
    assert host.word(host.page(5).address) == 0
    assert host.page().pfn % PAGES == 0
    assert host.page(511).pfn == host.page().pfn + 511
    assert not before & set(host.machine.frames.pages), "the pages that were copied are free"
    assert host.mm.rss == [0, PAGES]
    host.play(host.store(5, 6), host.store(0, 7))
    assert (host.word(host.page(5).address), host.contents()[0]) == (6, 7 - 100)
    assert host.is_huge(), "a write needs no fault"


@policies
def test_a_device_sees_one_content_through_collapse_and_split(policy):
    host = Huge(policy)
    written = []

    def device():
        for _ in range(3):
            for offset in WRITTEN:
                transfer = yield from host.device(offset, write=True)
                written.append((offset, transfer.data))

    protect = host.call("mprotect", 9, 9, read=True, write=False)
    host.play(host.prepare())
    host.run(device(), host.collapse())
    host.play()
    assert host.is_huge()
    host.run(device(), protect)
    host.play()
    assert not host.is_huge()
    assert [content + 100 for content in host.contents()] == [
        dict(written)[offset] for offset in WRITTEN
    ]


@policies
@pytest.mark.parametrize("why", ["pinned", "shared", "short", "swapped", "fragmented", "huge"])
def test_what_cannot_be_collapsed_stays_as_it_is(policy, why):
    host, results, pages = Huge(policy), [], []

    def obstacle():
        if why == "pinned":
            pages.append((yield from get_user_page(host.machine, host.mm, BASE + 3, write=True)))
        elif why == "shared":
            yield from syscalls.fork(host.machine, host.mm)
        elif why == "swapped":
            page = host.page(3)
            host.machine.swap.add_to_swap(page)
            host.tables.set(BASE + 3, host.tables.get(BASE + 3) & ~PTE_A)
            host.machine.frames.get(page)
            yield Acquire(page.lock)
            yield from try_to_unmap(host.machine, page)
            host.machine.sched.release(page.lock)
            host.machine.frames.put(page)
        elif why == "fragmented":
            while host.machine.frames.has_block(9):
                taken = host.machine.frames.alloc_block(host.page().kind, 9)
                pages.extend(taken)
        elif why == "huge":
            yield from host.collapse()

    host.play(host.prepare(100 if why == "short" else PAGES))
    host.run(obstacle())
    before = host.contents()[:1]
    host.run(host.collapse(results))
    assert results == [False]
    assert host.is_huge() is (why == "huge")
    assert host.contents()[:1] == before
    for page in pages:
        if page.pins:
            host.run(put_user_page(host.machine, page, dirty=True))
        else:
            host.machine.frames.put(page)
    host.play(host.store(0, 9))


def test_old_kernels_have_no_huge_pages():
    host = Huge(V2_6_27)
    with pytest.raises(HostError, match=r"policy v2\.6\.27 has no path collapse_huge_page"):
        host.play(host.prepare(), host.collapse())


# --- what splits a leaf ----------------------------------------------------------------------------------


def splits(host):
    return len(host.names("split_huge_page", Row.PATH_BEGIN)) + len(
        host.names("__split_huge_pmd", Row.PATH_BEGIN)
    )


@policies
def test_changing_a_part_splits_and_keeps_the_rest(policy):
    for call, rights, expected in (
        ("munmap", {}, [0, None, 511]),
        ("madvise_dontneed", {}, [0, None, 511]),
        ("mprotect", {"read": True, "write": False}, [0, 3, 511]),
    ):
        host = Huge(policy)
        host.play(host.prepare(), host.collapse(), host.call(call, 3, 3, **rights))
        assert not host.is_huge()
        assert host.contents() == expected, call
        assert splits(host) == 1
        host.play(host.store(0, 5))
        assert host.contents()[0] == 5 - 100


@policies
def test_fork_splits_and_shares_every_page(policy):
    host, children = Huge(policy), []

    def fork():
        children.append((yield from syscalls.fork(host.machine, host.mm)))

    host.play(host.prepare(), host.collapse(), fork())
    (child,) = children
    assert host.contents() == host.contents(child) == list(WRITTEN)
    assert {host.page(offset).mapcount for offset in range(PAGES)} == {2}
    host.play(host.store(0, 5), syscalls.exit_process(host.machine, child))
    assert host.contents() == [5 - 100, 3, 511]


@pytest.mark.parametrize("policy", ["v3.7", "v6.6"])
def test_reclaim_splits_and_swaps_page_by_page(policy):
    host = Huge(policy)

    def reclaim():
        for priority in range(PRIORITIES, -1, -1):
            yield from shrink(host.machine, priority)

    host.play(host.prepare(), host.collapse(), reclaim())
    assert not host.is_huge()
    assert host.machine.swap.uses
    host.play(*(host.store(offset, offset + 101) for offset in WRITTEN))
    assert host.contents() == [offset + 1 for offset in WRITTEN]


@policies
def test_migration_splits_and_moves_the_first_page(policy):
    host, results = Huge(policy), []

    def move():
        results.append((yield from migrate_page(host.machine, host.page())))

    host.play(host.prepare(), host.collapse(), move())
    assert results == [True]
    assert (host.is_huge(), host.contents()) == (False, list(WRITTEN))


@policies
def test_ksm_splits_and_merges_pages_of_the_leaf(policy):
    host, results = Huge(policy), []

    def merge():
        items = [RmapItem(host.mm, BASE + offset) for offset in (5, 6)]
        results.append((yield from try_to_merge_two_pages(host.machine, *items)))

    host.play(host.prepare(), host.collapse(), merge())
    assert results == [True]
    assert host.page(5) is host.page(6)
    assert host.contents() == list(WRITTEN)


def test_a_sweep_of_soft_dirty_marks_splits_the_leaf():
    host = Huge(V6_6)
    host.play(
        host.prepare(),
        host.collapse(),
        clear_refs_write(host.machine, host.mm),
        host.store(3, 104),
    )
    marked = [offset for offset in range(PAGES) if soft_dirty(host.mm, BASE + offset)]
    assert marked == [3]


@policies
def test_a_leaf_can_be_collapsed_again_after_a_split(policy):
    host, results = Huge(policy, frames=2000), []
    protect = [host.call("mprotect", 0, 511, read=True, write=write) for write in (False, True)]
    host.play(host.prepare(), host.collapse(results), *protect)
    assert not host.is_huge()
    host.play(*(host.store(offset, offset + 100) for offset in WRITTEN))
    host.play(host.call("madvise_dontneed", 4, 500), host.collapse(results))
    assert results == [True, True]
    assert host.contents() == list(WRITTEN)


# --- what handles it whole -------------------------------------------------------------------------------


@policies
def test_munmap_and_exit_free_a_leaf_as_a_whole(policy):
    host = Huge(policy)
    host.play(host.prepare(), host.collapse(), host.call("munmap", 0, PAGES - 1))
    assert host.mm.rss == [0, 0]
    assert splits(host) == 0
    host.play(syscalls.exit_process(host.machine, host.mm))
    assert not host.machine.frames.pages
    again = Huge(policy)
    again.play(again.prepare(), again.collapse(), syscalls.exit_process(again.machine, again.mm))
    assert not again.machine.frames.pages


@policies
def test_mremap_moves_a_leaf_as_a_whole(policy):
    host = Huge(policy)
    move = syscalls.mremap(host.machine, host.mm, BASE, PAGES, TARGET, PAGES)
    host.play(host.prepare(), host.collapse(), move)
    assert host.is_huge(TARGET)
    assert host.contents(at=TARGET) == list(WRITTEN)
    assert not host.tables.get(BASE)
    host.play(syscalls.mprotect(host.machine, host.mm, TARGET, TARGET, read=True, write=False))
    assert not host.is_huge(TARGET), "the table that was kept for the split moved too"
    assert host.contents(at=TARGET) == list(WRITTEN)


@policies
def test_mremap_of_a_part_or_to_an_odd_place_splits(policy):
    for pages, target in ((100, TARGET), (PAGES, TARGET + 1)):
        host = Huge(policy)
        move = syscalls.mremap(host.machine, host.mm, BASE, pages, target, pages)
        host.play(host.prepare(), host.collapse(), move)
        assert host.word(host.page(3, at=target).address) == 103
        assert splits(host) == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_only_later_kernels_move_a_table_of_ptes_whole(policy):
    host = Huge(policy)
    host.play(host.prepare())
    lock = host.tables.lock(BASE)
    host.play(syscalls.mremap(host.machine, host.mm, BASE, PAGES, TARGET, PAGES))
    assert host.contents(at=TARGET) == list(WRITTEN)
    assert (host.tables.lock(TARGET) is lock) is (policy == "v6.6")
    assert not host.tables.get(BASE)


def test_a_device_does_not_find_a_table_where_it_was():
    host, transfers = Huge(V6_6), []

    def device():
        transfers.append((yield from host.device(3)))

    move = syscalls.mremap(host.machine, host.mm, BASE, PAGES, TARGET, PAGES)
    host.play(host.prepare(), device(), move, device())
    assert [transfer.dropped for transfer in transfers] == [False, True]


@policies
def test_age_of_a_leaf_is_asked_and_cleared_once(policy):
    host, results = Huge(policy), []

    def ask():
        page = host.page()
        yield Acquire(page.lock)
        for _ in range(2):
            results.append((yield from page_referenced(host.machine, page)))
        host.machine.sched.release(page.lock)

    host.play(host.prepare(), host.collapse(), ask())
    assert results == [1, 0]
    assert host.is_huge()
    assert not host.tables.get(BASE + 300) & PTE_A


@policies
def test_a_pinned_page_of_a_leaf_outlives_it(policy):
    host, pages = Huge(policy), []

    def pin():
        pages.append((yield from get_user_page(host.machine, host.mm, BASE + 3, write=True)))

    host.play(host.prepare(), host.collapse(), pin(), host.call("munmap", 0, PAGES - 1))
    (page,) = pages
    assert (page.refcount, page.mapcount) == (1, 0)
    assert host.word(page.address) == 103
    host.play(put_user_page(host.machine, page, dirty=True))


steps = st.one_of(
    st.tuples(st.just("store"), st.sampled_from(WRITTEN), st.integers(1, 99)),
    st.tuples(st.just("dontneed"), st.sampled_from(WRITTEN), st.just(0)),
    st.tuples(st.just("protect"), st.sampled_from(WRITTEN), st.just(0)),
    st.tuples(st.sampled_from(["collapse", "fork"]), st.just(0), st.just(0)),
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=6), st.sampled_from([V3_7, V6_6]))
def test_whatever_happens_to_the_range_its_content_is_kept(plan, policy):
    host = Huge(policy)
    expected = {offset: offset + 100 for offset in WRITTEN}
    host.play(host.prepare())
    for kind, offset, value in plan:
        if kind == "store":
            host.play(host.store(offset, value))
            expected[offset] = value
        elif kind == "dontneed":
            host.play(host.call("madvise_dontneed", offset, offset))
            expected[offset] = 0
        elif kind == "protect":
            for write in (False, True):
                host.play(host.call("mprotect", offset, offset, read=True, write=write))
        elif kind == "collapse":
            host.play(host.collapse())
        else:
            host.play(_fork_and_exit(host))
    found = {}
    for offset in WRITTEN:
        pte = host.tables.get(BASE + offset)
        assert not pte or pte & PTE_V
        found[offset] = host.word(host.page(offset).address) if pte else 0
    assert found == expected


def _fork_and_exit(host):
    child = yield from syscalls.fork(host.machine, host.mm)
    yield from syscalls.exit_process(host.machine, child)


# --- moved whole ---------------------------------------------------------------------------------------------


def balance(host, results):
    vma = host.mm.find_vma(BASE)
    moved = yield from migrate_misplaced_transhuge_page(host.machine, vma, BASE)
    results.append(moved)


def test_a_leaf_moves_whole_with_content_and_rights():
    """Who writes it meanwhile waits, and writes the new page."""
    host, results = Huge("v4.13"), []
    host.play(host.prepare(), host.collapse())
    old, leaf = host.page(), host.tables.huge(BASE)
    path = "migrate_misplaced_transhuge_page"
    gate = Gate("thread0", path, "copy_page", Signal("reached"), Signal("opened"))
    host.machine.sched.gates.append(gate)

    def writer():
        yield Wait(gate.reached)
        yield from host.store(3, 7)
        results.append("stored")

    def opener():
        yield Wait(gate.reached)
        yield 100_000
        results.append("opened")
        host.machine.sched.fire(gate.opened)

    host.run(balance(host, results), writer(), opener())
    host.play()
    assert results[0] == "opened"
    assert set(results) == {"opened", "stored", True}
    assert host.page().pfn != old.pfn
    assert old.pfn not in host.machine.frames.pages
    assert host.contents() == [0, 7 - 100, 511]
    assert host.tables.huge(BASE) & 0x3FF == leaf & 0x3FF
    assert host.page().huge
    assert host.page().lru


def test_a_leaf_with_a_pin_stays():
    """And is open again."""
    host, results, pins = Huge("v4.13"), [], []

    def pin():
        pins.append((yield from get_user_page(host.machine, host.mm, BASE + 3, write=True)))

    host.play(host.prepare(), host.collapse())
    leaf = host.tables.huge(BASE)
    host.play(pin(), balance(host, results))
    assert results == [False]
    assert host.tables.huge(BASE) == leaf
    assert host.contents() == [0, 3, 511]
    host.play(put_user_page(host.machine, pins[0], dirty=True))


@pytest.mark.parametrize("step", ["alloc_page", "copy_page", "notifier_call"])
@pytest.mark.parametrize("pages", [4, PAGES], ids=["a part", "the whole"])
def test_a_leaf_that_is_dropped_while_it_moves_is_let_go_of(pages, step):
    """MADV_DONTNEED holds mmap_sem shared, as the move does, which has references of its own to what it copies."""
    host, results = Huge("v4.13"), []
    host.play(host.prepare(), host.collapse())
    old = host.page()
    path = "migrate_misplaced_transhuge_page"
    gate = Gate("thread0", path, step, Signal("reached"), Signal("opened"))
    host.machine.sched.gates.append(gate)

    def move():
        yield Acquire(host.mm.mmap_sem, shared=True)
        yield from balance(host, results)
        host.machine.sched.release(host.mm.mmap_sem)

    def drop():
        yield Wait(gate.reached)
        yield from host.call("madvise_dontneed", 0, pages - 1)
        host.machine.sched.fire(gate.opened)

    host.run(move(), drop())
    host.play()
    assert results == [False]
    assert host.contents() == [None, None, 511 if pages < PAGES else None]
    assert host.machine.frames.pages.get(old.pfn) is not old


def test_other_kernels_do_not_move_a_leaf_whole():
    """It came with 3.8 and went with 5.14."""
    host = Huge("v6.6")
    with pytest.raises(HostError, match=r"policy v6\.6 has no path migrate_misplaced"):
        host.play(host.prepare(), host.collapse(), balance(host, []))
