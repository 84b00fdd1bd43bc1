"""``shootdown matrix``: policy x invariant as measured, against docs/contract.md 7."""

import argparse
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.table import Table

from hostmm.policies import POLICIES
from shootdown.catalogue.matrix import ROWS, Measured, cells, measure
from shootdown.errors import ShootdownError, UsageError
from shootdown.files import require_writable, write_whole
from shootdown.report.markdown import markdown_table
from shootdown.run.config import MOST_SCHEDULES, within
from shootdown.run.runs import fresh_folder

__all__ = ["FULL", "add_parser"]

OUT = Path("out/matrix")
FULL = 100_000
"""Schedules of a cell in the full form."""
_REDUCED = 60
_PROCESSES = 2
_SAID_EVERY_S = 60.0
_WHAT = ("invariant", "device")
_T = TypeVar("_T")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("matrix", help="measure policy x invariant")
    add = parser.add_argument
    add(
        "--full",
        action="store_true",
        help=f"{FULL} schedules a cell: takes many hours on two cores",
    )
    add("--schedules", type=int, help=f"schedules a cell (default {_REDUCED}; 0: scripts alone)")
    add("--policy", action="append", help=f"repeatable; {', '.join(POLICIES)}; default: all")
    add("--markdown", type=Path, metavar="FILE", help="write the table to this file, too")
    add("--out", type=Path, default=OUT, help=f"folder of the results (default {OUT})")
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> int:
    policies = list(dict.fromkeys(chosen.policy or POLICIES))
    unknown = [policy for policy in policies if policy not in POLICIES]
    if unknown:
        raise UsageError(f"policy must be one of {', '.join(POLICIES)}, not {unknown[0]!r}")
    usual = FULL if chosen.full else _REDUCED
    schedules = usual if chosen.schedules is None else chosen.schedules
    within("schedules", schedules, 0, MOST_SCHEDULES)
    require_writable(chosen.markdown)
    begun = time.monotonic()
    with fresh_folder(chosen.out) as folder:
        with _processes() as pool:
            measured = measure(cells(policies), schedules, each=_in_processes(pool))
        text = msgspec.json.format(msgspec.json.encode(measured))
        (folder / "results.json").write_bytes(text)
    if chosen.markdown is not None:
        write_whole(chosen.markdown, _markdown(measured, policies))
    _print(measured, policies, chosen.out, time.monotonic() - begun)
    return 0 if all(cell.as_expected for cell in measured) else 1


def _be_quiet() -> None:
    """In a process of the pool: leave Ctrl-C to the parent, and end at its word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _processes() -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes, which end when the block does, whatever they were given.

    Raises
    ------
    ShootdownError
        One was killed by somebody else.
    """
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(_PROCESSES, initializer=_be_quiet)
    try:
        yield pool
    except BrokenProcessPool:
        raise ShootdownError(
            "a process that played schedules was killed (by the kernel, if memory ran out); nothing is written"
        ) from None
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        pool.shutdown(cancel_futures=True)


def _in_processes(pool: ProcessPoolExecutor) -> Callable[..., Iterator[Any]]:
    """Return a ``map`` over the pool that says on a terminal, or once a minute, how far it has come."""

    def each(work: Callable[..., _T], first: Sequence[Any], *more: Iterable[Any]) -> Iterator[_T]:
        said = 0.0
        for done, result in enumerate(pool.map(work, first, *more), 1):
            terminal = sys.stderr.isatty()
            if terminal or time.monotonic() - said > _SAID_EVERY_S or done == len(first):
                said = time.monotonic()
                text = f"matrix: {work.__qualname__}: {done} of {len(first)}"
                print(text, file=sys.stderr, end="\r" if terminal else "\n", flush=True)
            yield result

    return each


def _print(
    measured: Sequence[Measured], policies: Sequence[str], out: Path, seconds: float
) -> None:
    console = Console(width=None if Console().is_terminal else 160)
    title = "Policy x invariant: Y and the runs behind it; N, how many broke it"
    table = Table(title=title, title_justify="left")
    for column in (*_WHAT, *policies):
        table.add_column(column)
    for row in _rows(measured, policies):
        table.add_row(*row)
    console.print(table)
    for cell in measured:
        name = f"{cell.row} {cell.kind} {cell.policy}"
        if cell.broken:
            line = f"{name}: {cell.invariant}; replay: {cell.replay}"
            console.print(line, highlight=False, soft_wrap=True)
        if not cell.as_expected:
            fault = "" if cell.mutant_found is not False else ", and its fault was not found"
            console.print(
                f"[bold]FAILED[/bold] {name}: {cell.letter}{fault}; docs/contract.md 7 says {cell.expected}",
                highlight=False,
                soft_wrap=True,
            )
    console.print(f"{seconds:.0f} s; results: {out / 'results.json'}", highlight=False)


def _rows(measured: Sequence[Measured], policies: Sequence[str]) -> Iterator[tuple[str, ...]]:
    by_place = {(cell.row, cell.kind, cell.policy): cell for cell in measured}
    for row in ROWS:
        for kind, subscriber in row.kinds.items():
            cells = (by_place[row.name, kind, policy] for policy in policies)
            yield row.name, f"{kind} ({subscriber})", *map(_text, cells)


def _markdown(measured: Sequence[Measured], policies: Sequence[str]) -> str:
    return markdown_table((*_WHAT, *policies), _rows(measured, policies)) + "\n"


def _text(cell: Measured) -> str:
    if cell.absent:
        return "n/a"
    wrong = "" if cell.as_expected else "!"
    return f"N{wrong} {cell.broken}/{cell.runs}" if cell.broken else f"Y{wrong} {cell.runs}"
