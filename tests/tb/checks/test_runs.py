"""The checks on real runs on the model: each fault of host, driver or device is found, and its correct twin is not."""

from collections.abc import Callable, Iterator

import pytest

from hostmm.callers import syscalls
from hostmm.machine.locks import Acquire, Signal, Wait
from hostmm.machine.scheduler import Gate, Steps
from hostmm.mm.frames import PAGE_BYTES, Page
from hostmm.mm.pages import clear_page_dirty
from hostmm.mm.pagetable import PTE_A, pte_pfn
from hostmm.notifier import NotifierChain
from hostmm.paths import try_to_unmap as unmapping
from hostmm.paths.migrate import migrate_page
from hostmm.paths.page_mkclean import page_mkclean
from hostmm.paths.page_referenced import page_referenced
from hostmm.subscribers.kinds import SUBSCRIBERS
from hostmm.subscribers.sva import Sva
from secmmu.layouts import Event
from shootdown.checks import check, examined
from shootdown.history import History
from shootdown.run.config import MODEL, RunConfig
from shootdown.run.runs import perform_on_model
from tests.sw.devices import ANON, FILE, PAGES, DeviceHost

Story = Callable[[DeviceHost, Sva], Steps]


def found(
    policy: str, story: Story, subscriber: type = Sva, *, frames: int = 256
) -> tuple[set[tuple[str, bool]], History]:
    """Play a story with a device bound; returns (invariant, expected) of what the checks find."""
    host = DeviceHost(policy, frames=frames)

    def main() -> Steps:
        device = yield from subscriber.bind(host.machine, host.mm)
        yield from story(host, device)
        yield from host.machine.driver.wait_below(1)

    host.run(main())
    history = History(host.machine.timeline, host.machine.policy)
    return {(v.invariant, v.expected) for v in check(history)}, history


def locked(host: DeviceHost, vpn: int, work: Callable[..., Steps]) -> Steps:
    """Do something to the page behind an address, under its lock."""
    page: Page = host.machine.frames.pages[pte_pfn(host.mm.tables.get(vpn))]
    host.machine.frames.get(page)
    yield from _with_lock(host, page, work)
    host.machine.frames.put(page)


def _with_lock(host: DeviceHost, page: Page, work: Callable[..., Steps]) -> Steps:
    yield Acquire(page.lock)
    yield from work(host.machine, page)
    host.machine.sched.release(page.lock)


# --- litmus test L2 ------------------------------------------------------------------------------------


def test_order_of_two_locations() -> None:
    """I5, by litmus test L2: kept under v9, broken as expected under the seed, which I4 is beside it."""
    for policy, broken in (("v9", False), ("seed", True)):
        outcome = perform_on_model(RunConfig(policy=policy, scenario="L2", simulator=MODEL))
        seen = {(v.invariant, v.expected) for v in outcome.run.violations}
        assert seen == ({("I4", True), ("I5", True)} if broken else set())
        assert outcome.examined["I5"] > 0


# --- faults of mm --------------------------------------------------------------------------------------


def evict_written(host: DeviceHost, device: Sva) -> Steps:
    """The device writes a page of a shared file, which is then taken for clean; reclaim unmaps it."""
    yield from host.device_store(device, FILE)
    clear_page_dirty(host.machine, host.file.pages[0])
    # The first time it was young.
    assert not (yield from host.evict(FILE))
    assert (yield from host.evict(FILE))


def test_dirty_dropped_with_the_pte(monkeypatch: pytest.MonkeyPatch) -> None:
    """I8: try_to_unmap_one forgets set_page_dirty (B24)."""
    assert found("v9", evict_written)[0] == set()
    monkeypatch.setattr(unmapping, "set_page_dirty", lambda machine, page: None)
    seen, history = found("v9", evict_written)
    assert seen == {("I8", False)}
    assert examined(history)["I8"] >= 1


def used_after_the_look(host: DeviceHost, device: Sva) -> Steps:
    """Reclaim looks, the device uses the page, reclaim unmaps it, or not."""
    yield from host.store(ANON)
    yield from locked(host, ANON, page_referenced)
    yield from host.device(device, ANON)
    yield from host.evict(ANON)


def test_used_since_reclaim_looked() -> None:
    """I9 (S4): the seed does not look again; v9 does, and keeps the page."""
    assert found("v9", used_after_the_look)[0] == set()
    assert found("seed", used_after_the_look)[0] == {("I9", True)}
    assert found("v6.6", used_after_the_look)[0] == {("I9", True)}
    assert found("v2.6.27", used_after_the_look)[0] == set()


