"""What a run measured, path by path, from its history.

Each measure is labelled once, in :data:`MEASURES`: *RTL* is counted in cycles of the hardware, *cost table* follows
from assumed costs of host steps (and, where both take part, is called so too).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hostmm.driver.pack import field_of
from hostmm.machine.timeline import LockClass, Notification, Row
from hostmm.policies import PATHS
from secmmu.layouts import AccessArg, Event, Response
from shootdown.history import NEVER, Callback, Command, History
from shootdown.report.percentiles import distribution
from shootdown.report.results import (
    ByClass,
    ClassLatency,
    DeviceCounters,
    EndToEnd,
    Kinds,
    PageCounters,
    PathResult,
)
from shootdown.report.spans import (
    Hold,
    callback_passes,
    callback_times,
    clear_to_drained,
    fault_times,
    lock_holds,
    lock_passes,
    lock_waits,
    reclaim_times,
    unmap_to_free,
)

__all__ = [
    "BOTH",
    "COST_TABLE",
    "COUNT",
    "MEASURES",
    "RTL",
    "Measure",
    "PathSamples",
    "class_latencies",
    "device_counters",
    "end_to_end",
    "measure",
    "page_counters",
    "path_result",
    "path_samples",
    "shootdown_class",
]

RTL = "RTL"
COST_TABLE = "cost table"
BOTH = f"{COST_TABLE} + {RTL}"
COUNT = "count"


@dataclass(frozen=True)
class Measure:
    """One measure: its unit ("" for a count), where its numbers come from, and what it is."""

    unit: str
    label: str
    what: str


MEASURES = {
    "notifications": Measure("", COUNT, "notifications: page / young / range"),
    "shootdown_cycles": Measure("cycles", RTL, "shootdown, port to drained, cycles"),
    "shootdown_by_class": Measure("cycles", RTL, "its classes (samples)"),
    "floor_cycles": Measure("cycles", RTL, "its floor, in flight"),
    "callback_ns": Measure("ns", BOTH, "callback, both link ways in it, ns"),
    "notified_ns": Measure("ns", BOTH, "all callbacks of a pass, ns"),
    "ptl_hold_ns": Measure("ns", BOTH, "PT lock held in a notifying pass, ns"),
    "ptl_wait_ns": Measure("ns", BOTH, "PT lock waited for in one, ns"),
    "rmap_hold_ns": Measure("ns", BOTH, "rmap lock held, ns"),
    "rmap_wait_ns": Measure("ns", BOTH, "rmap lock waited for, ns"),
    "clear_to_drained_ns": Measure("ns", BOTH, "clear to drained, ns"),
    "unmap_to_free_ns": Measure("ns", BOTH, "unmap to free, ns"),
    "violations": Measure("", COUNT, "violations: expected / unexpected"),
}
"""Every measure of a path, in the order of the report.

Shootdowns are those of page and range notifications; of young queries only where a path sends nothing else. A pass
that notifies nobody (a reused page, a PTE that is not there) holds its lock for other reasons and is left out.
"""

_KINDS = {
    Notification.INVALIDATE_PAGE: "page",
    Notification.CLEAR_FLUSH_YOUNG: "young",
    Notification.RANGE_START: "range",
}


@dataclass(eq=False)
class PathSamples:
    """The samples of one path; young queries' shootdowns apart."""

    kinds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS.values(), 0))
    shootdowns: dict[str, list[int]] = field(
        default_factory=lambda: {"none": [], "idle": [], "in_flight": []}
    )
    young_shootdowns: dict[str, list[int]] = field(
        default_factory=lambda: {"none": [], "idle": [], "in_flight": []}
    )
    floor_cycles: list[int] = field(default_factory=list)
    callback_ns: list[int] = field(default_factory=list)
    notified_ns: list[int] = field(default_factory=list)
    ptl: list[Hold] = field(default_factory=list)
    rmap: list[Hold] = field(default_factory=list)
    clears: int = 0
    clear_to_drained_ns: list[int] = field(default_factory=list)
    unmap_to_free_ns: list[int] = field(default_factory=list)
    end_to_end_ns: list[int] = field(default_factory=list)

    @property
    def shootdown_cycles(self) -> list[int]:
        """Of all classes."""
        return [cycles for samples in self.classes.values() for cycles in samples]

    @property
    def classes(self) -> dict[str, list[int]]:
        """Shootdowns by class: the young queries' where there are no others."""
        return self.shootdowns if any(self.shootdowns.values()) else self.young_shootdowns


