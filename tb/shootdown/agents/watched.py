"""The MMU with one output more, ``watch``: its handshakes side by side, to be read at once and waited for together."""

from functools import cache

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Flow, Out

from secmmu.config import SecmmuConfig
from secmmu.mmu import Secmmu, signature

__all__ = ["IDLE", "Watched", "channels"]

IDLE = "idle"
"""The MMU's output that is the last bit of ``watch``."""


@cache
def channels(config: SecmmuConfig) -> tuple[tuple[str, str, bool], ...]:
    """List the channels of an MMU of ``config`` in the order of ``watch``, two bits each.

    Returns
    -------
    tuple of (str, str, bool)
        The names of *valid* and *ready*, and whether the MMU drives *valid*. An observation lane has no *ready*: it
        is always taken, so *valid* stands there again.
    """
    flows = {
        "__".join(map(str, path)): member.flow
        for path, member in signature(config).members.flatten()
        if member.is_port
    }
    found = []
    for valid, flow in flows.items():
        if valid.endswith("valid"):
            ready = f"{valid.removesuffix('valid')}ready"
            found.append((valid, ready if ready in flows else valid, flow is Flow.Out))
    return tuple(found)


class Watched(wiring.Component):
    """The MMU of ``config``, its ports passed on.

    Members
    -------
    watch : Out
        From bit 0 on *valid* and *ready* of each of :func:`channels`, then ``idle``.
    """

    watch: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self._config = config
        self._mmu = Secmmu(config)
        bits = 2 * len(channels(config)) + 1
        super().__init__({**dict(signature(config).members.items()), "watch": Out(bits)})

    def elaborate(self, platform: object) -> Module:
        """Join the ports."""
        m = Module()
        m.submodules.mmu = self._mmu
        for name, member in self._mmu.signature.members.items():
            inner, outer = getattr(self._mmu, name), getattr(self, name)
            if member.is_signature:
                wiring.connect(m, inner, wiring.flipped(outer))
            else:
                m.d.comb += outer.eq(inner)
        pins = {"__".join(map(str, path)): pin for path, _, pin in self.signature.flatten(self)}
        watched = [name for valid, ready, _ in channels(self._config) for name in (valid, ready)]
        m.d.comb += self.watch.eq(Cat(*(pins[name] for name in watched), pins[IDLE]))
        return m
