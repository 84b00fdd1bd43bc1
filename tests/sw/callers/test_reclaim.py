"""Reclaim: data survives it, watermarks decide, too few frames end in one line."""

import itertools
import random

import pytest

from hostmm.callers import syscalls
from hostmm.callers.cpu import access
from hostmm.callers.reclaim import Reclaim, alloc_page, kswapd
from hostmm.callers.shrink import shrink_page
from hostmm.errors import HostError
from hostmm.machine.locks import Acquire
from hostmm.machine.scheduler import Fetch
from hostmm.machine.timeline import Row
from hostmm.policies import SEED, V9
from hostmm.subscribers.sva import Sva
from secmmu.layouts import FrameKind
from tests.sw.hosts import Host, Mapped

ANON, FILE = 0x1000, 0x2000


class Pressed(Host):
    """A host with more pages than frames, and a memory of what was stored where."""

    def __init__(self, policy, *, frames=96):
        super().__init__(policy=policy, frames=frames)
        self.mm = self.machine.new_mm()
        self.mm.cpus = 4
        self.stored = {}

    def store(self, mm, vpn):
        done = yield from access(self.machine, mm, vpn, 2, write=True)
        assert done
        # No time has passed since the store.
        self.stored[mm, vpn] = self.machine.next_version() - 1

    def load(self, mm, vpn):
        """Read a stored line back, through whatever fault it takes."""
        done = yield from access(self.machine, mm, vpn, 2, write=False)
        assert done
        (word,) = yield Fetch(self.translate_now(mm, vpn, 2), 1)
        return word

    def mix(self, mm, rng, count):
        for _ in range(count):
            vpn = ANON + rng.randrange(120) if rng.random() < 0.7 else FILE + rng.randrange(40)
            if rng.random() < 0.6:
                yield from self.store(mm, vpn)
            else:
                done = yield from access(self.machine, mm, vpn, 0, write=False)
                assert done
            yield 300

    def maps(self):
        yield from Sva.bind(self.machine, self.mm)
        yield from syscalls.mmap(self.machine, self.mm, self.anonymous(self.mm, ANON, 120))
        vma = self.mapping(self.mm, FILE, 40, self.machine.new_file("file"))
        yield from syscalls.mmap(self.machine, self.mm, vma)


@pytest.mark.parametrize("policy", [V9, SEED], ids=lambda policy: policy.name)
@pytest.mark.parametrize("background", [True, False], ids=["kswapd", "direct"])
def test_every_stored_word_survives_reclaim(policy, background):
    host = Pressed(policy)
    wrong = []

    def thread():
        yield from host.maps()
        yield from host.mix(host.mm, random.Random(5), 260)
        for (mm, vpn), value in list(host.stored.items()):
            if (yield from host.load(mm, vpn)) != value:
                wrong.append(vpn)
        host.machine.reclaim.stop(host.machine)

    host.run(thread(), *([kswapd(host.machine)] if background else []))
    assert not wrong
    reclaimed = len(host.rows(Row.RECLAIMED))
    assert reclaimed > 40, "the run must have been under pressure"


@pytest.mark.parametrize("policy", [V9, SEED], ids=lambda policy: policy.name)
def test_parent_and_child_keep_their_own_data_under_pressure(policy):
    host = Pressed(policy)
    wrong = []

    def thread():
        yield from host.maps()
        yield from host.mix(host.mm, random.Random(6), 150)
        child = yield from syscalls.fork(host.machine, host.mm)
        for (mm, vpn), value in list(host.stored.items()):
            if vpn < FILE:
                host.stored[child, vpn] = value
            else:
                del host.stored[mm, vpn]
        rng = random.Random(7)
        for _ in range(100):
            yield from host.store(rng.choice((host.mm, child)), ANON + rng.randrange(120))
        for (mm, vpn), value in list(host.stored.items()):
            if (yield from host.load(mm, vpn)) != value:
                wrong.append((mm.number, vpn))
        yield from syscalls.exit_process(host.machine, child)
        yield from syscalls.exit_process(host.machine, host.mm)
        host.machine.reclaim.stop(host.machine)

    host.run(thread(), kswapd(host.machine))
    assert not wrong
    # Reclaim may have held a page when its last user went: the swap cache keeps it for the next scan.
    assert host.machine.swap.uses == dict.fromkeys(host.machine.swap.cache, 1)
    assert all(page.refcount == 1 for page in host.machine.frames.pages.values())


def test_reclaimed_rows_stand_right_before_their_free():
    host = Pressed(V9)

    def thread():
        yield from host.maps()
        yield from host.mix(host.mm, random.Random(8), 200)

    host.run(thread())
    rows = host.rows(Row.RECLAIMED, Row.FREE)
    pairs = list(itertools.pairwise(rows))
    assert any(a["kind"] == Row.RECLAIMED for a, _ in pairs)
    assert all(
        b["kind"] == Row.FREE and b["pfn"] == a["pfn"]
        for a, b in pairs
        if a["kind"] == Row.RECLAIMED
    )


def test_kswapd_works_from_the_low_to_the_high_watermark():
    host = Pressed(V9, frames=128)
    free = []

    def thread():
        yield from host.maps()
        reclaim = host.machine.reclaim
        vpn = ANON
        while host.machine.frames.free_frames >= reclaim.low:
            yield from host.store(host.mm, vpn)
            vpn += 1
        yield from host.store(host.mm, vpn)
        yield 3_000_000
        free.append(host.machine.frames.free_frames)
        reclaim.stop(host.machine)

    host.run(thread(), kswapd(host.machine))
    assert free[0] >= host.machine.reclaim.high


def test_reclaim_by_who_holds_a_page_lock_is_no_lock_inversion():
    """``shrink_page_list`` tries the lock of each page and never waits for one, so no order of theirs can deadlock."""
    host = Mapped(V9, pages=2)

    def thread():
        yield from host.prepare()
        held, other = host.page(0), host.page(1)
        yield Acquire(held.lock)
        # The first scan finds it used, a later one takes it.
        while not (yield from shrink_page(host.machine, other)):
            pass
        host.machine.sched.release(held.lock)

    host.run(thread())
    assert host.rows(Row.LOCK_INVERSION) == []


def test_too_few_frames_end_the_run_with_one_line_that_says_how_many():
    host = Host(frames=64)

    def thread():
        # Nobody maps them and no cache holds them: nothing can be reclaimed.
        for _ in range(64):
            yield from alloc_page(host.machine, FrameKind.USER)

    with pytest.raises(HostError, match=r"64 are too few, .* at least 88 \(--frames\)") as error:
        host.run(thread())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("total", [64, 1000, 100_000])
def test_watermarks_are_ordered_and_leave_room(total):
    marks = Reclaim(total)
    assert 0 < marks.min < marks.low < marks.high < total
