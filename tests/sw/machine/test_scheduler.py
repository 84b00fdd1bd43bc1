"""The scheduler: order, locks, signals, gates, look-ahead, deadlocks."""

import numpy as np
import pytest

from hostmm.driver.link import Link
from hostmm.errors import DeadlockError
from hostmm.machine.costs import COSTS, CostTable
from hostmm.machine.locks import Acquire, Lock, Signal, Wait
from hostmm.machine.scheduler import Fetch, Gate, Scheduler
from hostmm.machine.timeline import LockClass, Row, Timeline
from hostmm.model import Model
from secmmu.csr import context_register
from secmmu.layouts import CommandKind, Event


def make(seed=1, **scales):
    return Scheduler(
        timeline=Timeline(cycle_ns=10),
        costs=CostTable(**scales),
        link=Link(cycle_ns=10),
        seed=seed,
    )


def finish(scheduler, model=None, batches=None):
    """Run to the end on the model; return the merged timeline."""
    model = model or Model(memory_bytes=1 << 20)
    session = scheduler.run()
    try:
        batch = next(session)
        while True:
            if batches is not None:
                batches.append(batch)
            batch = session.send(model.exchange(batch))
    except StopIteration:
        return scheduler.timeline.columns()


def test_threads_run_in_time_order_and_steps_cost_what_the_table_says():
    scheduler = make()
    seen = []

    def thread(name, ns):
        for _ in range(3):
            yield ns
            seen.append((scheduler.now, name))

    scheduler.spawn("slow", thread("slow", 1000))
    scheduler.spawn("fast", thread("fast", 100))
    finish(scheduler)
    assert seen == sorted(seen)
    assert [name for _, name in seen].count("slow") == 3
    fast = [at for at, name in seen if name == "fast"]
    assert 80 <= fast[0] <= 120 + COSTS["preemption"].ns


def test_lock_is_exclusive_and_first_come_first_served():
    scheduler = make()
    lock = Lock("ptl", LockClass.PTL, 7)
    inside, order = [], []

    def thread(name):
        yield Acquire(lock)
        inside.append(name)
        assert inside == [name]
        yield 500
        order.append(name)
        inside.clear()
        scheduler.release(lock)

    for index, name in enumerate("abc"):
        scheduler.spawn(name, thread(name), delay_ns=10 * index)
    columns = finish(scheduler)
    assert order == ["a", "b", "c"]
    waits = columns["b"][columns["kind"] == Row.LOCK]
    holds = columns["b"][columns["kind"] == Row.UNLOCK]
    assert waits[0] == 0
    assert waits[1] > 300
    assert waits[2] > waits[1]
    assert (holds >= 400).all()
    assert not lock.held


def test_readers_share_and_a_writer_is_not_starved():
    scheduler = make()
    lock = Lock("mmap_sem", LockClass.MMAP, 1)
    order = []

    def thread(name, shared, hold):
        yield Acquire(lock, shared)
        order.append(("in", name))
        yield hold
        order.append(("out", name))
        scheduler.release(lock)

    scheduler.spawn("r1", thread("r1", True, 1000))
    scheduler.spawn("r2", thread("r2", True, 1000), delay_ns=50)
    scheduler.spawn("w", thread("w", False, 100), delay_ns=100)
    scheduler.spawn("r3", thread("r3", True, 100), delay_ns=150)
    finish(scheduler)
    assert order[:2] == [("in", "r1"), ("in", "r2")]
    names = [name for what, name in order if what == "in"]
    assert names == ["r1", "r2", "w", "r3"]
    assert order.index(("in", "w")) > order.index(("out", "r2"))


def test_signal_wakes_waiters_and_stays_fired():
    scheduler = make()
    signal = Signal("ready")
    got = []

    def waiter(delay):
        yield delay
        got.append((yield Wait(signal)))

    def firer():
        yield 1000
        scheduler.fire(signal, 42)

    scheduler.spawn("early", waiter(10))
    scheduler.spawn("late", waiter(9000))
    scheduler.spawn("firer", firer())
    finish(scheduler)
    assert got == [42, 42]


def test_gate_stops_one_thread_at_a_named_step_of_a_path():
    scheduler = make()
    seen = []
    gate = Gate("a", "do_wp_page", "unlock", Signal("reached"), Signal("opened"))
    scheduler.gates.append(gate)

    def walker(name):
        with scheduler.path("do_wp_page"):
            yield "unlock"
            seen.append(name)

    def opener():
        yield Wait(gate.reached)
        yield 5000
        seen.append("open")
        scheduler.fire(gate.opened)

    scheduler.spawn("a", walker("a"))
    scheduler.spawn("b", walker("b"))
    scheduler.spawn("opener", opener())
    finish(scheduler)
    assert seen == ["b", "open", "a"]


