"""What one run is: every value that it depends on, validated, and the command line that repeats it."""

import shlex
from functools import cache
from pathlib import Path
from typing import Self

import msgspec

from hostmm import bugs, mutants, policies, scenarios, trace
from hostmm.errors import HostError
from hostmm.scenarios import litmus
from hostmm.subscribers.kinds import SUBSCRIBERS
from secmmu.config import MUTANTS, EmulatorConfig, SecmmuConfig
from shootdown.errors import UsageError
from shootdown.simulators.builds import SIMULATORS

__all__ = [
    "CARRIERS",
    "DEFAULT_CPUS",
    "DEFAULT_POLICIES",
    "DEFAULT_SCENARIOS",
    "DEFAULT_TRACE",
    "MODEL",
    "MOST_SCHEDULES",
    "RunConfig",
    "within",
]

DEFAULT_TRACE = "shared"
DEFAULT_POLICIES = ("v9", "seed")
DEFAULT_SCENARIOS = ("L1", "L3", "S1", "storm")
DEFAULT_CPUS = 4
MODEL = "model"
"""The carrier that is no simulator: the golden model, in this process."""
CARRIERS = (*SIMULATORS, MODEL)
MOST_SCHEDULES = 10_000_000
"""Schedules of one search; a day on one core, and all that is asked beyond it is a slip of the finger."""


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{what} must be one of {', '.join(allowed)}, not {value!r}")


def within(what: str, value: float, low: float, high: float) -> None:
    """Refuse a value that is not from ``low`` to ``high``.

    Raises
    ------
    UsageError
        It is not.
    """
    if not low <= value <= high:
        raise UsageError(f"{what} must be from {low} to {high}, not {value}")


def _check_scenario(name: str) -> None:
    if not name.endswith(litmus.SUFFIX):
        _one_of("scenario", name, (*scenarios.SCENARIOS,))
        return
    try:
        scenarios.find(name)
    except HostError as error:
        raise UsageError(str(error)) from None


