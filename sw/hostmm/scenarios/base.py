"""What a directed scenario is, and the steps that several share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from hostmm.callers.faults import touch
from hostmm.errors import HostError
from hostmm.machine.scheduler import Steps
from hostmm.mm.pagetable import pte_pfn
from hostmm.mm.space import MmStruct
from secmmu.layouts import Event

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = [
    "ALLOWED",
    "FORBIDDEN",
    "Bind",
    "LoadScenario",
    "Outcome",
    "Scenario",
    "device_load",
    "spawn",
    "store",
]

ALLOWED = "allowed"
FORBIDDEN = "forbidden"

Bind: TypeAlias = Callable[["Machine", MmStruct], Steps]
"""Binds a device to an address space: ``Sva.bind``, or that of a mutant."""


@dataclass(frozen=True)
class Outcome:
    """What a scenario showed: ``outcome`` is ALLOWED or FORBIDDEN, ``value`` the number that decided it.

    ``detail`` names every value that counted.
    """

    name: str
    outcome: str
    value: int
    detail: str = ""


class Scenario(ABC):
    """One directed scenario; it keeps no state, so one object serves any number of runs.

    Attributes
    ----------
    name, title : str
    expectations : mapping
        Policy name to outcome (docs/contract.md 7); ALLOWED for one that it does not name.
    frames : int
        Frames of the machine that it runs on.
    long : bool
        It runs for tens of thousands of cycles, so that its waveform is written on demand only.
    """

    name: str
    title: str
    expectations: Mapping[str, str]
    frames = 256
    long = False

    @abstractmethod
    def build(self, machine: "Machine", bind: Bind) -> None:
        """Spawn the threads; the machine has a driver and nothing else yet."""

    @abstractmethod
    def outcome(self, columns: Mapping[str, np.ndarray], broken: Collection[str] = ()) -> Outcome:
        """Judge a finished run by the columns of its timeline, and by the invariants that it broke."""

    def expected(self, policy: str, subscriber: str = "sva") -> str:
        """Return the outcome that docs/contract.md 7 predicts under a policy."""
        return self.expectations.get(policy, ALLOWED)


class LoadScenario(Scenario):
    """A scenario that is decided by what the device's last load returned.

    Attributes
    ----------
    values : mapping
        What that load may return, and what it means.
    """

    values: Mapping[int, str]

    def outcome(self, columns: Mapping[str, np.ndarray], broken: Collection[str] = ()) -> Outcome:
        """Judge a finished run.

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


def store(machine: "Machine", mm: MmStruct, vpn: int, value: int, *, word: int = 0) -> Steps:
    """Store ``value`` by a CPU in a word of a page that its vma lets it write."""
    pte = yield from touch(machine, mm, vpn, write=True)
    assert pte is not None, "the scenario maps the page writable"
    machine.store(mm, vpn, (pte_pfn(pte) << 12) + 8 * word, value)
    yield "cpu_access"


def device_load(machine: "Machine", mm: MmStruct, vpn: int) -> Steps:
    """Have the device load the first word of a page, and wait for it."""
    transfer = yield from machine.driver.submit(0, mm.number, vpn << 12, 1, write=False)
    yield from machine.driver.wait(transfer)


def spawn(machine: "Machine", **threads: Steps) -> None:
    """Start threads by name."""
    for name, steps in threads.items():
        machine.sched.spawn(name, steps)
