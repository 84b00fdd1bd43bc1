"""The driver: limits of the hardware's queues, tags, faults of the device, and the end of a context."""

import pytest

from hostmm.audit import audit
from hostmm.callers.faults import touch
from hostmm.driver.driver import Driver
from hostmm.errors import HostError
from hostmm.machine.locks import Acquire
from hostmm.machine.timeline import CommandFlag, Row
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_R, PTE_W, make_pte, pte_pfn
from hostmm.paths.page_mkclean import page_mkclean
from hostmm.subscribers.sva import Sva
from secmmu.csr import EMULATOR_REGISTERS
from secmmu.layouts import CommandKind, Event, FrameKind
from tests.sw.hosts import Host

VPN = 0x400


class Device:
    """A host with one address space that the device is bound to."""

    def __init__(self, *, pages=8, file=None, write=True, **limits):
        self.host = Host()
        self.machine = self.host.machine
        self.driver = Driver(self.machine, **limits)
        self.mm = self.machine.new_mm()
        if file is None:
            vma = self.host.anonymous(self.mm, VPN, pages, write=write)
        else:
            self.file = self.machine.new_file("f", tmpfs=file == "tmpfs")
            vma = self.host.mapping(self.mm, VPN, pages, self.file)
            self.file.vmas.append(vma)
        self.mm.insert(vma)

    def run(self, *threads):
        """Bind, run the threads one after another, audit."""

        def main():
            yield from Sva.bind(self.machine, self.mm)
            for thread in threads:
                yield from thread
            yield from self.driver.wait_below(1)
            yield from audit(self.machine)

        self.host.run(main())

    def access(self, *, vpn=VPN, write=False, beats=2, engine=0):
        """Submit one burst and wait for it; returns it."""
        transfer = yield from self.driver.submit(
            engine, self.mm.number, vpn << 12, beats, write=write
        )
        yield from self.driver.wait(transfer)
        return transfer

    def records(self, kind):
        """Hardware records of a kind: (cycle, tag)."""
        columns = self.machine.timeline.columns()
        keep = (columns["hw"] == 1) & (columns["kind"] == kind.value)
        return list(zip(columns["cycle"][keep], columns["tag"][keep], strict=True))


def test_a_write_stores_a_version_of_its_own_and_faults_the_page_in():
    device, done = Device(), []

    def main():
        done.append((yield from device.access(write=True, beats=3)))

    device.run(main())
    address = device.host.translate(device.mm, VPN)
    assert [device.host.word(address + 8 * i) for i in range(3)] == [
        done[0].data + i for i in range(3)
    ]
    assert [row["tag"] for row in device.host.rows(Row.FAULT_BEGIN)] == [1]
    assert len(device.host.rows(Row.DMA_SUBMIT)) == 2
    assert not device.records(Event.VIOLATION)


@pytest.mark.parametrize("lost", [PTE_A, PTE_D, PTE_W | PTE_D])
def test_a_write_makes_progress_past_an_entry_that_lacks_the_right(lost):
    """The MMU holds an entry read before the upgrade, of which nobody is notified."""
    device = Device(file="disk")

    def weaken():
        device.mm.tables.set(VPN, device.mm.tables.get(VPN) & ~lost)
        yield from device.driver.invalidate(device.mm.number, VPN, VPN)

    device.run(
        device.access(),
        weaken(),
        device.access(write=lost == PTE_A),
        device.access(write=True),
    )
    assert not device.host.rows(Row.DMA_DROP)
    assert device.mm.tables.get(VPN) & (PTE_W | PTE_D) == PTE_W | PTE_D


def test_a_dirty_page_cleaned_for_writeback_is_written_again_after_a_fault():
    device = Device(file="disk")

    def clean():
        page = device.file.pages[0]
        yield Acquire(page.lock)
        yield from page_mkclean(device.machine, page)
        device.machine.sched.release(page.lock)

    device.run(device.access(write=True), clean(), device.access(write=True))
    assert device.file.pages[0].dirty
    assert not device.records(Event.VIOLATION)


