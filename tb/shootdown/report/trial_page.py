"""``docs/trial.md``: the trial of the seed patch, written from what its runs came to."""

from collections.abc import Iterator, Mapping, Sequence

from shootdown.catalogue.trial import Charge, Finding

__all__ = ["page"]

_HEAD = """# The trial of the seed patch

Written by `shootdown trial --markdown docs/trial.md`; do not edit.

The seed is Arcangeli's "move all invalidate_page outside of PT lock" of 7 March 2008, on top of #v9, on 2.6.25-rc4.
Seventeen notes of its review, S1 to S17, are tried here: each verdict rests on runs that anybody can repeat. A directed
run places its race with a litmus script ([litmus.md](litmus.md)); a search runs one program in many orders, and says
something only because the same search, with the paired fault switched on, finds that fault.
`shootdown trial --sim verilator` makes the directed runs of S1 to S5, S7 and S17 on the RTL, with waveforms.
"""


def page(charges: Sequence[Charge], found: Mapping[str, Sequence[Finding]]) -> str:
    """Return the page."""
    return "\n".join(_lines(charges, found)) + "\n"


def _lines(charges: Sequence[Charge], found: Mapping[str, Sequence[Finding]]) -> Iterator[str]:
    yield _HEAD
    yield "| | note | verdict | runs and searches as expected |"
    yield "| --- | --- | --- | --- |"
    for charge in charges:
        mine = found[charge.name]
        good = sum(finding.as_expected for finding in mine)
        yield f"| {charge.name} | {charge.title} | {charge.verdict} | {good} of {len(mine)} |"
    for charge in charges:
        yield ""
        yield f"## {charge.name}: {charge.title}"
        yield ""
        yield f"**{charge.verdict.capitalize()}.** {charge.why}"
        yield ""
        for finding in found[charge.name]:
            mark = "" if finding.as_expected else "NOT AS EXPECTED: "
            yield f"* {mark}{finding.text}"
            yield ""
            yield f"      {finding.replay}"
            yield ""
