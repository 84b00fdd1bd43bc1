"""The timeline as Parquet, for questions that no report answers."""

import os
from pathlib import Path

import duckdb
import numpy as np

from hostmm.machine.timeline import Row
from secmmu.layouts import Event
from shootdown.errors import ShootdownError
from shootdown.history import History

__all__ = ["StoreError", "save_timeline"]


class StoreError(ShootdownError):
    """The timeline cannot be written."""


_QUERY = """
    SELECT position, cycle, ns,
           CASE WHEN hw = 1 THEN 'hardware' ELSE 'host' END AS side,
           list_extract($kinds, kind + 1) AS kind,
           CASE WHEN hw = 1 THEN NULL ELSE list_extract($threads, thread + 1) END AS thread,
           CASE WHEN hw = 1 THEN NULL ELSE list_extract($paths, path + 1) END AS path,
           CASE WHEN hw = 1 THEN NULL ELSE span END AS span,
           CASE WHEN hw = 1 THEN thread END AS source,
           CASE WHEN hw = 1 THEN span END AS arg,
           NULLIF(mm, 0) AS mm, NULLIF(vpn, -1) AS vpn, NULLIF(pfn, -1) AS pfn, tag, a, b, c
    FROM merged ORDER BY position
"""


def save_timeline(history: History, path: Path) -> None:
    """Write every row of the merged timeline, in order, whole or not at all.

    Columns: ``position``, ``cycle``, ``ns``, ``side`` (host, hardware), ``kind``, ``thread``, ``path``, ``span``
    (NULL for hardware records), ``source``, ``arg`` (NULL for host rows), ``mm``, ``vpn``, ``pfn`` (NULL where they
    mean nothing), ``tag``, ``a``, ``b``, ``c``. What they hold is told by ``hostmm.machine.timeline.Row`` and
    ``secmmu.layouts.Event``.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    rows = history.rows
    names = {event.value: event.name for event in Event} | {int(row): row.name for row in Row}
    parameters = {
        "kinds": [names.get(number, "") for number in range(max(names) + 1)],
        "threads": list(rows.threads),
        "paths": list(rows.paths),
    }
    merged = rows.columns | {"position": np.arange(rows.count)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.register("merged", merged)
        try:
            connection.execute(
                f"COPY ({_QUERY}) TO '{str(temporary).replace(chr(39), chr(39) * 2)}' (FORMAT parquet)",
                parameters,
            )
            temporary.replace(path)
        except (duckdb.IOException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise StoreError(f"cannot write {path}: {reason}") from None
        finally:
            temporary.unlink(missing_ok=True)
