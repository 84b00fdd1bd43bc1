"""``shootdown compare``: what is run, and a small comparison from end to end on the model."""

import argparse
import json
from pathlib import Path

import pytest

from shootdown.commands.compare import _configs, add_parser
from shootdown.errors import UsageError


def parsed(*words: str) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return parser.parse_args(["compare", *words])


def test_what_is_run_by_default() -> None:
    """Every policy and seed in each setting; other costs with the first number of CPUs."""
    configs = _configs(parsed())
    assert len({config.name for config in configs}) == len(configs)
    settings = {(c.cpus, c.scale_link, c.memory_latency) for c in configs}
    assert settings == {
        (4, 1.0, 20),
        (4, 0.25, 20),
        (4, 4.0, 20),
        (4, 1.0, 5),
        (4, 1.0, 80),
        (1, 1.0, 20),
        (16, 1.0, 20),
    }
    assert len(configs) == len(settings) * 7 * 5 * 2
    assert {config.simulator for config in configs} == {"model"}
    assert not any(config.xip for config in configs if config.policy == "v6.6")
    assert all(config.xip for config in configs if config.policy == "v9")


def test_a_part_of_it() -> None:
    """By option."""
    words = [
        "--policies",
        "v9,v3.7",
        "--traces",
        "words",
        "--cpus",
        "16,8",
        "--subscribers",
        "odp",
        "--seeds",
        "2",
    ]
    configs = _configs(parsed(*words, "--costs", "usual", "--carrier", "sim"))
    assert len(configs) == 8
    assert {(c.trace, c.subscriber, c.simulator) for c in configs} == {
        ("words", "odp", "verilator")
    }
    assert [c.cpus for c in configs] == [16] * 4 + [8] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seeds 1", "seeds must be from 2 to 1000, not 1"),
        ("--policies v9", "policies must name two or more"),
        ("--policies v9,v8", "policies must be of v9"),
        ("--subscribers rdma", "subscribers must be of sva"),
        ("--cpus four", "cpus must be whole numbers, not 'four'"),
        ("--cpus 17", "cpus must be from 1 to 16, not 17"),
        ("--traces ,", "traces must name at least one"),
    ],
)
def test_bad_input(words: str, message: str) -> None:
    """One line that says what is allowed."""
    with pytest.raises(UsageError, match=message):
        _configs(parsed(*words.split()))


@pytest.mark.slow
def test_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two policies, two seeds, the smallest trace: a verdict, figures and plots, the same each time."""
    words = "--policies v9,seed --traces shell --cpus 1 --subscribers sva --seeds 2 --costs usual"
    page = tmp_path / "page.md"
    chosen = parsed(*words.split(), "--out", str(tmp_path / "out"), "--markdown", str(page))
    assert chosen.command(chosen) == 0
    shown = capsys.readouterr().out
    assert "seed against v9 (shell, 1 CPU, sva, on model): gains: do_wp_page ptl_hold_ns" in shown
    assert "4 runs on model" in shown
    assert "| shell | sva | 1 | usual | seed |" in page.read_text()
    assert "* seed against v9 (shell, 1 CPU, sva, on model): gains" in page.read_text()
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    held = [d for d in found if (d["path"], d["figure"]) == ("do_wp_page", "ptl_hold_ns")]
    assert held[0]["direction"] == -1
    assert held[0]["survives"] is None
    assert held[0]["setting"]["carrier"] == "model"
    plots = tmp_path / "out" / "plots" / "shell-sva-1cpu"
    assert (plots / "do_wp_page.svg").is_file()
