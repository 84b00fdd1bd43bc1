"""``shootdown compare``: every policy against one, over seeds, CPUs, subscribers, traces and costs."""

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from hostmm.policies import POLICIES
from hostmm.subscribers.kinds import SUBSCRIBERS
from hostmm.trace import shipped
from shootdown.errors import UsageError
from shootdown.files import require_writable, write_whole
from shootdown.report.comparison import (
    Costs,
    Difference,
    Effect,
    costs_of,
    differences,
    effects,
    summary,
)
from shootdown.report.comparison_table import COLUMNS, markdown, rows
from shootdown.run.config import DEFAULT_CPUS, DEFAULT_TRACE, MODEL, RunConfig, within
from shootdown.run.outcome import Outcome
from shootdown.run.runs import fresh_folder, perform_all
from shootdown.simulators.builds import SIMULATORS

__all__ = ["add_parser"]

OUT = Path("out/compare")
PLOTS = "plots"
VERDICT = "Verdict (p50 and p99; ranges over the seeds apart, and no tried cost speaks against it)"
_FACTORS = (0.25, 4.0)
_SHOWN_IN_A_LINE = 4
_MOST_SEEDS = 1000
_CARRIERS = {"model": MODEL, "sim": SIMULATORS[0]}
_SUBSCRIBERS = ("sva", "odp")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "compare",
        help="compare all policies: locks, faults, reclaim, shootdowns; parts of it by option",
        description=(
            "Runs every combination of what is chosen, and every seed, and compares each policy with the first. Other "
            "costs are tried with the first number of CPUs only. A run of a shipped trace takes some 10 s on the "
            "model and 30 s in simulation, two at a time."
        ),
    )
    add = parser.add_argument
    add("--policies", default=",".join(POLICIES), help="comma-separated; the first is the standard")
    add(
        "--traces",
        default=DEFAULT_TRACE,
        help=f"comma-separated names or files; all: every shipped one (default {DEFAULT_TRACE})",
    )
    add("--cpus", default=f"{DEFAULT_CPUS},1,16", help="comma-separated, 1 to 16 (default 4,1,16)")
    add(
        "--subscribers",
        default=",".join(_SUBSCRIBERS),
        help=f"comma-separated, of {', '.join(SUBSCRIBERS)} (default sva, which spins, and odp, which sleeps)",
    )
    add("--seeds", type=int, default=5, help="schedule seeds (default 5)")
    add(
        "--costs",
        choices=("usual", "all"),
        default="all",
        help="all: link and IPI costs, and memory latency, times 1/4 and 4 too (default all)",
    )
    add("--carrier", choices=tuple(_CARRIERS), default="model", help="default model")
    add("--markdown", type=Path, help="write the table and the verdict to this file, too")
    add("--out", type=Path, default=OUT, help=f"folder of the results (default {OUT})")
    parser.set_defaults(command=_compare)


def _listed(what: str, text: str, allowed: Sequence[str] | None = None) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if allowed is not None and name not in allowed:
            raise UsageError(f"{what} must be of {', '.join(allowed)}, not {name!r}")
    if not names:
        raise UsageError(f"{what} must name at least one")
    return names


def _numbers(what: str, text: str) -> list[int]:
    try:
        return [int(name) for name in _listed(what, text)]
    except ValueError:
        raise UsageError(f"{what} must be whole numbers, not {text!r}") from None


def _costs(chosen: argparse.Namespace) -> list[Costs]:
    usual = Costs()
    if chosen.costs == "usual":
        return [usual]
    return [
        usual,
        *(Costs(scale=factor) for factor in _FACTORS),
        *(Costs(memory_latency=round(factor * usual.memory_latency)) for factor in _FACTORS),
    ]


def _configs(chosen: argparse.Namespace) -> list[RunConfig]:
    # A range needs two of them.
    within("seeds", chosen.seeds, 2, _MOST_SEEDS)
    policies = _listed("policies", chosen.policies, tuple(POLICIES))
    if len(policies) < 2:
        raise UsageError(
            "policies must name two or more: the first is what the others are held against"
        )
    traces = sorted(shipped()) if chosen.traces == "all" else _listed("traces", chosen.traces)
    cpus = _numbers("cpus", chosen.cpus)
    subscribers = _listed("subscribers", chosen.subscribers, tuple(SUBSCRIBERS))
    settings = [
        (count, costs)
        for count, costs in product(cpus, _costs(chosen))
        if costs == Costs() or count == cpus[0]
    ]
    seeds = range(1, chosen.seeds + 1)
    return [
        _config(trace, subscriber, count, costs, seed, policy, _CARRIERS[chosen.carrier])
        for trace, subscriber, (count, costs), seed, policy in product(
            traces, subscribers, settings, seeds, policies
        )
    ]


def _config(
    trace: str, subscriber: str, cpus: int, costs: Costs, seed: int, policy: str, carrier: str
) -> RunConfig:
    """Return one run; what the default trace does not hold is added where the policy's kernel could have it."""
    added = trace == DEFAULT_TRACE
    return RunConfig(
        trace=trace,
        policy=policy,
        subscriber=subscriber,
        simulator=carrier,
        cpus=cpus,
        seed=seed,
        scale_link=costs.scale,
        scale_ipi=costs.scale,
        memory_latency=costs.memory_latency,
        nonlinear=added and POLICIES[policy].has("try_to_unmap_cluster"),
        xip=added and POLICIES[policy].has("__xip_unmap"),
    )