def shootdown_class(command: Command) -> str:
    """Name what the MMU held of the command's pages when it took it: ``none``, ``idle`` or ``in_flight``."""
    if command.uses:
        return "in_flight"
    return "idle" if command.entries else "none"


def _floor(command: Command) -> int:
    """Cycles until the last use in flight had ended: no hardware can drain earlier."""
    ends = [use.end_cycle for use in command.uses if use.end != NEVER]
    return max((end - command.issue_cycle for end in ends), default=0)


def path_samples(history: History) -> dict[str, PathSamples]:
    """Collect the samples of every notifying path that ran, in the order of ``policies.PATHS``."""
    samples: dict[str, PathSamples] = defaultdict(PathSamples)
    paths = history.rows.paths
    _spans(history, samples)
    for callback in history.callbacks:
        target = samples[paths[callback.path]]
        young = callback.kind == Notification.CLEAR_FLUSH_YOUNG
        if callback.kind in _KINDS:
            target.kinds[_KINDS[callback.kind]] += 1
        for command in _finished(callback):
            cycles = command.drained_cycle - command.issue_cycle
            kind = target.young_shootdowns if young else target.shootdowns
            kind[shootdown_class(command)].append(cycles)
            if command.uses:
                target.floor_cycles.append(_floor(command))
    for path, ns in callback_times(history):
        samples[paths[path]].callback_ns.append(ns)
    for path, ns in callback_passes(history):
        samples[paths[path]].notified_ns.append(ns)
    for hold in lock_passes(history, LockClass.PTL):
        samples[paths[hold.paths[0]]].ptl.append(hold)
    for hold in lock_holds(history, LockClass.RMAP):
        for path in hold.paths:
            samples[paths[path]].rmap.append(hold)
    for path, drained in clear_to_drained(history):
        samples[paths[path]].clears += 1
        if drained is not None:
            samples[paths[path]].clear_to_drained_ns.append(drained)
    for path, freed in unmap_to_free(history):
        samples[paths[path]].unmap_to_free_ns.append(freed)
    return {path: samples[path] for path in PATHS if path in samples}


def _finished(callback: Callback) -> list[Command]:
    return [c for c in callback.commands if c.invalidates and c.drained != NEVER]


def _spans(history: History, samples: dict[str, PathSamples]) -> None:
    rows = history.rows
    begun: dict[int, int] = {}
    index = rows.of(Row.PATH_BEGIN, Row.PATH_END)
    for _, kind, ns, path, span in rows.take(index, "kind", "ns", "path", "span"):
        if kind == Row.PATH_BEGIN:
            begun[span] = ns
        else:
            samples[rows.paths[path]].end_to_end_ns.append(ns - begun[span])


def path_result(samples: PathSamples) -> PathResult:
    """Summarise the samples of a path as the results file has them."""
    return PathResult(
        notifications=sum(samples.kinds.values()),
        kinds=Kinds(**samples.kinds),
        shootdown_cycles=distribution(samples.shootdown_cycles),
        shootdown_by_class=ByClass(
            **{name: distribution(cycles) for name, cycles in samples.classes.items()}
        ),
        floor_cycles=distribution(samples.floor_cycles),
        callback_ns=distribution(samples.callback_ns),
        notified_ns=distribution(samples.notified_ns),
        ptl_hold_ns=distribution(hold.hold_ns for hold in samples.ptl),
        ptl_wait_ns=distribution(hold.wait_ns for hold in samples.ptl),
        rmap_hold_ns=distribution(hold.hold_ns for hold in samples.rmap),
        rmap_wait_ns=distribution(hold.wait_ns for hold in samples.rmap),
        clear_to_drained_ns=distribution(samples.clear_to_drained_ns) if samples.clears else None,
        unmap_to_free_ns=(
            distribution(samples.unmap_to_free_ns) if samples.unmap_to_free_ns else None
        ),
    )


def measure(history: History) -> dict[str, PathResult]:
    """Measure every notifying path that ran."""
    return {path: path_result(samples) for path, samples in path_samples(history).items()}


