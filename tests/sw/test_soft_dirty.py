"""Soft-dirty marks: every page written since the sweep has one, whoever wrote it, and others have none."""

import pytest

from hostmm import syscalls
from hostmm.audit import audit
from hostmm.cpu import access
from hostmm.errors import HostError
from hostmm.paths.migrate import migrate_page
from hostmm.paths.soft_dirty import clear_refs_write, soft_dirty
from hostmm.policies import POLICIES, V3_7, V6_6
from hostmm.subscribers.sva import Sva
from tests.sw.hosts import Host

BASE = 0x1000
PAGES = 4

policies = pytest.mark.parametrize("policy", ["v4.13", "v6.6"])


class Tracked(Host):
    """A bound address space with some written pages."""

    def __init__(self, policy, kind=None):
        super().__init__(policy=POLICIES[policy] if isinstance(policy, str) else policy)
        self.mm = self.machine.new_mm()
        self.file = self.machine.new_file("f", tmpfs=kind == "tmpfs") if kind else None

    def play(self, *threads):
        def main():
            for thread in threads:
                yield from thread
            yield from audit(self.machine)

        self.run(main())

    def prepare(self):
        yield from Sva.bind(self.machine, self.mm)
        vma = self.anonymous(self.mm, BASE, PAGES)
        if self.file is not None:
            vma = self.mapping(self.mm, BASE, PAGES, self.file)
        yield from syscalls.mmap(self.machine, self.mm, vma)
        for page in range(PAGES):
            yield from self.access(page, write=True)

    def access(self, page, *, write):
        assert (yield from access(self.machine, self.mm, BASE + page, 0, write=write))

    def sweep(self):
        yield from clear_refs_write(self.machine, self.mm)

    def marks(self):
        return [page for page in range(PAGES) if soft_dirty(self.mm, BASE + page)]


@policies
@pytest.mark.parametrize("kind", [None, "disk", "tmpfs"])
def test_exactly_what_is_written_after_the_sweep_is_marked(policy, kind):
    host = Tracked(policy, kind)
    host.play(host.prepare())
    assert host.marks() == list(range(PAGES)), "a new mapping counts as written"
    host.play(host.sweep(), host.access(0, write=False), host.access(2, write=True))
    assert host.marks() == [2]
    host.play(host.sweep(), host.access(3, write=True), host.access(3, write=True))
    assert host.marks() == [3]


@policies
def test_a_device_that_holds_the_page_writable_cannot_write_unseen(policy):
    host = Tracked(policy)

    def device(page):
        va = BASE + page << 12
        transfer = yield from host.machine.driver.submit(0, host.mm.number, va, 1, write=True)
        yield from host.machine.driver.wait(transfer)

    host.play(host.prepare(), device(0), device(1), host.sweep(), device(1))
    assert host.marks() == [1]


@policies
def test_a_read_fault_on_a_shared_mapping_does_not_open_it_for_unseen_writes(policy):
    host = Tracked(policy, "tmpfs")
    drop = syscalls.madvise_dontneed(host.machine, host.mm, BASE, BASE)
    host.play(host.prepare(), drop, host.sweep(), host.access(0, write=False))
    assert host.marks() == []
    host.play(host.access(0, write=True))
    assert host.marks() == [0]


@policies
def test_mprotect_does_not_open_a_page_for_unseen_writes(policy):
    host = Tracked(policy, "tmpfs")
    mm, last = host.mm, BASE + PAGES - 1
    host.play(
        host.prepare(),
        host.sweep(),
        syscalls.mprotect(host.machine, mm, BASE, last, read=True, write=False),
        syscalls.mprotect(host.machine, mm, BASE, last, read=True, write=True),
    )
    assert host.marks() == []
    host.play(host.access(1, write=True))
    assert host.marks() == [1]


def test_what_moves_or_was_moved_counts_as_written():
    host = Tracked(V6_6)

    def migrate():
        page = host.machine.frames.pages[host.translate_now(host.mm, BASE) >> 12]
        assert (yield from migrate_page(host.machine, page))

    host.play(host.prepare(), host.sweep(), migrate())
    assert host.marks() == [0]
    host.play(host.sweep(), syscalls.mremap(host.machine, host.mm, BASE, PAGES, 0x9000, PAGES))
    assert all(soft_dirty(host.mm, 0x9000 + page) for page in range(PAGES))


def test_old_kernels_have_no_soft_dirty():
    host = Tracked(V3_7)
    with pytest.raises(HostError, match=r"policy v3\.7 has no path clear_refs_write"):
        host.play(host.prepare(), host.sweep())
