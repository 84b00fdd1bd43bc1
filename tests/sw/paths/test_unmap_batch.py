"""The batched flush of reclaim: once for many, before a page is freed and before a dirty one is written."""

import pytest

from hostmm.callers import syscalls
from hostmm.callers.cpu import access
from hostmm.callers.shrink import shrink
from hostmm.machine.timeline import Row
from hostmm.paths.tlb import LAST_VPN
from hostmm.policies import V3_7, V4_13, V6_6
from tests.sw.hosts import Host

BASE, PAGES = 0x1000, 4
KINDS = (Row.PTE_CLEAR, Row.CPU_FLUSH, Row.WRITEBACK, Row.RECLAIMED)


def reclaimed(policy, *, cpus, written):
    """What happens, in order, when a scan takes every page of a file: letters of KINDS; F is a flush of everything."""
    host = Host(policy=policy, frames=256)
    mm = host.machine.new_mm()
    mm.cpus = cpus

    def steps():
        vma = host.mapping(mm, BASE, PAGES, host.machine.new_file("file"))
        yield from syscalls.mmap(host.machine, mm, vma)
        for vpn in range(BASE, BASE + PAGES):
            done = yield from access(host.machine, mm, vpn, 0, write=written)
            assert done
        for _ in range(2):
            yield from shrink(host.machine, 0)

    host.run(steps())
    letters = {Row.PTE_CLEAR: "c", Row.CPU_FLUSH: "f", Row.WRITEBACK: "w", Row.RECLAIMED: "r"}
    return "".join(
        "F" if row["kind"] == Row.CPU_FLUSH and row["a"] == LAST_VPN else letters[row["kind"]]
        for row in host.rows(*KINDS)
        # What only takes the accessed bits away is no matter of the batch.
        if not (row["kind"] == Row.CPU_FLUSH and row["tag"])
    )


@pytest.mark.parametrize("policy", [V4_13, V6_6], ids=lambda policy: policy.name)
def test_one_flush_before_the_first_page_is_freed(policy):
    """Where another CPU would have to be interrupted; alone, a CPU flushes at once."""
    assert reclaimed(policy, cpus=2, written=False) == "c" * PAGES + "F" + "r" * PAGES
    assert reclaimed(policy, cpus=1, written=False) == "cfr" * PAGES


def test_a_dirty_page_is_not_written_while_a_cpu_may_write_it():
    """The flush comes first; the pages are freed when they have been written."""
    assert reclaimed(V6_6, cpus=2, written=True) == "cFw" * PAGES + "r" * PAGES


def test_older_kernels_flush_each_pte():
    """Batching came with 4.3."""
    assert reclaimed(V3_7, cpus=2, written=False) == "cfr" * PAGES
