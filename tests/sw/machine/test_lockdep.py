"""Contexts and lock order: what may sleep where, and which order of locks may deadlock; each kind passing and failing."""

from dataclasses import replace

import pytest

from hostmm.machine.lockdep import Atomic
from hostmm.machine.locks import Acquire, Lock, Signal, Wait
from hostmm.machine.timeline import LockClass, Notification, Row
from hostmm.machine.vocabulary import CALLS
from hostmm.notifier import Subscriber
from hostmm.policies import POLICIES, SEED, Chain
from hostmm.stages import STAGES, Setting
from tests.sw.hosts import Host

SPIN = Lock("spinlock", LockClass.PTL, 901, "spin")
MUTEX = Lock("mutex", LockClass.MMAP, 902, "mutex", sleeps=True)


def run(*threads):
    """Run threads, each a function of the host that returns steps; returns the host."""
    host = Host()
    host.run(*(thread(host) for thread in threads))
    return host


def sleeps(host):
    """(reasons, number of the spinlock) of every report."""
    return [(Atomic(row["tag"]), row["a"]) for row in host.rows(Row.SLEEP_IN_ATOMIC)]


# --- sleeping --------------------------------------------------------------------------------------------


def in_spinlock(host, inside):
    yield Acquire(SPIN)
    yield from inside()
    host.machine.sched.release(SPIN)


def in_mutex(host, inside):
    yield Acquire(MUTEX)
    yield from inside()
    host.machine.sched.release(MUTEX)


def in_mutex_shared(host, inside):
    yield Acquire(MUTEX, shared=True)
    yield from inside()
    host.machine.sched.release(MUTEX)


def section(name):
    def enter(host, inside):
        with getattr(host.machine.sched, name)():
            yield from inside()

    return enter


CONTEXTS = {
    "a spinlock": (in_spinlock, Atomic.SPINLOCK),
    "RCU": (section("rcu_read"), Atomic.RCU),
    "preemption disabled": (section("preemption_disabled"), Atomic.PREEMPTION),
    "non-blocking": (section("non_blocking"), Atomic.NON_BLOCKING),
    "a mutex": (in_mutex, None),
    "a rwsem shared": (in_mutex_shared, None),
    "SRCU": (section("srcu_read"), None),
}
"""How to be in each context, and why sleeping is wrong in it (None: it is not)."""


def asks(host):
    """A callback that says that it may sleep."""
    yield "pte_read"
    host.machine.sched.might_sleep()


def waits(host):
    """Sleeping for another thread."""
    host.machine.sched.fire(done := Signal("done"))
    yield Wait(done, sleeps=True)


def allocates(host):
    """A step of which the kernel says that it may sleep."""
    yield "alloc_page"


def locks(host):
    """Taking a mutex that nobody holds."""
    other = Lock("other", LockClass.DRIVER, 903, "other", sleeps=True)
    yield Acquire(other)
    host.machine.sched.release(other)


@pytest.mark.parametrize("act", [asks, waits, allocates, locks])
@pytest.mark.parametrize("context", CONTEXTS)
def test_sleeping_is_reported_where_it_is_wrong_and_only_there(context, act):
    enter, reason = CONTEXTS[context]
    host = run(lambda host: enter(host, lambda: act(host)))
    number = SPIN.number if reason is Atomic.SPINLOCK else 0
    assert sleeps(host) == ([] if reason is None else [(reason, number)])


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_context_ends_where_it_ends(context):
    enter, _ = CONTEXTS[context]

    def thread(host):
        yield from enter(host, lambda: iter(["pte_read"]))
        yield from asks(host)

    assert sleeps(run(thread)) == []


def test_contexts_nest_and_each_has_its_name():
    def thread(host):
        yield from in_spinlock(host, lambda: section("rcu_read")(host, lambda: asks(host)))
        with host.machine.sched.rcu_read():
            yield from section("rcu_read")(host, lambda: asks(host))
            yield from asks(host)

    assert sleeps(run(thread)) == [
        (Atomic.SPINLOCK | Atomic.RCU, SPIN.number),
        (Atomic.RCU, 0),
        (Atomic.RCU, 0),
    ]


def test_a_context_is_its_threads_own():
    inside, left = Signal("inside"), Signal("left")

    def holder(host):
        with host.machine.sched.rcu_read():
            yield Acquire(SPIN)
            host.machine.sched.fire(inside)
            yield Wait(left)
            host.machine.sched.release(SPIN)

    def sleeper(host):
        yield Wait(inside)
        yield from asks(host)
        host.machine.sched.fire(left)

    assert sleeps(run(holder, sleeper)) == []


def test_spinning_is_allowed_everywhere():
    def spins(host):
        host.machine.sched.fire(done := Signal("done"))
        yield Wait(done)

    for enter, _ in CONTEXTS.values():
        assert sleeps(run(lambda host, enter=enter: enter(host, lambda: spins(host)))) == []


# --- order of locks --------------------------------------------------------------------------------------


def nest(*names, ordered=True):
    """A thread that takes locks of the named classes one under another."""

    def thread(host):
        taken = [Lock(name, LockClass.DRIVER, 910 + at, name) for at, name in enumerate(names)]
        for lock in taken:
            yield Acquire(lock, ordered=ordered)
        for lock in reversed(taken):
            host.machine.sched.release(lock)

    return thread


def after_another(*threads):
    def thread(host):
        for one in threads:
            yield from one(host)

    return thread


