"""Writeback: what is written is the last version, dirty pages are cleaned first, tmpfs is left alone."""

from hostmm.callers import syscalls
from hostmm.callers.cpu import access
from hostmm.callers.writeback import pdflush, pdflush_timer, write_page
from hostmm.machine.locks import Acquire
from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import PTE_D, PTE_W
from hostmm.subscribers.sva import Sva
from tests.sw.hosts import Host

BASE = 0x2000


class Filed(Host):
    """A host with a shared mapping of a file."""

    def __init__(self, *, tmpfs=False, **options):
        super().__init__(**options)
        self.mm = self.machine.new_mm()
        self.file = self.machine.new_file("file", tmpfs=tmpfs)
        self.last = {}

    def prepare(self, pages=4):
        yield from Sva.bind(self.machine, self.mm)
        if pages:
            vma = self.mapping(self.mm, BASE, pages, self.file)
            yield from syscalls.mmap(self.machine, self.mm, vma)
        for index in range(pages):
            yield from self.store(index)

    def store(self, index):
        done = yield from access(self.machine, self.mm, BASE + index, 3, write=True)
        assert done
        self.last[index] = self.machine.next_version() - 1

    def on_disk(self, index):
        return self.word(self.file.slots[index] + 3 * 64)


def test_msync_writes_the_last_version_of_its_range_and_waits():
    host = Filed()

    def thread():
        yield from host.prepare()
        yield from host.store(1)
        yield from syscalls.msync(host.machine, host.mm, BASE, BASE + 1)
        assert not any(page.under_writeback for page in host.file.pages.values())

    host.run(thread())
    assert [host.on_disk(index) for index in (0, 1)] == [host.last[0], host.last[1]]
    assert set(host.file.slots) == {0, 1}
    assert [host.file.pages[index].dirty for index in range(4)] == [False, False, True, True]


def test_a_written_page_is_clean_and_read_only_until_the_next_store_dirties_it():
    host = Filed()
    states = []

    def thread():
        yield from host.prepare(1)
        yield from write_page_of(host, 0)
        states.append(host.mm.tables.get(BASE) & (PTE_D | PTE_W))
        yield from host.store(0)
        states.append(host.file.pages[0].dirty)
        yield from write_page_of(host, 0)

    host.run(thread())
    assert states == [0, True]
    assert host.on_disk(0) == host.last[0]
    order = [Row(row["kind"]) for row in host.rows(Row.WRITEBACK, Row.PTE_CLEAR)]
    assert order == [Row.PTE_CLEAR, Row.WRITEBACK] * 2, "cleaned before its content is taken"


def write_page_of(host, index):
    page = host.file.pages[index]
    host.machine.frames.get(page)
    yield from write_page(host.machine, page)
    host.machine.frames.put(page)


def test_two_writers_of_the_same_pages_do_not_wait_for_each_other_for_ever():
    host = Filed()

    def syncing():
        for index in (3, 2, 1, 0):
            yield from host.store(index)
        for _ in range(5):
            for index in range(4):
                yield from host.store(index)
            # pdflush takes the pages in the order in which they were read, msync in that of the file.
            host.machine.sched.fire(host.machine.writeback.bell)
            yield from syscalls.msync(host.machine, host.mm, BASE, BASE + 3)
        host.machine.writeback.stop(host.machine)

    def thread():
        yield from host.prepare(0)
        vma = host.mapping(host.mm, BASE, 4, host.file)
        yield from syscalls.mmap(host.machine, host.mm, vma)
        yield from syncing()

    host.run(thread(), pdflush(host.machine))
    assert [host.on_disk(index) for index in range(4)] == [host.last[i] for i in range(4)]


def test_tmpfs_pages_are_never_cleaned_or_written_back():
    host = Filed(tmpfs=True)

    def thread():
        yield from host.prepare()
        yield from syscalls.msync(host.machine, host.mm, BASE, BASE + 3)

    host.run(thread())
    assert not host.rows(Row.WRITEBACK)
    assert not host.file.slots
    assert host.mm.tables.get(BASE) & PTE_D


def test_pdflush_writes_when_too_much_is_dirty_and_once_a_period():
    host = Filed(frames=128)
    written = []

    def thread():
        writeback = host.machine.writeback
        yield from host.prepare(writeback.threshold + 2)
        yield writeback.period_ns // 4
        written.append(writeback.written)
        yield from host.store(0)
        yield 2 * writeback.period_ns
        written.append(host.file.pages[0].dirty)
        writeback.stop(host.machine)

    host.run(thread(), pdflush(host.machine), pdflush_timer(host.machine))
    assert written[0] > host.machine.writeback.threshold
    assert written[1] is False
    assert host.on_disk(0) == host.last[0]


def test_pdflush_skips_a_page_that_is_locked_only_until_it_is_unlocked():
    host = Filed(frames=128)

    def holder():
        yield 200_000
        page = host.file.pages[0]
        yield Acquire(page.lock)
        host.machine.sched.fire(host.machine.writeback.bell)
        yield 500_000
        host.machine.sched.release(page.lock)
        yield 300_000
        host.machine.writeback.stop(host.machine)

    host.run(host.prepare(2), holder(), pdflush(host.machine))
    assert not any(page.dirty for page in host.file.pages.values())
