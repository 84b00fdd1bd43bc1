"""Pins of a device under test, read at most once a clock, and the two halves of a valid/ready channel."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

__all__ = ["Pace", "Pins", "Sink", "Source", "Stepped", "always", "never", "sometimes"]

Pace = Callable[[], bool]
"""Answers once a clock whether a channel may move."""


def always() -> bool:
    """Let a channel move in every clock."""
    return True


def never() -> bool:
    """Stall a channel."""
    return False


def sometimes(rng: random.Random, share: float) -> Pace:
    """Make a pace that is open in about ``share`` of the clocks (0.0 to 1.0)."""
    return lambda: rng.random() < share


class Stepped(Protocol):
    """What the clock loop drives: one step a clock edge, and a reset."""

    def step(self) -> None:
        """Serve one clock edge."""

    def reset(self) -> None:
        """Forget everything (only under the device's reset)."""


class Pins:
    """Snapshot of the pins at a clock edge.

    A pin is read when somebody first asks for it after the edge; writes reach the device before the next edge.

    Parameters
    ----------
    dut : cocotb handle
        Top level whose ports are named as Amaranth flattens them.
    """

    def __init__(self, dut: Any) -> None:
        self._dut = dut
        self._handles: dict[str, Any] = {}
        self._seen: dict[str, int] = {}
        self._driven: dict[str, int] = {}

    def has(self, name: str) -> bool:
        """Say whether the device has a port of that name."""
        return hasattr(self._dut, name)

    def refresh(self) -> None:
        """Forget the snapshot: a new clock edge has come."""
        self._seen.clear()

    def _handle(self, name: str) -> Any:
        handle = self._handles.get(name)
        if handle is None:
            handle = self._handles[name] = getattr(self._dut, name)
        return handle

    def __getitem__(self, name: str) -> int:
        value = self._seen.get(name)
        if value is None:
            value = self._seen[name] = int(self._handle(name).value)
        return value

    def drive(self, name: str, value: int) -> None:
        """Drive an input from now on; a value that stands already costs nothing."""
        if self._driven.get(name) != value:
            self._handle(name).value = value
            self._driven[name] = value


class Source:
    """Driver of a channel whose ``valid`` is an input of the device.

    Parameters
    ----------
    pins : Pins
        The device's pins.
    stem : str
        Common start of the pins' names, as ``device__ar``.
    fields : sequence of str
        Payload pins, without the stem.
    pick : callable
        Asked once a clock while nothing is presented: a ``(payload, context)`` pair to present, or None.
    sent : callable
        Called with the context when the device takes the payload.
    """

    def __init__(
        self,
        pins: Pins,
        stem: str,
        fields: Sequence[str],
        pick: Callable[[], tuple[dict[str, int], Any] | None],
        sent: Callable[[Any], None],
    ) -> None:
        self._pins = pins
        self._valid = f"{stem}valid"
        self._ready = f"{stem}ready"
        self._fields = {field: f"{stem}{field}" for field in fields}
        self._pick = pick
        self._sent = sent
        self._standing: tuple[dict[str, int], Any] | None = None
        self.reset()

    @property
    def busy(self) -> bool:
        """Whether a payload is presented and not yet taken."""
        return self._standing is not None

    def reset(self) -> None:
        """Withdraw everything (only under the device's reset)."""
        self._standing = None
        for name in (self._valid, *self._fields.values()):
            self._pins.drive(name, 0)

    def step(self) -> None:
        """Take note of a handshake at this edge and present what comes next."""
        pins = self._pins
        if self._standing is not None:
            if not pins[self._ready]:
                return
            context = self._standing[1]
            self._standing = None
            self._sent(context)
        self._standing = self._pick()
        if self._standing is None:
            pins.drive(self._valid, 0)
            return
        for field, value in self._standing[0].items():
            pins.drive(self._fields[field], value)
        pins.drive(self._valid, 1)


class Sink:
    """Taker of a channel whose ``ready`` is an input of the device.

    Parameters
    ----------
    pins, stem, fields
        As in :class:`Source`.
    taken : callable
        Called with the payload of every handshake.

    Attributes
    ----------
    pace : Pace
        Whether to be ready in the next clock.
    after_valid : bool
        Be ready only once ``valid`` was seen, as AXI lets a subordinate do.
    """

    def __init__(
        self, pins: Pins, stem: str, fields: Sequence[str], taken: Callable[[dict[str, int]], None]
    ) -> None:
        self._pins = pins
        self._valid = f"{stem}valid"
        self._ready = f"{stem}ready"
        self._fields = {field: f"{stem}{field}" for field in fields}
        self._taken = taken
        self._open = False
        self.pace: Pace = always
        self.after_valid = False
        self.reset()

    def reset(self) -> None:
        """Stop being ready (the first step after it opens again)."""
        self._open = False
        self._pins.drive(self._ready, 0)

    def step(self) -> None:
        """Take a payload handshaken at this edge and decide about the next."""
        pins = self._pins
        valid = pins[self._valid]
        took = self._open and valid
        if took:
            self._taken({field: pins[name] for field, name in self._fields.items()})
        self._open = self.pace() and (not self.after_valid or (bool(valid) and not took))
        pins.drive(self._ready, int(self._open))