class Deaf(Sva):
    """Does nothing when a page is taken away."""

    def invalidate_page(self, address: int, *, callback: int) -> Steps:
        """Return at once."""
        yield from ()


def write_behind_cleaning(host: DeviceHost, device: Sva) -> Steps:
    """The page is cleaned between two writes of the device."""
    yield from host.device_store(device, FILE)
    yield from locked(host, FILE, page_mkclean)
    yield from host.device(device, FILE, write=True)


def test_write_through_a_right_that_is_gone() -> None:
    """I10: seen by the timeline and by the frame sanitizer, which agree."""
    assert found("v9", write_behind_cleaning)[0] == set()
    seen, history = found("v9", write_behind_cleaning, Deaf)
    assert ("I10", False) in seen
    whats = [v.what for v in check(history) if v.invariant == "I10"]
    assert any("had returned" in what for what in whats)
    assert any("no longer its own" in what for what in whats)
    assert not any("did not (" in what for what in whats)


def test_sleeping_where_nobody_may() -> None:
    """I12: a subscriber that sleeps, under v9 and under 3.7."""
    assert ("I12", True) in found("v9", protect, SUBSCRIBERS["odp"])[0]
    assert found("v3.7", protect, SUBSCRIBERS["odp"])[0] == set()


def test_fork_that_runs_out_of_memory() -> None:
    """I13 (B7): 2.6.25 returns without range end, 2.6.27 does not."""

    def story(host: DeviceHost, device: Sva) -> Steps:
        yield from host.store(ANON)
        host.machine.reclaim.tables_left = 0
        assert (yield from syscalls.fork(host.machine, host.mm)) is None

    assert found("v9", story)[0] == {("I13", True)}
    assert found("v2.6.27", story)[0] == set()


# --- registration --------------------------------------------------------------------------------------


def registered_inside(policy: str) -> set[tuple[str, bool]]:
    """Munmap is stopped behind its range start while a second device is bound and reads the page."""
    host = DeviceHost(policy)
    machine, mm = host.machine, host.mm
    gate = Gate("thread0", "unmap_region", "pte_clear", Signal("stopped"), Signal("goes on"))
    machine.sched.gates.append(gate)

    def unmap() -> Steps:
        yield from host.store(ANON)
        yield from syscalls.munmap(machine, mm, ANON, ANON)

    def late() -> Steps:
        yield Wait(gate.reached)
        opener = machine.sched.spawn("opener", open_gate())
        device = yield from Sva.bind(machine, mm)
        if not gate.opened.fired:
            yield from host.device(device, ANON)
            machine.sched.fire(gate.opened)
        yield Wait(opener.done)

    def open_gate() -> Steps:
        """Let munmap go on when the registration waits for its locks."""
        yield 50_000
        if not gate.opened.fired:
            machine.sched.fire(gate.opened)

    host.run(unmap(), late())
    history = History(machine.timeline, machine.policy)
    return {(v.invariant, v.expected) for v in check(history)}


def test_registered_between_start_and_end() -> None:
    """I14: who takes no locks can be registered there, and then maps what is about to go; 2.6.27 waits."""
    seen = registered_inside("v9")
    assert ("I14", True) in seen
    assert registered_inside("v2.6.27") == set()


