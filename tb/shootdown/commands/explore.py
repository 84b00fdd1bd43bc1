"""``shootdown explore``: run races in thousands of orders on the model, and say which invariants broke."""

import argparse
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from hostmm.policies import POLICIES
from hostmm.scenarios.litmus import races
from hostmm.subscribers.kinds import SUBSCRIBERS
from shootdown.errors import UsageError
from shootdown.explore import (
    STRATEGIES,
    Schedule,
    Search,
    bounded,
    count_steps,
    explore,
    pct,
    seeds,
)
from shootdown.litmus import missing
from shootdown.run.config import MODEL, MOST_SCHEDULES, RunConfig, within

__all__ = ["add_parser"]


_MOST_DEPTH = 100


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("explore", help="run races in thousands of orders on the model")
    add = parser.add_argument
    add("race", nargs="*", help=f"{', '.join(races())}; default: all")
    add("--policy", action="append", help=f"repeatable; {', '.join(POLICIES)}; default: seed")
    add("--subscriber", default="sva", help=f"one of {', '.join(SUBSCRIBERS)}")
    add("--mutant", help="a fault of the host, as shootdown run has them")
    add("--strategy", default="pct", help=f"one of {', '.join(STRATEGIES)}")
    add("--schedules", type=int, default=200, help="schedules by seed or PCT (default 200)")
    add(
        "--depth", type=int, default=2, help="preemptions of a PCT schedule, or at most (default 2)"
    )
    add("--seed", type=int, default=1, help="first seed, or the seed of bounded schedules")
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> int:
    unknown = [name for name in chosen.race if name not in races()]
    if unknown:
        raise UsageError(f"race must be one of {', '.join(races())}, not {unknown[0]!r}")
    if chosen.strategy not in STRATEGIES:
        raise UsageError(
            f"strategy must be one of {', '.join(STRATEGIES)}, not {chosen.strategy!r}"
        )
    within("schedules", chosen.schedules, 1, MOST_SCHEDULES)
    within("depth", chosen.depth, 1, _MOST_DEPTH)
    searches = []
    for name in chosen.race or races():
        for policy in dict.fromkeys(chosen.policy or ("seed",)):
            config = RunConfig(
                policy=policy,
                subscriber=chosen.subscriber,
                mutant=chosen.mutant,
                scenario=name,
                simulator=MODEL,
            )
            if missing(races()[name].script, policy, chosen.subscriber) is None:
                searches.append(explore(config, _schedules(chosen, config)))
    _print(searches)
    return 0


def _schedules(chosen: argparse.Namespace, config: RunConfig) -> Iterable[Schedule]:
    if chosen.strategy == "seeds":
        return seeds(chosen.schedules, first=chosen.seed)
    steps = count_steps(config)
    if chosen.strategy == "bounded":
        return bounded(steps=steps, bound=chosen.depth, seed=chosen.seed)
    return pct(chosen.schedules, steps=steps, depth=chosen.depth, first=chosen.seed)


def _print(searches: Iterable[Search]) -> None:
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(title="Explored schedules", title_justify="left")
    for column in ("race", "policy", "schedules", "orders", "broken: schedules"):
        table.add_column(column)
    replays = []
    for search in searches:
        config = search.config
        broken = ", ".join(f"{name}: {count}" for name, count in sorted(search.hits.items()))
        counts = (str(search.schedules), str(search.orders))
        table.add_row(config.scenario, config.policy, *counts, broken or "nothing")
        for invariant, run in sorted(search.first.items()):
            name = f"{config.scenario} {config.policy} {invariant}"
            replays.append(f"{name}: {run.replay_command()}")
    console.print(table)
    for line in replays:
        console.print(line, highlight=False, soft_wrap=True)
