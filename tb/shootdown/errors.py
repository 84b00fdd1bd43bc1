"""The bench's error tree: what a user may be shown as one line."""

from pathlib import Path

__all__ = [
    "BuildError",
    "BuildTimeoutError",
    "ShootdownError",
    "SimulationError",
    "ToolError",
    "UsageError",
]


class ShootdownError(Exception):
    """Base of every error that ends a command with one line and exit status 2."""


class ToolError(ShootdownError):
    """A tool is missing or too old; the message ends with the command that installs it."""


class BuildError(ShootdownError):
    """A simulator refused the design; the message names the log."""


class BuildTimeoutError(BuildError):
    """A build took longer than it may; ``log`` has what it said until then."""

    def __init__(self, message: str, log: Path) -> None:
        super().__init__(message)
        self.log = log


class SimulationError(ShootdownError):
    """A simulation ended without results: it crashed, ran out of time, or knew none of the cases."""


class UsageError(ShootdownError):
    """A value on the command line or in a configuration is not allowed; the message says what is."""
