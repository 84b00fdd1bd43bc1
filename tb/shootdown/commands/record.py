"""``shootdown record``: record a real program's memory traffic as a trace."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hostmm.trace import Trace, save
from shootdown.record import RecordError, Recording, record
from shootdown.run.config import within

__all__ = ["add_parser"]

DEFAULT_WINDOW = 20_000
MOST_WINDOW = 2**31 - 1
"""Its instructions are counted in 32 bits."""
PROGRESS_S = 0.5


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "record",
        help="run a program under valgrind and write its trace",
        usage="shootdown record [-o FILE] [--window N] -- PROGRAM [ARGS ...]",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="trace to write (default: PROGRAM.trace in this folder); its stem is the trace's name",
    )
    parser.add_argument(
        "--window",
        type=int,
        default=DEFAULT_WINDOW,
        metavar="N",
        help=f"instructions a window (default {DEFAULT_WINDOW})",
    )
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM [ARGS ...]")
    parser.set_defaults(command=_record)


def _record(arguments: argparse.Namespace) -> int:
    program = arguments.program[arguments.program[:1] == ["--"] :]
    if not program:
        raise RecordError("name a program to record: shootdown record -- PROGRAM [ARGS ...]")
    within("window", arguments.window, 1, MOST_WINDOW)
    output = arguments.output or Path(f"{Path(program[0]).name}.trace")
    is_other = output.exists() and not output.is_file()
    if not os.access(output.parent, os.W_OK | os.X_OK) or is_other:
        raise RecordError(f"cannot write trace {output}: no writable folder, or no file itself")
    command = ("shootdown", "record", "-o", output.name, "--window", str(arguments.window), "--")
    trace = record(
        program,
        name=output.stem,
        command=(*command, *program),
        window_instructions=arguments.window,
        progress=_progress(),
    )
    save(trace, output)
    print(_summary(trace, output), file=sys.stderr)
    return 0


def _progress() -> Callable[[Recording], None]:
    """Return a callback that keeps one line on the terminal up to date."""
    if not sys.stderr.isatty():
        return lambda _recording: None
    due = 0.0

    def show(recording: Recording) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + PROGRESS_S
            count = recording.instructions / 1e6
            sys.stderr.write(
                f"\rrecording: {count:.1f} M instructions, {recording.windows} windows "
            )

    return show


def _summary(trace: Trace, output: Path) -> str:
    return (
        f"{output}: {output.stat().st_size // 1024} KiB, {len(trace.processes)} processes, "
        f"{trace.instructions():,} instructions in {len(trace.windows()):,} windows, "
        f"{trace.page_accesses():,} page accesses, footprint {trace.footprint_pages():,} pages, "
        f"{trace.synthesized_pages} of them in no known mapping"
    )