def test_an_access_that_may_not_be_is_dropped():
    device, done = Device(write=False), []

    def main():
        done.append((yield from device.access(vpn=VPN + 100)))
        done.append((yield from device.access(write=True)))
        done.append((yield from device.access()))

    device.run(main())
    assert [transfer.dropped for transfer in done] == [True, True, False]
    assert [row["vpn"] for row in device.host.rows(Row.DMA_DROP)] == [VPN + 100, VPN]


def test_the_engines_queues_and_the_bursts_tags_stay_within_their_limits():
    device = Device(descriptors=4)

    def main():
        yield from touch(device.machine, device.mm, VPN, write=True)
        for index in range(40):
            yield from device.driver.submit(index & 1, 1, VPN << 12, 16, write=bool(index & 2))
        assert device.driver.outstanding > 4

    device.run(main())
    submits = [(row["cycle"], 1, row["tag"]) for row in device.host.rows(Row.DMA_SUBMIT)]
    ends = [(cycle, 0, tag) for cycle, tag in device.records(Event.DMA_DONE)]
    assert len(submits) == len(ends) == 40
    queued, most = set(), 0
    for _, begins, tag in sorted(submits + ends):
        if begins:
            assert tag not in queued
            queued.add(tag)
        else:
            queued.remove(tag)
        most = max(most, len(queued))
    assert most <= 8
    assert device.driver.outstanding == 0


def test_the_command_port_never_gets_more_than_it_holds():
    device = Device(commands=2)

    def one(vpn):
        yield from device.driver.invalidate(device.mm.number, vpn, vpn)

    def spawn():
        for vpn in range(VPN, VPN + 12):
            device.machine.sched.spawn("cpu", one(vpn))
        yield 50_000

    device.run(spawn())
    events = [(row["cycle"], 1) for row in device.host.rows(Row.INV_ISSUE)]
    events += [(cycle, -1) for cycle, _ in device.records(Event.DRAINED)]
    undrained = most = 0
    for _, change in sorted(events):
        undrained += change
        most = max(most, undrained)
    assert len(events) == 24
    assert most == 2
    assert device.machine.sched.stops == {Event.FAULT, Event.REFUSED, Event.TIMED_OUT}


def test_a_hold_keeps_the_device_out_until_it_is_released():
    device, ends = Device(), []

    def main():
        yield from touch(device.machine, device.mm, VPN, write=True)
        yield from device.driver.invalidate(1, VPN, VPN + 3, hold=True)
        transfer = yield from device.driver.submit(0, 1, VPN << 12, 1, write=False)
        yield 30_000
        ends.append(transfer.done.fired)
        yield from device.driver.unhold(1, VPN, VPN + 3)
        yield from device.driver.wait(transfer)
        ends.append(transfer.dropped)

    device.run(main())
    assert ends == [False, False]


def test_release_freezes_the_device_and_what_waits_is_dropped():
    device, transfers = Device(), []

    def main():
        yield from touch(device.machine, device.mm, VPN, write=True)
        for _ in range(4):
            yield from device.driver.submit(0, 1, VPN << 12, 8, write=True)
        yield from device.mm.notifiers.release()
        transfers.append((yield from device.access()))

    page = []

    def remember():
        yield from touch(device.machine, device.mm, VPN, write=True)
        page.append(device.machine.frames.pages[pte_pfn(device.mm.tables.get(VPN))])

    device.run(remember(), main())
    assert transfers[-1].dropped
    assert page[0].read_rights == page[0].write_rights == 0
    assert device.driver.contexts.of_asid(1) is None
    kinds = [row["a"] for row in device.host.rows(Row.INV_ISSUE)]
    assert len(kinds) == 2
    assert not device.records(Event.VIOLATION)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9, 1, 0, 1), "engine must be from 0 to 1, not 9"),
        ((0, 1, 0, 0), "a burst of 0 words at 0x0"),
        ((0, 1, 0, 17), "a burst of 17 words"),
        ((0, 1, 4, 1), "at 0x4"),
        ((0, 1, 4088, 2), "does not lie inside a page"),
    ],
)
def test_a_burst_that_cannot_be_is_refused(arguments, message):
    device = Device()
    with pytest.raises(HostError, match=message):
        next(device.driver.submit(*arguments, write=False))


