"""Several subscribers of one address space, and their coming and going while callbacks are under way."""

import random

import pytest

from hostmm.audit import audit
from hostmm.callers import syscalls
from hostmm.errors import HostError
from hostmm.machine.locks import Acquire, Signal, Wait
from hostmm.machine.scheduler import Gate
from hostmm.machine.timeline import Row
from hostmm.paths.page_referenced import page_referenced
from hostmm.policies import POLICIES
from hostmm.scenarios import ALLOWED, SCENARIOS
from hostmm.subscribers.ats import Ats
from hostmm.subscribers.gru import Gru
from hostmm.subscribers.kinds import SUBSCRIBERS
from hostmm.subscribers.kvm import Kvm
from hostmm.subscribers.odp import Odp
from hostmm.subscribers.pinned import Pinned
from hostmm.subscribers.sva import Sva, SvaA
from tests.sw.devices import ANON, FILE, PRIVATE, DeviceHost, Slow
from tests.sw.hosts import Host

TOGETHER = (Sva, SvaA, Gru, Kvm, Odp)


def unexpected(host):
    """Violations that nothing explains; the devices of odp have no age."""
    return [v for v in host.violations() if v.invariant != "I9"]


@pytest.mark.parametrize("order", [1, -1])
def test_devices_of_every_kind_on_one_address_space_see_each_others_stores(order):
    host = DeviceHost("v6.6")
    machine, mm = host.machine, host.mm

    def main():
        devices = []
        for kind in TOGETHER[::order]:
            devices.append((yield from kind.bind(machine, mm)))
        for writer in devices:
            value = yield from host.device_store(writer, ANON)
            for reader in devices:
                yield from host.expect(reader, ANON, value)
        for device in devices:
            yield from host.expect(device, PRIVATE, 0)
        value = yield from host.store(PRIVATE)
        for device in devices:
            yield from host.expect(device, PRIVATE, value)
        yield from syscalls.munmap(machine, mm, ANON, ANON)
        for device in devices:
            assert (yield from host.device(device, ANON)).dropped
        yield from syscalls.exit_process(machine, mm)
        yield from audit(machine)

    host.run(main())
    asids = [row["a"] for row in host.rows(Row.CONTEXT) if row["tag"]]
    assert len(set(asids)) >= len(TOGETHER), "each has an asid of its own"
    assert host.wrong() == []
    assert unexpected(host) == []
    assert host.touched() == 0


@pytest.mark.parametrize("policy", ["v4.13", "v6.6"])
def test_stores_and_unmaps_in_parallel_leave_every_load_explained(policy):
    host = DeviceHost(policy, seed=3)
    machine, mm = host.machine, host.mm
    bound, devices = Signal("bound"), []

    def bind():
        for kind in TOGETHER:
            devices.append((yield from kind.bind(machine, mm)))
        machine.sched.fire(bound)

    def device(index):
        rng = random.Random(index)
        yield Wait(bound)
        for _ in range(12):
            vpn = rng.choice((ANON, FILE, PRIVATE)) + rng.randrange(3)
            transfer = yield from machine.driver.submit(
                index & 1, devices[index].handle, vpn << 12, 2, write=rng.random() < 0.4
            )
            if rng.random() < 0.5:
                yield from machine.driver.wait(transfer)

    def cpu():
        rng = random.Random(99)
        yield Wait(bound)
        for _ in range(12):
            vpn = rng.choice((ANON, FILE, PRIVATE)) + rng.randrange(3)
            yield from host.store(vpn)
            yield from syscalls.madvise_dontneed(machine, mm, vpn, vpn + rng.randrange(3))

    host.run(bind(), cpu(), *(device(index) for index in range(len(TOGETHER))))
    assert unexpected(host) == []
    assert host.touched() == 0


