"""The command line itself: how it refuses, and how it ends when its output does."""

import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from shootdown import cli
from shootdown.cli import main
from shootdown.commands import csr
from tests.tb.cli import command, environment


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND; see shootdown --help"),
        (["rum"], "argument COMMAND: invalid choice: 'rum'"),
        (
            ["run", "--cpus", "x"],
            "argument --cpus: invalid int value: 'x'; see shootdown run --help",
        ),
        (["run", "--preempt", "1,x"], "argument --preempt: numbers with commas between, not '1,x'"),
        (["run", "--nothing"], "unrecognized arguments: --nothing; see shootdown --help"),
        (["run", "--policy=--"], "argument --policy: expected one argument; see shootdown --help"),
    ],
)
def test_a_command_line_is_refused_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the usage, which is long."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, errors = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert errors.startswith(f"shootdown: {message}")
    assert errors.count("\n") == 1


def test_an_error_of_the_system_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever a disk is full."""

    def full(path: Path, _content: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(csr, "write_whole", full)
    assert main(["csr", "--header", "a.h"]) == 2
    assert capsys.readouterr() == ("", "shootdown: a.h: No space left on device\n")


def test_an_interruption_is_one_line_from_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the commands are loaded, too."""

    def interrupted() -> tuple[ModuleType, ...]:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_commands", interrupted)
    assert main(["doctor"]) == 2
    assert capsys.readouterr() == ("", "shootdown: interrupted\n")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    """As head does; status 2, as of an interruption."""
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        command("doctor"),
        cwd=tmp_path,
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (run.returncode, run.stderr) == (2, b"")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """As of any program."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("shootdown 0.")
