"""Files of recorded link words."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from shootdown.errors import ShootdownError
from shootdown.run.linkfile import LinkRecorder, read_summary


def _write(path: Path) -> None:
    with LinkRecorder(path) as recorder:
        recorder.record(np.array([1, 2, 3], np.uint64))
        recorder.record(np.array([(1 << 64) - 1], np.uint64))
        recorder.finish(cycles=77, records=5)


def test_words_and_summary_come_back(tmp_path: Path) -> None:
    """What was recorded is in the file, batch after batch."""
    path = tmp_path / "link.words"
    _write(path)
    summary = read_summary(path)
    assert (summary.cycles, summary.records, summary.words) == (77, 5, 4)
    words = np.frombuffer(path.read_bytes()[-32:], np.uint64)
    assert words.tolist() == [1, 2, 3, (1 << 64) - 1]


def test_failed_run_leaves_no_file(tmp_path: Path) -> None:
    """An exception, or a run that was never finished, leaves nothing behind."""
    with contextlib.suppress(KeyError), LinkRecorder(tmp_path / "a") as recorder:
        recorder.finish(cycles=1, records=1)
        raise KeyError
    with LinkRecorder(tmp_path / "b"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_cut_and_foreign_files_are_refused(tmp_path: Path) -> None:
    """A file that is short, foreign or absent gives one line."""
    path = tmp_path / "link.words"
    _write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ShootdownError, match="is cut short: 63 bytes of 64"):
        read_summary(path)
    path.write_bytes(b"ELF" + whole)
    with pytest.raises(ShootdownError, match="is not a file of link words"):
        read_summary(path)
    with pytest.raises(ShootdownError, match=r"cannot read .*: No such file"):
        read_summary(tmp_path / "absent")


def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    """The error names the file and the reason."""
    with pytest.raises(ShootdownError, match=r"cannot write .*: No such file or directory"):
        LinkRecorder(tmp_path / "absent" / "link.words")