def class_latencies(history: History) -> dict[str, ClassLatency]:
    """Measure shootdowns by class, on all paths together."""
    found: dict[str, list[Command]] = {"none": [], "idle": [], "in_flight": []}
    for callback in history.callbacks:
        for command in _finished(callback):
            found[shootdown_class(command)].append(command)
    return {
        name: ClassLatency(
            shootdown_cycles=distribution(c.drained_cycle - c.issue_cycle for c in commands),
            floor_cycles=distribution(_floor(c) for c in commands),
        )
        for name, commands in found.items()
    }


def end_to_end(history: History) -> EndToEnd:
    """Measure the run as a whole; all of it follows from the cost table and the hardware together."""
    faults: dict[bool, list[int]] = {False: [], True: []}
    for device, ns in fault_times(history):
        faults[device].append(ns)
    waits = {kind: list(lock_waits(history, kind)) for kind in (LockClass.PTL, LockClass.RMAP)}
    finished = [command for callback in history.callbacks for command in _finished(callback)]
    return EndToEnd(
        cpu_fault_ns=distribution(faults[False]),
        device_fault_ns=distribution(faults[True]),
        reclaim_ns=distribution(reclaim_times(history)),
        shootdown_cycles=distribution(c.drained_cycle - c.issue_cycle for c in finished),
        ptl_hold_ns=distribution(p.hold_ns for p in lock_passes(history, LockClass.PTL)),
        ptl_wait_ns=distribution(waits[LockClass.PTL]),
        rmap_hold_ns=distribution(h.hold_ns for h in lock_holds(history, LockClass.RMAP)),
        rmap_wait_ns=distribution(waits[LockClass.RMAP]),
        ptl_waited_ns=sum(waits[LockClass.PTL]),
        rmap_waited_ns=sum(waits[LockClass.RMAP]),
    )


def device_counters(history: History, registers: Mapping[str, int] | None = None) -> DeviceCounters:
    """Count what the devices did.

    Parameters
    ----------
    history : History
    registers : mapping, optional
        The hardware's own counters by name (``csr.REGISTERS`` and ``csr.EMULATOR_REGISTERS``), read at the end of
        the run; the records are counted where it is None. They differ in ``tlb_hits`` only: a burst that waits for
        the walk of another one is a hit by its records, a miss by its first lookup.
    """
    if registers is not None:
        return DeviceCounters(
            accesses=registers["mmu.accesses.reads"] + registers["mmu.accesses.writes"],
            tlb_hits=registers["mmu.tlb.hits"],
            walks=registers["mmu.walks"],
            faults=registers["mmu.faults"],
            bytes=registers["dma.bytes"],
        )
    rows = history.rows
    done = rows.of(Event.DMA_DONE.value)
    arg = rows["span"][done]
    good = field_of(AccessArg(), "code")(arg) == Response.OKAY.value
    faults = len(rows.of(Event.FAULT.value))
    return DeviceCounters(
        accesses=len(history.uses) + faults,
        tlb_hits=len(history.uses) - _walked_uses(history),
        walks=len(history.walks),
        faults=faults,
        bytes=8 * int(field_of(AccessArg(), "beats")(arg)[good].sum()),
    )


def _walked_uses(history: History) -> int:
    """Count uses whose burst had walked: its own id and direction walked since the last burst of them ended."""
    rows = history.rows
    index = rows.of(Event.WALK.value, Event.USE_BEGIN.value, Event.FAULT.value)
    walked: set[tuple[int, int]] = set()
    count = 0
    kinds: Iterable[int] = rows["kind"][index].tolist()
    for kind, (_, id_, write, _, _) in zip(kinds, rows.access(index), strict=True):
        if kind == Event.WALK.value:
            walked.add((write, id_))
            continue
        count += kind == Event.USE_BEGIN.value and (write, id_) in walked
        walked.discard((write, id_))
    return count


def page_counters(history: History) -> PageCounters:
    """Count what happened to frames, page tables included."""
    rows = history.rows
    return PageCounters(
        allocated=len(rows.of(Row.ALLOC)),
        freed=len(rows.of(Row.FREE)),
        reclaimed=len(rows.of(Row.RECLAIMED)),
        written_back=len(rows.of(Row.WRITEBACK)),
    )
