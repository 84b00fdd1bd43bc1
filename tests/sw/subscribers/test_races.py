"""Races of faults and callbacks, placed with gates: each kind survives them, and each mutant of it is found by one."""

import pytest

from hostmm.callers import syscalls
from hostmm.errors import DeadlockError
from hostmm.machine.locks import Signal, Wait
from hostmm.machine.scheduler import Gate
from hostmm.machine.timeline import Notification
from hostmm.mm.pagetable import PTE_A
from hostmm.paths.page_referenced import page_referenced
from hostmm.subscribers.gru import Gru
from hostmm.subscribers.kvm import Kvm
from hostmm.subscribers.mutants import SUBSCRIBER_MUTANTS
from hostmm.subscribers.odp import Odp, StallingOdp
from hostmm.subscribers.pinned import Pinned
from secmmu.csr import EMULATOR_REGISTERS
from tests.sw.devices import ANON, FILE, PRIVATE, DeviceHost, Slow


def gate(host, thread, path, step):
    """Stop a thread there."""
    name = f"{thread} at {step}"
    placed = Gate(thread, path, step, Signal(f"{name} reached"), Signal(f"{name} opened"))
    host.machine.sched.gates.append(placed)
    return placed


def looked_up(host, kind):
    """Stop a fault behind its look at the PTE."""
    return gate(host, "iopf", "-", "walk_tables" if issubclass(kind, Gru) else "unlocked")


def stale_look_up(host, kind):
    """The page is copied between a fault's look at the PTE and what it makes of it."""
    fault = looked_up(host, kind)

    def main():
        device = yield from kind.bind(host.machine, host.mm)
        yield from host.load(PRIVATE)
        submit = host.machine.driver.submit
        transfer = yield from submit(0, device.handle, PRIVATE << 12, 1, write=False)
        yield Wait(fault.reached)
        value = yield from host.store(PRIVATE)
        host.machine.sched.fire(fault.opened)
        yield from host.machine.driver.wait(transfer)
        yield from host.expect(device, PRIVATE, value)

    return [main()]


def inside_a_bracket(host, kind):
    """A fault begins while a range is changing."""
    slow, machine = Slow(host.machine), host.machine
    values, bound = [], Signal("bound")

    def device():
        subscriber = yield from kind.bind(machine, host.mm)
        yield from host.mm.notifiers.subscribe(slow)
        yield from host.load(PRIVATE)
        machine.sched.fire(bound)
        yield Wait(slow.started)
        submit = machine.driver.submit
        transfer = yield from submit(0, subscriber.handle, PRIVATE << 12, 1, write=False)
        yield 5_000
        machine.sched.fire(slow.go_on)
        yield from machine.driver.wait(transfer)
        yield 20_000
        yield from host.expect(subscriber, PRIVATE, values[0])

    def cpu():
        yield Wait(bound)
        values.append((yield from host.store(PRIVATE)))

    return [device(), cpu()]


def as_a_bracket_closes(host, kind):
    """A fault has looked at the PTE before a range changes, and goes on in the midst of the range end."""
    fault, machine = looked_up(host, kind), host.machine
    closing = gate(host, "thread1", "do_wp_page", "refcount")
    values = []

    def device():
        subscriber = yield from kind.bind(machine, host.mm)
        yield from host.load(PRIVATE)
        submit = machine.driver.submit
        transfer = yield from submit(0, subscriber.handle, PRIVATE << 12, 1, write=False)
        yield Wait(closing.reached)
        machine.sched.fire(fault.opened)
        yield 5_000
        machine.sched.fire(closing.opened)
        yield from machine.driver.wait(transfer)
        yield 20_000
        yield from host.expect(subscriber, PRIVATE, values[0])

    def cpu():
        yield Wait(fault.reached)
        values.append((yield from host.store(PRIVATE)))

    return [device(), cpu()]


def copied_or_zapped(host, kind):
    """What the device has cached is copied, or unmapped up to the last page of a range."""

    def main():
        device = yield from kind.bind(host.machine, host.mm)
        yield from host.expect(device, PRIVATE, 0)
        value = yield from host.store(PRIVATE)
        yield from host.expect(device, PRIVATE, value)
        for vpn in range(ANON, ANON + 3):
            yield from host.device_store(device, vpn)
        yield from syscalls.madvise_dontneed(host.machine, host.mm, ANON, ANON + 2)
        yield from host.expect(device, ANON + 2, 0)

    return [main()]


def aged(host, kind):
    """Only the device uses a page: reclaim must hear of it once for each time it asks."""
    machine, heard = host.machine, []

    def main():
        device = yield from kind.bind(machine, host.mm)
        yield from host.device_store(device, ANON)
        page = machine.frames.pages[host.mm.tables.get(ANON) >> 10]
        for uses in (1, 1, 0):
            if uses:
                yield from host.device(device, ANON)
            host.mm.tables.set(ANON, host.mm.tables.get(ANON) & ~PTE_A)
            page.referenced = False
            heard.append(bool((yield from page_referenced(machine, page))) == bool(uses))
        host.aged = all(heard)

    return [main()]


def ended(host, kind):
    """The address space ends."""

    def main():
        device = yield from kind.bind(host.machine, host.mm)
        yield from host.device_store(device, ANON)
        yield from syscalls.exit_process(host.machine, host.mm)

    return [main()]


