"""The scenarios of the kernel's hmm-tests: they pass on every kind of device, and fail where one is broken."""

import pytest

from hostmm.scenarios.litmus import hmm
from shootdown.catalogue.played import play
from shootdown.cli import main
from shootdown.commands.hmm import NOT_COVERED
from shootdown.run.config import RunConfig

KINDS = ("sva", "kvm", "gru", "odp")


def run(name, subscriber, mutant=None):
    config = RunConfig(
        policy="v6.6", subscriber=subscriber, scenario=name, simulator="model", mutant=mutant
    )
    return play(config)


@pytest.mark.parametrize("subscriber", KINDS)
@pytest.mark.parametrize("name", hmm())
def test_a_scenario_passes(name, subscriber):
    """Its data are as the kernel's test wants them, and no invariant breaks."""
    played = run(name, subscriber)
    assert not played.violations
    assert not played.forbidden, played.detail


@pytest.mark.parametrize("mutant", ["B14", "B17", "B19"])
def test_a_broken_driver_fails_some(mutant):
    """A suite that nothing can fail would say nothing."""
    failed = [name for name in hmm() if run(name, "kvm", mutant).forbidden]
    assert failed


def test_every_scenario_has_a_register_in_its_condition():
    """Each checks data, beside the invariants."""
    for litmus in hmm().values():
        terms = [t for terms in litmus.script.forbidden.alternatives for t in terms]
        assert any(term.register is not None for term in terms)
        assert any(term.invariant == "any invariant" for term in terms)


def test_what_is_not_covered_is_named():
    """No name is in both lists; those that need device memory are in the second."""
    assert not {f"hmm-{name}" for name in NOT_COVERED} & set(hmm())
    assert {"migrate", "exclusive", "hmm_cow_in_device"} <= set(NOT_COVERED)


def test_ktap_has_a_line_for_each_cell(tmp_path, monkeypatch, capsys):
    """Four kinds of device, one kernel."""
    monkeypatch.chdir(tmp_path)
    assert main(["hmm", "hmm-anon_read", "--ktap"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "1..4"
    assert "ok 2 hmm-anon_read.v6.6.kvm" in lines
