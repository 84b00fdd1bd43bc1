"""``shootdown waves``: open a waveform of the last run in GTKWave."""

import argparse
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from shootdown.cases.run_cases import OUTCOME_FILE
from shootdown.commands.run import OUT, latest
from shootdown.errors import UsageError
from shootdown.run.outcome import Outcome
from shootdown.simulators.waves import SAVE_FILE, dump_of

__all__ = ["add_parser"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("waves", help="open a waveform of the last run in GTKWave")
    parser.add_argument(
        "--out", type=Path, help=f"folder of the results; default: the last run's, or {OUT}"
    )
    parser.add_argument(
        "--run",
        help="which run, as in the results folder; default: the first with an unexpected violation, else the first",
    )
    parser.set_defaults(command=_waves)


def _waves(chosen: argparse.Namespace) -> int:
    out = chosen.out or latest()
    if out is None or not out.is_dir():
        raise UsageError(f"no results in {out or OUT}: type make sim first")
    folders = sorted(file.parent for file in out.glob(f"*/{SAVE_FILE}"))
    if chosen.run is not None:
        folders = [folder for folder in folders if folder.name == chosen.run]
    if not folders:
        names = ", ".join(sorted(f.parent.name for f in out.glob(f"*/{SAVE_FILE}"))) or "none"
        raise UsageError(f"no waveform of {chosen.run or 'any run'} in {out}; there are: {names}")
    folder = next((one for one in folders if _unexpected(one)), folders[0])
    command = ["gtkwave", "--save", str(folder / SAVE_FILE), str(dump_of(folder))]
    if not os.environ.get("DISPLAY") or shutil.which("gtkwave") is None:
        print(shlex.join(command))
        if shutil.which("gtkwave") is None:
            print("GTKWave is not installed: apt-get install gtkwave")
        return 0
    return subprocess.run(command, check=False).returncode


def _unexpected(folder: Path) -> bool:
    file = folder / OUTCOME_FILE
    return file.is_file() and bool(Outcome.load(file).unexpected)
