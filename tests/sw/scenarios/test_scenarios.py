"""Directed scenarios on the model, and the host mutants."""

from functools import partial

import numpy as np
import pytest

from hostmm.audit import audit
from hostmm.callers.faults import touch
from hostmm.callers.syscalls import munmap
from hostmm.driver.pack import field_of
from hostmm.errors import HostError
from hostmm.machine.locks import Signal, Wait
from hostmm.machine.timeline import Row
from hostmm.mutants import HOST_MUTANTS, apply
from hostmm.policies import POLICIES, V9
from hostmm.scenarios import ALLOWED, FORBIDDEN, SCENARIOS
from hostmm.scenarios.base import LoadScenario
from hostmm.scenarios.litmus import Litmus
from hostmm.subscribers.sva import Sva
from secmmu.csr import EMULATOR_REGISTERS
from secmmu.layouts import AccessArg, Event, LoadArg, Verdict
from tests.sw.hosts import Host

VPN = 0x400
PAGES = 4
DEBATED = ("v9", "seed")
PROGRAMS = [name for name, s in SCENARIOS.items() if not isinstance(s, Litmus)]
"""The scenarios that are no litmus tests, which have a test of their own (tests/tb/test_litmus.py)."""
DECIDED_BY_A_LOAD = [name for name, s in SCENARIOS.items() if isinstance(s, LoadScenario)]


@pytest.mark.parametrize(
    ("policy", "seed"),
    [(policy, seed) for policy in POLICIES for seed in range(1, 6 if policy in DEBATED else 2)],
)
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_policy_shows_what_the_contract_predicts(name, policy, seed):
    scenario = SCENARIOS[name]
    host = Host(policy=POLICIES[policy], seed=seed, frames=scenario.frames)
    scenario.build(host.machine, Sva.bind)
    host.run()
    shown = scenario.outcome(host.machine.timeline.columns())
    assert shown.outcome == scenario.expected(policy), hex(shown.value)
    host.run(audit(host.machine))


@pytest.mark.parametrize("name", DECIDED_BY_A_LOAD)
def test_an_outcome_needs_a_load_of_a_value_that_somebody_stored(name):
    columns = {"hw": np.array([1]), "kind": np.array([Event.LOAD.value]), "a": np.array([99])}
    with pytest.raises(HostError, match="loaded 0x63, which nobody stored"):
        SCENARIOS[name].outcome(columns)
    with pytest.raises(HostError, match="loaded nothing"):
        SCENARIOS[name].outcome({key: column[:0] for key, column in columns.items()})


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] if name == "storm" else [])
        for name in ("L1", *PROGRAMS)
    ],
)
def test_the_same_seed_gives_the_same_timeline_and_another_seed_another(name):
    def run(seed):
        host = Host(policy=POLICIES["seed"], seed=seed, frames=SCENARIOS[name].frames)
        SCENARIOS[name].build(host.machine, Sva.bind)
        host.run()
        columns = host.machine.timeline.columns()
        return b"".join(columns[key].tobytes() for key in sorted(columns))

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_the_storm_is_decided_by_touches_and_by_what_strangers_stored():
    def outcome(*rows):
        names = ("hw", "kind", "mm", "span", "a", "b")
        columns = {name: np.array([row[i] for row in rows]) for i, name in enumerate(names)}
        return SCENARIOS["storm"].outcome(columns)

    store = (0, Row.STORE, 2, 0, 0, 77)
    load = partial(_load_row, kind=Event.LOAD.value)
    assert outcome(store, load(asid=2, word=77)).outcome == ALLOWED
    assert outcome(store, load(asid=1, word=78)).outcome == ALLOWED
    assert outcome(store, load(asid=1, word=77)).outcome == FORBIDDEN
    forked = (0, Row.STORE, 9, 0, 0, 77)
    assert outcome(forked, load(asid=1, word=77)).outcome == ALLOWED
    touch = (1, Event.VIOLATION.value, 0, 0, 0, 0)
    assert outcome(store, touch, touch).value == 2


def _load_row(*, kind, asid, word):
    arg = LoadArg().const({"asid": asid, "count": 1}).as_bits()
    return (1, kind, 0, arg, word, 0)


def test_the_storm_meets_walks_and_uses_by_the_dozen():
    host = Host(policy=V9, frames=SCENARIOS["storm"].frames)
    SCENARIOS["storm"].build(host.machine, Sva.bind)
    host.run()
    columns = host.machine.timeline.columns()
    hardware = columns["hw"] == 1
    assert np.count_nonzero(hardware & (columns["kind"] == Event.WALK_KILLED.value)) > 24
    assert np.count_nonzero(columns["kind"] == Row.INV_ISSUE) > 300
    for path in ("do_wp_page", "page_mkclean_one", "unmap_region", "zap_page_range", "mprotect"):
        assert host.names(path, Row.NOTIFY_BEGIN), path


def unmap_under_load(mutant):
    """Unmap pages that the device reads all the time; returns the host."""
    policy, subscriber = apply(mutant, V9) if mutant else (V9, Sva)
    host = Host(policy=policy)
    machine, mm = host.machine, host.machine.new_mm()
    mm.insert(host.anonymous(mm, VPN, PAGES))
    mapped, busy = Signal("mapped"), Signal("busy")
    latency = EMULATOR_REGISTERS["memory.read_latency"].address

    def cpu():
        yield from subscriber.bind(machine, mm)
        for vpn in range(VPN, VPN + PAGES):
            yield from touch(machine, mm, vpn, write=True)
        machine.sched.fire(mapped)
        yield Wait(busy)
        # Uses longer than the way of an answer to the host and of the free back.
        machine.link.csr_write(machine.sched.now, latency, 500, emulator=True)
        yield 2_000
        yield from munmap(machine, mm, VPN, VPN + PAGES - 1)

    def device():
        yield Wait(mapped)
        for count in range(1000):
            yield from machine.driver.wait_below(2 * PAGES)
            transfer = yield from machine.driver.submit(
                count & 1, mm.number, VPN + count % PAGES << 12, 4, write=False
            )
            if count == 10 * PAGES:
                machine.sched.fire(busy)
            if host.machine.frames.freed >= PAGES:
                break
        yield from machine.driver.wait(transfer)

    host.run(cpu(), device())
    host.run(audit(machine))
    return host


def freed_touches(host):
    """How often the device touched a frame that had been freed."""
    columns = host.machine.timeline.columns()
    keep = (columns["hw"] == 1) & (columns["kind"] == Event.VIOLATION.value)
    codes = field_of(AccessArg(), "code")(columns["span"][keep])
    return int(np.count_nonzero(codes == Verdict.FREED.value))


def test_a_correct_host_frees_nothing_that_the_device_still_uses():
    host = unmap_under_load(None)
    assert freed_touches(host) == 0
    assert host.machine.frames.freed >= PAGES
    assert host.rows(Row.DMA_DROP)


@pytest.mark.parametrize("mutant", HOST_MUTANTS)
def test_every_host_mutant_lets_the_device_touch_freed_frames(mutant):
    assert freed_touches(unmap_under_load(mutant)) > 0


def test_a_mutant_changes_one_thing_and_an_unknown_one_is_refused():
    for mutant in HOST_MUTANTS:
        policy, subscriber = apply(mutant, V9)
        assert (policy is V9) != (subscriber is Sva)
    with pytest.raises(
        HostError, match="no host mutant 'host-nothing'; there are host-free-before"
    ):
        apply("host-nothing", V9)
