"""Runs, their checks and elaboration without Python's cycle collector, which costs up to half of them and finds little."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_collection"]


@contextmanager
def no_collection() -> Iterator[None]:
    """Leave cycles to a collection after the block, if the collector was on before it.

    What there was before is set aside, so that ``gc.collect()`` inside looks at what has come since, and is cheap.
    """
    enabled = gc.isenabled()
    if enabled:
        gc.disable()
        gc.freeze()
    try:
        yield
    finally:
        if enabled:
            gc.unfreeze()
            gc.enable()
