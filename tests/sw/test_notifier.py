"""The notifier chain: who is called, what its rows say, and which callbacks must not sleep."""

import pytest

from hostmm.callers.vmas import link
from hostmm.errors import HostError
from hostmm.machine.lockdep import Atomic
from hostmm.machine.locks import Acquire
from hostmm.machine.timeline import Notification, Row
from hostmm.policies import V2_6_27, V3_7, V9
from tests.sw.hosts import Host

VPN = 0x400


class Sleeper:
    """A subscriber that says that it may sleep in every callback."""

    def __init__(self, machine):
        self._sched = machine.sched

    def invalidate_range_start(self, first, last, *, callback):
        """Sleep."""
        self._sched.might_sleep()
        yield 100

    def invalidate_range(self, first, last, *, callback):
        """Sleep."""
        self._sched.might_sleep()
        yield 100

    def release(self, *, callback):
        """Sleep."""
        self._sched.might_sleep()
        yield 100


@pytest.fixture
def host():
    """A host whose chain may sleep."""
    return Host(policy=V3_7)


def test_rows_name_the_subscriber(host):
    """Each is called, by its number in the order of registration."""
    mm = host.machine.new_mm()

    def main():
        for _ in range(2):
            yield from mm.notifiers.subscribe(Sleeper(host.machine))
        yield from mm.notifiers.invalidate_range(VPN, VPN)

    host.run(main())
    for kind in (Row.SUBSCRIBE, Row.NOTIFY_BEGIN, Row.NOTIFY_END):
        rows = host.rows(kind)
        assert [row["b" if kind is Row.SUBSCRIBE else "c"] for row in rows] == [1, 2]


def test_unregistration_returns_behind_release(host):
    """The rows tell when the subscriber's memory may go."""
    mm = host.machine.new_mm()
    subscriber = Sleeper(host.machine)

    def main():
        yield from mm.notifiers.subscribe(subscriber)
        yield from mm.notifiers.unregister(subscriber)

    host.run(main())
    kinds = (Row.SUBSCRIBE, Row.NOTIFY_BEGIN, Row.NOTIFY_END, Row.UNREGISTERED)
    rows = host.rows(*kinds)
    assert [Row(row["kind"]).name for row in rows] == [
        "SUBSCRIBE",
        "NOTIFY_BEGIN",
        "NOTIFY_END",
        "SUBSCRIBE",
        "UNREGISTERED",
    ]
    assert (rows[-1]["mm"], rows[-1]["b"]) == (mm.number, 1)


def test_a_callback_of_a_kind_that_never_sleeps(host):
    """I12: outside every lock, a range start may sleep, and invalidate_range may not."""
    mm = host.machine.new_mm()

    def main():
        yield from mm.notifiers.subscribe(Sleeper(host.machine))
        with host.machine.sched.path("mprotect"):
            yield from mm.notifiers.invalidate_range_start_nonblock(VPN, VPN)
        yield from mm.notifiers.invalidate_range(VPN, VPN)
        yield from mm.notifiers.release()

    host.run(main())
    kinds = (Row.NOTIFY_BEGIN, Row.SLEEP_IN_ATOMIC, Row.NOTIFY_END)
    found, inside = {}, None
    for row in host.rows(*kinds):
        if row["kind"] == Row.NOTIFY_BEGIN:
            inside = Notification(row["tag"]).name
            found[inside] = None
        elif row["kind"] == Row.SLEEP_IN_ATOMIC:
            found[inside] = Atomic(row["tag"])
    assert found == {
        "RANGE_START": Atomic.NON_BLOCKING,
        "INVALIDATE_RANGE": Atomic.NON_BLOCKING,
        "RELEASE": None,
    }


def test_registration_takes_the_locks_of_the_mappings_that_there_are_by_then(host):
    """I14: a file that is mapped while mmap_sem is waited for may be truncated as soon as that is given back."""
    machine, mm = host.machine, host.machine.new_mm()
    file, truncated = machine.new_file("f"), []

    def mapper():
        yield Acquire(mm.mmap_sem)
        yield 1_000
        yield from link(machine, host.mapping(mm, VPN, 4, file))
        yield 5_000
        machine.sched.release(mm.mmap_sem)

    def truncater():
        yield 3_000
        yield Acquire(file.i_mmap_lock)
        yield 20_000
        truncated.append(not host.rows(Row.SUBSCRIBE))
        machine.sched.release(file.i_mmap_lock)

    def subscriber():
        yield 500
        yield from mm.notifiers.subscribe(Sleeper(machine))
        assert not mm.mmap_sem.held
        assert not file.i_mmap_lock.held

    host.run(mapper(), truncater(), subscriber())
    assert truncated == [True]


@pytest.mark.parametrize("policy", [V9, V2_6_27, V3_7])
def test_unregistration_behind_the_end_of_the_address_space(policy):
    """I15: whoever has been released by it may still unregister, once, and is not released again."""
    host = Host(policy=policy)
    mm = host.machine.new_mm()
    subscriber = Sleeper(host.machine)

    def main():
        yield from mm.notifiers.subscribe(subscriber)
        yield from mm.notifiers.release()
        yield from mm.notifiers.unregister(subscriber)
        with pytest.raises(HostError, match="must be registered"):
            yield from mm.notifiers.unregister(subscriber)

    host.run(main())
    assert len(host.rows(Row.NOTIFY_BEGIN)) == len(host.rows(Row.UNREGISTERED)) == 1
