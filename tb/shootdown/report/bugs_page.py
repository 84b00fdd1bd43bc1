"""``docs/bugs.md``: the historic bugs, written from what the runs of each came to."""

from collections.abc import Iterator, Mapping, Sequence

from shootdown.catalogue.bugs import Entry, Verdict

__all__ = ["page"]

_HEAD = """# Historic bugs as seeded faults

Written by `shootdown bugs --markdown docs/bugs.md`; do not edit.

`shootdown bugs` seeds each of them, and prints by which invariant it is caught, in which cycle, by which side (the
host's checks alone, or the frame sanitizer in the hardware as well), whether the fixed code passes the same scenario
and whether the faulty code passes a benign one (`bug-none`). A bug's number is the name of its fault:
`shootdown run --scenario bug-zap --policy v6.6 --subscriber kvm --sim model --mutant B19`. B37 is a fault of the RTL,
`shootdown bugs B37 --sim verilator`. `tests/tb/test_bugs.py` runs all faults of the host.

| | fixed by | mechanism | policy, subscriber, scenario | caught by | side |
| --- | --- | --- | --- | --- | --- |"""


def page(entries: Sequence[Entry], verdicts: Mapping[str, Verdict]) -> str:
    """Return the page; an entry without a verdict was not run."""
    return "\n".join((_HEAD, *_rows(entries, verdicts), "", *_counts(entries, verdicts))) + "\n"


def _rows(entries: Sequence[Entry], verdicts: Mapping[str, Verdict]) -> Iterator[str]:
    for entry in entries:
        start = f"| {entry.name} | {entry.title} | {entry.mechanism} |"
        verdict, run = verdicts.get(entry.name), entry.run
        where = f"{run.policy}, {run.subscriber}, {run.scenario}"
        if verdict is None:
            yield f"{start} {where} | on the RTL: {' or '.join(entry.invariants)} | - |"
            continue
        mark = "" if verdict.passed else "NOT AS EXPECTED: "
        yield f"{start} {where} | {mark}{verdict.caught or 'nothing'} in cycle {verdict.cycle} | {verdict.side} |"


def _counts(entries: Sequence[Entry], verdicts: Mapping[str, Verdict]) -> Iterator[str]:
    passed = [verdict for verdict in verdicts.values() if verdict.passed]
    both = sum(verdict.side == "both" for verdict in passed)
    yield f"{len(entries)} are expressed."
    yield (
        f"{len(passed)} were run on the model and caught: {len(passed) - both} by a check of the host alone, {both} by "
        "the frame sanitizer as well."
    )
