"""``migrate_vma``: pages of a range move, what cannot stays, and a device that writes on loses nothing."""

import pytest

from hostmm.callers import syscalls
from hostmm.callers.gup import get_user_page, put_user_page
from hostmm.errors import HostError
from hostmm.machine.locks import Acquire
from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import PTE_W
from hostmm.paths.migrate_vma import migrate_vma
from hostmm.policies import V4_13, V6_6
from hostmm.scenarios.base import store
from tests.sw.hosts import BASE, Mapped

PAGES = 4


class Range(Mapped):
    """Some pages that hold 10, 11, ..., which a driver moves."""

    def __init__(self, policy=V6_6, *, kind=None):
        super().__init__(policy, pages=PAGES, first=10, kind=kind)

    def move(self, results=None):
        vma = self.mm.find_vma(BASE)
        moved = yield from migrate_vma(self.machine, vma, BASE, BASE + PAGES - 1)
        if results is not None:
            results.append(moved)


@pytest.mark.parametrize("kind", [None, "disk"])
def test_every_page_moves_with_its_content_and_its_dirty_flag(kind):
    host, results = Range(kind=kind), []
    host.play(host.prepare())
    before = [host.page(offset).pfn for offset in range(PAGES)]
    host.play(host.move(results))
    assert results == [PAGES]
    assert host.contents() == [10, 11, 12, 13]
    assert not set(before) & set(host.machine.frames.pages)
    assert all(host.page(offset).dirty and host.page(offset).lru for offset in range(PAGES))
    assert host.mm.tables.get(BASE) & PTE_W


def test_what_is_pinned_or_locked_stays_and_is_mapped_again():
    host, results, pages = Range(), [], []

    def hold():
        pages.append((yield from get_user_page(host.machine, host.mm, BASE, write=True)))
        pages.append(host.page(1))
        yield Acquire(pages[1].lock)
        yield from host.move(results)
        host.machine.sched.release(pages[1].lock)

    host.play(host.prepare(), hold())
    assert results == [PAGES - 2]
    assert [host.page(0), host.page(1)] == pages
    assert host.contents() == [10, 11, 12, 13]
    host.play(put_user_page(host.machine, pages[0], dirty=True))


def test_pages_shared_over_fork_move_for_both():
    host, results, children = Range(), [], []

    def fork():
        children.append((yield from syscalls.fork(host.machine, host.mm)))

    host.play(host.prepare(), fork(), host.move(results))
    assert results == [PAGES]
    assert all(host.page(offset) is host.page(offset, children[0]) for offset in range(PAGES))
    host.play(store(host.machine, host.mm, BASE, 9))
    assert (host.contents()[0], host.contents(children[0])[0]) == (9, 10)


def test_a_device_that_writes_on_loses_nothing():
    host, done, written = Range(), [], {}
    host.play(host.prepare())

    def device():
        for turn in range(20):
            offset = turn % PAGES
            transfer = yield from host.machine.driver.submit(
                0, host.mm.number, BASE + offset << 12, 1, write=True
            )
            yield from host.machine.driver.wait(transfer)
            written[offset] = transfer.data
        done.append(True)

    def mover():
        while not done:
            yield from host.move()
            yield "io_submit"

    host.run(device(), mover())
    host.play()
    assert host.contents() == [written[offset] for offset in range(PAGES)]
    assert len(host.rows(Row.COPY)) > PAGES, "the pages moved meanwhile"


def test_older_kernels_do_not_have_it():
    host = Range(V4_13)
    with pytest.raises(HostError, match=r"policy v4\.13 has no path migrate_vma_collect"):
        host.play(host.prepare(), host.move())