def _compare(chosen: argparse.Namespace) -> int:
    configs = _configs(chosen)
    require_writable(chosen.markdown)
    first, *others = dict.fromkeys(config.policy for config in configs)
    with fresh_folder(chosen.out) as folder:
        outcomes = perform_all(configs, folder)
        found = [d for policy in others for d in differences(outcomes, first, policy)]
        (folder / "compare.json").write_bytes(msgspec.json.format(msgspec.json.encode(found)))
        _plot(outcomes, folder / PLOTS)
    if chosen.markdown is not None:
        verdict = "".join(f"* {line}\n" for line in _verdict(first, found))
        write_whole(chosen.markdown, f"{markdown(outcomes)}\n{verdict}")
    console = Console(width=None if Console().is_terminal else 160)
    _print_figures(console, outcomes)
    _print_table(console, first, found)
    for line in (VERDICT, *_verdict(first, found)):
        console.print(line, highlight=False, soft_wrap=True)
    unexpected = [(o, v) for o in outcomes for v in o.unexpected]
    for outcome, violation in unexpected[:10]:
        console.print(
            f"[bold]FAILED[/bold] {violation.invariant} on {violation.path} in cycle {violation.cycle}: "
            f"{violation.what}; replay: {outcome.config.replay_command()}",
            highlight=False,
            soft_wrap=True,
        )
    places = f"results: {chosen.out / 'compare.json'}; plots: {chosen.out / PLOTS}/*/*.svg"
    console.print(f"{len(outcomes)} runs on {configs[0].simulator}; {places}", highlight=False)
    return 1 if unexpected else 0


def _plot(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Draw what was run at the usual costs, setting by setting."""
    # Matplotlib takes as long to load as half of the command line, for which no other command should wait.
    from shootdown.report.plots import plot_latencies

    usual = [outcome for outcome in outcomes if costs_of(outcome) == Costs()]
    keys = dict.fromkeys((o.config.trace, o.config.subscriber, o.config.cpus) for o in usual)
    for trace, subscriber, cpus in keys:
        mine = [
            o
            for o in usual
            if (o.config.trace, o.config.subscriber, o.config.cpus) == (trace, subscriber, cpus)
        ]
        name = f"{Path(trace).stem}-{subscriber}-{cpus}cpu"
        title = f"{Path(trace).stem}, {subscriber}, {cpus} CPUs, {mine[0].config.simulator}"
        plot_latencies(mine, folder / name, title=title)


def _print_figures(console: Console, outcomes: Sequence[Outcome]) -> None:
    title = "p50 / p99 in us (shootdowns: cycles), middle over the seeds"
    table = Table(title=title, title_justify="left")
    for column in COLUMNS:
        table.add_column(column)
    for row in rows(outcomes):
        table.add_row(*row)
    console.print(table)


def _print_table(console: Console, first: str, found: Sequence[Difference]) -> None:
    claimed = [difference for difference in found if difference.direction]
    table = Table(
        title="Differences whose ranges over the seeds do not overlap", title_justify="left"
    )
    for column in (
        "setting",
        "path",
        "figure",
        first,
        "policy",
        "its range",
        "is",
        "survives other costs",
    ):
        table.add_column(column)
    for one in claimed:
        table.add_row(
            one.setting.name,
            one.path,
            f"{one.figure} {one.percentile}",
            f"{one.before.low} to {one.before.high}",
            one.policy,
            f"{one.after.low} to {one.after.high}",
            "lower" if one.direction < 0 else "higher",
            {True: "yes", False: "no", None: "not tried"}[one.survives],
        )
    console.print(table)
    console.print(summary(found), highlight=False)


def _verdict(first: str, found: Sequence[Difference]) -> Iterator[str]:
    """Say of each policy and setting where it gains, where it only moves the wait, and where it costs."""
    for policy in dict.fromkeys(difference.policy for difference in found):
        mine = [difference for difference in found if difference.policy == policy]
        for setting in dict.fromkeys(difference.setting for difference in mine):
            sorted_out = effects([d for d in mine if d.setting == setting])
            for effect in Effect:
                if sorted_out[effect]:
                    yield (
                        f"{policy} against {first} ({setting.name}): {effect.value}: "
                        f"{_summary(sorted_out[effect])}"
                    )
            if not any(sorted_out.values()):
                yield f"{policy} against {first} ({setting.name}): nothing that can be claimed"


def _summary(found: Sequence[Difference]) -> str:
    """Name the largest changes first, and count the rest."""
    ranked = sorted(found, key=lambda d: -abs(d.after.low - d.before.low))
    parts = [
        f"{d.path} {d.figure} {d.percentile} {d.before.low}..{d.before.high} to {d.after.low}..{d.after.high}"
        for d in ranked[:_SHOWN_IN_A_LINE]
    ]
    more = len(found) - len(parts)
    return "; ".join(parts) + (f"; and {more} more" if more else "")
