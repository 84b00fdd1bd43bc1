"""Arithmetic of page numbers: their order, their canonical form, and the spans of leaves."""

import itertools

from amaranth.hdl import Cat, Const, Value

from secmmu.config import SecmmuConfig
from secmmu.layouts import GRAIN_SHIFTS, PPN_BITS, VPN_BITS

__all__ = [
    "below",
    "free_bits",
    "free_mask",
    "free_pieces",
    "is_canonical",
    "pieces",
    "sign_extended",
    "span_last",
    "span_mask",
    "spans",
]


def below(a: Value, b: Value) -> Value:
    """Return whether ``a < b``, unsigned and of one width: a borrow, since Yosys pays for ``<=`` with an equality too."""
    return (a - b)[-1]


def sign_extended(vpn: Value) -> Value:
    """Return the 52-bit page number of a canonical one."""
    return Cat(vpn, vpn[-1].replicate(VPN_BITS - len(vpn)))


def is_canonical(vpn: Value, config: SecmmuConfig) -> Value:
    """Return whether a 52-bit page number is one that the deepest page table translates."""
    sign = vpn[config.vpn_bits - 1 :]
    return sign.all() | ~sign.any()


def span_mask(grain: Value) -> Value:
    """Return the page number bits that a span of ``grain`` leaves free, as wide as a physical page number."""
    # Full width, so that its complement keeps the upper bits of what it is applied to.
    groups = [
        (grain >= finer + 1).replicate(shift - GRAIN_SHIFTS[finer])
        for finer, shift in enumerate(GRAIN_SHIFTS[1:])
    ]
    return Cat(*groups, Const(0, PPN_BITS - GRAIN_SHIFTS[-1]))


def span_last(vpn: Value, grain: Value) -> Value:
    """Return the last page of the span that begins at (or holds) ``vpn``."""
    return (vpn | span_mask(grain))[: len(vpn)]


def pieces(width: int) -> list[slice]:
    """Return the runs of ``width`` page number bits between the sizes of leaves."""
    bounds = [*(shift for shift in GRAIN_SHIFTS if shift < width), width]
    return [slice(low, high) for low, high in itertools.pairwise(bounds)]


def free_bits(width: int) -> int:
    """Return the width of :func:`free_pieces`: one bit for each piece but the last, which no span leaves free."""
    return len(pieces(width)) - 1


def free_pieces(grain: Value, width: int) -> Value:
    """Return which :func:`pieces` a span of ``grain`` leaves free, :func:`free_bits` wide."""
    return Cat(grain > piece for piece in range(free_bits(width)))


def free_mask(free: Value, width: int) -> Value:
    """Return the page number bits in the ``free`` :func:`pieces`, as wide as a page number."""
    sizes = [piece.stop - piece.start for piece in pieces(width)]
    return Cat(
        *(free[at].replicate(size) for at, size in enumerate(sizes[:-1])), Const(0, sizes[-1])
    )


def spans(vpn: Value, free: Value, page: Value) -> Value:
    """Return whether the span at ``vpn`` that leaves ``free`` holds ``page``: piece by piece, as LUTs like it."""
    return Cat(
        is_free | (vpn[piece] == page[piece])
        for piece, is_free in zip(pieces(len(vpn)), [*free, 0], strict=True)
    ).all()
