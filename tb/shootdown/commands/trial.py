"""``shootdown trial``: the review of the seed patch, S1 to S17: verdict, why, the run that shows it, how to replay it."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace
from rich.console import Console

from shootdown.catalogue.trial import TRIAL, Charge, Finding, hear, of_outcome
from shootdown.errors import UsageError
from shootdown.files import require_writable, write_whole
from shootdown.report.ktap import Result, ktap
from shootdown.report.trial_page import page
from shootdown.run.config import CARRIERS, MODEL, MOST_SCHEDULES, within
from shootdown.run.runs import fresh_folder, perform_all

__all__ = ["add_parser"]

OUT = Path("out/trial")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("trial", help="try the seed patch: S1 to S17 of its review")
    add = parser.add_argument
    add("charge", nargs="*", metavar="S1...S17", help="default: all")
    add("--sim", default=MODEL, help=f"of the directed runs: one of {', '.join(CARRIERS)}")
    add("--schedules", type=int, default=100, help="schedules of each search (default 100)")
    add("--ktap", action="store_true", help="print KTAP instead of the text")
    add("--markdown", type=Path, metavar="FILE", help="write it as a page of documentation")
    add("--out", type=Path, default=OUT, help=f"folder of the results (default {OUT})")
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> int:
    known = {charge.name: charge for charge in TRIAL}
    unknown = [name for name in chosen.charge if name not in known]
    if unknown:
        raise UsageError(f"charge must be one of S1 to S17, not {unknown[0]!r}")
    if chosen.sim not in CARRIERS:
        raise UsageError(f"simulator must be one of {', '.join(CARRIERS)}, not {chosen.sim!r}")
    within("schedules", chosen.schedules, 2, MOST_SCHEDULES)
    require_writable(chosen.markdown)
    charges = [known[name] for name in dict.fromkeys(chosen.charge or known)]
    with fresh_folder(chosen.out) as folder:
        found = {c.name: list(_heard(c, chosen, folder)) for c in charges}
        (folder / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    if chosen.markdown is not None:
        write_whole(chosen.markdown, page(charges, found))
    if chosen.ktap:
        print("\n".join(ktap(_result(charge, found[charge.name]) for charge in charges)))
    else:
        _print(charges, found)
    return 0 if all(f.as_expected for one in found.values() for f in one) else 1


def _heard(charge: Charge, chosen: argparse.Namespace, folder: Path) -> Iterable[Finding]:
    """Return the findings of a charge; its directed runs are in a simulator, if one is asked for."""
    if chosen.sim == MODEL or not charge.on_rtl:
        return hear(charge, chosen.schedules)
    runs = [replace(shown.run, simulator=chosen.sim, waves=True) for shown in charge.shown]
    outcomes = perform_all(runs, folder / charge.name)
    return [of_outcome(*pair) for pair in zip(charge.shown, outcomes, strict=True)]


def _result(charge: Charge, found: Sequence[Finding]) -> Result:
    name = f"{charge.name} {charge.title}"
    notes = tuple(f"{f.text}; replay: {f.replay}" for f in found)
    return Result(name, all(f.as_expected for f in found), notes=(charge.verdict, *notes))


def _print(charges: Sequence[Charge], found: dict[str, list[Finding]]) -> None:
    console = Console(width=None if Console().is_terminal else 120)
    for charge in charges:
        console.print(f"[bold]{charge.name}: {charge.title}[/bold]: {charge.verdict}")
        console.print(charge.why, highlight=False)
        for finding in found[charge.name]:
            mark = "" if finding.as_expected else "[bold]NOT AS EXPECTED[/bold] "
            console.print(
                f"  {mark}{finding.text}; replay: {finding.replay}",
                highlight=False,
                soft_wrap=True,
            )
        console.print()
