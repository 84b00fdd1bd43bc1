"""Migration: content, rights and counts survive it, whoever looks on."""

import pytest

from hostmm.callers import syscalls
from hostmm.callers.cpu import access
from hostmm.callers.gup import get_user_page, put_user_page
from hostmm.machine.locks import Signal, Wait
from hostmm.machine.scheduler import Gate
from hostmm.machine.timeline import Notification, Row
from hostmm.mm.pagetable import PTE_W, is_migration_entry
from hostmm.paths.ksm import RmapItem, try_to_merge_two_pages
from hostmm.paths.migrate import migrate_page
from hostmm.paths.truncate import truncate_range
from hostmm.policies import POLICIES, V9
from hostmm.scenarios.base import store
from tests.sw.hosts import BASE, Mapped

policies = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


class Mover(Mapped):
    """One page, which migrates."""

    def move(self, results=None):
        moved = yield from migrate_page(self.machine, self.page())
        if results is not None:
            results.append(moved)

    def race(self, at, other, results):
        """Migrate, stopped at a step of ``unmap_and_move`` until ``other`` has run; then audit."""
        gate = Gate("thread0", "unmap_and_move", at, Signal("reached"), Signal("opened"))
        self.machine.sched.gates.append(gate)

        def second():
            yield Wait(gate.reached)
            assert is_migration_entry(self.mm.tables.get(BASE))
            yield from other
            self.machine.sched.fire(gate.opened)

        self.run(self.move(results), second())
        self.play()


@policies
@pytest.mark.parametrize("kind", [None, "disk"])
def test_a_page_moves_with_its_content_and_its_dirty_flag(policy, kind):
    host, results = Mover(policy, kind=kind), []
    host.play(host.prepare())
    before = host.page()
    host.play(host.move(results))
    assert results == [True]
    assert host.page() is not before
    assert before.pfn not in host.machine.frames.pages, "the old frame is free"
    assert (host.content(), host.page().dirty, host.page().lru) == (7, True, True)
    assert host.mm.tables.get(BASE) & PTE_W
    host.play(store(host.machine, host.mm, BASE, 8))
    assert host.content() == 8


@policies
def test_every_place_of_a_shared_page_follows(policy):
    host, children = Mover(policy), []

    def fork():
        children.append((yield from syscalls.fork(host.machine, host.mm)))

    host.play(host.prepare(), fork(), host.move())
    (child,) = children
    assert host.page() is host.page(mm=child)
    assert host.page().mapcount == 2
    host.play(store(host.machine, child, BASE, 9))
    assert (host.content(), host.content(child)) == (7, 9)


@policies
def test_the_content_is_copied_behind_the_last_notification(policy):
    host = Mover(policy)
    host.play(host.prepare(), host.move())
    last_copy = max(i for i, r in enumerate(host.rows(*Row)) if r["kind"] == Row.COPY)
    last_call = max(i for i, r in enumerate(host.rows(*Row)) if r["kind"] == Row.NOTIFY_END)
    assert last_call < last_copy


@policies
def test_a_device_that_writes_on_loses_nothing(policy):
    host = Mover(policy)
    host.play(host.prepare())
    done, written = [], []

    def device():
        for _ in range(30):
            transfer = yield from host.machine.driver.submit(
                0, host.mm.number, BASE << 12, 1, write=True
            )
            yield from host.machine.driver.wait(transfer)
            written.append(transfer.data)
        done.append(True)

    def mover():
        while not done:
            yield from host.move()
            yield "io_submit"

    host.run(device(), mover())
    host.play()
    assert host.content() == written[-1]
    assert len(host.rows(Row.COPY)) > 1, "the page moved meanwhile"


def test_a_pinned_page_stays_where_it_is():
    host, results, pages = Mover(), [], []

    def pin():
        pages.append((yield from get_user_page(host.machine, host.mm, BASE, write=True)))

    host.play(host.prepare(), pin(), host.move(results))
    assert results == [False]
    assert host.page() is pages[0]
    assert (host.content(), host.page().lru) == (7, True)
    assert host.mm.tables.get(BASE) & PTE_W
    host.play(put_user_page(host.machine, pages[0], dirty=True), host.move(results))
    assert results == [False, True]