def test_paths_mark_their_rows_with_a_span_of_their_own():
    scheduler = make()

    def thread():
        for result in (3, 4):
            with scheduler.path("page_mkclean_one") as out:
                yield "pte_write"
                scheduler.log(Row.PTE_SET, mm=1, vpn=9, pfn=20)
                out.append(result)

    scheduler.spawn("t", thread())
    columns = finish(scheduler)
    ends = columns["kind"] == Row.PATH_END
    assert list(columns["a"][ends]) == [3, 4]
    sets = columns["kind"] == Row.PTE_SET
    assert list(columns["span"][sets]) == [1, 2]
    assert [scheduler.timeline.paths[p] for p in columns["path"][sets]] == ["page_mkclean_one"] * 2


def test_fetch_returns_the_words_of_the_emulated_memory():
    scheduler = make()
    got = []

    def thread():
        yield 100
        scheduler.link.write(scheduler.now, 0x1000, [5, 6, 7])
        got.extend((yield Fetch(0x1000, 3)))

    scheduler.spawn("t", thread())
    finish(scheduler)
    assert got == [5, 6, 7]


def test_a_command_reaches_the_port_one_link_latency_later_and_its_answer_another_one():
    scheduler = make()
    done = Signal("drained")
    pending = [True]
    scheduler.busy = lambda: pending[0]
    scheduler.stops.add(Event.DRAINED)
    times = {}

    def drained(record):
        pending[0] = False
        times["record"] = record[1]
        times["host"] = scheduler.now
        scheduler.fire(done)

    scheduler.handle(Event.DRAINED, drained)

    def thread():
        yield 1000
        times["issue"] = scheduler.now
        scheduler.post(
            lambda ns: scheduler.link.command(
                ns, kind=CommandKind.PAGE.value, asid=1, first=5, last=5, tag=1
            )
        )
        yield Wait(done)

    scheduler.spawn("t", thread())
    finish(scheduler)
    link = COSTS["link"].ns
    assert times["record"] * 10 >= times["issue"] + link
    assert times["host"] == times["record"] * 10 + link


@pytest.mark.parametrize("seed", range(5))
def test_what_is_posted_at_one_moment_arrives_in_that_order(seed):
    scheduler = make(seed)
    arrived = []

    def thread():
        yield 100
        for number in range(20):
            scheduler.post(lambda _ns, n=number: arrived.append(n))

    scheduler.spawn("t", thread())
    finish(scheduler)
    assert arrived == list(range(20))


def test_a_deadlock_names_the_threads_that_wait():
    scheduler = make()

    def thread():
        yield Wait(Signal("godot"))

    scheduler.spawn("vladimir", thread())
    with pytest.raises(DeadlockError, match=r"vladimir \(godot\)"):
        finish(scheduler)


def test_an_answer_that_nobody_waits_for_ends_the_run_when_it_comes():
    scheduler = make()
    pending = [True]
    scheduler.busy = lambda: pending[0]
    scheduler.handle(Event.DRAINED, lambda _record: pending.clear() or pending.append(False))

    def thread():
        yield 100
        scheduler.post(
            lambda ns: scheduler.link.command(
                ns, kind=CommandKind.PAGE.value, asid=1, first=5, last=5, tag=1
            )
        )

    scheduler.spawn("t", thread())
    finish(scheduler)
    assert scheduler.link.synced_cycle < 200


def test_hardware_that_never_answers_is_a_deadlock_not_a_hang():
    scheduler = make()
    scheduler.busy = lambda: True
    scheduler.stops.add(Event.DRAINED)

    def thread():
        yield Wait(Signal("drained"))

    scheduler.spawn("t", thread())
    with pytest.raises(DeadlockError, match="sent nothing"):
        finish(scheduler)


def test_unknown_yield_is_refused():
    scheduler = make()

    def thread():
        yield 1.5

    scheduler.spawn("t", thread())
    with pytest.raises(TypeError, match=r"not 1\.5"):
        finish(scheduler)


@pytest.mark.parametrize("seed", [1, 2])
def test_one_seed_gives_one_run(seed):
    def once(seed):
        scheduler = make(seed)
        lock = Lock("ptl", LockClass.PTL, 1)

        def thread(number):
            for index in range(5):
                yield Acquire(lock)
                yield "pte_write"
                scheduler.link.write(scheduler.now, 8 * number, [index])
                scheduler.release(lock)
                yield "unlock"

        for number in range(4):
            scheduler.spawn(f"t{number}", thread(number))
        batches = []
        finish(scheduler, batches=batches)
        return batches

    assert once(seed) == once(seed)
    assert once(seed) != once(seed + 10)


def test_exact_cycles_follow_a_command_that_waited_at_its_port():
    timeline = Timeline(cycle_ns=10)
    common = {"ns": 0, "thread": 0, "path": 0, "span": 0}
    timeline.append(Row.INV_ISSUE, cycle=5, **common)
    timeline.append(Row.STORE, cycle=5, **common)
    timeline.append(Row.STORE, cycle=30, **common)
    accepted = np.array([[Event.ACCEPTED.value, 9, 0, 0]], np.uint64)
    timeline.append_records(accepted)
    columns = timeline.columns()
    assert list(columns["cycle"]) == [5, 9, 10, 30]
    assert list(columns["hw"]) == [0, 1, 0, 0]


def test_context_rows_are_eight_bytes_apart():
    assert context_register(3) - context_register(2) == 8
