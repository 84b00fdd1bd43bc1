"""Fast packing of the shared layouts: offsets are taken from the Amaranth layout once, ints are used after that."""

from collections.abc import Callable
from typing import Any

import numpy as np
from amaranth.hdl import Shape
from amaranth.lib import data

__all__ = ["field_of", "packer", "unpacker"]


def _fields(layout: data.StructLayout) -> dict[str, tuple[int, int]]:
    return {
        str(name): (field.offset, Shape.cast(field.shape).width)
        for name, field in layout
        if not str(name).startswith("_")
    }


def packer(layout: data.StructLayout) -> Callable[..., int]:
    """Return ``pack(**fields) -> int`` for a layout.

    Raises
    ------
    ValueError
        By ``pack``, when a value does not fit its field.
    """
    fields = _fields(layout)

    def pack(**values: int) -> int:
        word = 0
        for name, value in values.items():
            offset, width = fields[name]
            if not 0 <= value < 1 << width:
                raise ValueError(f"{name} must fit {width} bits, not {value:#x}")
            word |= value << offset
        return word

    return pack


def unpacker(layout: data.StructLayout) -> Callable[[int], dict[str, int]]:
    """Return ``unpack(int) -> {field: int}`` for a layout."""
    fields = [(name, offset, (1 << width) - 1) for name, (offset, width) in _fields(layout).items()]

    def unpack(word: int) -> dict[str, int]:
        return {name: word >> offset & mask for name, offset, mask in fields}

    return unpack


def field_of(
    layout: data.StructLayout, name: str, column: np.ndarray
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Extract one field from a column of packed words (uint64, or int64 that holds a narrow layout)."""
    offset, width = _fields(layout)[name]
    words = column.astype(np.uint64)
    return ((words >> np.uint64(offset)) & np.uint64((1 << width) - 1)).astype(np.int64)