class Slow(Sva):
    """Takes its time in a range start."""

    def invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Invalidate, then think about it."""
        yield from super().invalidate_range_start(first, last, callback=callback)
        yield 30_000


def unregistered_meanwhile() -> set[tuple[str, bool]]:
    """One thread unbinds the device while another one is in its range start."""
    host = DeviceHost("v3.7")
    machine, mm = host.machine, host.mm
    bound = Signal("bound")
    devices: list[Sva] = []

    def change() -> Steps:
        devices.append((yield from Slow.bind(machine, mm)))
        yield from host.store(ANON)
        machine.sched.fire(bound)
        yield from syscalls.madvise_dontneed(machine, mm, ANON, ANON)

    def leave() -> Steps:
        yield Wait(bound)
        yield 5_000
        yield from devices[0].unbind()

    host.run(change(), leave())
    history = History(machine.timeline, machine.policy)
    assert examined(history)["I15"] == 1
    return {(v.invariant, v.expected) for v in check(history)}


def test_unregistered_while_a_callback_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """I15 (B5): without waiting for the walks of the chain, its memory would be freed under the callback."""
    assert unregistered_meanwhile() == set()

    def nothing(chain: NotifierChain) -> Iterator[object]:
        return iter(())

    monkeypatch.setattr(NotifierChain, "_synchronize", nothing)
    assert ("I15", False) in unregistered_meanwhile()


class Parting(Sva):
    """Takes its time before it releases the device."""

    def release(self, *, callback: int) -> Steps:
        """Think about it, then release."""
        yield 30_000
        yield from super().release(callback=callback)


def left_at_the_end(policy: str) -> set[tuple[str, bool]]:
    """A driver unbinds its device, and the address space ends while it does."""
    host = DeviceHost(policy)
    machine, mm = host.machine, host.mm

    def main() -> Steps:
        device = yield from Parting.bind(machine, mm)
        yield from host.store(ANON)
        yield from host.device(device, ANON)
        leaver = machine.sched.spawn("leaver", device.unbind())
        yield 5_000
        yield from syscalls.exit_process(machine, mm)
        yield Wait(leaver.done)

    host.run(main())
    history = History(machine.timeline, machine.policy)
    return {(v.invariant, v.expected) for v in check(history)}


@pytest.mark.parametrize("policy", ["v9", "seed", "v2.6.27", "v3.7", "v6.6"])
def test_the_end_waits_for_a_release_that_a_driver_has_begun(policy: str) -> None:
    """I15 to I17: from 2.6.27 on; before that it frees what the device still has, which is known of those."""
    seen = left_at_the_end(policy)
    if policy in ("v9", "seed"):
        assert {("I1", True), ("I15", True), ("I16", True), ("I17", True)} <= seen
        assert all(expected for _, expected in seen)
    else:
        assert seen == set()


# --- the device's side ---------------------------------------------------------------------------------


def test_page_tables_freed_under_the_device() -> None:
    """I17: the timeline misses a command, the frame sanitizer sees the walker in freed frames."""

    def story(host: DeviceHost, device: Sva) -> Steps:
        yield from host.store(ANON)
        yield from host.device(device, ANON)
        yield from syscalls.exit_process(host.machine, host.mm)

    def broken(host: DeviceHost, device: Sva) -> Steps:
        yield from host.store(ANON)
        yield from host.device(device, ANON)
        # What exit does behind the release, without the release.
        host.mm.tables.free_tables()
        yield from host.machine.driver.invalidate(device.context.asid, ANON, ANON)
        yield from host.machine.driver.submit(0, device.handle, ANON << 12, 1, write=False)
        yield 2_000

    seen, history = found("v9", story)
    assert seen == set()
    assert examined(history)["I17"] > len(history.walks)
    _, history = found("v9", broken)
    whats = [v.what for v in check(history) if v.invariant == "I17"]
    assert any("no command had taken it from the walk cache" in what for what in whats)
    assert any("the walker read frame" in what for what in whats)


class Short(Sva):
    """Leaves the last page of a range out."""

    def _invalidate(self, first: int, last: int, *, hold: bool, callback: int) -> Steps:
        yield from super()._invalidate(first, max(first, last - 1), hold=False, callback=callback)

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """Nothing is held."""
        yield from ()


def protect(host: DeviceHost, device: Sva) -> Steps:
    """Four pages that the device uses become read-only."""
    for vpn in range(ANON, ANON + 4):
        yield from host.device_store(device, vpn)
    yield from syscalls.mprotect(host.machine, host.mm, ANON, ANON + 3, read=True, write=False)


def test_a_tail_is_left_out() -> None:
    """I18 (B41): an entry is left, and the command was short."""
    assert found("v9", protect)[0] == set()
    seen, history = found("v9", protect, Short)
    assert ("I18", False) in seen
    whats = [v.what for v in check(history) if v.invariant == "I18"]
    assert any("leave out page 0x403" in what for what in whats)
    assert any("for page 0x403 valid" in what for what in whats)


class Forgetful(Sva):
    """Clears the accessed bit whenever it is told of a page."""

    def invalidate_page(self, address: int, *, callback: int) -> Steps:
        """Invalidate, and lose what nobody asked for."""
        yield from super().invalidate_page(address, callback=callback)
        vpn = address // PAGE_BYTES
        self._mm.tables.set(vpn, self._mm.tables.get(vpn) & ~PTE_A)


def told_for_nothing(host: DeviceHost, device: Sva) -> Steps:
    """The device is told of a page that did not change, twice."""
    yield from host.device_store(device, ANON)
    for _ in range(2):
        yield from host.mm.notifiers.invalidate_page(ANON)
    yield from host.device(device, ANON)


def test_an_invalidation_too_many() -> None:
    """I21: it costs a walk; what it must not cost is the accessed bit."""
    seen, history = found("v9", told_for_nothing)
    assert seen == set()
    assert examined(history)["I21"] >= 1
    assert found("v9", told_for_nothing, Forgetful)[0] == {("I21", False)}


class PageByPage(Sva):
    """Sends a command for each page of a range, a hundred times over (B31)."""

    def invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Invalidate page by page."""
        for vpn in list(range(first, last + 1)) * 100:
            yield from self._invalidate(vpn, vpn, hold=False, callback=callback)

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """Nothing is held."""
        yield from ()


