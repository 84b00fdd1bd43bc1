"""Folders of results, and the command that repeats a run."""

import shlex
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest

from shootdown.cases import run_cases
from shootdown.cli import _parser, main
from shootdown.commands.run import _configs
from shootdown.errors import ShootdownError, SimulationError, UsageError
from shootdown.report.results import load
from shootdown.run.config import MODEL, RunConfig
from shootdown.run.runs import _environment, fresh_folder, perform_all


def write(out, text):
    with fresh_folder(out) as folder:
        (folder / "results.json").write_text(text)


def crash(out):
    with fresh_folder(out) as folder:
        (folder / "sim.log").write_text("what happened")
        raise SimulationError(f"it crashed: see {folder / 'sim.log'}")


def test_our_own_folder_is_replaced_whole(tmp_path):
    out = tmp_path / "deep" / "out"
    write(out, "old")
    write(out, "new")
    assert (out / "results.json").read_text() == "new"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_folder_with_other_things_in_it_is_refused_and_kept(tmp_path):
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    with pytest.raises(UsageError, match="holds other things"):
        write(tmp_path, "results")
    assert thesis.read_text() == "years of work"


@pytest.mark.parametrize("out", ["/", "a file"])
def test_what_is_no_folder_is_refused(tmp_path, out):
    (tmp_path / "a file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        write(tmp_path / out, "results")


def test_the_folder_that_the_command_is_given_in_is_refused(tmp_path, monkeypatch):
    """Replaced, it would be gone under the user's feet."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="name a folder of its own"):
        write(Path(), "results")
    with pytest.raises(UsageError, match="name a folder of its own"):
        write(Path(".."), "results")


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "out").symlink_to("there")
    for text in ("old", "new"):
        write(tmp_path / "out", text)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "there" / "results.json").read_text() == "new"


def test_two_runs_of_one_name_are_refused(tmp_path):
    """They would write into one folder."""
    configs = [RunConfig(policy="v9", simulator=MODEL, scenario="L1", cpus=n) for n in (1, 2)]
    with pytest.raises(UsageError, match="2 runs would be called v9-L1"):
        perform_all(configs, tmp_path)


def test_results_of_scenarios_alone_name_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--scenario", "L1", "--sim", "model", "--policy", "v9"]) == 0
    assert load(tmp_path / "out" / "run" / "results.json").trace is None


def test_a_simulation_finds_the_files_of_its_caller(tmp_path, monkeypatch):
    """It runs in the folder of its results."""
    (tmp_path / "out").mkdir()
    script = Path(str(files("hostmm.scenarios.litmus") / "scripts" / "L1.litmus")).read_text()
    (tmp_path / "own.litmus").write_text(script)
    monkeypatch.chdir(tmp_path)
    config = RunConfig(policy="v9", scenario="own.litmus", simulator="icarus")
    for name, value in _environment(config).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path / "out")
    assert run_cases._given() == (config, tmp_path / "out")
    assert Path.cwd() == tmp_path


def test_a_failed_simulation_keeps_its_logs_beside_the_old_results(tmp_path):
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(ShootdownError, match=r"out-failed/sim\.log"):
        crash(out)
    assert (out / "results.json").read_text() == "old"
    assert (tmp_path / "out-failed" / "sim.log").is_file()


def test_the_logs_of_a_failed_simulation_go_when_one_does_not_fail(tmp_path):
    """What is not ours stays."""
    out = tmp_path / "out"
    with pytest.raises(ShootdownError):
        crash(out)
    write(out, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "out-failed").mkdir()
    write(out, "newer")
    assert (tmp_path / "out-failed").is_dir()


def test_nothing_is_left_when_the_run_is_refused(tmp_path):
    with pytest.raises(UsageError), fresh_folder(tmp_path / "new" / "out"):
        raise UsageError("no such policy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(policy="seed", trace="words"),
        RunConfig(policy="v9", trace="my traces/a b.trace", cpus=1, seed=7, xip=True),
        RunConfig(policy="v9", scenario="L1", mutant="rtl-no-drain", memory_latency=200),
        RunConfig(policy="emm", scenario="race-cow", preempt=(3, 14), frames=300, simulator=MODEL),
        RunConfig(policy="seed", simulator="icarus", scale_link=0.25, scale_ipi=4.0, frames=300),
    ],
)
def test_the_replay_command_gives_exactly_that_run(config):
    words = shlex.split(config.replay_command())
    assert words[0] == "shootdown"
    replays, scenarios = _configs(_parser().parse_args(words[1:]))
    (again,) = scenarios if config.scenario else replays
    assert again.name == config.name
    assert msgspec.structs.replace(again, waves=config.waves) == config


def test_a_scenario_is_replayed_by_what_it_depends_on(tmp_path, monkeypatch, capsys):
    """It replays no trace, so neither that nor how one is spread is named; what is named shows the finding again."""
    monkeypatch.chdir(tmp_path)
    run = ["run", "--scenario", "S1", "--policy", "v9", "--mutant", "B45", "--sim", "model"]
    shown = ["--seed", "7", "--memory-latency", "30"]
    assert main([*run, *shown, "--device-share", "0.5", "--cpus", "2"]) == 1
    first = failures(capsys.readouterr().out)
    (replay,) = {line.rpartition("; replay: ")[2] for line in first}
    assert replay == (
        "shootdown run --policy v9 --sim model --seed 7 --scenario S1 --memory-latency 30 --mutant B45"
    )
    assert main(shlex.split(replay)[1:]) == 1
    assert failures(capsys.readouterr().out) == first


def failures(text):
    """Lines that say what was not expected."""
    return [line for line in text.splitlines() if line.startswith("FAILED")]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale_link", -1.0),
        ("scale_ipi", float("nan")),
        ("cpus", 0),
        ("seed", -1),
        ("frames_share", 0.0),
        ("policy", "v10"),
        ("mutant", "none"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_what_is(field, value):
    with pytest.raises(UsageError, match="must be"):
        RunConfig(**{"policy": "v9", field: value})


def test_a_policy_named_twice_runs_once():
    chosen = _parser().parse_args(["run", "--policy", "v9", "--policy", "v9", "--cpus", "2"])
    replays, _ = _configs(chosen)
    assert len(replays) == 1
