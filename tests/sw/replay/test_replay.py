"""Replaying traces on the model: every kind of event, the six paths, determinism, refusals."""

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from hostmm.errors import DeadlockError, HostError
from hostmm.machine.locks import Acquire
from hostmm.machine.timeline import Notification, Row
from hostmm.policies import POLICIES, SEED, SEED_PATHS, V4_13, V6_6, V9
from hostmm.replay.replay import Replay, ReplayConfig, frame_limit
from hostmm.subscribers.sva import Sva
from hostmm.trace import (
    PAGE_BYTES,
    Access,
    Brk,
    Exec,
    Exit,
    Fork,
    Madvise,
    Mmap,
    Mprotect,
    Mremap,
    Msync,
    Munmap,
    Process,
    Trace,
    TraceFile,
    Window,
    load,
    shipped,
)
from tests.sw.hosts import Host

WITH_THE_SIX = [policy for policy in POLICIES.values() if policy.has("try_to_unmap_cluster")]


def name_of(policy):
    return policy.name


RW, READ, NONE = 3, 1, 0
SHARED, PRIVATE, ANON = 1, 2, 0x20
HEAP, ANONYMOUS, DATA, TEXT, RESERVED, JOURNAL = 0x100, 0x200, 0x300, 0x400, 0x500, 0x600


def mmap(page, pages, prot, flags, file=None):
    return Mmap(page * PAGE_BYTES, pages * PAGE_BYTES, prot, flags, file, 0)


def touch(*spans, kinds=Access.LOAD | Access.STORE):
    pages = np.concatenate([np.arange(first, first + count) for first, count in spans])
    return Window(
        2000, pages, np.full(len(pages), int(kinds), np.uint8), (pages % 64).astype(np.uint8)
    )


def span(page, pages):
    return page * PAGE_BYTES, pages * PAGE_BYTES


def read_text():
    return touch((TEXT, 24), kinds=Access.LOAD)


def everything(rounds=3):
    """A trace that makes every kind of event."""
    setup = (
        mmap(ANONYMOUS, 40, RW, PRIVATE | ANON),
        mmap(DATA, 40, RW, SHARED, 0),
        mmap(JOURNAL, 40, RW, SHARED, 1),
        mmap(TEXT, 24, READ, PRIVATE, 2),
        mmap(RESERVED, 8, NONE, PRIVATE | ANON),
        Brk(HEAP * PAGE_BYTES, (HEAP + 20) * PAGE_BYTES),
        touch((ANONYMOUS, 40), (HEAP, 20)),
    )
    work = (touch((DATA, 40), (ANONYMOUS, 20)), touch((JOURNAL, 40)), read_text()) * 2
    calls = (
        Msync(*span(DATA, 40), 4),
        Mprotect(*span(RESERVED, 4), RW),
        touch((RESERVED, 4)),
        Mprotect(*span(RESERVED, 4), READ),
        Madvise(*span(ANONYMOUS, 10), 4),
        touch((ANONYMOUS, 40), (HEAP, 20)),
    )
    ending = (
        Fork(2),
        touch((ANONYMOUS, 40), (HEAP, 20)),
        Mremap(*span(ANONYMOUS, 40), *span(0x900, 44), 1),
        touch((0x900, 44)),
        Munmap(*span(0x900, 20)),
        mmap(HEAP + 4, 4, READ, PRIVATE, 2),
        Brk(HEAP * PAGE_BYTES, (HEAP + 2) * PAGE_BYTES),
        touch((HEAP, 2)),
    )
    parent = setup + (work + calls) * rounds + ending + (Exit(),)
    child = (
        touch((ANONYMOUS, 40), (HEAP, 20)),
        Exec(),
        mmap(ANONYMOUS, 10, RW, PRIVATE | ANON),
        touch((ANONYMOUS, 10)),
        Exit(),
    )
    order = [(0, i) for i in range(len(parent))] + [(1, i) for i in range(len(child))]
    return Trace(
        version=1,
        name="everything",
        command=("everything",),
        window_instructions=2000,
        files=tuple(
            TraceFile(i, name, 40 * PAGE_BYTES)
            for i, name in enumerate(("data", "journal", "text"))
        ),
        processes=(Process(1, None, parent), Process(2, 1, child)),
        order=order,
    )


CONFIG = ReplayConfig(nonlinear=True, xip=True, xip_pages=16)


