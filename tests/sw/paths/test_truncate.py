"""Truncation and MADV_FREE: what becomes of the pages, in the mappings and in memory."""

import pytest

from hostmm.callers import syscalls
from hostmm.callers.cpu import access
from hostmm.callers.shrink import PRIORITIES, shrink
from hostmm.errors import HostError
from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_V, file_entry, software_value
from hostmm.paths.truncate import truncate_range
from hostmm.policies import POLICIES, V4_13, V6_6, V9
from tests.sw.hosts import Host

BASE = 0x1000


class Mapped(Host):
    """A host with one address space; ``play`` runs steps one after another and audits."""

    def __init__(self, policy):
        super().__init__(policy=policy)
        self.mm = self.machine.new_mm()
        self.file = self.machine.new_file("f", tmpfs=True)

    def map(self, vma):
        yield from syscalls.mmap(self.machine, self.mm, vma)
        for vpn in range(vma.start, vma.end):
            yield from self.access(vpn, write=True)

    def access(self, vpn, *, write=False):
        assert (yield from access(self.machine, self.mm, vpn, 0, write=write))

    def reclaim(self):
        for priority in range(PRIORITIES, -1, -1):
            yield from shrink(self.machine, priority)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_truncated_page_leaves_mappings_and_memory(policy):
    host = Mapped(policy)
    vma = host.mapping(host.mm, BASE, 3, host.file)
    host.play(host.map(vma))
    frames = [host.file.pages[index].pfn for index in range(3)]
    host.play(truncate_range(host.machine, host.file, 1, 5))
    assert set(host.file.pages) == {0}
    assert [bool(host.mm.tables.get(BASE + offset)) for offset in range(3)] == [True, False, False]
    assert {row["pfn"] for row in host.rows(Row.FREE)} == set(frames[1:])
    host.play(host.access(BASE + 1))
    assert host.word(host.translate_now(host.mm, BASE + 1)) == 0, "the content is gone"


@pytest.mark.parametrize("policy", ["v9", "seed", "emm", "v2.6.27", "v3.7"])
def test_a_nonlinear_mapping_loses_the_truncated_page_wherever_it_is(policy):
    host = Mapped(POLICIES[policy])
    vma = host.mapping(host.mm, BASE, 3, host.file)
    vma.nonlinear = True

    def shuffle():
        yield from syscalls.mmap(host.machine, host.mm, vma)
        host.mm.tables.alloc(BASE)
        for offset, index in enumerate((2, 0, 1)):
            host.mm.tables.set(BASE + offset, file_entry(index))
            yield from host.access(BASE + offset, write=True)

    host.play(shuffle(), truncate_range(host.machine, host.file, 0, 0))
    present = [bool(host.mm.tables.get(BASE + offset) & PTE_V) for offset in range(3)]
    assert present == [True, False, True]
    assert software_value(host.mm.tables.get(BASE + 1)) == 0, "it still names its page"
    assert set(host.file.pages) == {1, 2}


@pytest.mark.parametrize("policy", [V4_13, V6_6], ids=lambda policy: policy.name)
@pytest.mark.parametrize("write", [False, True])
def test_a_freed_page_is_dropped_unless_it_is_written_again(policy, write):
    host = Mapped(policy)
    host.play(host.map(host.anonymous(host.mm, BASE, 1)))
    host.play(syscalls.madvise_free(host.machine, host.mm, BASE, BASE))
    pte = host.mm.tables.get(BASE)
    assert pte & PTE_V
    assert not pte & (PTE_A | PTE_D)
    if write:
        host.play(host.access(BASE, write=True))
        stored = host.word(host.translate_now(host.mm, BASE))
    host.play(host.reclaim(), host.access(BASE))
    found = host.word(host.translate_now(host.mm, BASE))
    assert found == (stored if write else 0)
    assert write or not host.machine.swap.uses, "what need not be kept is not written to swap"


def test_a_page_in_swap_is_freed_there():
    host = Mapped(V6_6)
    host.play(host.map(host.anonymous(host.mm, BASE, 1)), host.reclaim())
    assert host.machine.swap.uses
    host.play(syscalls.madvise_free(host.machine, host.mm, BASE, BASE))
    assert not host.machine.swap.uses
    assert host.mm.tables.get(BASE) == 0


def test_a_shared_page_is_not_freed():
    host, pages = Mapped(V6_6), []

    def fork():
        pages.append((yield from syscalls.fork(host.machine, host.mm)))

    host.play(host.map(host.anonymous(host.mm, BASE, 1)), fork())
    before = host.mm.tables.get(BASE)
    host.play(syscalls.madvise_free(host.machine, host.mm, BASE, BASE))
    assert host.mm.tables.get(BASE) == before


def test_older_kernels_have_no_madv_free():
    host = Mapped(V9)
    with pytest.raises(HostError, match="policy v9 has no path madvise_free_single_vma"):
        host.play(
            host.map(host.anonymous(host.mm, BASE, 1)),
            syscalls.madvise_free(host.machine, host.mm, BASE, BASE),
        )
