"""The command line as a user runs it: in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ROOT", "command", "environment", "shootdown"]

ROOT = Path(__file__).parents[2]


def command(*words: str) -> list[str]:
    """Return the command that runs ``shootdown WORDS``."""
    return [
        sys.executable,
        "-c",
        "import sys; from shootdown.cli import main; sys.exit(main())",
        *words,
    ]


LIMIT_S = 540
"""Ends a run that hangs, before pytest does. The first run compiles a model."""


def environment() -> dict[str, str]:
    """Return the environment that finds the packages without an installation."""
    path = os.pathsep.join(str(ROOT / root) for root in ("hdl", "sw", "tb"))
    return os.environ | {"PYTHONPATH": path, "COLUMNS": "200"}


def shootdown(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``shootdown WORDS`` in ``folder``."""
    return subprocess.run(
        command(*words),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