def two_spaces_and_one_asid(host, kind):
    """Two address spaces take turns with one asid; both have a page at the same address."""
    machine = host.machine
    other = machine.new_mm()
    other.insert(host.anonymous(other, ANON, 2))

    class Narrow(kind):
        asids = range(8, 9)

    def main():
        devices = []
        for mm in (host.mm, other):
            devices.append((yield from Narrow.bind(machine, mm)))
        for mm, device in zip((host.mm, other), devices, strict=True):
            value = yield from host.store(ANON, mm=mm)
            yield from host.expect(device, ANON, value)
        yield from host.expect(devices[0], ANON, value - 1)

    return [main()]


def in_flight(host, kind):
    """A range is unmapped while a slow access to it is under way."""
    machine = host.machine

    def main():
        device = yield from kind.bind(machine, host.mm)
        yield from host.device_store(device, ANON)
        latency = EMULATOR_REGISTERS["memory.read_latency"].address
        machine.link.csr_write(machine.sched.now, latency, 3000, emulator=True)
        transfer = yield from machine.driver.submit(0, device.handle, ANON << 12, 1, write=False)
        yield 1_500
        yield from syscalls.madvise_dontneed(machine, host.mm, ANON, ANON)
        yield from machine.driver.wait(transfer)

    return [main()]


def must_not_block(host, kind):
    """The OOM reaper opens a bracket where nobody may sleep; who refuses is not told of an end."""

    def main():
        device = yield from kind.bind(host.machine, host.mm)
        yield from host.device_store(device, ANON)
        opened = yield from host.mm.notifiers.invalidate_range_start_nonblock(ANON, ANON)
        assert not opened or kind is not Odp
        if opened:
            yield from host.mm.notifiers._deliver(Notification.RANGE_END, ANON, ANON)
        value = yield from host.store(ANON)
        yield from host.expect(device, ANON, value)

    return [main()]


def unpinned(host, kind):
    """A pinned page is unmapped, and its pin is given up for others."""

    def main():
        device = yield from kind.bind(host.machine, host.mm)
        device._most = 2
        value = yield from host.device_store(device, ANON)
        yield from syscalls.madvise_dontneed(host.machine, host.mm, ANON, ANON)
        yield from host.expect(device, ANON, value)
        for vpn in (FILE, FILE + 1, FILE + 2):
            yield from host.device_store(device, vpn)
        yield from host.expect(device, ANON, 0)

    return [main()]


FOUND_BY = {
    "kvm-no-sequence": (stale_look_up, "I4"),
    "kvm-late-snapshot": (stale_look_up, "I4"),
    "kvm-no-count": (inside_a_bracket, "I3"),
    "kvm-count-first": (as_a_bracket_closes, "I4"),
    "kvm-no-flush": (copied_or_zapped, "I4"),
    "kvm-misses-tail": (copied_or_zapped, "I1"),
    "kvm-loses-young": (aged, "I9"),
    "kvm-no-release": (ended, "I16"),
    "gru-no-range-active": (inside_a_bracket, "I3"),
    "gru-no-epoch": (stale_look_up, "I4"),
    "gru-reuses-asids": (two_spaces_and_one_asid, "I4"),
    "gru-never-wakes": (inside_a_bracket, "I22"),
    "gru-release-flag": (ended, "I16"),
    "odp-no-retry": (stale_look_up, "I4"),
    "odp-ignores-odd": (inside_a_bracket, "I3"),
    "odp-never-waits": (in_flight, "I19"),
    "odp-blocks": (must_not_block, "I12"),
    "pinned-frees-first": (unpinned, "I1"),
}
"""The race that finds each mutant, and an invariant that it breaks there."""
RACES = (
    stale_look_up,
    inside_a_bracket,
    copied_or_zapped,
    ended,
    in_flight,
    must_not_block,
)


def problems(race, kind):
    """Play a race; returns the invariants that it breaks, and what else is wrong."""
    host = DeviceHost("v6.6")
    host.aged = True
    try:
        host.run(*race(host, kind))
    except DeadlockError:
        return {"I22"}
    found = {violation.invariant for violation in host.violations()}
    if issubclass(kind, Odp):
        # Its devices have no age, so mm cannot ask them.
        found.discard("I9")
    for wrong, what in (
        (host.wrong(), "loads"),
        (host.touched(), "touches"),
        (host.slept(), "I12"),
        (not host.aged, "I9"),
    ):
        if wrong:
            found.add(what)
    return found


def test_every_mutant_has_its_race():
    assert FOUND_BY.keys() == SUBSCRIBER_MUTANTS.keys()


@pytest.mark.parametrize("kind", [Kvm, Gru, Odp, StallingOdp], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("race", RACES, ids=lambda race: race.__name__)
def test_each_kind_survives_each_race(race, kind):
    assert problems(race, kind) == set()


@pytest.mark.parametrize(
    ("race", "kind"),
    [
        (as_a_bracket_closes, Kvm),
        (aged, Kvm),
        (aged, Gru),
        (two_spaces_and_one_asid, Gru),
        (unpinned, Pinned),
    ],
)
def test_each_kind_survives_the_races_of_its_own(race, kind):
    # A pinned page stays the device's, whatever the address space shows.
    assert problems(race, kind) - ({"I4"} if kind is Pinned else set()) == set()


@pytest.mark.parametrize("name", FOUND_BY)
def test_each_mutant_is_found(name):
    race, invariant = FOUND_BY[name]
    assert invariant in problems(race, SUBSCRIBER_MUTANTS[name])
