"""The checks on whole runs: directed scenarios, played on the model of the emulator."""

from collections import Counter

import pytest

from hostmm.driver.driver import Driver
from hostmm.machine.machine import Machine, MachineConfig
from hostmm.model import Model
from hostmm.policies import POLICIES
from hostmm.scenarios import ALLOWED, FORBIDDEN, SCENARIOS
from hostmm.subscribers.sva import Sva
from shootdown.checks import INVARIANTS, check, examined
from shootdown.history import History
from shootdown.report.measures import device_counters, measure, shootdown_class

MEMORY_BYTES = 16 << 20
SHOWN = {"L1": "I4", "L3": "I6", "S1": "I4"}
"""What each scenario shows under the seed."""


def play(name: str, policy: str) -> tuple[str, History]:
    """Play a scenario; returns its outcome and what happened."""
    config = MachineConfig(frames=SCENARIOS[name].frames, memory_bytes=MEMORY_BYTES)
    machine = Machine(config, POLICIES[policy])
    Driver(machine)
    model = Model(memory_bytes=MEMORY_BYTES)
    SCENARIOS[name].build(machine, Sva.bind)
    session = machine.sched.run()
    batch = next(session)
    try:
        while True:
            batch = session.send(model.exchange(batch))
    except StopIteration:
        history = History(machine.timeline, POLICIES[policy])
        return SCENARIOS[name].outcome(history.rows.columns).outcome, history


@pytest.mark.parametrize("name", SHOWN)
def test_v9_keeps_everything(name: str) -> None:
    """No violation at all."""
    outcome, history = play(name, "v9")
    assert outcome == ALLOWED
    assert check(history) == []


@pytest.mark.parametrize("name", SHOWN)
def test_seed_breaks_what_it_is_expected_to(name: str) -> None:
    """One violation, on do_wp_page, by the thread that was stopped there."""
    outcome, history = play(name, "seed")
    assert outcome == FORBIDDEN
    (violation,) = check(history)
    assert (violation.invariant, violation.expected) == (SHOWN[name], True)
    assert (violation.path, violation.thread) == ("do_wp_page", "C0")


def test_scenario_is_measured() -> None:
    """The notification of L1: an idle entry under #v9 and the seed, drained late under the seed."""
    late = {}
    for policy in ("v9", "seed"):
        _, history = play("L1", policy)
        (result,) = measure(history).values()
        assert result.notifications == result.kinds.page == 1
        assert result.shootdown_by_class.idle.n == 1
        assert result.floor_cycles.n == 0
        assert result.clear_to_drained_ns is not None
        late[policy] = result.clear_to_drained_ns.max
        # The first load faults, and is made again.
        assert device_counters(history).accesses == 3
    assert late["seed"] > late["v9"]


def test_copy_without_a_page_is_never_notified() -> None:
    """Review note S1: the seed clears a PTE and has no shootdown to show for it."""
    _, history = play("S1", "seed")
    result = measure(history)["do_wp_page"]
    assert result.notifications == 0
    assert result.clear_to_drained_ns is not None
    assert result.clear_to_drained_ns.n == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_page_inside_a_large_translation_is_replaced_without_a_violation(policy: str) -> None:
    """I24: one idle entry of 2 MiB dies of a command for a page in its middle."""
    outcome, history = play("I24", policy)
    assert outcome == ALLOWED
    assert check(history) == []
    (command,) = (c for c in history.commands if c.invalidates)
    (entry,) = command.entries
    assert entry.first < command.first < entry.last
    assert (entry.killed, entry.last - entry.first) == (True, 511)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_storm_breaks_nothing_that_is_not_expected(policy: str) -> None:
    """Hundreds of shootdowns, dozens of them in flight."""
    outcome, history = play("storm", policy)
    assert outcome == ALLOWED
    assert [violation for violation in check(history) if not violation.expected] == []
    classes = Counter(shootdown_class(c) for c in history.commands if c.invalidates)
    assert min(classes.values()) > 50


def test_what_was_examined_is_counted() -> None:
    """L3 forks, replaces a page and loads; it writes nothing back."""
    _, history = play("L3", "seed")
    found = examined(history)
    assert set(found) == set(INVARIANTS)
    assert found["I7"] == 0
    assert found["I3"] == found["I13"] >= 1
    assert found["I10"] >= 1
    assert found["I4"] == found["I6"] >= 1
    assert found["I2"] == len(history.entries)
