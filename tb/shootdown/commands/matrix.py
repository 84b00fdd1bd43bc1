"""``shootdown matrix``: policy x invariant as measured, against docs/contract.md 7."""

import argparse
import itertools
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from hostmm.policies import POLICIES
from shootdown.catalogue.matrix import ROWS, Measured, measure_cell
from shootdown.errors import UsageError
from shootdown.runs import fresh_folder

__all__ = ["FULL", "add_parser"]

OUT = Path("out/matrix")
FULL = 100_000
"""Schedules of a cell in the full form."""
_REDUCED = 60
_PROCESSES = 2


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("matrix", help="measure policy x invariant")
    add = parser.add_argument
    add("--full", action="store_true", help=f"{FULL} schedules a cell: takes days on two cores")
    add("--schedules", type=int, help=f"schedules a cell (default {_REDUCED}; 0: scripts alone)")
    add("--policy", action="append", help=f"repeatable; {', '.join(POLICIES)}; default: all")
    add("--out", type=Path, default=OUT, help=f"folder of the results (default {OUT})")
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> int:
    policies = list(dict.fromkeys(chosen.policy or POLICIES))
    unknown = [policy for policy in policies if policy not in POLICIES]
    if unknown:
        raise UsageError(f"policy must be one of {', '.join(POLICIES)}, not {unknown[0]!r}")
    usual = FULL if chosen.full else _REDUCED
    schedules = usual if chosen.schedules is None else chosen.schedules
    if schedules < 0:
        raise UsageError(f"schedules must be 0 or more, not {schedules}")
    places = [(row, policy, kind) for row in ROWS for kind in row.kinds for policy in policies]
    with fresh_folder(chosen.out) as folder:
        with ProcessPoolExecutor(_PROCESSES) as pool:
            cells = list(
                pool.map(measure_cell, *zip(*places, strict=True), itertools.repeat(schedules))
            )
        text = msgspec.json.format(msgspec.json.encode(cells))
        (folder / "results.json").write_bytes(text)
    _print(cells, policies, chosen.out)
    return 0 if all(cell.as_expected for cell in cells) else 1


def _print(cells: Sequence[Measured], policies: Sequence[str], out: Path) -> None:
    console = Console(width=None if Console().is_terminal else 160)
    title = "Policy x invariant: Y and the runs behind it; N, how many broke it"
    table = Table(title=title, title_justify="left")
    for column in ("invariant", "device", *policies):
        table.add_column(column)
    by_place = {(cell.row, cell.kind, cell.policy): cell for cell in cells}
    for row in ROWS:
        for kind, subscriber in row.kinds.items():
            found = [by_place[row.name, kind, policy] for policy in policies]
            table.add_row(row.name, f"{kind} ({subscriber})", *(_text(cell) for cell in found))
    console.print(table)
    for cell in cells:
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
    console.print(f"Results: {out / 'results.json'}", highlight=False)


def _text(cell: Measured) -> str:
    if cell.absent:
        return "n/a"
    wrong = "" if cell.as_expected else "!"
    return f"N{wrong} {cell.broken}/{cell.runs}" if cell.broken else f"Y{wrong} {cell.runs}"
