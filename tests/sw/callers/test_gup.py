"""Pinned pages: they outlive their mapping, reclaim leaves them, and fork copies them where the kernel does."""

import pytest

from hostmm.audit import audit
from hostmm.callers import syscalls
from hostmm.callers.cpu import access
from hostmm.callers.gup import get_user_page, put_user_page
from hostmm.callers.shrink import PRIORITIES, shrink
from hostmm.errors import HostError
from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import PTE_W
from hostmm.policies import POLICIES
from secmmu.layouts import FrameKind
from tests.sw.hosts import Host

BASE = 0x1000

policies = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


class Pinned(Host):
    """A host with two anonymous pages, the first of which a thread pins."""

    def __init__(self, policy=POLICIES["v9"]):
        super().__init__(policy=policy)
        self.mm = self.machine.new_mm()
        self.page = None

    def prepare(self, *, write=True):
        yield from syscalls.mmap(self.machine, self.mm, self.anonymous(self.mm, BASE, 2))
        for vpn in (BASE, BASE + 1):
            yield from access(self.machine, self.mm, vpn, 0, write=True)
        self.page = yield from get_user_page(self.machine, self.mm, BASE, write=write)

    def let_go(self):
        yield from put_user_page(self.machine, self.page, dirty=True)


@policies
def test_a_pinned_page_outlives_its_mapping(policy):
    host = Pinned(policy)
    host.play(host.prepare(), syscalls.munmap(host.machine, host.mm, BASE, BASE + 1))
    assert host.page.refcount == host.page.pins == 1
    assert host.machine.frames.pages[host.page.pfn] is host.page
    host.play(host.let_go())
    assert host.page.pfn not in host.machine.frames.pages


@policies
def test_reclaim_unmaps_a_pinned_page_but_does_not_free_it(policy):
    host = Pinned(policy)

    def reclaim():
        for priority in range(PRIORITIES, -1, -1):
            yield from shrink(host.machine, priority)

    host.play(host.prepare(), reclaim())
    page, freed = host.page, {row["pfn"] for row in host.rows(Row.FREE)}
    assert page.pfn not in freed
    assert freed, "the other page was freed"
    host.play(access(host.machine, host.mm, BASE, 0, write=True), host.let_go())
    assert host.translate_now(host.mm, BASE) == page.address, "it came back from the swap cache"


@policies
def test_fork_shares_a_pinned_page_or_copies_it(policy):
    host, children = Pinned(policy), []

    def fork():
        children.append((yield from syscalls.fork(host.machine, host.mm)))

    host.play(host.prepare(), fork())
    (child,) = children
    copied = policy.fork_copies_pinned
    assert (host.translate_now(child, BASE) != host.page.address) is copied
    assert host.translate_now(child, BASE + 1) == host.translate_now(host.mm, BASE + 1)
    assert bool(host.mm.tables.get(BASE) & PTE_W) is copied, "the parent writes in place"
    host.play(host.let_go())


def test_a_copied_page_has_the_parents_content():
    host, children = Pinned(POLICIES["v6.6"]), []

    def fork():
        children.append((yield from syscalls.fork(host.machine, host.mm)))

    host.play(host.prepare(), fork())
    assert host.word(host.translate_now(children[0], BASE)) == host.word(host.page.address) != 0


def test_what_may_not_be_accessed_is_not_pinned():
    host = Host()
    mm, pages = host.machine.new_mm(), []
    mm.insert(host.anonymous(mm, BASE, 1, write=False))
    frame = host.machine.frames.alloc(FrameKind.USER)
    bare = host.anonymous(mm, BASE + 1, 1)
    bare.pfnmap, bare.pgoff = True, frame.pfn
    mm.insert(bare)

    def main():
        for vpn in (BASE, BASE + 1, BASE + 2):
            pages.append((yield from get_user_page(host.machine, mm, vpn, write=True)))
        yield from audit(host.machine)

    host.run(main())
    assert pages == [None, None, None]


def test_an_unpinned_page_cannot_be_given_back():
    host = Pinned()
    host.play(host.prepare(), host.let_go())
    with pytest.raises(HostError, match=f"frame {host.page.pfn:#x} is not pinned"):
        host.play(host.let_go())
