"""KSM: equal pages become one, unequal ones do not, and nobody's content changes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostmm.callers import syscalls
from hostmm.callers.cpu import access
from hostmm.callers.gup import get_user_page, put_user_page
from hostmm.errors import HostError
from hostmm.machine.locks import Signal, Wait
from hostmm.machine.scheduler import Gate
from hostmm.mm.pages import is_ksm
from hostmm.mm.pagetable import PTE_W
from hostmm.paths.ksm import RmapItem, try_to_merge_two_pages
from hostmm.policies import POLICIES, V6_6, V9
from hostmm.scenarios.base import store
from hostmm.subscribers.sva import Sva
from tests.sw.hosts import Host

BASE = 0x1000
PAGES = 3

policies = pytest.mark.parametrize("policy", ["v3.7", "v4.13", "v6.6"])


class Twins(Host):
    """Two address spaces with some pages each; the first is bound to the device."""

    def __init__(self, policy):
        super().__init__(policy=POLICIES[policy] if isinstance(policy, str) else policy)
        self.mms = [self.machine.new_mm(), self.machine.new_mm()]

    def prepare(self, value=7):
        yield from Sva.bind(self.machine, self.mms[0])
        for mm in self.mms:
            yield from syscalls.mmap(self.machine, mm, self.anonymous(mm, BASE, PAGES))
            for vpn in range(BASE, BASE + PAGES):
                yield from store(self.machine, mm, vpn, value)

    def merge(self, one=(0, 0), other=(1, 0), results=None):
        items = [RmapItem(self.mms[mm], BASE + page) for mm, page in (one, other)]
        merged = yield from try_to_merge_two_pages(self.machine, *items)
        if results is not None:
            results.append(merged)

    def page(self, mm=0, page=0):
        frame = self.translate_now(self.mms[mm], BASE + page) >> 12
        return self.machine.frames.pages[frame]

    def content(self, mm=0, page=0):
        return self.word(self.page(mm, page).address)


@policies
def test_equal_pages_become_one_that_a_write_copies(policy):
    host, results = Twins(policy), []
    host.play(host.prepare())
    before = host.page(0).pfn
    host.play(host.merge(results=results))
    assert results == [True]
    assert host.page(0) is host.page(1)
    assert (host.page(0).mapcount, is_ksm(host.page(0))) == (2, True)
    assert before not in host.machine.frames.pages, "the replaced page is free"
    host.play(store(host.machine, host.mms[0], BASE, 9))
    assert (host.content(0), host.content(1)) == (9, 7)
    host.play(store(host.machine, host.mms[1], BASE, 8))
    assert (host.content(0), host.content(1)) == (9, 8), "the last user copies it too"


@policies
def test_unequal_pages_stay_apart_and_can_be_written(policy):
    host, results = Twins(policy), []
    host.play(
        host.prepare(), store(host.machine, host.mms[0], BASE, 9), host.merge(results=results)
    )
    assert results == [False]
    assert (host.content(0), host.content(1)) == (9, 7)
    host.play(store(host.machine, host.mms[0], BASE, 10))
    assert host.content(0) == 10


@policies
@pytest.mark.parametrize("pinned", [0, 1])
def test_a_page_that_a_device_has_pinned_stays_writable_where_it_is(policy, pinned):
    host, results, pages = Twins(policy), [], []

    def pin():
        mm = host.mms[pinned]
        pages.append((yield from get_user_page(host.machine, mm, BASE, write=True)))

    host.play(host.prepare(), pin(), host.merge(results=results))
    assert results == [False]
    assert host.page(pinned) is pages[0]
    assert host.mms[pinned].tables.get(BASE) & PTE_W
    host.play(put_user_page(host.machine, pages[0], dirty=True))


@policies
def test_a_store_between_the_comparison_and_the_replacement_wins(policy):
    host, results = Twins(policy), []
    host.play(host.prepare())
    gate = Gate("thread0", "replace_page", "walk_tables", Signal("reached"), Signal("opened"))
    host.machine.sched.gates.append(gate)

    def writer():
        yield Wait(gate.reached)
        yield from store(host.machine, host.mms[0], BASE, 9)
        host.machine.sched.fire(gate.opened)

    host.run(host.merge(results=results), writer())
    host.play()
    assert results == [False]
    assert (host.content(0), host.content(1)) == (9, 7)


@policies
def test_a_merged_page_survives_fork_munmap_and_exit(policy):
    host, children = Twins(policy), []

    def fork():
        children.append((yield from syscalls.fork(host.machine, host.mms[0])))

    host.play(host.prepare(), host.merge(), fork())
    assert host.page(0).mapcount == 3
    host.play(
        syscalls.exit_process(host.machine, host.mms[0]),
        syscalls.munmap(host.machine, host.mms[1], BASE, BASE),
        access(host.machine, children[0], BASE, 0, write=True),
        syscalls.exit_process(host.machine, children[0]),
        syscalls.exit_process(host.machine, host.mms[1]),
    )
    assert not host.machine.frames.pages


def test_old_kernels_have_no_ksm():
    host = Twins(V9)
    with pytest.raises(HostError, match="policy v9 has no path write_protect_page"):
        host.play(host.merge())


places = st.tuples(st.integers(0, 1), st.integers(0, PAGES - 1))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("store"), places, st.integers(1, 2)),
            st.tuples(st.just("merge"), places, places),
        ),
        max_size=12,
    )
)
def test_whatever_is_merged_and_written_every_place_keeps_its_content(steps):
    host = Twins(V6_6)
    expected = {(mm, page): 7 for mm in range(2) for page in range(PAGES)}
    host.play(host.prepare())
    for kind, place, other in steps:
        if kind == "store":
            expected[place] = other
            host.play(store(host.machine, host.mms[place[0]], BASE + place[1], other))
        else:
            host.play(host.merge(place, other))
            same = host.page(*place) is host.page(*other)
            assert same == (expected[place] == expected[other])
    assert {place: host.content(*place) for place in expected} == expected