def test_commands_page_by_page() -> None:
    """I22."""

    def story(host: DeviceHost, device: Sva) -> Steps:
        yield from host.store(ANON)
        yield from syscalls.madvise_dontneed(host.machine, host.mm, ANON, ANON + PAGES - 1)

    assert found("v9", story)[0] == set()
    assert found("v9", story, PageByPage)[0] == {("I22", False)}


@pytest.mark.parametrize("flushes", [True, False])
def test_an_asid_is_used_again(flushes: bool) -> None:
    """I23: without a flush the next address space finds the entries of the one before."""
    host = DeviceHost("v9")
    machine, driver = host.machine, host.machine.driver
    other = machine.new_mm()
    other.insert(host.anonymous(other, ANON, PAGES))

    def main() -> Steps:
        device = yield from Sva.bind(machine, host.mm)
        yield from host.store(ANON)
        yield from host.device(device, ANON)
        asid = device.context.asid
        assert asid is not None
        if flushes:
            yield from driver.detach(device.context)
        else:
            driver.unload(device.context)
        yield 1_000
        context = driver.contexts.open(other, device, follows=True)
        yield from driver.load(context, asid, root=other.tables.root, stall=False)
        yield 1_000

    host.run(main())
    history = History(machine.timeline, machine.policy)
    seen = {v.invariant for v in check(history)}
    assert ("I23" in seen) is not flushes
    assert examined(history)["I23"] == 1


def migrate(host: DeviceHost, device: Sva) -> Steps:
    """A page moves while the device writes to it all the time."""
    yield from host.device_store(device, ANON)
    driver = host.machine.driver

    def writer() -> Steps:
        for _ in range(300):
            yield from driver.submit(0, device.handle, ANON << 12, 8, write=True)
            yield from driver.wait_below(4)

    host.machine.sched.spawn("writer", writer())
    yield 3_000
    page = host.machine.frames.pages[pte_pfn(host.mm.tables.get(ANON))]
    yield from migrate_page(host.machine, page)


def test_migration_under_a_writing_device() -> None:
    """I25: copied behind the last write; a deaf device goes on writing to the old page."""
    seen, history = found("v9", migrate)
    assert seen == set()
    assert examined(history)["I25"] == 1
    assert ("I25", False) in found("v9", migrate, Deaf)[0]


def test_a_page_that_moves() -> None:
    """I26 (B21): 3.7 flushes the CPUs' TLBs when the locks are long dropped."""

    def story(host: DeviceHost, device: Sva) -> Steps:
        yield from host.store(ANON)
        yield from host.device(device, ANON)
        yield from syscalls.mremap(host.machine, host.mm, ANON, PAGES, 0x2000, PAGES)

    for policy, broken in (("v9", False), ("v3.7", True), ("v4.13", False), ("v6.6", False)):
        seen, history = found(policy, story)
        assert seen == ({("I26", True)} if broken else set())
        assert examined(history)["I26"] == 1


def test_nothing_is_reported_without_a_device() -> None:
    """No subscriber, no callback, no violation."""
    host = DeviceHost("v6.6")

    def main() -> Steps:
        yield from host.store(ANON)
        yield from syscalls.munmap(host.machine, host.mm, ANON, ANON + 1)

    host.run(main())
    history = History(host.machine.timeline, host.machine.policy)
    assert check(history) == []
    assert len(history.rows.of(Event.WALK.value)) == 0
