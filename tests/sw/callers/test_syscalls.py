"""System calls: what they leave of the list of vmas and of the pages."""

from hostmm.callers import syscalls
from hostmm.callers.cpu import access
from hostmm.machine.timeline import Row
from hostmm.subscribers.sva import Sva
from tests.sw.hosts import Host

BASE = 0x1000


def spans(mm):
    return [(vma.start - BASE, vma.end - BASE) for vma in mm.vmas]


class Plain(Host):
    """A host with an empty address space."""

    def __init__(self):
        super().__init__()
        self.mm = self.machine.new_mm()

    def call(self, name, *arguments, **options):
        return (yield from getattr(syscalls, name)(self.machine, self.mm, *arguments, **options))


def test_mmap_takes_the_place_of_what_was_there():
    host = Plain()

    def thread():
        yield from host.call("mmap", host.anonymous(host.mm, BASE, 10))
        for vpn in range(BASE, BASE + 10):
            yield from access(host.machine, host.mm, vpn, 0, write=True)
        file = host.machine.new_file("file")
        yield from host.call(
            "mmap", host.mapping(host.mm, BASE + 3, 2, file, shared=False, pgoff=7)
        )
        yield from access(host.machine, host.mm, BASE + 4, 0, write=False)
        assert set(file.pages) == {8}

    host.run(thread())
    assert spans(host.mm) == [(0, 3), (3, 5), (5, 10)]
    assert len(host.rows(Row.FREE)) == 2


def test_munmap_of_a_range_with_gaps_splits_the_edges():
    host = Plain()

    def thread():
        yield from host.call("mmap", host.anonymous(host.mm, BASE, 4))
        yield from host.call("mmap", host.anonymous(host.mm, BASE + 8, 4))
        yield from host.call("munmap", BASE + 2, BASE + 9)
        yield from host.call("munmap", BASE + 100, BASE + 101)

    host.run(thread())
    assert spans(host.mm) == [(0, 2), (10, 12)]


def test_split_vmas_keep_their_place_in_the_file_and_in_the_reverse_map():
    host = Plain()
    file = host.machine.new_file("file")

    def thread():
        yield from host.call("mmap", host.mapping(host.mm, BASE, 10, file, pgoff=5))
        yield from host.call("mprotect", BASE + 2, BASE + 3, read=True, write=False)
        yield from host.call("munmap", BASE + 6, BASE + 7)

    host.run(thread())
    assert spans(host.mm) == [(0, 2), (2, 4), (4, 6), (8, 10)]
    assert [vma.pgoff for vma in host.mm.vmas] == [5, 7, 9, 13]
    assert [vma.write for vma in host.mm.vmas] == [True, False, True, True]
    assert sorted(file.vmas, key=lambda vma: vma.start) == host.mm.vmas


def test_brk_grows_one_heap_and_shrinks_it():
    host = Plain()

    def thread():
        yield from host.call("brk", BASE, BASE)
        assert not host.mm.vmas
        yield from host.call("brk", BASE, BASE + 3)
        yield from host.call("brk", BASE, BASE + 9)
        assert spans(host.mm) == [(0, 9)]
        yield from access(host.machine, host.mm, BASE + 8, 0, write=True)
        yield from host.call("brk", BASE, BASE + 4)

    host.run(thread())
    assert spans(host.mm) == [(0, 4)]
    assert len(host.rows(Row.FREE)) == 1


def test_brk_beside_a_foreign_mapping_does_not_swallow_it():
    host = Plain()

    def thread():
        yield from host.call("mmap", host.anonymous(host.mm, BASE - 2, 2, write=False))
        yield from host.call("brk", BASE, BASE + 3)

    host.run(thread())
    assert spans(host.mm) == [(-2, 0), (0, 3)]


def test_exec_gives_a_fresh_address_space_and_releases_the_old():
    host = Plain()
    found = []

    def thread():
        yield from Sva.bind(host.machine, host.mm)
        yield from host.call("mmap", host.anonymous(host.mm, BASE, 4))
        yield from access(host.machine, host.mm, BASE, 0, write=True)
        fresh = yield from host.call("execve")
        found.append(fresh.number)
        yield from Sva.bind(host.machine, fresh)
        assert not (yield from access(host.machine, fresh, BASE, 0, write=False))
        yield from syscalls.exit_process(host.machine, fresh)

    host.run(thread())
    assert found == [2]
    assert not host.machine.frames.pages


def test_a_store_to_a_read_only_mapping_is_refused():
    host = Plain()
    allowed = []

    def thread():
        yield from host.call("mmap", host.anonymous(host.mm, BASE, 1, write=False))
        for write in (True, False):
            allowed.append((yield from access(host.machine, host.mm, BASE, 0, write=write)))

    host.run(thread())
    assert allowed == [False, True]
