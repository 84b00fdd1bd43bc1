"""Every kind of subscriber under every policy that it can live with: the device sees what the address space shows."""

import pytest

from hostmm.audit import audit
from hostmm.callers import syscalls
from hostmm.paths.page_referenced import page_referenced
from hostmm.policies import POLICIES
from hostmm.subscribers.kinds import SUBSCRIBERS
from tests.sw.devices import ANON, FILE, PAGES, PRIVATE, DeviceHost

SLEEPY = ("v3.7", "v4.13", "v6.6")
FITTING = {
    "sva": tuple(POLICIES),
    "sva-a": ("v4.13", "v6.6"),
    "gru": tuple(POLICIES),
    "kvm": tuple(POLICIES),
    "odp": SLEEPY,
    "odp-stall": ("v6.6",),
}
"""Policies under which a kind keeps its promises: those that call what it relies on, where it may do what it does."""


@pytest.mark.parametrize(
    ("kind", "policy"), [(kind, policy) for kind, names in FITTING.items() for policy in names]
)
def test_the_device_follows_every_change(kind, policy):
    host = DeviceHost(policy)
    machine, mm = host.machine, host.mm

    def main():
        device = yield from SUBSCRIBERS[kind].bind(machine, mm)
        yield from _share(host, device)
        yield from _copy_on_write(host, device)
        child = yield from syscalls.fork(machine, mm)
        for vpn in (ANON, ANON + 1):
            value = yield from host.store(vpn)
            yield from host.store(vpn, mm=child)
            yield from host.expect(device, vpn, value)
        yield from _unmap(host, device)
        yield from syscalls.exit_process(machine, child)
        yield from syscalls.exit_process(machine, mm)
        assert (yield from host.device(device, ANON)).dropped
        yield from audit(machine)

    host.run(main())
    assert host.wrong() == []
    assert len(host.expected) == 19
    found = {violation.invariant for violation in host.violations()}
    assert found <= ({"I9"} if kind.startswith("odp") else set()), "interval notifiers know no age"
    assert host.touched() == 0
    assert host.slept() == []
    assert not machine.device_tables or kind == "gru"


def _share(host, device):
    """CPU and device write in turn, and read each other's; a page is cleaned in between."""
    for vpn in (ANON, ANON + 1, FILE, FILE + 1):
        value = yield from host.store(vpn)
        yield from host.expect(device, vpn, value)
        value = yield from host.device_store(device, vpn)
        yield from host.expect(device, vpn, value)
    yield from syscalls.msync(host.machine, host.mm, FILE, FILE + 1)
    assert not host.file.pages[0].dirty
    value = yield from host.device_store(device, FILE)
    yield from host.expect(device, FILE, value)
    assert host.file.pages[0].dirty, "a write behind the cleaning must fault"


def _copy_on_write(host, device):
    for vpn in (PRIVATE, PRIVATE + 1):
        yield from host.expect(device, vpn, 0)
        value = yield from host.store(vpn)
        yield from host.expect(device, vpn, value)
        assert host.file.pages
    assert not (yield from host.device(device, PRIVATE + 2, write=True)).dropped


def _unmap(host, device):
    """Reclaim, rights, zap, move, unmap."""
    machine, mm = host.machine, host.mm
    value = yield from host.device_store(device, ANON + 2)
    page = machine.frames.pages[mm.tables.get(ANON + 2) >> 10]
    yield from page_referenced(machine, page)
    yield from host.evict(ANON + 2)
    yield from host.expect(device, ANON + 2, value)
    yield from syscalls.mprotect(machine, mm, ANON, ANON + 3, read=True, write=False)
    assert (yield from host.device(device, ANON, write=True)).dropped
    yield from host.expect(device, ANON + 2, value)
    yield from syscalls.mprotect(machine, mm, ANON, ANON + 3, read=True, write=True)
    value = yield from host.device_store(device, ANON)
    yield from syscalls.mremap(machine, mm, ANON, PAGES, ANON + 0x40, PAGES)
    assert (yield from host.device(device, ANON)).dropped
    yield from host.expect(device, ANON + 0x40, value)
    yield from syscalls.madvise_dontneed(machine, mm, ANON + 0x40, ANON + 0x41)
    yield from host.expect(device, ANON + 0x40, 0)
    yield from syscalls.munmap(machine, mm, FILE, FILE + PAGES - 1)
    assert (yield from host.device(device, FILE)).dropped
