"""Directed scenarios: litmus tests L1 and L3, and review note S1 (kernel-contract 2 and 3), decided on loaded data.

Each places its race with a gate: thread C0 is stopped in ``do_wp_page`` behind the unlock, where the seed policy has
not notified yet, while C1 stores and the device (thread D) loads. The outcome is what the device's last load returned.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hostmm.errors import HostError
from hostmm.faults import touch
from hostmm.locks import Signal, Wait
from hostmm.mm.pagetable import pte_pfn
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.fork import dup_mmap
from hostmm.scheduler import Gate, Steps
from hostmm.subscribers.sva import Sva
from secmmu.layouts import Event, FrameKind

if TYPE_CHECKING:
    from hostmm.machine import Machine

__all__ = ["ALLOWED", "FORBIDDEN", "SCENARIOS", "Outcome", "Scenario"]

ALLOWED = "allowed"
FORBIDDEN = "forbidden"
_VPN = 0x400
_OLD = 0x01D0_0000_0000_0001
_NEW = 0x1E30_0000_0000_0002
_SECRET = 0x5EC2_0000_0000_0003


@dataclass(frozen=True)
class Outcome:
    """What a scenario showed: ``outcome`` is ALLOWED or FORBIDDEN, ``value`` the word that the device loaded."""

    name: str
    outcome: str
    value: int


class Scenario(ABC):
    """One directed scenario; it keeps no state, so one object serves any number of runs.

    Attributes
    ----------
    name, title : str
    values : mapping
        What the device's last load may return, and what that means.
    expectations : mapping
        Policy name to outcome (kernel-contract 7).
    """

    name: str
    title: str
    values: Mapping[int, str]
    expectations: Mapping[str, str]

    @abstractmethod
    def build(self, machine: "Machine") -> None:
        """Spawn the threads; the machine has a driver and nothing else yet."""

    def outcome(self, columns: Mapping[str, np.ndarray]) -> Outcome:
        """Judge a finished run by the columns of its timeline.

        Raises
        ------
        HostError
            The device loaded nothing, or a value that nobody stored.
        """
        loads = np.flatnonzero((columns["hw"] == 1) & (columns["kind"] == Event.LOAD.value))
        if not loads.size:
            raise HostError(f"{self.name}: the device loaded nothing")
        value = int(columns["a"][loads[-1]])
        if value not in self.values:
            raise HostError(f"{self.name}: the device loaded {value:#x}, which nobody stored there")
        return Outcome(self.name, self.values[value], value)

    def expected(self, policy: str) -> str:
        """Return the outcome that kernel-contract 7 predicts under a policy."""
        return self.expectations[policy]


def _store(machine: "Machine", mm: MmStruct, value: int, *, word: int = 0) -> Steps:
    pte = yield from touch(machine, mm, _VPN, write=True)
    assert pte is not None, "the scenario maps the page writable"
    machine.store(mm, _VPN, (pte_pfn(pte) << 12) + 8 * word, value)
    yield "cpu_access"


def _device_load(machine: "Machine", mm: MmStruct) -> Steps:
    transfer = yield from machine.driver.submit(0, mm.number, _VPN << 12, 1, write=False)
    yield from machine.driver.wait(transfer)


def _spawn(machine: "Machine", **threads: Steps) -> None:
    for name, steps in threads.items():
        machine.sched.spawn(name, steps)


def _stalled(machine: "Machine") -> Gate:
    """Stop thread C0 behind the unlock of its copy-on-write."""
    gate = Gate("C0", "do_wp_page", "unlocked", Signal("C0 stalls"), Signal("C0 may go on"))
    machine.sched.gates.append(gate)
    return gate


class _L1(Scenario):
    name = "L1"
    title = "same location: C1 stores to the new page, then the device loads the address"
    values: Mapping[int, str] = {0: FORBIDDEN, _NEW: ALLOWED}
    expectations: Mapping[str, str] = {"v9": ALLOWED, "seed": FORBIDDEN}

    def build(self, machine: "Machine") -> None:
        mm = machine.new_mm()
        mm.cpus = 2
        # A private mapping of a file, so that the first write copies; tmpfs, so that the page starts with zeros.
        file = machine.new_file("L1", tmpfs=True)
        vma = Vma(mm, _VPN, _VPN + 1, True, True, file=file)
        mm.insert(vma)
        file.vmas.append(vma)
        gate, warm, stored = _stalled(machine), Signal("warm"), Signal("stored")

        def c0() -> Steps:
            yield Wait(warm)
            yield from _store(machine, mm, _OLD, word=1)

        def c1() -> Steps:
            yield Wait(gate.reached)
            yield from _store(machine, mm, _NEW)
            machine.sched.fire(stored)

        def device() -> Steps:
            yield from Sva.bind(machine, mm)
            yield from touch(machine, mm, _VPN, write=False)
            yield from _device_load(machine, mm)
            machine.sched.fire(warm)
            yield Wait(stored)
            yield from _device_load(machine, mm)
            machine.sched.fire(gate.opened)

        _spawn(machine, C0=c0(), C1=c1(), D=device())


class _L3(Scenario):
    name = "L3"
    title = "leak through COW reuse: the child writes in place what the parent's device still maps"
    values: Mapping[int, str] = {_SECRET: FORBIDDEN, _OLD: ALLOWED}
    expectations: Mapping[str, str] = {"v9": ALLOWED, "seed": FORBIDDEN}

    def build(self, machine: "Machine") -> None:
        parent = machine.new_mm()
        parent.insert(Vma(parent, _VPN, _VPN + 1, True, True, pgoff=_VPN))
        gate, warm, stored = _stalled(machine), Signal("warm"), Signal("stored")
        children: list[MmStruct] = []

        def c0() -> Steps:
            yield Wait(warm)
            yield from _store(machine, parent, _NEW, word=1)

        def c1() -> Steps:
            yield Wait(gate.reached)
            yield from _store(machine, children[0], _SECRET)
            machine.sched.fire(stored)

        def device() -> Steps:
            yield from Sva.bind(machine, parent)
            yield from _store(machine, parent, _OLD)
            children.append((yield from dup_mmap(machine, parent)))
            yield from _device_load(machine, parent)
            machine.sched.fire(warm)
            yield Wait(stored)
            yield from _device_load(machine, parent)
            machine.sched.fire(gate.opened)

        _spawn(machine, C0=c0(), C1=c1(), D=device())


class _S1(Scenario):
    name = "S1"
    title = "copy-on-write of a frame without struct page: is the device told at all?"
    values: Mapping[int, str] = {_OLD: FORBIDDEN, _NEW: ALLOWED}
    expectations: Mapping[str, str] = {"v9": ALLOWED, "seed": FORBIDDEN}

    def build(self, machine: "Machine") -> None:
        mm = machine.new_mm()
        frame = machine.frames.alloc(FrameKind.USER)
        machine.fill_page(frame, _OLD)
        mm.insert(Vma(mm, _VPN, _VPN + 1, True, True, pfnmap=True, pgoff=frame.pfn))
        warm, stored = Signal("warm"), Signal("stored")

        def c0() -> Steps:
            yield Wait(warm)
            yield from _store(machine, mm, _NEW)
            machine.sched.fire(stored)

        def device() -> Steps:
            yield from Sva.bind(machine, mm)
            yield from touch(machine, mm, _VPN, write=False)
            yield from _device_load(machine, mm)
            machine.sched.fire(warm)
            yield Wait(stored)
            yield from _device_load(machine, mm)

        _spawn(machine, C0=c0(), D=device())


SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in (_L1(), _L3(), _S1())}
"""The scenarios by name."""
