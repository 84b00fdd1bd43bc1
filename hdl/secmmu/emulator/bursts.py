"""What the emulated memory's channels share: registers, jitter, beat addresses and the beats that are checked."""

from typing import Any

from amaranth.hdl import Mux
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from secmmu.axi import Burst
from secmmu.layouts import PA_BITS

__all__ = ["AccessLayout", "AccessSignature", "TimingLayout", "jitter_cycles", "next_address"]

_TRANSACTION_FACTOR = 0x9E37_79B1
_SEED_FACTOR = 0x85EB_CA6B
_MASK32 = 0xFFFF_FFFF


def jitter_cycles(seed: Any, channel: int, count: Any, mask: Any) -> Any:
    """Compute the jitter of a transaction; for integers and for Amaranth values alike.

    Parameters
    ----------
    seed : int or Value
        Register ``memory.seed``, 32 bits.
    channel : int
        0: data reads, 1: data writes, 2: walk reads, 3: walk writes.
    count : int or Value
        How many transactions the channel took before this one; 30 bits of it count.
    mask : int or Value
        Register ``memory.jitter``.

    Returns
    -------
    int or Value
        ``(x ^ (x >> 16)) & mask`` with ``x = ((4 * count + channel) + 0x85ebca6b * seed) *
        0x9e3779b1``, all modulo 2^32.
    """
    number = ((count << 2) + channel + seed * _SEED_FACTOR) & _MASK32
    product = (number * _TRANSACTION_FACTOR) & _MASK32
    return (product ^ (product >> 16)) & mask


def next_address(address: Any, length: Any, size: Any, burst: Any) -> Any:
    """Address of the beat after ``address`` (Arm IHI 0022, A3.4.1); sizes up to 8 bytes.

    Parameters
    ----------
    address, length, size, burst : Value
        Address of this beat, AxLEN, AxSIZE, AxBURST.
    """
    step = (1 << size)[:4]
    following = ((address & ~(step - 1)) + step)[: len(address)]
    # A wrapping burst has 2, 4, 8 or 16 beats, so its container is a power of two.
    # Signed, like every difference: its complement reaches up to the top of the address.
    inside = ((length + 1) << size) - 1
    wrapped = (address & ~inside) | (following & inside)
    return Mux(
        burst == Burst.FIXED.value, address, Mux(burst == Burst.WRAP.value, wrapped, following)
    )


class TimingLayout(data.StructLayout):
    """The memory's registers (see ``csr.EMULATOR_REGISTERS``): latencies of at least 1, in cycles."""

    def __init__(self) -> None:
        super().__init__(
            {"read_latency": 16, "write_latency": 16, "jitter": 16, "beat_gap": 16, "seed": 32}
        )


class AccessLayout(data.StructLayout):
    """One memory beat: its physical address and the burst it belongs to; ``walker`` says whose it is."""

    def __init__(self) -> None:
        super().__init__({"address": PA_BITS, "asid": 8, "id": 8, "beats": 9, "walker": 1})


class AccessSignature(wiring.Signature):
    """Beats that touch the memory, seen from the memory; at most one a cycle, ``valid`` in that very cycle."""

    def __init__(self) -> None:
        super().__init__({"valid": Out(1), "payload": Out(AccessLayout())})
