"""``shootdown run``: replay a trace, and directed scenarios, under each policy; check, measure and report."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec.structs import replace
from rich.console import Console

from hostmm import mutants
from hostmm.policies import POLICIES
from hostmm.scenarios import SCENARIOS
from hostmm.subscribers.kinds import SUBSCRIBERS
from secmmu.config import MUTANTS
from shootdown.errors import ShootdownError, UsageError
from shootdown.files import require_writable
from shootdown.report.report import print_report, silent_paths
from shootdown.report.results import Results, save
from shootdown.run import config as defaults
from shootdown.run.config import RunConfig
from shootdown.run.outcome import Outcome
from shootdown.run.runs import (
    Recording,
    fresh_folder,
    perform_all,
    record_unexpected,
    write_wave_files,
)
from shootdown.simulators.waves import dump_of

__all__ = ["add_parser", "latest"]

OUT = Path("out/run")
RESULTS = "results.json"
_SHOWN_VIOLATIONS = 3


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("run", help="replay a program's memory traffic against the RTL")
    add = parser.add_argument
    add(
        "trace",
        nargs="?",
        help="name of a shipped trace, or a trace file; default: the default scenario",
    )
    add(
        "--policy",
        action="append",
        help=f"repeatable; one of {', '.join(POLICIES)}; default: v9 and seed",
    )
    add(
        "--scenario",
        action="append",
        help=f"only this directed scenario: {', '.join(SCENARIOS)}, or a litmus test's file",
    )
    add(
        "--preempt",
        type=_steps,
        default=(),
        metavar="N,N...",
        help="steps at which the thread loses its CPU, as shootdown explore prints them",
    )
    add("--subscriber", default="sva", help=f"one of {', '.join(SUBSCRIBERS)}")
    add("--sim", default="verilator", help=f"one of {', '.join(defaults.CARRIERS)}")
    add("--seed", type=int, default=1, help="seed of the schedule and of the device's share")
    add("--cpus", type=int, help="threads between two system calls; default: 4, and 1 beside it")
    add("--frames", type=int, help="frame limit; default: 0.65 of the footprint")
    add("--memory-latency", type=int, default=20, help="cycles")
    add(
        "--device-share",
        type=float,
        default=0.3,
        help="share of the accesses that the device makes",
    )
    add("--scale-link", type=float, default=1.0, help="factor on the link's cost")
    add("--scale-ipi", type=float, default=1.0, help="factor on the cost of CPU shootdowns")
    add("--nonlinear", action="store_true", help="add a nonlinear mapping of a tmpfs-like file")
    add("--xip", action="store_true", help="treat private file pages as execute-in-place holes")
    add("--mutant", help=f"switch a fault on: {', '.join((*MUTANTS, *mutants.HOST_MUTANTS))}")
    add("--waves", action="store_true", help="write waveforms of the replays too")
    add("--json", type=Path, help="write results.json here as well")
    add(
        "--out",
        type=Path,
        default=OUT,
        help=f"folder of the results (default {OUT}), replaced whole",
    )
    parser.set_defaults(command=_run)


def _steps(text: str) -> tuple[int, ...]:
    """Read numbers with commas between them."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"numbers with commas between, not {text!r}") from None


def _common(chosen: argparse.Namespace, policy: str) -> RunConfig:
    return RunConfig(
        policy=policy,
        trace=chosen.trace or defaults.DEFAULT_TRACE,
        simulator=chosen.sim,
        subscriber=chosen.subscriber,
        preempt=chosen.preempt,
        seed=chosen.seed,
        frames=chosen.frames,
        memory_latency=chosen.memory_latency,
        device_share=chosen.device_share,
        scale_link=chosen.scale_link,
        scale_ipi=chosen.scale_ipi,
        mutant=chosen.mutant,
    )


def _configs(chosen: argparse.Namespace) -> tuple[list[RunConfig], list[RunConfig]]:
    """Return the replays and the scenarios that the command line asks for."""
    if chosen.trace is not None and chosen.scenario:
        raise UsageError(f"a scenario replays no trace: leave out {chosen.trace!r} or --scenario")
    policies = list(dict.fromkeys(chosen.policy or defaults.DEFAULT_POLICIES))
    common = [_common(chosen, policy) for policy in policies]
    default_scenario = chosen.trace is None
    nonlinear, xip = chosen.nonlinear or default_scenario, chosen.xip or default_scenario
    replays = [
        replace(one, cpus=cpus, waves=chosen.waves, nonlinear=nonlinear, xip=xip)
        for cpus in ([chosen.cpus] if chosen.cpus is not None else [defaults.DEFAULT_CPUS, 1])
        for one in common
    ]
    usual = defaults.DEFAULT_SCENARIOS if default_scenario else ()
    names = dict.fromkeys(chosen.scenario or usual)
    scenarios = [
        replace(one, scenario=name, waves=chosen.waves or _has_waves(name, chosen.sim))
        for name in names
        for one in common
    ]
    return ([] if chosen.scenario else replays), scenarios


