"""``shootdown csr``."""

from pathlib import Path

from secmmu.csr_export import c_header, markdown, system_rdl
from tests.tb.cli import shootdown


def test_writes_each_form(tmp_path: Path) -> None:
    run = shootdown(["csr", "--header", "a.h", "--rdl", "a.rdl", "--markdown", "a.md"], tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {"a.h": c_header(), "a.rdl": system_rdl(), "a.md": markdown()}


def test_refuses_nothing_and_nowhere(tmp_path: Path) -> None:
    run = shootdown(["csr"], tmp_path)
    assert run.returncode == 2
    assert run.stderr == (
        "shootdown: nothing to write: give at least one of --header, --rdl, --markdown\n"
    )
    run = shootdown(["csr", "--header", "no/a.h"], tmp_path)
    assert run.returncode == 2
    assert run.stderr == "shootdown: cannot write no/a.h: No such file or directory\n"
    assert not list(tmp_path.iterdir())
