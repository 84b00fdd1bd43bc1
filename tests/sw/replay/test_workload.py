"""Dealing a process's accesses to CPU threads and to the device."""

import numpy as np
import pytest

from hostmm.replay.workload import Partition, stretches
from hostmm.trace import Access, Exit, Munmap, Window


def window(pages, kinds, *, instructions=1000):
    pages = np.array(pages, np.int64)
    lines = np.array([int(page) % 64 for page in pages], np.uint8)
    return Window(instructions, pages, np.array(kinds, np.uint8), lines)


def partition(**options):
    return Partition(**{"seed": 1, "cpus": 4, "device_share": 0.3, "instruction_ns": 1.0} | options)


BUSY = window(range(500), [7] * 500, instructions=3000)


def test_every_access_is_dealt_once_and_a_page_to_one_thread_only():
    dealt = partition().deal(BUSY)
    assert sum(len(part) for part in dealt) == 3 * 500
    owners = [{access[0] for access in part} for part in dealt]
    assert sum(len(pages) for pages in owners) == 500
    assert all(len(pages) > 80 for pages in owners)


def test_a_page_stays_with_its_thread_over_windows():
    deck = partition()
    first, second = deck.deal(BUSY), deck.deal(BUSY)
    for before, after in zip(first, second, strict=True):
        assert {access[0] for access in before} == {access[0] for access in after}


def test_a_page_is_read_before_it_is_written_and_keeps_its_line():
    (dealt,) = partition(cpus=1, device_share=0).deal(
        window([9, 5], [Access.LOAD | Access.STORE, Access.STORE])
    )
    assert [access[:4] for access in dealt] == [
        (9, 9, False, False),
        (9, 9, True, False),
        (5, 5, True, False),
    ]


@pytest.mark.parametrize(("share", "low", "high"), [(0, 0, 0), (1, 1, 1), (0.3, 0.25, 0.35)])
def test_the_device_takes_its_share_of_loads_and_stores(share, low, high):
    dealt = partition(device_share=share).deal(window(range(2000), [Access.LOAD] * 2000))
    taken = sum(access[3] for part in dealt for access in part) / 2000
    assert low <= taken <= high


def test_fetches_stay_on_the_cpus():
    dealt = partition(device_share=1).deal(window(range(50), [Access.FETCH] * 50))
    assert not any(access[3] for part in dealt for access in part)


def test_the_time_of_a_window_is_spread_over_its_accesses():
    dealt = partition(instruction_ns=2.0).deal(BUSY)
    assert sum(access[4] for part in dealt for access in part) == pytest.approx(6000, rel=0.05)


def test_another_seed_deals_otherwise_and_the_same_seed_the_same():
    assert partition(seed=1).deal(BUSY) == partition(seed=1).deal(BUSY)
    assert partition(seed=1).deal(BUSY) != partition(seed=2).deal(BUSY)


def test_stretches_end_at_system_calls():
    call = Munmap(0x1000, 0x1000)
    found = list(stretches((BUSY, BUSY, call, call, BUSY, Exit())))
    assert [(len(s.windows), s.event) for s in found] == [(2, call), (0, call), (1, Exit())]
    (last,) = stretches((BUSY,))
    assert last.event is None