def replayed(trace, config=CONFIG, *, policy=V9, frames=150, seed=1, **options):
    host = Host(policy=policy, frames=frames, seed=seed)
    replay = Replay(host.machine, trace, replace(config, seed=seed), **options)
    replay.start()
    host.run()
    return host, replay


@cache
def in_few_frames(name):
    """Return the host on which all that the kernel of a policy has was replayed; tests only look at it."""
    policy = POLICIES[name]
    has = policy.has("try_to_unmap_cluster")
    host, _ = replayed(
        everything(), replace(CONFIG, nonlinear=has, xip=has), policy=policy, frames=130
    )
    return host


def test_every_event_is_executed_and_everything_is_given_back():
    trace = everything()
    host, replay = replayed(trace)
    assert replay.counts.windows == len(trace.windows())
    assert replay.counts.skipped == 0
    dealt = sum(int(kind).bit_count() for window in trace.windows() for kind in window.kinds)
    assert replay.counts.accesses == dealt
    pages = host.machine.frames.pages.values()
    assert all(page.mapcount == 0 and page.refcount == 1 for page in pages)
    # Reclaim may have held an anonymous page when its last user went: the swap cache keeps it for the next scan.
    assert host.machine.swap.uses == dict.fromkeys(host.machine.swap.cache, 1)
    assert not any(lock.held for lock in (page.lock for page in pages))


@pytest.mark.parametrize("policy", WITH_THE_SIX, ids=name_of)
def test_all_six_paths_notify(policy):
    host = in_few_frames(policy.name)
    names = host.machine.timeline.paths
    seen = Counter(names[row["path"]] for row in host.rows(Row.NOTIFY_BEGIN))
    assert set(SEED_PATHS) <= set(seen)
    assert {"unmap_region", "zap_page_range", "mprotect", "mremap", "fork", "exit_mmap"} <= set(
        seen
    )


@pytest.mark.slow
@pytest.mark.parametrize("policy", [pytest.param(V9, marks=pytest.mark.long), SEED], ids=name_of)
def test_the_default_trace_notifies_a_hundred_times_on_each_of_the_six_paths(policy):
    trace = load(shipped()["shared"])
    config = ReplayConfig(nonlinear=True, xip=True)
    frames = frame_limit(trace, 0.65, cpus=config.cpus)
    host, replay = replayed(trace, config, policy=policy, frames=frames)
    assert replay.counts.skipped == 0
    names = host.machine.timeline.paths
    seen = Counter(names[row["path"]] for row in host.rows(Row.NOTIFY_BEGIN))
    assert min(seen[path] for path in SEED_PATHS) >= 100, seen


@pytest.mark.parametrize("policy", [V4_13, V6_6], ids=name_of)
def test_a_kernel_without_nonlinear_mappings_and_holes_replays_the_rest(policy):
    host = in_few_frames(policy.name)
    names = host.machine.timeline.paths
    seen = {names[row["path"]] for row in host.rows(Row.NOTIFY_BEGIN)}
    assert {"do_wp_page", "page_mkclean_one", "try_to_unmap_one", "unmap_region"} <= seen
    with pytest.raises(HostError, match=r"the kernel of policy v\S+ has no path"):
        replayed(everything(), policy=policy, frames=130)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_no_policy_sleeps_in_atomic_context_or_inverts_locks(policy):
    host = in_few_frames(policy.name)
    assert host.rows(Row.SLEEP_IN_ATOMIC, Row.LOCK_INVERSION) == []


def test_brackets_pair_and_counts_never_leak():
    host, _ = replayed(everything(), policy=SEED)
    balance = Counter()
    for row in host.rows(Row.NOTIFY_BEGIN):
        if row["tag"] in (Notification.RANGE_START, Notification.RANGE_END):
            key = (row["mm"], row["vpn"], row["a"])
            balance[key] += 1 if row["tag"] == Notification.RANGE_START else -1
            assert balance[key] >= 0
    assert not any(balance.values())


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    def rows(seed):
        host, _ = replayed(everything(rounds=1), seed=seed)
        columns = host.machine.timeline.columns()
        return np.stack([columns[name].astype(np.uint64) for name in sorted(columns)])

    first, second, other = rows(1), rows(1), rows(2)
    assert np.array_equal(first, second)
    assert first.shape != other.shape or not np.array_equal(first, other)


