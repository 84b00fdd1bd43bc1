"""One run from end to end: build the host, drive the hardware through a carrier, keep what happened."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from hostmm import bugs, mutants
from hostmm.audit import audit
from hostmm.driver.driver import Driver
from hostmm.driver.link import Batch
from hostmm.errors import DeadlockError
from hostmm.machine.costs import CostTable
from hostmm.machine.machine import Machine, MachineConfig
from hostmm.machine.timeline import Timeline
from hostmm.model import Model
from hostmm.notifier import NotifierChain
from hostmm.policies import POLICIES, Policy
from hostmm.replay.replay import Replay, ReplayConfig, frame_limit
from hostmm.scenarios import find
from hostmm.subscribers.kinds import SUBSCRIBERS
from hostmm.trace import Trace, load
from secmmu.csr import EMULATOR_REGISTERS, REGISTERS
from secmmu.layouts import Event
from shootdown.run.carriers import drive_model
from shootdown.run.config import RunConfig

__all__ = ["RunData", "play_on_model", "prepare", "run_session"]

_COUNTERS = (
    (REGISTERS["mmu.accesses.reads"], False),
    (REGISTERS["mmu.accesses.writes"], False),
    (REGISTERS["mmu.tlb.hits"], False),
    (REGISTERS["mmu.walks"], False),
    (REGISTERS["mmu.faults"], False),
    (EMULATOR_REGISTERS["dma.bytes"], True),
)
"""Counters read at the end, and whether each is the emulator's."""


@dataclass(frozen=True)
class RunData:
    """What one run left behind.

    Parameters
    ----------
    timeline : Timeline
    policy : Policy
        As it ran; a host mutant may have changed it.
    counters : dict
        Hardware counters at the end, by register name.
    cycles : int
        Emulated cycles of the whole run.
    frames : int
        The frame limit that applied.
    stuck : str or None
        Who waited for what for ever, so that the run never ended.
    """

    timeline: Timeline
    policy: Policy
    counters: dict[str, int]
    cycles: int
    frames: int
    stuck: str | None = None


def run_session(
    config: RunConfig, progress: Callable[[float], None]
) -> Generator[Batch, np.ndarray, RunData]:
    """Run one configuration; yields batches of link words and is sent the records (see :mod:`hostmm.driver.link`).

    Raises
    ------
    HostError
        The trace cannot be replayed like this.
    """
    machine, frames = prepare(config, progress)
    stuck = None
    try:
        yield from machine.sched.run()
    except DeadlockError as error:
        # What happened until then is still to be checked.
        stuck = str(error)
    else:
        machine.sched.spawn("audit", audit(machine))
        yield from machine.sched.run()
    counters = yield from _read_counters(machine)
    cycles = machine.link.synced_cycle
    return RunData(machine.timeline, machine.policy, counters, cycles, frames, stuck)


def play_on_model(config: RunConfig) -> tuple[Machine, str | None]:
    """Run a configuration on the model, without the audit at its end.

    Returns
    -------
    Machine
        With the timeline until then.
    str or None
        Who waited for what for ever.
    """
    machine, _ = prepare(config, lambda _done: None)
    try:
        drive_model(machine.sched.run(), Model(memory_bytes=config.emulator.memory_bytes))
    except DeadlockError as error:
        return machine, str(error)
    return machine, None


def prepare(config: RunConfig, progress: Callable[[float], None]) -> tuple[Machine, int]:
    """Return the machine of a run, its threads spawned, and the frame limit that applies.

    Raises
    ------
    HostError
        The trace cannot be replayed like this.
    """
    trace = None if config.scenario else load(config.trace_path)
    policy, subscriber = POLICIES[config.policy], SUBSCRIBERS[config.subscriber]
    chain: type[NotifierChain] = NotifierChain
    if config.host_mutant in bugs.BUGS:
        policy, chain, subscriber = bugs.change(config.host_mutant, policy, subscriber)
    elif config.host_mutant is not None:
        policy, subscriber = mutants.apply(config.host_mutant, policy)
    frames = config.frames or _frames(config, trace)
    machine = Machine(
        MachineConfig(
            frames=frames,
            memory_bytes=config.emulator.memory_bytes,
            cycle_ns=10**9 // config.emulator.clock_hz,
            seed=config.seed,
            preempt=config.preempt,
            costs=CostTable(scale_link=config.scale_link, scale_ipi=config.scale_ipi),
        ),
        policy,
        chain=chain,
    )
    _set_up(machine, config)
    if trace is None:
        assert config.scenario is not None
        find(config.scenario).build(machine, subscriber.bind)
    else:
        replay = ReplayConfig(
            cpus=config.cpus,
            device_share=config.device_share,
            burst_beats=config.burst_beats,
            outstanding=config.outstanding,
            instruction_ns=config.instruction_ns,
            nonlinear=config.nonlinear,
            xip=config.xip,
            seed=config.seed,
        )
        Replay(machine, trace, replay, bind=subscriber.bind, progress=progress).start()
    return machine, frames


def _frames(config: RunConfig, trace: Trace | None) -> int:
    """Return the frame limit: a share of the trace's footprint; a scenario has its own."""
    if trace is None:
        assert config.scenario is not None
        return find(config.scenario).frames
    return frame_limit(trace, config.frames_share, cpus=config.cpus)


def _set_up(machine: Machine, config: RunConfig) -> None:
    emulator = config.emulator
    Driver(
        machine,
        commands=emulator.mmu.commands,
        engines=emulator.engines,
        descriptors=emulator.descriptors,
    )
    for name, value in (
        ("memory.read_latency", config.memory_latency),
        ("memory.write_latency", config.memory_latency),
        ("warp", int(config.warp)),
        ("dma.outstanding", config.outstanding),
    ):
        machine.link.csr_write(0, EMULATOR_REGISTERS[name].address, value, emulator=True)


def _read_counters(machine: Machine) -> Generator[Batch, np.ndarray, dict[str, int]]:
    for register, emulator in _COUNTERS:
        machine.link.csr_read(machine.sched.now, register.address, emulator=emulator)
    records = yield machine.link.batch(None, ())
    machine.link.answered(records)
    rows = records[(records[:, 0] & np.uint64(0xFF)) == Event.CSR_DATA.value]
    return {
        register.name: int(value)
        for (register, _), value in zip(_COUNTERS, rows[:, 3], strict=True)
    }
