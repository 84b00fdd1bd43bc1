"""``shootdown csr``."""

from pathlib import Path

import pytest

from secmmu.csr_export import c_header, markdown, system_rdl
from shootdown.cli import main
from tests.tb.cli import shootdown


def test_writes_each_form(tmp_path: Path) -> None:
    run = shootdown(["csr", "--header", "a.h", "--rdl", "a.rdl", "--markdown", "a.md"], tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {"a.h": c_header(), "a.rdl": system_rdl(), "a.md": markdown()}


def test_refuses_nothing_and_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["csr"]) == 2
    assert capsys.readouterr() == (
        "",
        "shootdown: nothing to write: give at least one of --header, --rdl, --markdown\n",
    )
    assert main(["csr", "--header", "no/a.h"]) == 2
    assert capsys.readouterr() == (
        "",
        "shootdown: cannot write no/a.h: its folder cannot be written\n",
    )
    assert not list(tmp_path.iterdir())
