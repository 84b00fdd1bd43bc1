"""A host with one address space, devices of any kind on it, and a record of what each load should have returned."""

import numpy as np

from hostmm.callers.cpu import access
from hostmm.callers.faults import touch
from hostmm.machine.locks import Acquire, Signal, Wait
from hostmm.machine.timeline import Row
from hostmm.mm.pagetable import pte_pfn
from hostmm.paths.try_to_unmap import try_to_unmap
from hostmm.policies import POLICIES
from secmmu.layouts import Event
from shootdown.checks import check
from shootdown.history import History
from tests.sw.hosts import Host

ANON, FILE, PRIVATE = 0x400, 0x800, 0xC00
PAGES = 8


class Slow:
    """A subscriber behind the one of interest: what it does keeps a bracket open."""

    def __init__(self, machine):
        self._sched = machine.sched
        self.started, self.go_on = Signal("bracket open"), Signal("bracket may close")

    def invalidate_range_start(self, first, last, *, callback):
        self._sched.fire(self.started)
        yield Wait(self.go_on)

    def invalidate_range_end(self, first, last, *, callback):
        yield from ()


class DeviceHost(Host):
    """Three mappings: anonymous, a shared file, a private file."""

    def __init__(self, policy, *, frames=256, seed=1):
        super().__init__(policy=POLICIES[policy], frames=frames, seed=seed)
        self.mm = self.machine.new_mm()
        self.mm.cpus = 2
        self.expected = []
        self.file = self.machine.new_file("shared")
        private = self.machine.new_file("private", tmpfs=True)
        self.vmas = [
            self.anonymous(self.mm, ANON, PAGES),
            self.mapping(self.mm, FILE, PAGES, self.file),
            self.mapping(self.mm, PRIVATE, PAGES, private, shared=False),
        ]
        for vma in self.vmas:
            self.mm.insert(vma)
            if vma.file is not None:
                vma.file.vmas.append(vma)

    def store(self, vpn, *, mm=None):
        """A CPU stores a fresh value in the first word of a page; returns the value."""
        pte = yield from touch(self.machine, mm or self.mm, vpn, write=True)
        assert pte is not None
        value = self.machine.next_version()
        self.machine.store(mm or self.mm, vpn, pte_pfn(pte) << 12, value)
        yield "cpu_access"
        return value

    def load(self, vpn):
        """A CPU loads from a page; returns whether it may."""
        return (yield from access(self.machine, self.mm, vpn, 1, write=False))

    def device(self, subscriber, vpn, *, write=False, engine=0):
        """The device accesses the first word of a page; returns the transfer once it has ended."""
        transfer = yield from self.machine.driver.submit(
            engine, subscriber.handle, vpn << 12, 1, write=write
        )
        yield from self.machine.driver.wait(transfer)
        return transfer

    def device_store(self, subscriber, vpn):
        """The device stores a fresh value, which is returned."""
        transfer = yield from self.device(subscriber, vpn, write=True)
        assert not transfer.dropped
        return transfer.data

    def expect(self, subscriber, vpn, value):
        """The device loads a page, and must find ``value`` there."""
        transfer = yield from self.device(subscriber, vpn)
        assert not transfer.dropped
        self.expected.append((transfer.tag, value))

    def evict(self, vpn):
        """Unmap a page everywhere, as reclaim does; returns whether it is unmapped."""
        machine = self.machine
        page = machine.frames.pages[pte_pfn(self.mm.tables.get(vpn))]
        machine.frames.get(page)
        yield Acquire(page.lock)
        if page.swap_slot is None and page.mapping not in machine.files:
            machine.swap.add_to_swap(page)
        yield from try_to_unmap(machine, page)
        machine.sched.release(page.lock)
        machine.frames.put(page)
        return not page.mapcount

    def loaded(self):
        """Value of every load of the devices, by tag."""
        columns = self.machine.timeline.columns()
        keep = np.flatnonzero((columns["hw"] == 1) & (columns["kind"] == Event.LOAD.value))
        return {int(columns["tag"][i]): int(columns["a"][i]) for i in keep}

    def wrong(self):
        """(tag, expected, loaded) of every load that was not as expected."""
        loaded = self.loaded()
        return [(tag, want, loaded[tag]) for tag, want in self.expected if loaded[tag] != want]

    def violations(self):
        """What the checks find, as names of invariants; what a policy is known for is left out."""
        history = History(self.machine.timeline, self.machine.policy)
        return [v for v in check(history) if not v.expected]

    def touched(self):
        """Records of the frame sanitizer."""
        columns = self.machine.timeline.columns()
        return int(((columns["hw"] == 1) & (columns["kind"] == Event.VIOLATION.value)).sum())

    def slept(self):
        """Places where somebody slept who must not."""
        return self.rows(Row.SLEEP_IN_ATOMIC)
