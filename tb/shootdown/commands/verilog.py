"""``shootdown verilog``: the MMU alone, as Verilog for another system."""

import argparse
import dataclasses
from pathlib import Path

from secmmu.config import PRESETS
from secmmu.ip import ip_verilog
from shootdown.errors import UsageError
from shootdown.files import require_writable, write_whole

__all__ = ["add_parser"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("verilog", help="write the MMU alone as SystemVerilog")
    parser.add_argument(
        "--preset", default="default", help=f"one of {', '.join(PRESETS)}; default: default"
    )
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="one module, secmmu")
    parser.set_defaults(command=_verilog)


def _verilog(chosen: argparse.Namespace) -> int:
    if chosen.preset not in PRESETS:
        raise UsageError(f"preset must be one of {', '.join(PRESETS)}, not {chosen.preset!r}")
    require_writable(chosen.output)
    config = dataclasses.replace(PRESETS[chosen.preset], observe=False)
    write_whole(chosen.output, ip_verilog(config))
    return 0
