"""``shootdown doctor``: which tools are there, which are missing, and how to install each."""

import argparse
import platform

from shootdown.simulators import toolchain
from shootdown.simulators.buildcache import cache_folder

__all__ = ["add_parser"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "doctor", help="check the outside tools and say how to install missing ones"
    )
    parser.set_defaults(command=_doctor)


def _doctor(_arguments: argparse.Namespace) -> int:
    statuses = toolchain.survey()
    print(f"Python {platform.python_version()}, models cached in {cache_folder()}")
    for status in statuses:
        mark = "ok" if status.usable else ("--" if status.optional else "!!")
        what = f"{status.version} ({status.path})" if status.usable else status.problem
        print(f"{mark}  {status.name:<10} {what.strip()}")
        if not status.usable:
            print(f"      {status.purpose}: {status.install}")
    missing = [status.name for status in statuses if not status.usable and not status.optional]
    if missing:
        print(f"Missing: {', '.join(missing)}.")
    return 2 if missing else 0
