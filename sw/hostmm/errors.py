"""Run-time errors of the host model."""

__all__ = ["DeadlockError", "HostError"]


class HostError(Exception):
    """Base of all run-time errors of :mod:`hostmm`; its text is one line for a user."""


class DeadlockError(HostError):
    """Every thread waits and nothing in the hardware can wake one."""
