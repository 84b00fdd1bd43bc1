"""``shootdown litmus``: play litmus tests under every policy, and say what came out of each cell."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from hostmm.errors import HostError
from hostmm.policies import POLICIES
from hostmm.scenarios import FORBIDDEN
from hostmm.scenarios.litmus import SUFFIX, Litmus, read, shipped
from hostmm.subscribers.kinds import SUBSCRIBERS
from shootdown.errors import UsageError
from shootdown.litmus import Cell, cell, missing, observe, observe_on_model
from shootdown.report.ktap import Result, ktap
from shootdown.run.config import CARRIERS, MODEL, RunConfig
from shootdown.run.runs import fresh_folder, write_wave_files

__all__ = ["add_options", "add_parser", "run_suite"]

OUT = Path("out/litmus")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("litmus", help="play litmus tests under every policy")
    add_options(parser, shipped(), policies=tuple(POLICIES), subscribers=("sva",), out=OUT)
    parser.set_defaults(command=lambda chosen: run_suite(chosen, shipped()))


def add_options(
    parser: argparse.ArgumentParser,
    known: Mapping[str, Litmus],
    *,
    policies: Sequence[str],
    subscribers: Sequence[str],
    out: Path,
    simulator: str = "verilator",
) -> None:
    """Add what a suite of scripts can be told; the sequences are defaults."""
    add = parser.add_argument
    add(
        "litmus",
        nargs="*",
        metavar="NAME|FILE",
        help=f"{', '.join(known)}, or a file FILE{SUFFIX}; default: all that are shipped",
    )
    add(
        "--policy",
        action="append",
        help=f"repeatable; {', '.join(POLICIES)}; default: {', '.join(policies)}",
    )
    add(
        "--subscriber",
        action="append",
        help=f"repeatable; {', '.join(SUBSCRIBERS)}; default: {', '.join(subscribers)}",
    )
    add("--sim", default=simulator, help=f"one of {', '.join(CARRIERS)}; default: {simulator}")
    add("--seed", type=int, default=1, help="seed of the schedule")
    add("--ktap", action="store_true", help="print KTAP instead of the table")
    add("--out", type=Path, default=out, help=f"folder of the results (default {out})")
    parser.set_defaults(policies=policies, subscribers=subscribers)


def _scripts(names: Sequence[str], known: Mapping[str, Litmus]) -> dict[str, Litmus]:
    """Return the litmus tests asked for, by what a run's configuration calls them."""
    found = dict[str, Litmus]()
    for name in names or known:
        if name.endswith(SUFFIX):
            try:
                found[name] = Litmus(read(Path(name)))
            except HostError as error:
                raise UsageError(str(error)) from None
        elif name in known:
            found[name] = known[name]
        else:
            raise UsageError(
                f"no litmus test {name!r}; there are {', '.join(known)}, or give a file NAME{SUFFIX}"
            )
    stems = [litmus.name for litmus in found.values()]
    if len(set(stems)) < len(stems):
        raise UsageError(f"two litmus tests have one name: {', '.join(stems)}")
    return found


def run_suite(chosen: argparse.Namespace, known: Mapping[str, Litmus]) -> int:
    """Play scripts, print and write what came out; returns the exit status."""
    scripts = _scripts(chosen.litmus, known)
    cells: dict[tuple[str, str, str], Cell] = {}
    configs = []
    for name, litmus in scripts.items():
        for policy in dict.fromkeys(chosen.policy or chosen.policies):
            for subscriber in dict.fromkeys(chosen.subscriber or chosen.subscribers):
                config = RunConfig(
                    policy=policy,
                    subscriber=subscriber,
                    scenario=name,
                    simulator=chosen.sim,
                    seed=chosen.seed,
                    waves=chosen.sim != MODEL,
                )
                absent = missing(litmus.script, policy, subscriber)
                key = (litmus.name, policy, subscriber)
                cells[key] = Cell(
                    litmus=litmus.name, policy=policy, subscriber=subscriber, absent=absent
                )
                if absent is None:
                    configs.append(config)
    with fresh_folder(chosen.out) as folder:
        outcomes = observe_on_model(configs) if chosen.sim == MODEL else observe(configs, folder)
        for found in map(cell, outcomes):
            cells[found.litmus, found.policy, found.subscriber] = found
        text = msgspec.json.format(msgspec.json.encode(list(cells.values())))
        (folder / "results.json").write_bytes(text + b"\n")
    waves = {r.config.name for r in write_wave_files(outcomes, chosen.out)}
    if chosen.ktap:
        print("\n".join(ktap(_result(found) for found in cells.values())))
    else:
        _print(list(cells.values()), scripts, chosen.out, waves)
    return 0 if all(found.passed for found in cells.values()) else 1


def _result(found: Cell) -> Result:
    if found.absent is not None:
        return Result(_name(found), True, found.absent)
    known = "as predicted" if found.passed else f"predicted {found.predicted}"
    broken = f"; broke {', '.join(found.violations)}" if found.violations else ""
    note = f"{found.observed}, {known}: {found.registers}{broken}"
    replay = () if found.passed else (f"replay: {found.replay}",)
    return Result(_name(found), found.passed, notes=(note, *replay))


def _name(found: Cell) -> str:
    return f"{found.litmus}.{found.policy}.{found.subscriber}"


def _print(cells: Sequence[Cell], scripts: dict[str, Litmus], out: Path, waves: set[str]) -> None:
    console = Console(width=None if Console().is_terminal else 200)
    policies = list(dict.fromkeys(found.policy for found in cells))
    subscribers = list(dict.fromkeys(found.subscriber for found in cells))
    table = Table(
        title="Litmus tests: FORBIDDEN is a forbidden outcome that was observed, as predicted",
        title_justify="left",
    )
    for column in ("test", "subscriber", *policies):
        table.add_column(column)
    by_place = {(f.litmus, f.subscriber, f.policy): f for f in cells}
    for litmus in scripts.values():
        for subscriber in subscribers:
            row = [by_place[litmus.name, subscriber, policy].text for policy in policies]
            table.add_row(litmus.name, subscriber, *row)
    console.print(table)
    for litmus in scripts.values():
        console.print(
            f"{litmus.name}: {litmus.title}; forbidden: {litmus.script.forbidden.text}",
            highlight=False,
            soft_wrap=True,
        )
    for found in cells:
        if found.observed == FORBIDDEN or not found.passed:
            for line in _details(found, out, waves):
                console.print(line, highlight=False, soft_wrap=True)
    console.print(f"Results: {out / 'results.json'}", highlight=False)


def _details(found: Cell, out: Path, waves: set[str]) -> list[str]:
    mark = "" if found.passed else "[bold]FAILED[/bold] "
    broken = f"; broke {', '.join(found.violations)}" if found.violations else ""
    lines = [
        f"{mark}{_name(found)}: {found.observed} ({found.registers}{broken}); replay: {found.replay}"
    ]
    run = f"{found.policy}-{found.litmus}"
    run += "" if found.subscriber == "sva" else f"-{found.subscriber}"
    if run in waves:
        lines.append(f"  waveform: {out / run}; open it: shootdown waves --run {run}")
    return lines