def test_a_merged_page_is_not_moved():
    host, results = Mover(), []

    def merge():
        yield from syscalls.mmap(host.machine, host.mm, host.anonymous(host.mm, BASE + 1, 1))
        yield from store(host.machine, host.mm, BASE + 1, 7)
        items = [RmapItem(host.mm, BASE + offset) for offset in (0, 1)]
        assert (yield from try_to_merge_two_pages(host.machine, *items))

    host.play(host.prepare(), merge(), host.move(results))
    assert results == [False]


# --- what comes between the entry and the new PTE --------------------------------------------------------


@policies
def test_fork_copies_the_entry_and_both_get_the_new_page(policy):
    host, results, children = Mover(policy), [], []
    host.play(host.prepare())

    def fork():
        children.append((yield from syscalls.fork(host.machine, host.mm)))

    host.race("copy_page", fork(), results)
    assert results == [True]
    assert host.page() is host.page(mm=children[0])
    assert not host.mm.tables.get(BASE) & PTE_W
    host.play(store(host.machine, host.mm, BASE, 9))
    assert (host.content(), host.content(children[0])) == (9, 7)


@policies
@pytest.mark.parametrize("kind", [None, "disk"])
def test_an_entry_that_is_unmapped_stays_unmapped(policy, kind):
    host, results = Mover(policy, kind=kind), []
    host.play(host.prepare())
    host.race("copy_page", syscalls.munmap(host.machine, host.mm, BASE, BASE), results)
    assert results == [True]
    assert host.mm.rss == [0, 0]


def test_an_entry_that_is_protected_becomes_a_read_only_pte():
    host, results, allowed = Mover(), [], []
    host.play(host.prepare())
    protect = syscalls.mprotect(host.machine, host.mm, BASE, BASE, read=True, write=False)
    host.race("copy_page", protect, results)
    assert not host.mm.tables.get(BASE) & PTE_W

    def write():
        allowed.append((yield from access(host.machine, host.mm, BASE, 0, write=True)))

    host.play(write())
    assert allowed == [False]


def test_an_entry_that_moves_is_found_where_it_went():
    host, results = Mover(), []
    host.play(host.prepare())
    host.race("copy_page", syscalls.mremap(host.machine, host.mm, BASE, 1, BASE + 9, 1), results)
    assert host.word(host.translate_now(host.mm, BASE + 9)) == 7


def test_a_fault_waits_until_the_page_has_moved():
    host, results = Mover(), []
    host.play(host.prepare())
    gate = Gate("thread0", "unmap_and_move", "copy_page", Signal("reached"), Signal("opened"))
    host.machine.sched.gates.append(gate)

    def writer():
        yield Wait(gate.reached)
        yield from store(host.machine, host.mm, BASE, 8)
        results.append("stored")

    def opener():
        yield Wait(gate.reached)
        yield 100_000
        results.append("opened")
        host.machine.sched.fire(gate.opened)

    host.run(host.move(results), writer(), opener())
    host.play()
    assert results[0] == "opened"
    assert set(results) == {"opened", "stored", True}
    assert host.content() == 8


def test_truncation_finds_a_page_that_moved_while_it_waited():
    host, results = Mover(V9, kind="disk"), []
    host.play(host.prepare())
    gate = Gate("thread0", "unmap_and_move", "copy_page", Signal("reached"), Signal("opened"))
    host.machine.sched.gates.append(gate)

    def truncate():
        yield Wait(gate.reached)
        yield from truncate_range(host.machine, host.file, 0, 0)

    def opener():
        yield Wait(gate.reached)
        yield 100_000
        host.machine.sched.fire(gate.opened)

    host.run(host.move(results), truncate(), opener())
    host.play()
    assert not host.file.pages


def test_one_notification_of_each_place_and_none_when_it_is_mapped_again():
    host = Mover(V9)
    host.play(host.prepare(), host.move())
    calls = [(Notification(row["tag"]), row["vpn"]) for row in host.rows(Row.NOTIFY_BEGIN)]
    assert calls == [(Notification.INVALIDATE_PAGE, BASE)]
