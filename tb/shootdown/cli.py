"""The command ``shootdown``: one subcommand per module of :mod:`shootdown.commands`.

Exit status: 0 for success, 1 for a failed check, 2 for bad input, a missing tool or an interruption.
"""

import argparse
import importlib.metadata
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType, ModuleType
from typing import NoReturn

from hostmm.errors import HostError
from shootdown.errors import ShootdownError

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """Refuses a command line in one line, without its usage, which is long."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"shootdown: {message}; see {self.prog} --help\n")


def _commands() -> tuple[ModuleType, ...]:
    # They take a second to load, in which Ctrl-C must end as it does later.
    from shootdown.commands import (
        bench,
        bugs,
        compare,
        csr,
        doctor,
        explore,
        figures,
        formal,
        fpga,
        hmm,
        litmus,
        matrix,
        policies,
        record,
        run,
        trial,
        verilog,
        walk,
        waves,
    )

    return (
        run,
        waves,
        compare,
        policies,
        litmus,
        explore,
        hmm,
        bugs,
        trial,
        matrix,
        record,
        walk,
        csr,
        verilog,
        fpga,
        formal,
        figures,
        bench,
        doctor,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="shootdown",
        description="Real programs' memory traffic against a secondary MMU's RTL, under Linux mm.",
    )
    version = f"shootdown {importlib.metadata.version('shootdown')}"
    parser.add_argument("--version", action="version", version=version)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _commands():
        command.add_parser(subparsers)
    return parser


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status."""
    # SIGTERM unwinds like Ctrl-C, so that temporary files and child processes go away.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        parser, words = _parser(), sys.argv[1:] if arguments is None else arguments
        for word in words:
            # Python 3.11 takes it for no value at all.
            if word.startswith("--") and word.endswith("=--"):
                parser.error(f"argument {word[:-3]}: expected one argument")
        chosen = parser.parse_args(words)
        command: Callable[[argparse.Namespace], int] = chosen.command
        status = command(chosen)
        sys.stdout.flush()
        return status
    except (ShootdownError, HostError) as error:
        print(f"shootdown: {error}", file=sys.stderr)
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python's own flush at the end must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"shootdown: {where}{error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt as signalled:
        print(
            f"shootdown: interrupted{f' by {signalled}' if signalled.args else ''}", file=sys.stderr
        )
    return 2
