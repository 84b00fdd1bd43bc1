"""``shootdown bugs``: seed each historic bug, and say by what it is caught; the fixed code and a benign run must pass."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from shootdown.catalogue.bugs import BUGS, Entry, Verdict, try_bug, try_rtl_bug
from shootdown.errors import UsageError
from shootdown.files import require_writable, write_whole
from shootdown.report.bugs_page import page
from shootdown.report.ktap import Result, ktap
from shootdown.run.runs import fresh_folder
from shootdown.simulators.builds import SIMULATORS

__all__ = ["add_parser"]

OUT = Path("out/bugs")
_NOT_RUN = "a fault of the RTL: give --sim"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("bugs", help="seed the historic bugs and see them caught")
    add = parser.add_argument
    add("bug", nargs="*", metavar="B1...B45", help="default: all")
    add("--sim", help=f"run the RTL's faults, too, on one of {', '.join(SIMULATORS)}")
    add("--markdown", type=Path, metavar="FILE", help="write them as a page of documentation")
    add("--ktap", action="store_true", help="print KTAP instead of the table")
    add("--out", type=Path, default=OUT, help=f"folder of the results (default {OUT})")
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> int:
    unknown = [name for name in chosen.bug if name not in BUGS]
    if unknown:
        raise UsageError(f"bug must be one of B1 to B45, not {unknown[0]!r}")
    if chosen.sim is not None and chosen.sim not in SIMULATORS:
        raise UsageError(f"simulator must be one of {', '.join(SIMULATORS)}, not {chosen.sim!r}")
    require_writable(chosen.markdown)
    entries = [BUGS[name] for name in dict.fromkeys(chosen.bug or BUGS)]
    with fresh_folder(chosen.out) as folder:
        verdicts = {}
        for entry in entries:
            if entry.hardware and chosen.sim is not None:
                verdicts[entry.name] = try_rtl_bug(entry, chosen.sim, folder)
            elif not entry.hardware:
                verdicts[entry.name] = try_bug(entry)
        found = [_record(entry, verdicts.get(entry.name)) for entry in entries]
        (folder / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    if chosen.markdown is not None:
        write_whole(chosen.markdown, page(entries, verdicts))
    if chosen.ktap:
        print("\n".join(ktap(_result(entry, verdicts.get(entry.name)) for entry in entries)))
    else:
        _print(entries, verdicts, chosen.out)
    return 0 if all(verdict.passed for verdict in verdicts.values()) else 1


def _record(entry: Entry, verdict: Verdict | None) -> dict[str, object]:
    record: dict[str, object] = {"bug": entry.name, "title": entry.title}
    if verdict is None:
        return record | {"not run": _NOT_RUN}
    return record | {
        "caught": verdict.caught,
        "cycle": verdict.cycle,
        "side": verdict.side,
        "what": verdict.what,
        "fixed passes": verdict.fixed_passes,
        "benign passes": verdict.benign_passes,
        "replay": entry.run.replay_command(),
    }


def _result(entry: Entry, verdict: Verdict | None) -> Result:
    name = f"{entry.name} {entry.title}"
    if verdict is None:
        return Result(name, True, _NOT_RUN)
    notes = (
        f"caught by {verdict.caught or 'nothing'} in cycle {verdict.cycle}: {verdict.what}",
        f"fixed code {_passes(verdict.fixed_passes)}, benign run {_passes(verdict.benign_passes)}",
        f"replay: {entry.run.replay_command()}",
    )
    return Result(name, verdict.passed, notes=notes)


def _passes(passed: bool) -> str:
    return "passes" if passed else "FAILS"


def _print(entries: Sequence[Entry], verdicts: dict[str, Verdict], out: Path) -> None:
    console = Console(width=None if Console().is_terminal else 200)
    table = Table(title="Historic bugs as seeded faults", title_justify="left")
    for column in ("bug", "mechanism", "run", "caught by", "cycle", "side", "fixed", "benign"):
        table.add_column(column)
    for entry in entries:
        verdict = verdicts.get(entry.name)
        if verdict is None:
            table.add_row(entry.name, entry.mechanism, "-", f"not run: {_NOT_RUN}")
            continue
        run = entry.run
        table.add_row(
            entry.name,
            entry.mechanism,
            f"{run.policy} {run.subscriber} {run.scenario}",
            verdict.caught or "[bold]NOTHING[/bold]",
            str(verdict.cycle) if verdict.cycle else "-",
            verdict.side,
            _passes(verdict.fixed_passes),
            _passes(verdict.benign_passes),
        )
    console.print(table)
    caught = [verdict for verdict in verdicts.values() if verdict.passed]
    both = sum(verdict.side == "both" for verdict in caught)
    console.print(
        f"{len(caught)} of {len(entries)} caught, {both} of them by the hardware's sanitizer as well as by the host's "
        f"checks, with the fixed code and the benign run passing. Results: {out / 'results.json'}",
        highlight=False,
    )
    for name, verdict in verdicts.items():
        run = verdict.entry.run
        mark = "" if verdict.passed else "[bold]FAILED[/bold] "
        console.print(
            f"{mark}{name}: {verdict.what}; replay: {run.replay_command()}",
            highlight=False,
            soft_wrap=True,
        )