def inversions(host):
    return [(row["a"] - 910, row["b"] - 910) for row in host.rows(Row.LOCK_INVERSION)]


@pytest.mark.parametrize(
    ("orders", "found"),
    [
        (["ab", "ab"], []),
        (["ab", "ba"], [(1, 0)]),
        (["ab", "bc", "ac"], []),
        (["ab", "bc", "ca"], [(1, 0)]),
        (["abc", "ac", "ca"], [(1, 0)]),
        (["aa"], [(1, 0)]),
        (["ab", "ba", "ba"], [(1, 0)]),
    ],
)
def test_an_order_that_closes_a_circle_is_reported_once(orders, found):
    assert inversions(run(after_another(*(nest(*order) for order in orders)))) == found


def test_the_order_counts_whichever_thread_takes_it():
    first = Signal("the first order")

    def one(host):
        yield from nest("a", "b")(host)
        host.machine.sched.fire(first)

    def other(host):
        yield Wait(first)
        yield from nest("b", "a")(host)

    assert inversions(run(one, other)) == [(1, 0)]


def test_a_try_lock_and_a_nesting_with_an_order_of_its_own_say_nothing():
    assert inversions(run(after_another(nest("a", "b"), nest("b", "a", ordered=False)))) == []
    assert inversions(run(nest("a", "a", ordered=False))) == []


def test_a_lock_that_was_released_is_not_under():
    def thread(host):
        yield from nest("a", "b")(host)
        yield from nest("b")(host)
        yield from nest("a")(host)

    assert inversions(run(thread)) == []


# --- where the callbacks of each policy may sleep (I12) --------------------------------------------------


class Sleeper:
    """A subscriber each of whose methods may sleep."""

    def __init__(self, machine):
        def method(*_pages, callback):
            machine.sched.might_sleep()
            yield from ()

        for name in vars(Subscriber):
            if not name.startswith(("_", "try_")):
                setattr(self, name, method)


def sites(policy):
    """Callbacks of every stage as "path WORD": (where sleeping is right, where it is reported)."""
    right, wrong = set(), set()
    for stage in STAGES.values():
        if not stage.possible(policy):
            continue
        host = Host(policy=policy, frames=stage.frames)
        setting = Setting(host.machine)
        setting.mm.notifiers.register(Sleeper(host.machine))
        host.run(stage.play(setting))
        number = host.rows(Row.SUBSCRIBE)[1]["b"]
        site = None
        for row in host.rows(Row.NOTIFY_BEGIN, Row.NOTIFY_END, Row.SLEEP_IN_ATOMIC):
            if row["kind"] == Row.NOTIFY_BEGIN:
                path = host.machine.timeline.paths[row["path"]]
                site, atomic = f"{path} {CALLS[Notification(row['tag'])]}", False
            elif row["kind"] == Row.SLEEP_IN_ATOMIC:
                atomic = True
            elif row["c"] == number:
                (wrong if atomic else right).add(site)
    return right, wrong


def words(found):
    return {site.split()[-1] for site in found}


@pytest.mark.parametrize("name", ["v9", "seed", "v2.6.27"])
def test_under_rcu_no_callback_may_sleep(name):
    """Release is called under it from 2.6.27 on; #v9's is called by no reader of the chain, and holds no lock."""
    right, wrong = sites(POLICIES[name])
    assert words(wrong) >= {"INVP", "CFY", "RS", "RE"}
    last = {"exit_mmap REL"}
    assert (right, wrong & last) == ((set(), last) if name == "v2.6.27" else (last, set()))


def test_the_seed_would_let_one_of_its_six_paths_sleep_if_nothing_held_the_chain():
    """S6: five of the six still run under a spinlock of the reverse maps."""
    right, wrong = sites(replace(SEED, chain=Chain.LIST))
    assert {site for site in right if "INVP" in site} == {"do_wp_page INVP"}
    assert wrong == {
        "__xip_unmap INVP",
        "page_referenced_one CFY",
        "page_mkclean_one INVP",
        "try_to_unmap_one INVP",
        "try_to_unmap_cluster RS",
        "try_to_unmap_cluster RE",
        "unmap_mapping_range RS",
        "unmap_mapping_range RE",
    }


def test_emm_may_sleep_wherever_no_reverse_map_is_locked():
    right, wrong = sites(POLICIES["emm"])
    assert {"do_wp_page RS", "do_wp_page RE", "unmap_region RS", "fork RE"} <= right
    # A question about young may not sleep under any policy (I12).
    assert wrong == {
        "page_referenced_one CFY",
        *(
            f"{path} {call}"
            for path in (
                "__xip_unmap",
                "page_mkclean_one",
                "try_to_unmap_one",
                "try_to_unmap_cluster",
                "unmap_mapping_range",
            )
            for call in ("RS", "RE")
        ),
    }


@pytest.mark.parametrize(
    ("name", "may", "must_not"),
    [
        ("v3.7", {"RS", "RE", "INVP", "REL"}, {"CFY", "CHG"}),
        ("v4.13", {"RS", "RE", "REL"}, {"CFY", "CHG", "IVR"}),
        ("v6.6", {"RS", "RE", "REL"}, {"CFY", "IVR"}),
    ],
)
def test_with_sleeping_locks_and_srcu_only_the_calls_under_the_page_table_lock_must_not_sleep(
    name, may, must_not
):
    right, wrong = sites(POLICIES[name])
    assert words(right) == may
    assert words(wrong) == must_not