@pytest.mark.parametrize("cpus", [1, 3])
def test_each_process_runs_on_its_own_cpus(cpus):
    host, _ = replayed(everything(rounds=1), replace(CONFIG, cpus=cpus))
    threads = host.machine.timeline.threads
    working = {threads[row["thread"]] for row in host.rows(Row.STORE, Row.LOAD)}
    assert working == {f"p{pid}.cpu{cpu}" for pid in (1, 2) for cpu in range(cpus)}


def test_the_device_takes_part_in_the_first_process_only():
    host, _ = replayed(everything(rounds=1), replace(CONFIG, device_share=0.5))
    assert {row["mm"] for row in host.rows(Row.DMA_SUBMIT)} == {1}
    host, _ = replayed(everything(rounds=1), replace(CONFIG, device_share=0))
    assert not host.rows(Row.DMA_SUBMIT)


def test_what_is_added_is_reported_and_only_then():
    host, replay = replayed(everything(rounds=1))
    tags = Counter(row["tag"] for row in host.rows(Row.ADDED))
    assert tags == {1: 1, 2: 16}
    assert (replay.counts.nonlinear_pages, replay.counts.xip_pages) == (40, 16)
    host, replay = replayed(everything(rounds=1), ReplayConfig())
    assert not host.rows(Row.ADDED)
    assert not replay.counts.nonlinear_pages
    assert {"__xip_unmap", "try_to_unmap_cluster"}.isdisjoint(host.machine.timeline.paths)


def test_accesses_outside_every_mapping_are_counted_and_not_made():
    trace = everything(rounds=1)
    items = (touch((0x5000, 3)), *trace.processes[0].items)
    outside = replace(
        trace,
        processes=(Process(1, None, items), trace.processes[1]),
        order=[(0, i) for i in range(len(items))] + [(1, i) for i in range(5)],
    )
    host, replay = replayed(outside)
    assert replay.counts.skipped == 6
    assert not any(row["vpn"] >= 0x5000 for row in host.rows(Row.STORE, Row.LOAD, Row.DMA_SUBMIT))


def test_progress_goes_up_to_one():
    shown = []
    replayed(everything(rounds=1), progress=shown.append)
    assert shown == sorted(shown)
    assert shown[-1] == 1.0


def test_a_process_without_an_exit_is_ended():
    trace = everything(rounds=1)
    parent, child = trace.processes
    cut = replace(
        trace,
        processes=(replace(parent, items=parent.items[:-1]), child),
        order=[(0, i) for i in range(len(parent.items) - 1)] + [(1, i) for i in range(5)],
    )
    host, _ = replayed(cut)
    assert len(host.rows(Row.TEARDOWN)) == 3


def test_a_process_that_hangs_ends_the_run_with_one_line():
    def bind(machine, mm):
        yield from Sva.bind(machine, mm)
        yield Acquire(machine.mms[0].mmap_sem)

    with pytest.raises(DeadlockError, match="no process has made an access for 200 ms"):
        replayed(everything(rounds=1), bind=bind)


def test_the_frame_limit_follows_the_footprint_or_says_what_it_needs():
    trace = everything()
    assert frame_limit(trace, 1.0, cpus=4) > trace.footprint_pages()
    with pytest.raises(HostError, match=r"too few to run; it needs at least \d+") as error:
        frame_limit(trace, 0.05, cpus=4)
    assert "\n" not in str(error.value)


def test_the_least_limit_that_is_not_refused_runs():
    trace = everything()
    with pytest.raises(HostError) as error:
        frame_limit(trace, 0.05, cpus=4)
    least = int(str(error.value).rsplit(" ", 1)[1])
    with pytest.raises(HostError, match=f"too small to run everything; it needs at least {least}"):
        replayed(trace, ReplayConfig(), frames=least - 1)
    with pytest.raises(HostError, match=f"it needs at least {least + 16}"):
        replayed(trace, frames=least)
    _, replay = replayed(trace, ReplayConfig(), frames=least)
    assert replay.counts.windows == len(trace.windows())


@pytest.mark.parametrize(
    ("name", "value"),
    [("cpus", 0), ("device_share", 1.5), ("burst_beats", 9), ("outstanding", 0), ("engines", 17)],
)
def test_a_config_out_of_range_is_refused(name, value):
    with pytest.raises(HostError, match=f"{name} must be from"):
        ReplayConfig(**{name: value})
