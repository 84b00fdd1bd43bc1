"""Huge pages of hugetlbfs: shared and private mappings, copy-on-write that old kernels tell nobody of (S16)."""

import numpy as np
import pytest

from hostmm.callers import syscalls
from hostmm.callers.cpu import access
from hostmm.errors import HostError
from hostmm.machine.locks import Signal, Wait
from hostmm.machine.scheduler import Gate
from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import PTE_W
from hostmm.paths.truncate import truncate_range
from hostmm.policies import POLICIES, V6_6, V9
from hostmm.scenarios.base import device_load, store
from hostmm.subscribers.sva import Sva
from secmmu.layouts import Event
from tests.sw.hosts import Host

BASE = 0x1000
PAGES = 512

policies = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


class Hugetlb(Host):
    """A bound address space with one huge page of a file mapped at BASE."""

    def __init__(self, policy=V6_6):
        super().__init__(policy=policy, frames=2032)
        self.mm = self.machine.new_mm()
        self.file = self.machine.new_file("huge", hugetlb=True)

    def prepare(self, *, shared=False, pages=PAGES):
        yield from Sva.bind(self.machine, self.mm)
        vma = self.mapping(self.mm, BASE, pages, self.file, shared=shared)
        yield from syscalls.mmap(self.machine, self.mm, vma)
        yield from access(self.machine, self.mm, BASE + 7, 0, write=False)

    def store(self, value, mm=None):
        yield from store(self.machine, mm or self.mm, BASE + 7, value)

    def content(self, mm=None):
        return self.word(self.translate_now(mm or self.mm, BASE + 7))

    def head(self, mm=None):
        return self.machine.frames.pages[self.translate_now(mm or self.mm, BASE) >> 12]

    def loads(self):
        columns = self.machine.timeline.columns()
        rows = np.flatnonzero((columns["hw"] == 1) & (columns["kind"] == Event.LOAD.value))
        return [int(columns["a"][row]) for row in rows]


@policies
def test_a_private_write_copies_the_files_page(policy):
    host = Hugetlb(policy)
    host.play(host.prepare())
    before = host.head()
    assert before is host.file.pages[0]
    host.play(host.store(5))
    assert host.head() is not before
    assert (host.content(), host.word(host.file.pages[7].address)) == (5, 0)
    assert host.head().refcount == 1
    host.play(syscalls.exit_process(host.machine, host.mm))
    assert set(host.machine.frames.pages.values()) == set(host.file.pages.values())


@policies
def test_a_shared_write_goes_to_the_file(policy):
    host = Hugetlb(policy)
    host.play(host.prepare(shared=True), host.store(5))
    assert host.head() is host.file.pages[0]
    assert host.word(host.file.pages[7].address) == 5
    assert not host.names("hugetlb_cow", Row.PATH_BEGIN)


@policies
def test_parent_and_child_part_at_the_first_write_and_the_last_owner_keeps_the_page(policy):
    host, children = Hugetlb(policy), []

    def fork():
        children.append((yield from syscalls.fork(host.machine, host.mm)))

    host.play(host.prepare(), host.store(5), fork())
    (child,) = children
    page = host.head()
    assert page is host.head(child)
    assert not host.mm.tables.get(BASE) & PTE_W
    host.play(host.store(6))
    assert (host.content(), host.content(child)) == (6, 5)
    host.play(host.store(7, child))
    assert host.head(child) is page, "in place: nobody else has it"
    assert (host.content(), host.content(child)) == (6, 7)


@policies
def test_only_kernels_that_tell_of_the_copy_keep_the_device_from_the_old_page(policy):
    """S16: under v9 and the seed the device goes on reading what the address space no longer has."""
    host = Hugetlb(policy)
    load = [device_load(host.machine, host.mm, BASE + 7) for _ in range(2)]
    host.play(host.prepare(), load[0], host.store(5), load[1])
    told = policy.name in ("v3.7", "v4.13", "v6.6")
    assert host.loads() == [0, 5 if told else 0]


def test_a_copy_that_loses_against_truncation_drops_what_it_took():
    host = Hugetlb()
    host.play(host.prepare())
    gate = Gate("thread0", "hugetlb_cow", "alloc_page", Signal("reached"), Signal("opened"))
    host.machine.sched.gates.append(gate)

    def truncate():
        yield Wait(gate.reached)
        yield from truncate_range(host.machine, host.file, 0, PAGES - 1)
        host.machine.sched.fire(gate.opened)

    host.run(host.store(5), truncate())
    host.play()
    assert host.content() == 5
    assert len(host.names("hugetlb_cow", Row.PATH_BEGIN)) == 2


@policies
def test_mprotect_changes_the_leaf_as_a_whole(policy):
    host, allowed = Hugetlb(policy), []

    def try_write():
        allowed.append((yield from access(host.machine, host.mm, BASE, 0, write=True)))

    def protect(*, write):
        last = BASE + PAGES - 1
        yield from syscalls.mprotect(host.machine, host.mm, BASE, last, read=True, write=write)

    host.play(host.prepare(), host.store(5), protect(write=False), try_write())
    host.play(protect(write=True), try_write())
    assert allowed == [False, True]
    assert host.mm.tables.huge(BASE)
    assert host.content() == 5


def fork_it(host):
    yield from syscalls.fork(host.machine, host.mm)


def protect_it(host):
    last = BASE + 2 * PAGES - 1
    yield from syscalls.mprotect(host.machine, host.mm, BASE, last, read=True, write=False)


@pytest.mark.parametrize("policy", [V9, V6_6], ids=["v9", "v6.6"])
@pytest.mark.parametrize(
    ("work", "path"), [(fork_it, "copy_hugetlb_page_range"), (protect_it, "mprotect")]
)
def test_a_huge_page_that_truncation_takes_away_before_its_turn_is_passed_over(work, path, policy):
    """Neither holds the reverse map's lock, and truncation has no mmap_sem: it waits for the first page's lock only."""
    host = Hugetlb(policy)
    host.play(
        host.prepare(pages=2 * PAGES),
        access(host.machine, host.mm, BASE + PAGES, 0, write=False),
        host.store(5),
    )
    gate = Gate("thread0", path, "pte_write", Signal("reached"), Signal("opened"))
    host.machine.sched.gates.append(gate)

    def truncate():
        yield Wait(gate.reached)
        yield from truncate_range(host.machine, host.file, PAGES, 2 * PAGES - 1)

    def go_on():
        yield Wait(gate.reached)
        yield 5_000
        host.machine.sched.fire(gate.opened)

    host.run(work(host), truncate(), go_on())
    host.play()
    assert host.mm.tables.huge(BASE)
    assert not host.mm.tables.huge(BASE + PAGES)


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        ("munmap", (BASE + 1, BASE + 9), "split at 2 MiB only"),
        ("mremap", (BASE, PAGES, BASE + 4 * PAGES, PAGES), "is not moved"),
    ],
)
def test_what_cuts_or_moves_a_huge_page_is_refused(call, arguments, message):
    host = Hugetlb(V9)
    with pytest.raises(HostError, match=message):
        host.play(host.prepare(), getattr(syscalls, call)(host.machine, host.mm, *arguments))


def test_a_mapping_or_a_truncation_of_part_of_a_huge_page_is_refused():
    host = Hugetlb(V9)
    with pytest.raises(HostError, match="is a multiple of 2 MiB"):
        host.play(host.prepare(pages=9))
    with pytest.raises(HostError, match="truncated at 2 MiB only"):
        host.play(truncate_range(host.machine, host.file, 0, 8))
