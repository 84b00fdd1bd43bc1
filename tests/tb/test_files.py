"""Files that a command writes for its user."""

import os
import stat
from pathlib import Path

import pytest

from shootdown.errors import UsageError
from shootdown.files import require_writable, write_whole


def test_what_is_no_file_is_written_and_stays_what_it_is(tmp_path: Path) -> None:
    """As /dev/stdout and /dev/null do, which root might replace."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize("there", [False, True])
def test_a_link_stays_a_link(there: bool, tmp_path: Path) -> None:
    """What it points to is written, whether it is there or not."""
    (tmp_path / "link").symlink_to("file")
    if there:
        (tmp_path / "file").write_text("old")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("name", ["", "/", "folder", "none/file", "file/file", "n" * 300])
def test_what_cannot_be_written_is_one_line(name: str, tmp_path: Path) -> None:
    """And nothing is left of it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"^cannot write .*: [^\n]*$"):
        write_whole(tmp_path / name, "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "folder: it is a folder"),
        ("none/file", "none/file: its folder cannot be written"),
        ("astray", "astray: No such file or directory"),
        ("/proc/file", "/proc/file: No such file or directory"),
    ],
)
def test_is_refused_before_anything_is_run(name: str, message: str, tmp_path: Path) -> None:
    """A file that is not asked for, and one that can be written, are not."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "astray").symlink_to("nowhere/file")
    require_writable(None, tmp_path / "new", tmp_path / "folder" / "new", Path("/dev/null"))
    assert list((tmp_path / "folder").iterdir()) == []
    with pytest.raises(UsageError, match=f"{message}$"):
        require_writable(tmp_path / name)
