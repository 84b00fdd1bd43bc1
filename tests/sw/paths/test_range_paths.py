"""munmap, madvise, mprotect, mremap, fork and exit: order of steps, brackets, balance of counts."""

import pytest

from hostmm.callers import syscalls
from hostmm.callers.cpu import access
from hostmm.machine.timeline import LockClass, Notification, Row
from hostmm.policies import SEED, V9
from hostmm.subscribers.sva import Sva
from tests.sw.hosts import Host

BASE = 0x1000
PAGES = 6

pytestmark = pytest.mark.parametrize("policy", [V9, SEED], ids=lambda policy: policy.name)


class Bound(Host):
    """A host with one bound address space and one touched anonymous mapping."""

    def __init__(self, policy):
        super().__init__(policy=policy)
        self.mm = self.machine.new_mm()
        self.mm.cpus = 2
        self.file = self.machine.new_file("file")

    def prepare(self, *, shared_file=False):
        yield from Sva.bind(self.machine, self.mm)
        if shared_file:
            vma = self.mapping(self.mm, BASE, PAGES, self.file)
        else:
            vma = self.anonymous(self.mm, BASE, PAGES)
        yield from syscalls.mmap(self.machine, self.mm, vma)
        for vpn in range(BASE, BASE + PAGES):
            yield from self.store(vpn)

    def store(self, vpn, mm=None):
        done = yield from access(self.machine, mm or self.mm, vpn, 1, write=True)
        assert done

    def inside(self, path, *kinds):
        """(Row, tag) of the rows inside instances of a path."""
        number = self.machine.timeline.path(path)
        return [row for row in self.rows(*kinds) if row["path"] == number]

    def order(self, path):
        """A compressed picture of a path: one letter a row, runs of letters as one."""
        letters = {
            Row.NOTIFY_BEGIN: {Notification.RANGE_START: "S", Notification.RANGE_END: "E"},
            Row.LOCK: {LockClass.PTL: "["},
            Row.UNLOCK: {LockClass.PTL: "]"},
            Row.PTE_CLEAR: "c",
            Row.PTE_SET: "s",
            Row.MAPCOUNT: {0: "r", 1: "m"},
            Row.FREE: "f",
        }
        picture = ""
        for row in self.inside(path, *letters):
            letter = letters[Row(row["kind"])]
            if isinstance(letter, dict):
                letter = letter.get(row["tag"], "")
            picture += letter
        return picture


def test_munmap_notifies_frees_and_closes_the_bracket_in_order(policy):
    host = Bound(policy)

    def thread():
        yield from host.prepare()
        yield from syscalls.munmap(host.machine, host.mm, BASE, BASE + 3)

    host.run(thread())
    assert host.order("unmap_region") == "S[" + "cr" * 4 + "]" + "f" * 4 + "E"
    assert [vma.start for vma in host.mm.vmas] == [BASE + 4]
    begin, end = host.inside("unmap_region", Row.NOTIFY_BEGIN)
    assert (begin["vpn"], begin["a"]) == (end["vpn"], end["a"]) == (BASE, BASE + 3)


def test_munmap_hands_the_dirty_bit_of_a_shared_file_page_to_the_page(policy):
    host = Bound(policy)

    def thread():
        yield from host.prepare(shared_file=True)
        for page in host.file.pages.values():
            page.dirty = False
        yield from syscalls.munmap(host.machine, host.mm, BASE, BASE + PAGES - 1)

    host.run(thread())
    assert all(page.dirty and page.mapcount == 0 for page in host.file.pages.values())
    assert all(page.refcount == 1 for page in host.file.pages.values())
    assert not host.file.vmas


def test_madvise_drops_pages_and_leaves_the_mapping(policy):
    host = Bound(policy)

    def thread():
        yield from host.prepare()
        yield from syscalls.madvise_dontneed(host.machine, host.mm, BASE + 1, BASE + 2)
        yield from host.store(BASE + 1)

    host.run(thread())
    assert host.order("zap_page_range") == "S[crcr]ffE"
    assert host.mm.find_vma(BASE + 1) is host.mm.find_vma(BASE)


def test_mprotect_clears_and_sets_each_pte_inside_one_bracket(policy):
    host = Bound(policy)
    allowed = []

    def thread():
        yield from host.prepare()
        yield from syscalls.mprotect(host.machine, host.mm, BASE, BASE + 1, read=True, write=False)
        for write in (True, False):
            allowed.append((yield from access(host.machine, host.mm, BASE, 0, write=write)))
        yield from syscalls.mprotect(host.machine, host.mm, BASE, BASE + 1, read=True, write=True)
        yield from host.store(BASE)

    host.run(thread())
    assert host.order("mprotect") == "S[cscs]E" * 2
    assert allowed == [False, True]


def test_prot_none_closes_the_page_and_keeps_its_content(policy):
    host = Bound(policy)
    allowed, frames = [], []

    def thread():
        yield from host.prepare()
        frames.append(host.translate_now(host.mm, BASE))
        yield from syscalls.mprotect(host.machine, host.mm, BASE, BASE, read=False, write=False)
        allowed.append((yield from access(host.machine, host.mm, BASE, 0, write=False)))
        transfer = yield from host.machine.driver.submit(
            0, host.mm.number, BASE << 12, 1, write=False
        )
        yield from host.machine.driver.wait(transfer)
        allowed.append(not transfer.dropped)
        yield from syscalls.mprotect(host.machine, host.mm, BASE, BASE, read=True, write=True)
        allowed.append((yield from access(host.machine, host.mm, BASE, 0, write=False)))
        frames.append(host.translate_now(host.mm, BASE))

    host.run(thread())
    assert allowed == [False, False, True]
    assert frames[0] == frames[1]


