"""``shootdown compare``: #v9 against the seed over seeds, traces and cost scales; which differences survive."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from hostmm.trace import shipped
from shootdown.comparison import SCALES, Difference, differences
from shootdown.config import DEFAULT_POLICIES, DEFAULT_TRACE, RunConfig
from shootdown.errors import UsageError
from shootdown.runs import fresh_folder, perform_all

__all__ = ["add_parser"]

OUT = Path("out/compare")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "compare", help="compare v9 and seed in full; takes about half an hour"
    )
    parser.add_argument("--seeds", type=int, default=5, help="schedule seeds (default 5)")
    parser.add_argument(
        "--trace", action="append", help="only this trace; repeatable; default: all shipped"
    )
    parser.add_argument("--cpus", type=int, default=4, help="threads between two system calls")
    parser.add_argument(
        "--out", type=Path, default=OUT, help=f"folder of the results (default {OUT})"
    )
    parser.set_defaults(command=_compare)


def _configs(chosen: argparse.Namespace) -> list[RunConfig]:
    if chosen.seeds < 2:
        raise UsageError(f"seeds must be 2 or more, not {chosen.seeds}: a range needs them")
    return [
        RunConfig(
            trace=trace,
            policy=policy,
            cpus=chosen.cpus,
            seed=seed,
            scale_link=scale,
            scale_ipi=scale,
            nonlinear=trace == DEFAULT_TRACE,
            xip=trace == DEFAULT_TRACE,
        )
        for trace in chosen.trace or sorted(shipped())
        for scale in SCALES
        for seed in range(1, chosen.seeds + 1)
        for policy in DEFAULT_POLICIES
    ]


def _compare(chosen: argparse.Namespace) -> int:
    configs = _configs(chosen)
    with fresh_folder(chosen.out) as folder:
        outcomes = perform_all(configs, folder)
        found = differences(outcomes, *DEFAULT_POLICIES)
        (folder / "compare.json").write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    console = Console(width=None if Console().is_terminal else 160)
    _print(console, found)
    unexpected = [(o, v) for o in outcomes for v in o.unexpected]
    for outcome, violation in unexpected[:10]:
        console.print(
            f"[bold]FAILED[/bold] {violation.invariant} on {violation.path} in cycle {violation.cycle}: "
            f"{violation.what}; replay: {outcome.config.replay_command()}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"{len(outcomes)} runs; results: {chosen.out / 'compare.json'}", highlight=False)
    return 1 if unexpected else 0


def _print(console: Console, found: Sequence[Difference]) -> None:
    claimed = [difference for difference in found if difference.direction]
    before, after = DEFAULT_POLICIES
    table = Table(
        title="Differences whose ranges over the seeds do not overlap", title_justify="left"
    )
    for column in (
        "trace",
        "path",
        "figure",
        before,
        after,
        f"{after} is",
        "survives costs x 1/4 and x 4",
    ):
        table.add_column(column)
    for one in claimed:
        table.add_row(
            one.trace,
            one.path,
            one.figure,
            f"{one.before.low} to {one.before.high}",
            f"{one.after.low} to {one.after.high}",
            "lower" if one.direction < 0 else "higher",
            "yes" if one.survives else "no",
        )
    console.print(table)
    surviving = sum(difference.survives for difference in claimed)
    console.print(
        f"{len(found)} figures compared: {len(claimed)} differ, {surviving} of them whatever the costs; "
        f"the other {len(found) - len(claimed)} differences are not claimed.",
        highlight=False,
    )
