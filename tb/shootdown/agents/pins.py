"""Pins of a device under test, read at most once a clock, and the two halves of a valid/ready channel."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cocotb.triggers import ValueChange

from secmmu.config import SecmmuConfig
from shootdown.agents.watched import IDLE, channels

__all__ = [
    "NEVER",
    "Pace",
    "Pins",
    "Sink",
    "Sometimes",
    "Source",
    "Stepped",
    "Timed",
    "always",
    "never",
]

NEVER = 1 << 62
"""A cycle that does not come."""

Pace = Callable[[], bool]
"""Answers once a clock whether a channel may move."""


def always() -> bool:
    """Let a channel move in every clock."""
    return True


def never() -> bool:
    """Stall a channel."""
    return False


@dataclass(frozen=True, eq=False)
class Sometimes:
    """A pace that is open in about ``share`` of the clocks (0.0 to 1.0)."""

    rng: random.Random
    share: float

    def __call__(self) -> bool:
        """Draw."""
        return self.rng.random() < self.share


class Stepped(Protocol):
    """What the clock loop drives: one step a clock edge, and a reset."""

    def step(self) -> None:
        """Serve one clock edge."""

    def reset(self) -> None:
        """Forget everything (only under the device's reset)."""


class Timed(Stepped, Protocol):
    """What may act on its own."""

    def due(self) -> int:
        """Give the cycle, past or to come, from which on a step does something though no pin changes."""


class Pins:
    """Snapshot of the pins of an MMU at a clock edge.

    Handshakes are read all at once, a payload pin when somebody first asks for it after the edge; writes reach the
    device before the next edge.

    Parameters
    ----------
    dut : cocotb handle
        A :class:`shootdown.agents.watched.Watched`, its ports named as Amaranth flattens them.
    config : SecmmuConfig
        Its configuration.

    Attributes
    ----------
    watch : int
        The handshakes at this edge, see :meth:`bit`.
    """

    def __init__(self, dut: Any, config: SecmmuConfig) -> None:
        self._dut = dut
        self._handles: dict[str, Any] = {}
        self._seen: dict[str, int] = {}
        self._driven: dict[str, int] = {}
        self._bits: dict[str, int] = {}
        self._valids = self._offers = 0
        bit = 1
        for valid, ready, offered in channels(config):
            self._bits |= {ready: bit << 1, valid: bit}
            self._valids |= bit
            self._offers |= bit if offered else 0
            bit <<= 2
        self._bits[IDLE] = bit
        self._word = dut.watch
        self._stirred = False
        self.watch = 0

    def refresh(self) -> None:
        """Take the snapshot of a new clock edge."""
        self.watch = int(self._word.value)
        self._seen.clear()
        self._stirred = False

    @property
    def still(self) -> bool:
        """Whether nothing moves: nothing is offered by the device, taken by it, or was driven since the edge."""
        moving = self._offers | (self.watch >> 1 & self._valids)
        return not (self._stirred or self.watch & moving)

    @property
    def change(self) -> ValueChange:
        """What happens as soon as a handshake or ``idle`` is no more what it is now."""
        return ValueChange(self._word)

    def bit(self, name: str) -> int:
        """Give the mask of a handshake pin in :attr:`watch`; 0 where the device has no such pin."""
        return self._bits.get(name, 0)

    def _handle(self, name: str) -> Any:
        handle = self._handles.get(name)
        if handle is None:
            handle = self._handles[name] = getattr(self._dut, name)
        return handle

    def __getitem__(self, name: str) -> int:
        bit = self._bits.get(name)
        if bit is not None:
            return int(self.watch & bit != 0)
        value = self._seen.get(name)
        if value is None:
            value = self._seen[name] = int(self._handle(name).value)
        return value

    def drive(self, name: str, value: int) -> None:
        """Drive an input from now on; a value that stands already costs nothing."""
        if self._driven.get(name) != value:
            self._handle(name).value = value
            self._driven[name] = value
            self._stirred = True


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

    Attributes
    ----------
    valid : int
        Mask of that pin in :attr:`Pins.watch`.
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
        self.valid = pins.bit(self._valid)
        self._ready = pins.bit(f"{stem}ready")
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
            if not pins.watch & self._ready:
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
    valid : int
        Mask of that pin in :attr:`Pins.watch`.
    pace : Pace
        Whether to be ready in the next clock.
    after_valid : bool
        Be ready only once ``valid`` was seen, as AXI lets a subordinate do.
    """

    def __init__(
        self, pins: Pins, stem: str, fields: Sequence[str], taken: Callable[[dict[str, int]], None]
    ) -> None:
        self._pins = pins
        self.valid = pins.bit(f"{stem}valid")
        self._ready = f"{stem}ready"
        self._fields = {field: f"{stem}{field}" for field in fields}
        self._taken = taken
        self._open = False
        self._stands: tuple[Pace, bool] | None = None
        self.pace: Pace = always
        self.after_valid = False
        self.reset()

    @property
    def rests(self) -> bool:
        """Whether it stays as it is until ``valid`` comes."""
        return self._stands == (self.pace, self.after_valid)

    def reset(self) -> None:
        """Stop being ready (the first step after it opens again)."""
        self._open = False
        self._stands = None
        self._pins.drive(self._ready, 0)

    def step(self) -> None:
        """Take a payload handshaken at this edge and decide about the next."""
        pins = self._pins
        valid = pins.watch & self.valid
        if not valid and self.rests:
            return
        took = self._open and valid
        if took:
            self._taken({field: pins[name] for field, name in self._fields.items()})
        self._open = self.pace() and (not self.after_valid or (bool(valid) and not took))
        # A random one is drawn again only where a payload waits: it makes no difference to the device.
        lasting = self.pace in (always, never) or isinstance(self.pace, Sometimes)
        self._stands = (self.pace, self.after_valid) if lasting and not valid else None
        pins.drive(self._ready, int(self._open))
