"""Random sequences of what programs, mm and devices do: every load of a device is explained, and nothing is lost."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostmm.audit import audit
from hostmm.callers import syscalls
from hostmm.machine.locks import Signal, Wait
from hostmm.subscribers.gru import Gru
from hostmm.subscribers.kvm import Kvm
from hostmm.subscribers.odp import Odp
from hostmm.subscribers.sva import Sva, SvaA
from tests.sw.devices import ANON, FILE, PRIVATE, DeviceHost

OFFSETS = st.integers(0, 3)
PAGE = st.builds(int.__add__, st.sampled_from((ANON, FILE, PRIVATE)), OFFSETS)
DEVICE = st.lists(st.tuples(PAGE, st.booleans(), st.booleans()), min_size=1, max_size=8)
"""Accesses of a device: page, whether it writes, whether it waits for the end."""
HOST = st.lists(
    st.one_of(
        st.tuples(st.just("store"), PAGE),
        st.tuples(st.just("load"), PAGE),
        st.tuples(st.just("zap"), PAGE),
        st.tuples(st.just("evict"), PAGE),
        st.tuples(st.just("protect"), PAGE),
        st.tuples(st.just("fork"), PAGE),
        st.tuples(st.just("sync"), PAGE),
    ),
    min_size=1,
    max_size=6,
)
FEW = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Play:
    """A machine on which a program, a second CPU and one or two devices do what they are told, at once."""

    def __init__(self, policy, kinds, seed):
        self.host = DeviceHost(policy, seed=seed)
        self.kinds = kinds
        self.devices = []
        self.bound, self.ended = Signal("bound"), []

    def run(self, program, accesses):
        host = self.host
        self.ended = [Signal(f"part {index}") for index in range(1 + len(accesses))]
        parts = [self._program(program)]
        parts += [self._device(index, each) for index, each in enumerate(accesses)]
        host.run(self._main(), *(self._part(self.ended[i], part) for i, part in enumerate(parts)))

    def _main(self):
        host = self.host
        for kind in self.kinds:
            self.devices.append((yield from kind.bind(host.machine, host.mm)))
        host.machine.sched.fire(self.bound)
        for ended in self.ended:
            yield Wait(ended)
        yield from host.machine.driver.wait_below(1)
        yield from syscalls.exit_process(host.machine, host.mm)
        yield from audit(host.machine)

    def _part(self, ended, steps):
        yield Wait(self.bound)
        yield from steps
        self.host.machine.sched.fire(ended)

    def _program(self, program):
        for what, vpn in program:
            yield from getattr(self, f"_{what}")(vpn)

    def _store(self, vpn):
        yield from self.host.store(vpn)

    def _load(self, vpn):
        yield from self.host.load(vpn)

    def _zap(self, vpn):
        yield from syscalls.madvise_dontneed(self.host.machine, self.host.mm, vpn, vpn + 1)

    def _evict(self, vpn):
        yield from self.host.load(vpn)
        if self.host.mm.tables.get(vpn) & 1:
            yield from self.host.evict(vpn)

    def _protect(self, vpn):
        for write in (False, True):
            yield from syscalls.mprotect(
                self.host.machine, self.host.mm, vpn, vpn, read=True, write=write
            )

    def _fork(self, vpn):
        child = yield from syscalls.fork(self.host.machine, self.host.mm)
        yield from self.host.store(vpn)
        yield from self.host.store(vpn, mm=child)
        yield from syscalls.exit_process(self.host.machine, child)

    def _sync(self, _vpn):
        yield from syscalls.msync(self.host.machine, self.host.mm, FILE, FILE + 3)

    def _device(self, index, accesses):
        driver = self.host.machine.driver
        for vpn, write, waits in accesses:
            handle = self.devices[index].handle
            transfer = yield from driver.submit(index, handle, vpn << 12, 2, write=write)
            if waits:
                yield from driver.wait(transfer)


@pytest.mark.parametrize(
    ("policy", "kinds"),
    [
        ("v6.6", (Kvm, Gru)),
        ("v6.6", (Odp, Sva)),
        ("v4.13", (SvaA, Kvm)),
        ("v3.7", (Gru, Odp)),
        ("v2.6.27", (Kvm, Gru)),
        ("v9", (Gru, Sva)),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(k.__name__ for k in value),
)
@FEW
@given(program=HOST, first=DEVICE, second=DEVICE, seed=st.integers(0, 1000))
def test_whatever_happens_loads_are_explained_and_counts_balance(
    policy, kinds, program, first, second, seed
):
    play = Play(policy, kinds, seed)
    play.run(program, [first, second])
    # Devices without an accessed bit of their own cannot say that they used a page.
    assert [v for v in play.host.violations() if v.invariant != "I9"] == []
    assert play.host.touched() == 0
    machine = play.host.machine
    assert machine.driver.outstanding == 0
    assert all(page.pins == 0 for page in machine.frames.pages.values())
    assert len(machine.device_tables) == (Gru in kinds)
    assert {page.kind.name for page in machine.frames.pages.values()} <= {"USER", "TABLE"}
