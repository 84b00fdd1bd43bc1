"""Fast packing of the shared layouts: offsets are taken from the Amaranth layout once, ints are used after that.

What packs and unpacks a layout is compiled for it, as :mod:`dataclasses` does: every message and record of a run passes
here.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from amaranth.hdl import Shape
from amaranth.lib import data

__all__ = ["field_of", "packer", "unpacker"]


@cache
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

    def refuse(**values: int) -> int:
        name = next(name for name, value in values.items() if value >> fields[name][1])
        raise ValueError(f"{name} must fit {fields[name][1]} bits, not {values[name]:#x}")

    takes = ", ".join(f"{name}=0" for name in fields)
    too_wide = " or ".join(f"{name} >> {width}" for name, (_, width) in fields.items())
    word = " | ".join(f"{name} << {offset}" for name, (offset, _) in fields.items())
    values = ", ".join(f"{name}={name}" for name in fields)
    return eval(
        f"lambda *, {takes}: refuse({values}) if {too_wide} else {word}", {"refuse": refuse}
    )


def unpacker(layout: data.StructLayout) -> Callable[[int], dict[str, int]]:
    """Return ``unpack(int) -> {field: int}`` for a layout."""
    items = ", ".join(
        f"{name!r}: word >> {offset} & {(1 << width) - 1}"
        for name, (offset, width) in _fields(layout).items()
    )
    return eval(f"lambda word: {{{items}}}")


def field_of(
    layout: data.StructLayout, name: str
) -> Callable[[np.ndarray], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return what extracts one field from a column of packed words (uint64, or int64 that holds a narrow layout)."""
    offset, width = _fields(layout)[name]
    shift, mask = np.uint64(offset), np.uint64((1 << width) - 1)
    return lambda column: ((column.astype(np.uint64) >> shift) & mask).astype(np.int64)
