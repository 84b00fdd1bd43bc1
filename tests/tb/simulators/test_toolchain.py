"""Finding tools, and saying what is missing."""

from pathlib import Path

import pytest

from shootdown import cli
from shootdown.errors import ToolError
from shootdown.simulators import toolchain


def _fake(folder: Path, name: str, output: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)


def test_missing_tool_gives_the_install_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The line names the tool, what it is for and the exact command."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ToolError, match=r"iverilog is not installed; .*apt-get install -y iverilog$"
    ):
        toolchain.find_icarus()


def test_old_icarus_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Version 10 is named and refused."""
    _fake(tmp_path, "iverilog", "Icarus Verilog version 10.3 (stable)")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ToolError, match=r"iverilog is Icarus Verilog version 10\.3.*older than 11\.0"
    ):
        toolchain.find_icarus()


@pytest.mark.parametrize(
    ("version", "taken"), [("5.006", False), ("5.035", False), ("5.036", True), ("6.0", True)]
)
def test_verilator_on_path_must_be_new_enough(
    version: str, taken: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A new enough one on PATH is taken, else the wheel's."""
    for name in ("perl", "make", "g++"):
        _fake(tmp_path, name, "1.0")
    _fake(tmp_path, "verilator", f"Verilator {version} 2025-01-01")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = toolchain.find_verilator()
    assert (found.executable == tmp_path / "verilator") is taken
    assert bool(found.make_variables) is not taken


def test_doctor_fails_when_a_required_tool_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and a list of what is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["doctor"]) == 2
    assert "Missing: iverilog, vvp, g++, make, perl." in capsys.readouterr().out