def _has_waves(scenario: str, simulator: str) -> bool:
    """Whether there is a waveform and it is small; an unknown name is refused later, with the others."""
    long = scenario in SCENARIOS and SCENARIOS[scenario].long
    return simulator != defaults.MODEL and not long


def _run(chosen: argparse.Namespace) -> int:
    replays, scenarios = _configs(chosen)
    require_writable(chosen.json)
    with fresh_folder(chosen.out) as folder:
        outcomes = perform_all([*replays, *scenarios], folder)
        results = _results(chosen, outcomes)
        save(results, folder / RESULTS)
        try:
            record_unexpected(outcomes, folder)
        except ShootdownError as error:
            # The results matter more than their waveforms.
            reason = str(error).replace(str(folder), str(chosen.out))
            print(f"shootdown: no waveform: {reason}", file=sys.stderr)
    if chosen.json is not None:
        save(results, chosen.json)
    recordings = write_wave_files(outcomes, chosen.out)
    _remember(chosen.out)
    replayed, played = outcomes[: len(replays)], outcomes[len(replays) :]
    console = Console(width=None if Console().is_terminal else 160)
    print_report(console, replayed, played, _cycle_ns(outcomes[0].config))
    failures = list(_failures(replayed, played, silent_matters=chosen.trace is None))
    for failure in failures:
        console.print(f"[bold]FAILED[/bold] {failure}", highlight=False, soft_wrap=True)
    _print_places(console, chosen.out, recordings)
    return 1 if failures else 0


def _cycle_ns(config: RunConfig) -> int:
    return 10**9 // config.emulator.clock_hz


def _results(chosen: argparse.Namespace, outcomes: Sequence[Outcome]) -> Results:
    first = outcomes[0].config
    return Results(
        trace=first.trace if first.scenario is None else None,
        seed=first.seed,
        sim=first.simulator,
        config=msgspec.to_builtins(first)
        | {"emulator": dataclasses.asdict(first.emulator), "frames": outcomes[0].frames},
        runs=[outcome.run for outcome in outcomes if outcome.scenario is None],
        scenarios=[outcome.scenario for outcome in outcomes if outcome.scenario is not None],
    )


def _failures(
    replays: Sequence[Outcome], scenarios: Sequence[Outcome], *, silent_matters: bool
) -> Iterator[str]:
    for outcome in (*replays, *scenarios):
        for violation in outcome.unexpected[:_SHOWN_VIOLATIONS]:
            yield (
                f"{violation.invariant} on {violation.path} in cycle {violation.cycle} by "
                f"{violation.thread}: {violation.what}; replay: {outcome.config.replay_command()}"
            )
        more = outcome.run.count_violations(expected=False) - _SHOWN_VIOLATIONS
        if more > 0:
            yield f"{outcome.config.name}: {more} more unexpected violations"
    for outcome in scenarios:
        if outcome.scenario is not None and not outcome.scenario.expected:
            yield (
                f"{outcome.config.name} came out {outcome.scenario.outcome}, which is not expected; "
                f"replay: {outcome.config.replay_command()}"
            )
    if silent_matters:
        for run, path in silent_paths(replays):
            yield f"{path} notified nobody in {run}: the default scenario must run all six paths"


def _remember(out: Path) -> None:
    """Note where the results are, for ``shootdown waves``; where that cannot be written they are there all the same."""
    with suppress(OSError):
        OUT.parent.mkdir(parents=True, exist_ok=True)
        (OUT.parent / "latest").write_text(str(out.absolute()))


def latest() -> Path | None:
    """Return the folder of the last run, None where there is none."""
    note = OUT.parent / "latest"
    return Path(note.read_text()) if note.is_file() else None


def _print_places(console: Console, out: Path, recordings: Sequence[Recording]) -> None:
    lines = [f"Results: {out / RESULTS}; timelines: {out}/*/timeline.parquet"]
    whole = [recording.config.name for recording in recordings if recording.cycles is None]
    if whole:
        lines.append(
            f"Waveforms: {out}/*/dump.*; open one: make waves, or shootdown waves --run {whole[0]}"
        )
    for recording in recordings:
        if recording.cycles is not None:
            name, (first, last) = recording.config.name, recording.cycles
            lines.append(
                f"Waveform of {name}: {dump_of(out / name)}, cycles {first} to {last}, the marker on "
                f"{recording.what}; open it: shootdown waves --run {name}"
            )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
