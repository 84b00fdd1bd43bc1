"""The timeline as Parquet."""

from pathlib import Path

import duckdb
import pytest

from hostmm.machine.timeline import Notification, Row
from shootdown.run.store import StoreError, save_timeline
from tests.tb.timelines import Scene

MM, VPN, PFN = 1, 0x10, 0x20
HUGE = (1 << 64) - 2


def scene() -> Scene:
    """A few rows of both sides."""
    scene = Scene()
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    scene.fill(20, MM, VPN, PFN, entry=3)
    with scene.path("do_wp_page"), scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.at(100).command(MM, VPN, tag=5, killed=(3,))
    scene.row(Row.FILL, pfn=PFN, tag=512, a=PFN << 12, b=HUGE)
    return scene


def test_reads_back_row_by_row(tmp_path: Path) -> None:
    """Names are names, what means nothing is NULL, 64 bits are 64 bits."""
    history = scene().history()
    file = tmp_path / "it's a timeline.parquet"
    save_timeline(history, file)
    assert list(tmp_path.iterdir()) == [file]
    with duckdb.connect() as connection:
        connection.read_parquet(str(file)).create_view("timeline")
        rows = connection.execute("SELECT position, cycle, ns, tag, a, b FROM timeline").fetchall()
        names = ("cycle", "ns", "tag", "a", "b")
        columns = [history.rows[name].tolist() for name in names]
        assert rows == list(zip(range(history.rows.count), *columns, strict=True))
        assert rows[-1][-1] == HUGE
        query = "SELECT side, kind, thread, path, source, arg, mm, vpn, pfn FROM timeline WHERE "
        issue = connection.execute(query + "kind = 'INV_ISSUE'").fetchall()
        assert issue == [("host", "INV_ISSUE", "cpu0", "do_wp_page", None, None, MM, VPN, None)]
        (drained,) = connection.execute(query + "kind = 'DRAINED'").fetchall()
        assert drained == ("hardware", "DRAINED", None, None, 0, 0, None, None, None)


def test_a_large_run_is_saved_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB takes a child process for a person, and draws a bar into the output of what takes more than two seconds."""
    shown = []

    class Watched:
        def __init__(self) -> None:
            self.connection = connect()
            self.connection.execute("SET enable_progress_bar = true")

        def __enter__(self) -> "Watched":
            return self

        def __exit__(self, *_: object) -> None:
            self.connection.close()

        def register(self, *words: object) -> None:
            self.connection.register(*words)

        def execute(self, statement: str, *parameters: object) -> None:
            if statement.startswith("COPY"):
                query = "SELECT current_setting('enable_progress_bar')"
                shown.extend(self.connection.execute(query).fetchall())
            self.connection.execute(statement, *parameters)

    connect = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", Watched)
    save_timeline(scene().history(), tmp_path / "timeline.parquet")
    assert shown == [(False,)]


def test_empty_run(tmp_path: Path) -> None:
    """It has no rows, but all columns."""
    file = tmp_path / "timeline.parquet"
    save_timeline(Scene().history(), file)
    with duckdb.connect() as connection:
        table = connection.read_parquet(str(file))
        assert len(table.fetchall()) == 0
        assert table.columns[0] == "position"


def test_unwritable(tmp_path: Path) -> None:
    """One line, and nothing half-written."""
    for file in (tmp_path / "missing" / "timeline.parquet", tmp_path / "folder"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(StoreError, match=r"^cannot write "):
            save_timeline(scene().history(), file)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
