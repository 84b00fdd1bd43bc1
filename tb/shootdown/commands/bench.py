"""``shootdown bench``: emulated cycles per second, against the same RTL without Python."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hostmm.trace import load, shipped
from shootdown.bench.bench import DEVICE_TARGET, REPLAY_TARGET, Bench, Measurement
from shootdown.files import require_writable, write_whole
from shootdown.run.config import DEFAULT_POLICIES, DEFAULT_TRACE, RunConfig, within

__all__ = ["add_parser"]

_MOST = {"rounds": 100, "bursts": 10_000_000, "cycles": 10**10}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "bench", help="measure the emulator's speed against the same RTL without Python"
    )
    parser.add_argument("--trace", default=DEFAULT_TRACE, help="trace of the replay")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default 3)")
    parser.add_argument(
        "--bursts", type=int, default=10000, help="DMA bursts of the device-only stretch"
    )
    parser.add_argument(
        "--cycles", type=int, default=6_000_000, help="emulated cycles of the replay to measure"
    )
    parser.add_argument("--device-only", action="store_true", help="leave the replay out")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.set_defaults(command=_bench)


def _bench(chosen: argparse.Namespace) -> int:
    for name, most in _MOST.items():
        within(name, getattr(chosen, name), 1, most)
    require_writable(chosen.json)
    trace = RunConfig(policy=DEFAULT_POLICIES[0], trace=chosen.trace).trace_path
    if not chosen.device_only:
        load(trace)  # a bad trace is refused before anything is built
    # The simulation runs in a folder of its own.
    name = chosen.trace if chosen.trace in shipped() else str(trace.absolute())
    bench = Bench(chosen.rounds, chosen.bursts, name, chosen.cycles, _tell)
    measured = [bench.device_only()]
    if not chosen.device_only:
        measured += [bench.replay(warp=False), bench.replay(warp=True)]
    _print_table(measured)
    if chosen.json is not None:
        write_whole(chosen.json, msgspec.json.encode(measured))
    return 0


def _tell(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _print_table(measured: Sequence[Measurement]) -> None:
    print(
        f"{'':<17} {'cycles':>10} {'cocotb':>10} {'bare C++':>10} {'ratio':>6} {'target':>6}"
        f" {'overhead':>9} {'wakes':>8}"
    )
    print(
        f"{'':<17} {'':>10} {'cycles/s':>10} {'cycles/s':>10} {'':>6} {'':>6} {'ns/cycle':>9} {'/1000 cy':>8}"
    )
    targets = (DEVICE_TARGET, REPLAY_TARGET, None)
    for figures, target in zip(measured, targets, strict=False):
        print(
            f"{figures.name:<17} {figures.cycles:>10} {figures.cycles / figures.seconds:>10.0f}"
            f" {figures.cycles / figures.bare_seconds:>10.0f} {figures.ratio:>6.2f}"
            f" {'' if target is None else target:>6} {figures.overhead_ns:>9.0f}"
            f" {figures.wakes_per_1000:>8.2f}"
        )
    if len(measured) == len(targets):
        off, on = measured[1:]
        gain = (on.cycles / on.seconds) / (off.cycles / off.seconds)
        print(f"Warp: {gain:.2f} times the emulated cycles per second of the replay without it.")
    print("CPU seconds of one thread, the fastest of alternating rounds; same link words in both.")
