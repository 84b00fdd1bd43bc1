"""``shootdown fpga``: how much of an ECP5 each preset takes, and how fast it runs there."""

import argparse
import sys
from pathlib import Path

import msgspec

from secmmu.config import PRESETS
from shootdown.bench.fpga import LIMIT_S, SEEDS, Fit, fit_preset
from shootdown.errors import UsageError
from shootdown.files import require_writable, write_whole
from shootdown.run.config import within

__all__ = ["add_parser"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "fpga", help="synthesize and route the MMU for an ECP5-85F and print area and clock"
    )
    names = ", ".join(PRESETS)
    parser.add_argument(
        "--preset", action="append", help=f"one of {names}; repeatable (default: tiny, default)"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=len(SEEDS),
        help=f"placements to try, 1 to {len(SEEDS)} (default {len(SEEDS)})",
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT_S / 60,
        metavar="MINUTES",
        help=f"give up a placement that is not routed by then (default {LIMIT_S / 60:g})",
    )
    parser.add_argument("--path", action="store_true", help="print the longest path as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    parser.set_defaults(command=_fpga)


def _fpga(chosen: argparse.Namespace) -> int:
    presets = list(dict.fromkeys(chosen.preset or ("tiny", "default")))
    for preset in presets:
        if preset not in PRESETS:
            raise UsageError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")
    within("--seeds", chosen.seeds, 1, len(SEEDS))
    if not chosen.limit > 0:
        raise UsageError(f"--limit must be more than 0 minutes, not {chosen.limit:g}")
    require_writable(chosen.json)
    fits = []
    for preset in presets:
        print(f"fpga: {preset}, {chosen.seeds} placements", file=sys.stderr, flush=True)
        fits.append(fit_preset(preset, SEEDS[: chosen.seeds], chosen.limit * 60))
    _print_table(fits)
    if chosen.path:
        for fit in fits:
            print(f"\n{fit.name}: longest path, ns", *fit.critical_path, sep="\n")
    if chosen.json is not None:
        text = msgspec.json.format(msgspec.json.encode(fits), indent=2).decode()
        write_whole(chosen.json, f"{text}\n")
    return 0


def _print_table(fits: list[Fit]) -> None:
    print(
        f"{'preset':<10} {'LUT4':>7} {'FF':>7} {'BRAM':>5} {'best MHz':>9}   MHz of each placement"
    )
    for fit in fits:
        clocks = " ".join(f"{clock:.1f}" for clock in fit.fmax_mhz)
        if not fit.routed:
            clocks = "not routed within --limit: the placer's estimate"
        print(
            f"{fit.name:<10} {fit.luts:>7} {fit.flip_flops:>7} {fit.block_rams:>5}"
            f" {fit.best_mhz:>9.1f}   {clocks}"
        )
    print("ECP5-85F, speed grade 6, a flip-flop on every port; those flip-flops are counted.")