@pytest.mark.parametrize("kind", [Sva, Gru, Kvm, Odp], ids=lambda kind: kind.__name__)
def test_a_subscriber_that_leaves_while_its_callback_runs_is_waited_for(kind):
    """Afterwards nothing of it runs, its device is stopped, and another can take its place (I15)."""
    host = DeviceHost("v6.6")
    machine, mm = host.machine, host.mm
    inside, devices = Signal("inside"), []

    class Loud(kind):
        left = False

        def invalidate_range_start(self, first, last, *, callback):
            assert not self.left
            machine.sched.fire(inside)
            yield from super().invalidate_range_start(first, last, callback=callback)
            yield 20_000
            assert not self.left

    def main():
        devices.append((yield from Loud.bind(machine, mm)))
        yield from host.device_store(devices[0], ANON)
        machine.sched.spawn("unmapper", syscalls.madvise_dontneed(machine, mm, ANON, ANON + 3))
        yield Wait(inside)
        yield from devices[0].unbind()
        Loud.left = True
        assert (yield from host.device(devices[0], ANON)).dropped
        yield from host.store(ANON)
        again = yield from kind.bind(machine, mm)
        value = yield from host.store(ANON)
        yield from host.expect(again, ANON, value)
        yield from syscalls.exit_process(machine, mm)
        yield from audit(machine)

    host.run(main())
    assert host.wrong() == []
    assert unexpected(host) == []


def test_release_beside_a_callback_and_an_unregistration():
    """The end of the address space, an unmapping and a driver that leaves, all at once (I15, I16)."""
    host = DeviceHost("v6.6")
    machine, mm = host.machine, host.mm

    def main():
        devices = []
        for kind in (Kvm, Odp, Sva):
            devices.append((yield from kind.bind(machine, mm)))
        for device in devices:
            yield from host.device_store(device, ANON)
        reclaim = machine.sched.spawn("reclaim", host.evict(ANON))
        leaver = machine.sched.spawn("leaver", devices[1].unbind())
        yield 300
        yield from mm.notifiers.release()
        yield Wait(reclaim.done)
        yield Wait(leaver.done)
        assert all(device.released for device in devices)
        yield from syscalls.exit_process(machine, mm)
        yield from audit(machine)

    host.run(main())
    assert unexpected(host) == []
    assert not machine.device_tables


def test_release_beside_a_flush_of_an_ats_cache():
    """Release frees the cache; who was about to drop something from it must not write into what is a table no more."""
    host = DeviceHost("v6.6")
    machine, mm, late = host.machine, host.mm, []
    reached, opened = Signal("in the middle"), Signal("go on")

    def main():
        device = yield from Ats.bind(machine, mm)
        cache, store = device._cache, device._cache.set

        def spy(vpn, word):
            if cache.root not in machine.device_tables:
                late.append(vpn)
            store(vpn, word)

        cache.set = spy
        for vpn in (ANON, ANON + 1):
            yield from host.device(device, vpn)
        machine.sched.gates.append(Gate("flush", "-", "pte_clear", reached, opened, passes=1))
        flush = machine.sched.spawn("flush", mm.notifiers.invalidate_range(ANON, ANON + 1))
        yield Wait(reached)
        yield from mm.notifiers._release(mm.notifiers._entries[0])
        assert not machine.device_tables
        machine.sched.fire(opened)
        yield Wait(flush.done)

    host.run(main())
    assert late == []


def test_a_subscriber_that_was_never_registered_cannot_leave():
    host = DeviceHost("v6.6")
    with pytest.raises(HostError, match="must be registered"):
        host.run(Sva(host.machine, host.mm).unbind())


def test_pins_keep_the_frame_and_the_baseline_goes_on_with_the_old_page():
    """What it is the baseline for: nobody waits, but its device does not follow the address space."""
    host = DeviceHost("v6.6")
    machine, mm = host.machine, host.mm

    def main():
        device = yield from Pinned.bind(machine, mm)
        value = yield from host.device_store(device, ANON)
        yield from host.expect(device, ANON, value)
        assert (yield from host.evict(ANON))
        yield from host.expect(device, ANON, value)
        yield from syscalls.madvise_dontneed(machine, mm, ANON, ANON)
        yield from host.store(ANON)
        yield from host.expect(device, ANON, value)
        assert (yield from host.device(device, ANON + 0x1000)).dropped
        yield from syscalls.exit_process(machine, mm)
        yield from audit(machine)

    host.run(main())
    assert host.wrong() == []
    assert host.touched() == 0
    assert host.violations() == []


