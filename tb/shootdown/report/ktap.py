"""Results in the kernel's test format, KTAP version 1 (Documentation/dev-tools/ktap.rst)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Result", "ktap"]


@dataclass(frozen=True)
class Result:
    """One result.

    Parameters
    ----------
    name : str
        Without ``#`` and line breaks, which end it.
    passed : bool
    skipped : str or None
        Why it was not run; it then counts as passed.
    notes : tuple of str
        Diagnostic lines that stand before it.
    """

    name: str
    passed: bool
    skipped: str | None = None
    notes: tuple[str, ...] = ()


def ktap(results: Iterable[Result]) -> Iterator[str]:
    """Yield the lines of a report."""
    found = list(results)
    yield "KTAP version 1"
    yield f"1..{len(found)}"
    for number, result in enumerate(found, 1):
        for note in result.notes:
            yield from (f"# {line}" for line in note.splitlines())
        name = " ".join(result.name.replace("#", "").split())
        skip = "" if result.skipped is None else f" # SKIP {result.skipped}"
        ok = "ok" if result.passed or result.skipped is not None else "not ok"
        yield f"{ok} {number} {name}{skip}"
    failed = sum(not r.passed and r.skipped is None for r in found)
    skipped = sum(r.skipped is not None for r in found)
    yield f"# Totals: pass:{len(found) - failed - skipped} fail:{failed} skip:{skipped}"
