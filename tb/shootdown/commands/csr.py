"""``shootdown csr``: the register map of the MMU as a C header, as SystemRDL, as a page of documentation."""

import argparse
from pathlib import Path

from secmmu import csr_export
from shootdown.errors import UsageError
from shootdown.files import require_writable, write_whole

__all__ = ["add_parser"]

_FORMATS = {
    "header": ("a C header with inline accessors", csr_export.c_header),
    "rdl": ("SystemRDL 2.0", csr_export.system_rdl),
    "markdown": ("a page of documentation", csr_export.markdown),
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("csr", help="write the MMU's register map")
    for name, (what, _) in _FORMATS.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {what}")
    parser.set_defaults(command=_csr)


def _csr(chosen: argparse.Namespace) -> int:
    wanted = {name: getattr(chosen, name) for name in _FORMATS if getattr(chosen, name) is not None}
    if not wanted:
        options = ", ".join(f"--{name}" for name in _FORMATS)
        raise UsageError(f"nothing to write: give at least one of {options}")
    require_writable(*wanted.values())
    for name, path in wanted.items():
        write_whole(path, _FORMATS[name][1]())
    return 0