def test_asids_of_a_pool_are_taken_in_turns_and_flushed_before_they_come_back():
    """Six address spaces share three asids (I23)."""
    host = DeviceHost("v6.6", frames=400)
    machine = host.machine
    spaces = [machine.new_mm() for _ in range(6)]
    for mm in spaces:
        mm.insert(host.anonymous(mm, ANON, 4))

    class Narrow(Gru):
        asids = range(8, 11)

    def user(mm):
        device = yield from Narrow.bind(machine, mm)
        for _ in range(4):
            value = yield from host.device_store(device, ANON)
            yield from host.expect(device, ANON, value)
            yield from syscalls.madvise_dontneed(machine, mm, ANON, ANON + 1)
        yield from syscalls.exit_process(machine, mm)

    host.run(*(user(mm) for mm in spaces))
    given = [row["a"] for row in host.rows(Row.CONTEXT) if row["tag"]]
    assert set(given) == {8, 9, 10}
    assert len(given) > 6
    assert host.wrong() == []
    assert host.violations() == []
    assert host.touched() == 0


def test_every_kind_has_a_name():
    assert set(SUBSCRIBERS) > {"sva", "sva-a", "gru", "kvm", "odp", "pinned"}


def test_reclaim_by_who_holds_a_page_only_tries_the_locks_of_others():
    """A pin that reclaims, holding the page that it swaps in, showed it."""
    host = DeviceHost("v6.6")

    def main():
        for vpn in (FILE, FILE + 1):
            yield from host.store(vpn)
        first, second = (host.file.pages[index] for index in (0, 1))
        yield Acquire(first.lock)
        yield from page_referenced(host.machine, second)
        host.machine.sched.release(first.lock)

    host.run(main())
    assert not host.rows(Row.LOCK_INVERSION)


@pytest.mark.parametrize("kind", [SvaA, Gru, Kvm, Odp], ids=lambda kind: kind.__name__)
def test_a_page_inside_a_large_translation_is_replaced_under_every_kind(kind):
    scenario = SCENARIOS["I24"]
    host = Host(policy=POLICIES["v6.6"], frames=scenario.frames)
    scenario.build(host.machine, kind.bind)
    host.run()
    assert scenario.outcome(host.machine.timeline.columns()).outcome == ALLOWED


@pytest.mark.parametrize(("policy", "inside"), [("v9", True), ("v6.6", False)])
@pytest.mark.parametrize("kind", [Sva, Gru, Kvm], ids=lambda kind: kind.__name__)
def test_who_is_registered_inside_a_bracket_survives_the_end_of_what_it_did_not_see_begin(
    kind, policy, inside
):
    """Where mm_take_all_locks is, that cannot be (I14); where it is not, the end without a start counts for nothing."""
    host = DeviceHost(policy)
    machine, slow = host.machine, Slow(host.machine)
    order = []

    def unmap():
        yield from syscalls.madvise_dontneed(machine, host.mm, ANON, ANON + 1)
        order.append("end")

    def main():
        yield from host.mm.notifiers.subscribe(slow)
        yield from host.store(ANON)
        unmapper = machine.sched.spawn("unmapper", unmap())
        yield Wait(slow.started)
        machine.sched.spawn("opener", opener())
        device = yield from kind.bind(machine, host.mm)
        order.append("bound")
        yield Wait(unmapper.done)
        for _ in range(2):
            value = yield from host.store(ANON)
            yield from host.expect(device, ANON, value)
            yield from syscalls.madvise_dontneed(machine, host.mm, ANON, ANON)
            yield from host.expect(device, ANON, 0)

    def opener():
        yield 10_000
        machine.sched.fire(slow.go_on)

    host.run(main())
    assert order == (["bound", "end"] if inside else ["end", "bound"])
    assert host.wrong() == []
    assert host.touched() == 0