def test_an_empty_range_is_a_bug_of_the_host():
    device = Device()
    with pytest.raises(HostError, match="the MMU refused command 0"):
        device.run(device.driver.commands.send(CommandKind.RANGE, asid=1, first=5, last=4))


def test_an_address_space_gets_its_number_as_asid_where_it_can_and_there_are_fifteen():
    device, asids = Device(), []

    def main():
        for _ in range(15):
            subscriber = yield from Sva.bind(device.machine, device.mm)
            asids.append(subscriber.context.asid)
        yield from Sva.bind(device.machine, device.machine.new_mm())

    with pytest.raises(HostError, match="no more than 15 asids"):
        device.host.run(main())
    assert asids == list(range(1, 16))


def test_the_device_is_given_an_address_space_and_loses_it():
    """Rows of the timeline, where the register is written."""
    device = Device()

    def main():
        subscriber = yield from Sva.bind(device.machine, device.mm)
        yield from device.driver.detach(subscriber.context)

    device.host.run(main())
    rows = device.host.rows(Row.CONTEXT)
    asid = device.mm.number
    assert [(row["mm"], row["a"], row["tag"]) for row in rows] == [(asid, asid, 1), (asid, asid, 0)]
    assert [row["pfn"] for row in rows] == [device.mm.tables.root, -1]


class Stalling(Sva):
    """Has the MMU keep what faults, and answers with a drop-in or not at all."""

    answers: "list[bool]"

    def start(self):
        self.context = yield from self._driver.attach(self._mm, self, root=self.root, stall=True)
        self._asid = self.context.asid

    def fault(self, fault):
        self.answers.append((yield from self._driver.drop_in(fault, self.pte)))
        return self.answers[-1]


def test_a_stalled_fault_is_answered_with_a_drop_in_and_a_retry_or_an_abort():
    device, young = Device(), []
    frames = device.machine.frames
    page, root = frames.alloc(FrameKind.USER), frames.alloc(FrameKind.TABLE)
    frames.tag(page)
    device.machine.link.fill(0, root.address, 0, 512)

    def main():
        subscriber = yield from bind
        for pte in (make_pte(page.pfn, PTE_R | PTE_A), 0):
            Stalling.pte = pte
            transfer = yield from device.access(vpn=VPN + (not pte))
            young.append((yield from device.driver.young(1, VPN)))
            done.append(transfer)
        yield from device.driver.change(subscriber.context, root=device.mm.tables.root, stall=False)

    done = []
    Stalling.answers, Stalling.root = [], root.pfn
    page.read_rights = 1 << device.mm.number
    bind = Stalling.bind(device.machine, device.mm)
    device.host.run(main())
    assert Stalling.answers == [True, False]
    assert [transfer.dropped for transfer in done] == [False, True]
    assert young == [1, 0]
    assert [row["a"] for row in device.host.rows(Row.RESUME)] == [1, 0]
    assert len(device.host.rows(Row.DROP_IN)) == 2


def test_a_command_that_gives_up_is_not_taken_for_done():
    device, ends = Device(), []

    def main():
        yield from touch(device.machine, device.mm, VPN, write=True)
        yield from device.access()
        yield from device.driver.set_timeout(100)
        latency = EMULATOR_REGISTERS["memory.read_latency"].address
        device.machine.link.csr_write(device.machine.sched.now, latency, 2000, emulator=True)
        transfer = yield from device.driver.submit(0, 1, VPN << 12, 1, write=False)
        yield 600
        yield from device.driver.invalidate(1, VPN, VPN, hold=True)
        ends.append(transfer.done.fired)
        yield from device.driver.unhold(1, VPN, VPN)
        # The address space stays fenced off: what a device does there from now on fails.
        ends.append((yield from device.access()).dropped)

    device.run(main())
    assert ends == [True, True]
    assert len(device.records(Event.TIMED_OUT)) > 1
    ((use_end, _),) = device.records(Event.USE_END)[-1:]
    ((drained, _),) = [row for row in device.records(Event.DRAINED) if row[0] >= use_end][:1]
    assert drained >= use_end
    flags = [row["c"] for row in device.host.rows(Row.INV_ISSUE)]
    assert sum(bool(flag & CommandFlag.HOLD) for flag in flags) == 1