@cache
def _emulator(mutant: str | None) -> EmulatorConfig:
    return EmulatorConfig(mmu=SecmmuConfig(mutant=mutant))


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of one policy: a replayed trace, or a directed scenario.

    Parameters
    ----------
    trace : str
        Name of a shipped trace, or the path of a trace file.
    policy, simulator, seed
        Which policy, on which simulator (or the model), from which seed.
    subscriber : str
        Which kind of subscriber stands behind the notifier chain.
    scenario : str or None
        A directed scenario in the trace's place, or a file with a litmus test.
    preempt : tuple of int
        Numbers of host steps at which the thread loses its CPU, longer than any mm path takes.
    cpus : int
        Threads that a process' accesses are spread over between two system calls, 1 to 16.
    frames : int or None
        Frames that may be in use; None takes ``frames_share`` of the trace's footprint.
    frames_share : float
        Share of the footprint that fits the frames; page tables come on top.
    memory_latency : int
        Cycles from AR to the first R beat (and from the last W to B), 1 to 1000.
    device_share : float
        Share of the traced process' accesses that the device makes in the program's place.
    burst_beats, outstanding : int
        Beats of 8 bytes in a device burst; bursts one engine has outstanding.
    instruction_ns : float
        Host time of one traced instruction.
    scale_link, scale_ipi : float
        Factors on the cost table's link and IPI figures.
    nonlinear, xip : bool
        Add a nonlinear shared mapping; treat private file pages as execute-in-place holes.
    warp : bool
        Skip cycles in which nothing is busy.
    waves : bool
        Write a waveform.
    mutant : str or None
        A fault switched on, of the RTL or of the host.
    """

    policy: str
    trace: str = DEFAULT_TRACE
    simulator: str = "verilator"
    subscriber: str = "sva"
    seed: int = 1
    scenario: str | None = None
    preempt: tuple[int, ...] = ()
    cpus: int = DEFAULT_CPUS
    frames: int | None = None
    frames_share: float = 0.65
    memory_latency: int = 20
    device_share: float = 0.3
    burst_beats: int = 8
    outstanding: int = 4
    instruction_ns: float = 1.0
    scale_link: float = 1.0
    scale_ipi: float = 1.0
    nonlinear: bool = False
    xip: bool = False
    warp: bool = True
    waves: bool = False
    mutant: str | None = None

    def __post_init__(self) -> None:
        _one_of("policy", self.policy, tuple(policies.POLICIES))
        _one_of("simulator", self.simulator, CARRIERS)
        _one_of("subscriber", self.subscriber, tuple(SUBSCRIBERS))
        within("seed", self.seed, 0, 2**31 - 1)
        within("cpus", self.cpus, 1, 16)
        within("memory latency", self.memory_latency, 1, 1000)
        within("device share", self.device_share, 0, 1)
        within("burst beats", self.burst_beats, 1, 8)
        within("outstanding", self.outstanding, 1, self.emulator_outstanding)
        within("frames share", self.frames_share, 0.01, 10)
        within("instruction ns", self.instruction_ns, 0, 1000)
        within("scale of the link's cost", self.scale_link, 0.01, 100)
        within("scale of the IPIs' cost", self.scale_ipi, 0.01, 100)
        for step in self.preempt:
            within("preempted step", step, 1, 2**31 - 1)
        if self.frames is not None:
            within("frames", self.frames, 64, 16368)
        if self.scenario is not None:
            _check_scenario(self.scenario)
        if self.mutant is not None:
            _one_of("mutant", self.mutant, (*MUTANTS, *mutants.HOST_MUTANTS, *bugs.BUGS))
        if self.simulator == MODEL and (self.waves or self.mutant in MUTANTS):
            what = "no waveforms" if self.waves else "no faults of the RTL"
            raise UsageError(f"simulator {MODEL} has {what}; {', '.join(SIMULATORS)} have")

    @property
    def emulator_outstanding(self) -> int:
        """Bursts that one engine of the hardware can have outstanding."""
        return EmulatorConfig().outstanding

    @property
    def emulator(self) -> EmulatorConfig:
        """The hardware of this run."""
        return _emulator(self.mutant if self.mutant in MUTANTS else None)

    @property
    def host_mutant(self) -> str | None:
        """The mutant, where it is one of the host."""
        return None if self.mutant in MUTANTS else self.mutant

    @property
    def name(self) -> str:
        """Short name of the run, unique among the runs of one command: also its folder."""
        parts = [self.policy, Path(self.scenario).stem if self.scenario else f"{self.cpus}cpu"]
        if self.subscriber != _DEFAULTS.subscriber:
            parts.append(self.subscriber)
        if self.trace != DEFAULT_TRACE and not self.scenario:
            parts.insert(0, Path(self.trace).stem)
        if self.seed != _DEFAULTS.seed:
            parts.append(f"seed{self.seed}")
        if self.preempt:
            parts.append("preempt" + "-".join(map(str, self.preempt)))
        if (self.scale_link, self.scale_ipi) != (1.0, 1.0):
            parts.append(f"link{self.scale_link:g}-ipi{self.scale_ipi:g}")
        if self.memory_latency != _DEFAULTS.memory_latency:
            parts.append(f"memory{self.memory_latency}")
        return "-".join(parts)

    @property
    def trace_path(self) -> Path:
        """The trace file: a shipped trace by name, else a path."""
        return trace.shipped().get(self.trace, Path(self.trace))

    def replay_command(self) -> str:
        """Return the one command that repeats this run: what it depends on, and nothing else."""
        what = [] if self.scenario else [self.trace]
        words = ["shootdown", "run", *what, "--policy", self.policy]
        for option, field in _OPTIONS.items():
            value = getattr(self, field)
            if self.scenario and field in _OF_A_TRACE:
                continue
            # Without --cpus a replay would run a second time, on one CPU.
            if value != getattr(_DEFAULTS, field) or field == "cpus":
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words += [option] if value is True else [option, text]
        return shlex.join(words)

    def to_json(self) -> bytes:
        """Encode for the simulator's process."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Decode what :meth:`to_json` made."""
        return msgspec.json.decode(text, type=cls)


_OPTIONS = {
    "--sim": "simulator",
    "--subscriber": "subscriber",
    "--seed": "seed",
    "--scenario": "scenario",
    "--preempt": "preempt",
    "--cpus": "cpus",
    "--frames": "frames",
    "--memory-latency": "memory_latency",
    "--device-share": "device_share",
    "--scale-link": "scale_link",
    "--scale-ipi": "scale_ipi",
    "--nonlinear": "nonlinear",
    "--xip": "xip",
    "--mutant": "mutant",
    "--waves": "waves",
}
"""Options of ``shootdown run`` that change one run, with the field that each sets."""

_OF_A_TRACE = ("cpus", "device_share", "nonlinear", "xip")
"""Fields that say how a trace is replayed; a scenario says that itself."""

_DEFAULTS = RunConfig(policy=DEFAULT_POLICIES[0])
