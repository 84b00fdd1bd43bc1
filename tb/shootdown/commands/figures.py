"""``shootdown figures``: the figures of the secondary MMU, measured at its pins."""

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec

from shootdown.bench.figures import (
    LATENCIES,
    PEER,
    PEER_FPGA,
    SETUPS,
    Figure,
    fpga_figures,
    measure,
    sweep_figure,
)
from shootdown.bench.fpga import Fit
from shootdown.errors import UsageError
from shootdown.files import require_writable, write_whole

__all__ = ["add_parser"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "figures", help="measure the MMU's latencies and rates in cycles, beside their targets"
    )
    parser.add_argument("--fpga", type=Path, metavar="FILE", help="add what fpga --json wrote")
    parser.add_argument("--sweep", type=Path, metavar="FILE", help="add what make sweep wrote")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    parser.set_defaults(command=_figures)


def _figures(chosen: argparse.Namespace) -> int:
    require_writable(chosen.json)
    beside = [] if chosen.fpga is None else fpga_figures(_read_fits(chosen.fpga))
    if chosen.sweep is not None:
        beside.append(sweep_figure(chosen.sweep))
    figures = []
    for setup in SETUPS:
        for latency in LATENCIES:
            print(f"figures: {setup}, memory of {latency} cycles", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="shootdown-") as folder:
                figures += measure(setup, latency, Path(folder))
    figures += beside
    _print_table(figures)
    if chosen.json is not None:
        text = msgspec.json.format(msgspec.json.encode(figures), indent=2).decode()
        write_whole(chosen.json, f"{text}\n")
    return 0 if all(figure.passed for figure in figures) else 1


def _read_fits(path: Path) -> list[Fit]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Fit])
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} does not hold what fpga --json writes: {error}") from None


def _print_table(figures: list[Figure]) -> None:
    print(f"{'figure':<26} {'of':<11} {'L':>4} {'must be':>11} {'is':>9} {'unit':<8} {'':<7} peer")
    for figure in sorted(figures, key=lambda figure: [f.name for f in figures].index(figure.name)):
        must = f"{figure.relation} {_number(figure.target)}"
        latency = "" if figure.latency is None else figure.latency
        verdict = "reached" if figure.passed else "MISSED"
        print(
            f"{figure.name:<26} {figure.setup:<11} {latency:>4} {must:>11}"
            f" {_number(figure.measured):>9} {figure.unit:<8} {verdict:<7} {figure.peer}".rstrip()
        )
    print(f"L: memory latency in cycles. Peer: {PEER}; clock and LUT4: {PEER_FPGA}.")


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.3f}"
