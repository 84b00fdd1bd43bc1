"""Soft-dirty marks: every page written since the sweep has one, whoever wrote it, and others have none."""

import pytest

from hostmm.callers import syscalls
from hostmm.callers.cpu import access
from hostmm.errors import HostError
from hostmm.paths.migrate import migrate_page
from hostmm.paths.soft_dirty import clear_refs_write, soft_dirty
from hostmm.policies import V3_7, V4_13, V6_6
from tests.sw.hosts import BASE, Mapped

PAGES = 4

policies = pytest.mark.parametrize("policy", [V4_13, V6_6], ids=lambda policy: policy.name)


class Tracked(Mapped):
    """Some written pages, which soft-dirty tracks."""

    def __init__(self, policy, kind=None):
        super().__init__(policy, pages=PAGES, kind=kind)

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
        assert (yield from migrate_page(host.machine, host.page()))

    host.play(host.prepare(), host.sweep(), migrate())
    assert host.marks() == [0]
    host.play(host.sweep(), syscalls.mremap(host.machine, host.mm, BASE, PAGES, 0x9000, PAGES))
    assert all(soft_dirty(host.mm, 0x9000 + page) for page in range(PAGES))


def test_old_kernels_have_no_soft_dirty():
    host = Tracked(V3_7)
    with pytest.raises(HostError, match=r"policy v3\.7 has no path clear_refs_write"):
        host.play(host.prepare(), host.sweep())
