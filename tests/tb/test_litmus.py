"""Litmus tests over policies and subscribers, on the model; the command, its table, its KTAP and its errors."""

import json
import shlex

import pytest

from hostmm.policies import POLICIES
from hostmm.scenarios import FORBIDDEN
from hostmm.scenarios.litmus import bugs, parse, shipped
from hostmm.subscribers.kinds import SUBSCRIBERS
from shootdown.cli import main
from shootdown.litmus import cell, missing, observe_on_model
from shootdown.report.ktap import Result, ktap
from shootdown.run.config import RunConfig

OWN = """title: mine
mm P: 1 cpu
page p: pfn = 5
device D: P
| C0          | D          |
|-------------|------------|
|             | load p     |
| store p = 1 |            |
|             | r = load p |
forbidden: r == 5
"""


@pytest.mark.parametrize("subscriber", SUBSCRIBERS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", shipped())
def test_each_cell_comes_out_as_its_script_predicts(name, policy, subscriber):
    """The N cells of the contract's table, and no others."""
    if missing(shipped()[name].script, policy, subscriber) is not None:
        pytest.skip("the pair did not exist")
    configs = [
        RunConfig(policy=policy, subscriber=subscriber, scenario=name, simulator="model", seed=seed)
        for seed in (1, 2)
    ]
    cells = [cell(outcome) for outcome in observe_on_model(configs)]
    assert [c.observed for c in cells] == [c.predicted for c in cells], cells[0]


@pytest.mark.parametrize("name", [n for n, s in shipped().items() if s.script.shows])
def test_what_is_shown_is_shown_by_some_policy_and_not_by_v6_6(name):
    """A test that nobody fails shows nothing; the last kernel fails none."""
    script = shipped()[name].script
    assert any(
        script.shown_by(policy, "sva") or script.shown_by(policy, "sva-a") for policy in POLICIES
    )
    assert not any(script.shown_by("v6.6", subscriber) for subscriber in ("sva", "sva-a"))


def test_a_pair_that_never_existed_is_named():
    """A kernel without nonlinear mappings plays none."""
    script = parse(OWN.replace("pfn = 5", "nonlinear"), name="t", where="t")
    assert missing(script, "v9") is None
    assert missing(script, "v6.6") == "the kernel of policy v6.6 has no path try_to_unmap_cluster"
    assert missing(script, "v3.7", "odp") == "the kernel of policy v3.7 has no odp"


def test_a_stall_needs_no_path_that_every_kernel_has():
    """A device stalls in the handling of its fault, a thread in a driver."""
    for name in ("bug-stale", "bug-user-flush"):
        assert missing(bugs()[name].script, "v6.6", "gru") is None


@pytest.mark.parametrize(
    ("step", "policy", "why"),
    [
        ("softdirty P", "v9", "the kernel of policy v9 has no path clear_refs_write"),
        ("free p", "v3.7", "the kernel of policy v3.7 has no path madvise_free_single_vma"),
        ("unbind D", "emm", "policy emm has no way to unregister"),
    ],
)
def test_a_step_needs_a_kernel_that_can_do_it(step, policy, why):
    """The cell is n/a, where it was an error that cost the whole table."""
    script = parse(OWN.replace("load p", f"load p |\n| {step} | ", 1), name="own", where="own")
    assert missing(script, policy) == why
    assert missing(script, "v6.6") is None


def run(words, folder, monkeypatch, capsys):
    """Run ``shootdown litmus`` in ``folder``; returns (status, standard output, standard error)."""
    monkeypatch.chdir(folder)
    status = main(["litmus", "--sim", "model", *words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_users_file_is_played_and_its_failure_replays(tmp_path, monkeypatch, capsys):
    """A script without predictions fails where the forbidden comes out, and the replay shows it again."""
    (tmp_path / "own.litmus").write_text(OWN)
    words = ["own.litmus", "--policy", "v9", "--policy", "seed"]
    status, out, _ = run(words, tmp_path, monkeypatch, capsys)
    assert status == 1
    assert "FAILED own.seed.sva: forbidden (r = 5" in out
    replay = shlex.split(out.split("replay: ")[1].splitlines()[0])
    assert main(replay[1:]) == 1
    assert "own.litmus" in replay
    found = json.loads((tmp_path / "out/litmus/results.json").read_text())
    assert [c["observed"] for c in found] == ["allowed", FORBIDDEN]


def test_ktap_is_printed(tmp_path, monkeypatch, capsys):
    """One line a cell; a known forbidden outcome that shows is a pass."""
    words = ["L1", "S1", "--policy", "seed", "--policy", "v6.6", "--ktap"]
    status, out, _ = run(words, tmp_path, monkeypatch, capsys)
    lines = out.splitlines()
    assert status == 0
    assert lines[:2] == ["KTAP version 1", "1..4"]
    assert next(line for line in lines if line.startswith("ok")) == "ok 1 L1.seed.sva"
    assert lines[-1] == "# Totals: pass:4 fail:0 skip:0"


def test_ktap_counts_failures_and_skips():
    """A name cannot end the line."""
    lines = list(
        ktap(
            [
                Result("a # b", False, notes=("why\nso",)),
                Result("c", True, "n/a"),
                Result("d", True),
            ]
        )
    )
    assert lines == [
        "KTAP version 1",
        "1..3",
        "# why",
        "# so",
        "not ok 1 a b",
        "ok 2 c # SKIP n/a",
        "ok 3 d",
        "# Totals: pass:1 fail:1 skip:1",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["L9"], "no litmus test 'L9'; there are L1, L2"),
        (["none.litmus"], "cannot read none.litmus: No such file"),
        (["L1", "--policy", "v0"], "policy must be one of v9"),
        (["L1", "--subscriber", "usb"], "subscriber must be one of sva"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    """Status 2, what is wrong, what is allowed."""
    status, _, err = run(words, tmp_path, monkeypatch, capsys)
    assert status == 2
    assert err.startswith(f"shootdown: {message}")
    assert err.count("\n") == 1
