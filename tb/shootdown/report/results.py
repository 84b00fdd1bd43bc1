"""``results.json``: what a command measured and found, in one documented and versioned structure."""

from pathlib import Path
from typing import Any

import msgspec

from shootdown.errors import ShootdownError
from shootdown.files import write_whole

__all__ = [
    "VERSION",
    "ByClass",
    "ClassLatency",
    "DeviceCounters",
    "Distribution",
    "EndToEnd",
    "Kinds",
    "PageCounters",
    "PathResult",
    "Results",
    "ResultsError",
    "RunResult",
    "ScenarioResult",
    "ViolationCount",
    "ViolationResult",
    "load",
    "save",
]

VERSION = 1


class ResultsError(ShootdownError):
    """A file does not hold any results."""


class Distribution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exact percentiles of ``n`` samples (nearest rank); None where there are too few.

    p99 needs 100 samples, p99.9 needs 1000.
    """

    n: int = 0
    p50: int | None = None
    p90: int | None = None
    p99: int | None = None
    p999: int | None = None
    max: int | None = None


class Kinds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Notifications: page invalidations, young queries, range pairs."""

    page: int = 0
    young: int = 0
    range: int = 0


class ByClass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shootdown latency in cycles by what the MMU held: no entry, an idle entry, a use in flight."""

    none: Distribution
    idle: Distribution
    in_flight: Distribution


class PathResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One mm path under one policy; None where the path never clears a PTE, never frees a frame."""

    notifications: int
    kinds: Kinds
    shootdown_cycles: Distribution
    shootdown_by_class: ByClass
    floor_cycles: Distribution
    callback_ns: Distribution
    ptl_hold_ns: Distribution
    ptl_wait_ns: Distribution
    rmap_hold_ns: Distribution
    rmap_wait_ns: Distribution
    clear_to_drained_ns: Distribution | None
    unmap_to_free_ns: Distribution | None
    notified_ns: Distribution = Distribution()


class EndToEnd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run as a whole, all paths together.

    Whole times in ns: a CPU's fault, a device's, and a page's reclaim (I/O left out). Shootdowns in cycles. Locks in
    ns: page-table locks held in a pass that notifies; reverse-map locks held; each wait for either, by anybody, and
    the sums of these waits.
    """

    cpu_fault_ns: Distribution = Distribution()
    device_fault_ns: Distribution = Distribution()
    reclaim_ns: Distribution = Distribution()
    shootdown_cycles: Distribution = Distribution()
    ptl_hold_ns: Distribution = Distribution()
    ptl_wait_ns: Distribution = Distribution()
    rmap_hold_ns: Distribution = Distribution()
    rmap_wait_ns: Distribution = Distribution()
    ptl_waited_ns: int = 0
    rmap_waited_ns: int = 0


class DeviceCounters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the devices did: bursts, first lookups that hit, walks, faults, bytes moved."""

    accesses: int
    tlb_hits: int
    walks: int
    faults: int
    bytes: int


class PageCounters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happened to frames."""

    allocated: int
    freed: int
    reclaimed: int
    written_back: int


class ViolationResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One violation, see :class:`shootdown.checks.Violation`."""

    invariant: str
    expected: bool
    path: str
    cycle: int
    thread: str
    what: str
    kinds: str


class ViolationCount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many more violations there were of an invariant on a path."""

    invariant: str
    expected: bool
    path: str
    count: int


class RunResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of the trace under one policy on ``cpus`` threads; ``cycles`` are emulated ones.

    ``violations_left_off`` counts the violations that ``violations``, which is kept short, does not hold.
    """

    policy: str
    cpus: int
    paths: dict[str, PathResult]
    device: DeviceCounters
    pages: PageCounters
    cycles: int
    wall_s: float
    violations: list[ViolationResult]
    violations_left_off: list[ViolationCount] = []
    end_to_end: EndToEnd = EndToEnd()

    def count_violations(self, *, path: str | None = None, expected: bool | None = None) -> int:
        """Count all violations, or those on a path, or those of one kind."""
        found = [(v.path, v.expected, 1) for v in self.violations]
        found += [(v.path, v.expected, v.count) for v in self.violations_left_off]
        return sum(
            count
            for where, excused, count in found
            if path in (None, where) and expected in (None, excused)
        )


class ClassLatency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shootdowns of one class on all paths: their latency, and the floor that no hardware can beat, in cycles."""

    shootdown_cycles: Distribution
    floor_cycles: Distribution


class ScenarioResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A directed scenario: its outcome, and whether the policy makes it expected; ``classes`` by name.

    ``detail`` is what decided a litmus test: its registers.
    """

    name: str
    policy: str
    outcome: str
    expected: bool
    detail: str = ""
    violations: list[ViolationResult] = []
    classes: dict[str, ClassLatency] = {}


class Results(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file. ``trace`` is None where only scenarios ran."""

    version: int = VERSION
    trace: str | None
    seed: int
    sim: str
    config: dict[str, Any]
    runs: list[RunResult]
    scenarios: list[ScenarioResult]


def save(results: Results, path: Path) -> None:
    """Write the file, whole or not at all.

    Raises
    ------
    UsageError
        It cannot be written.
    """
    write_whole(path, msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")


def load(path: Path) -> Results:
    """Read a file that :func:`save` wrote.

    Raises
    ------
    ResultsError
        It cannot be read, is of another version, or is something else.
    """
    try:
        results = msgspec.json.decode(path.read_bytes(), type=Results)
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ResultsError(f"{path} does not hold results: {error}") from None
    if results.version != VERSION:
        raise ResultsError(f"{path} is of version {results.version}, this reads {VERSION}")
    return results