def test_mremap_moves_ptes_under_both_locks_and_notifies_the_old_range(policy):
    host = Bound(policy)
    target = 0x9000
    frames = []

    def thread():
        yield from host.prepare()
        frames.append(host.translate_now(host.mm, BASE + 1))
        yield from syscalls.mremap(host.machine, host.mm, BASE, PAGES, target, PAGES + 2)
        frames.append(host.translate_now(host.mm, target + 1))
        yield from host.store(target + PAGES + 1)

    host.run(thread())
    assert host.order("mremap") == "S[[" + "cs" * PAGES + "]]E"
    begin, end = host.inside("mremap", Row.NOTIFY_BEGIN)
    assert (begin["vpn"], begin["a"]) == (end["vpn"], end["a"]) == (BASE, BASE + PAGES - 1)
    assert frames[0] == frames[1]
    assert [(vma.start, vma.end) for vma in host.mm.vmas] == [(target, target + PAGES + 2)]


def test_a_moved_page_is_still_found_by_its_reverse_map(policy):
    host = Bound(policy)
    found = []

    def thread():
        yield from host.prepare()
        yield from syscalls.mremap(host.machine, host.mm, BASE, PAGES, 0x9000, PAGES)
        for page in host.machine.frames.pages.values():
            if page.mapcount:
                found.append([vma.vpn_of(page.index) for vma in page.mapping.vmas])

    host.run(thread())
    assert sorted(found) == [[0x9000 + offset] for offset in range(PAGES)]


def test_mremap_shrinks_and_grows_in_place(policy):
    host = Bound(policy)

    def thread():
        yield from host.prepare()
        yield from syscalls.mremap(host.machine, host.mm, BASE, PAGES, BASE, 2)
        yield from syscalls.mremap(host.machine, host.mm, BASE, 2, BASE, 4)
        yield from host.store(BASE + 3)

    host.run(thread())
    assert [(vma.start, vma.end) for vma in host.mm.vmas] == [(BASE, BASE + 4)]
    assert host.order("unmap_region") == "S[" + "cr" * 4 + "]" + "f" * 4 + "E"


def test_fork_write_protects_the_parent_and_shares_the_pages(policy):
    host = Bound(policy)
    states = []

    def thread():
        yield from host.prepare()
        child = yield from syscalls.fork(host.machine, host.mm)
        states.append({page.mapcount for page in host.machine.frames.pages.values() if page.lru})
        before = host.translate_now(host.mm, BASE)
        yield from host.store(BASE, child)
        states.append(host.translate_now(host.mm, BASE) == before)
        states.append(host.translate_now(child, BASE) == before)
        yield from syscalls.exit_process(host.machine, child)

    host.run(thread())
    assert states == [{2}, True, False]
    # Per page: the parent's PTE is write-protected, the mapcount goes up, the child's PTE is set.
    assert host.order("fork") == "S[[" + "sms" * PAGES + "]]E"
    begin, end = host.inside("fork", Row.NOTIFY_BEGIN)
    assert begin["mm"] == end["mm"] == host.mm.number


def test_exit_releases_the_device_before_the_first_pte_goes(policy):
    host = Bound(policy)

    def thread():
        yield from host.prepare()
        yield from syscalls.exit_process(host.machine, host.mm)

    host.run(thread())
    rows = host.inside(
        "exit_mmap", Row.NOTIFY_BEGIN, Row.NOTIFY_END, Row.TEARDOWN, Row.PTE_CLEAR, Row.FREE
    )
    kinds = [Row(row["kind"]) for row in rows]
    assert kinds[:4] == [Row.NOTIFY_BEGIN, Row.NOTIFY_END, Row.TEARDOWN, Row.PTE_CLEAR]
    assert rows[0]["tag"] == Notification.RELEASE
    assert not host.machine.frames.pages, "every frame is free again"


def test_every_bracket_that_opens_closes(policy):
    host = Bound(policy)

    def thread():
        yield from host.prepare()
        child = yield from syscalls.fork(host.machine, host.mm)
        for vpn in range(BASE, BASE + PAGES):
            yield from host.store(vpn)
            yield from host.store(vpn, child)
        yield from syscalls.munmap(host.machine, child, BASE, BASE + 1)
        yield from syscalls.exit_process(host.machine, child)
        yield from syscalls.mremap(host.machine, host.mm, BASE, PAGES, 0x9000, PAGES)
        yield from syscalls.exit_process(host.machine, host.mm)

    host.run(thread())
    rows = host.rows(Row.NOTIFY_END)
    opened = sorted(
        (row["vpn"], row["a"])
        for row in host.rows(Row.NOTIFY_BEGIN)
        if row["tag"] == Notification.RANGE_START
    )
    closed = sorted(
        (row["vpn"], row["a"])
        for row in host.rows(Row.NOTIFY_BEGIN)
        if row["tag"] == Notification.RANGE_END
    )
    assert opened == closed
    assert len(rows) == len(host.rows(Row.NOTIFY_BEGIN))
    assert not host.machine.frames.pages
