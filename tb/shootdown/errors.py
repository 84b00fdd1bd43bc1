"""The bench's error tree: what a user may be shown as one line."""

__all__ = [
    "BuildError",
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


class SimulationError(ShootdownError):
    """A simulation ended without results: it crashed, ran out of time, or knew none of the cases."""


class UsageError(ShootdownError):
    """A value on the command line or in a configuration is not allowed; the message says what is."""
