"""Directed scenarios: litmus tests L1 and L3, and review note S1 (docs/contract.md 2 and 3), decided on loaded data.

Each places its race with a gate: thread C0 is stopped in ``do_wp_page`` behind the unlock, where the seed policy has
not notified yet, while C1 stores and the device (thread D) loads. The outcome is what the device's last load returned.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hostmm.faults import touch
from hostmm.locks import Signal, Wait
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.fork import dup_mmap
from hostmm.policies import Point
from hostmm.scenarios.base import (
    ALLOWED,
    FORBIDDEN,
    Bind,
    LoadScenario,
    device_load,
    spawn,
    store,
)
from hostmm.scheduler import Gate, Steps
from secmmu.layouts import FrameKind

if TYPE_CHECKING:
    from hostmm.machine import Machine

__all__ = ["L1", "L3", "S1"]

_VPN = 0x400
_OLD = 0x01D0_0000_0000_0001
_NEW = 0x1E30_0000_0000_0002
_SECRET = 0x5EC2_0000_0000_0003


def _stalled(machine: "Machine") -> Gate:
    """Stop thread C0 behind the unlock of its copy-on-write."""
    gate = Gate("C0", "do_wp_page", "unlocked", Signal("C0 stalls"), Signal("C0 may go on"))
    machine.sched.gates.append(gate)
    return gate


def _load_while_stalled(machine: "Machine", mm: MmStruct, gate: Gate) -> Steps:
    """Have the device load the address before C0 goes on.

    Where C0 has opened a bracket the load is kept out until it closes it, so C0 goes on once the load is under way.
    """
    transfer = yield from machine.driver.submit(0, mm.number, _VPN << 12, 1, write=False)
    bracket = machine.policy.call("do_wp_page", Point.START) is not None
    if bracket:
        machine.sched.fire(gate.opened)
    yield from machine.driver.wait(transfer)
    if not bracket:
        machine.sched.fire(gate.opened)


class L1(LoadScenario):
    """A late notification, seen by the device as a stale load of one address (I4)."""

    name = "L1"
    title = "same location: C1 stores to the new page, then the device loads the address"
    values: Mapping[int, str] = {0: FORBIDDEN, _NEW: ALLOWED}
    expectations: Mapping[str, str] = {"v9": ALLOWED, "seed": FORBIDDEN}

    def build(self, machine: "Machine", bind: Bind) -> None:
        """Spawn C0, C1 and D."""
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
            yield from store(machine, mm, _VPN, _OLD, word=1)

        def c1() -> Steps:
            yield Wait(gate.reached)
            yield from store(machine, mm, _VPN, _NEW)
            machine.sched.fire(stored)

        def device() -> Steps:
            yield from bind(machine, mm)
            yield from touch(machine, mm, _VPN, write=False)
            yield from device_load(machine, mm, _VPN)
            machine.sched.fire(warm)
            yield Wait(stored)
            yield from _load_while_stalled(machine, mm, gate)

        spawn(machine, C0=c0(), C1=c1(), D=device())


class L3(LoadScenario):
    """A late notification, seen as a leak between processes (I6)."""

    name = "L3"
    title = "leak through COW reuse: the child writes in place what the parent's device still maps"
    values: Mapping[int, str] = {_SECRET: FORBIDDEN, _OLD: ALLOWED}
    expectations: Mapping[str, str] = {"v9": ALLOWED, "seed": FORBIDDEN}

    def build(self, machine: "Machine", bind: Bind) -> None:
        """Spawn C0, C1 and D."""
        parent = machine.new_mm()
        parent.insert(Vma(parent, _VPN, _VPN + 1, True, True, pgoff=_VPN))
        gate, warm, stored = _stalled(machine), Signal("warm"), Signal("stored")
        children: list[MmStruct] = []

        def c0() -> Steps:
            yield Wait(warm)
            yield from store(machine, parent, _VPN, _NEW, word=1)

        def c1() -> Steps:
            yield Wait(gate.reached)
            yield from store(machine, children[0], _VPN, _SECRET)
            machine.sched.fire(stored)

        def device() -> Steps:
            yield from bind(machine, parent)
            yield from store(machine, parent, _VPN, _OLD)
            children.append((yield from dup_mmap(machine, parent)))
            yield from device_load(machine, parent, _VPN)
            machine.sched.fire(warm)
            yield Wait(stored)
            yield from _load_while_stalled(machine, parent, gate)

        spawn(machine, C0=c0(), C1=c1(), D=device())


class S1(LoadScenario):
    """A notification that never comes."""

    name = "S1"
    title = "copy-on-write of a frame without struct page: is the device told at all?"
    values: Mapping[int, str] = {_OLD: FORBIDDEN, _NEW: ALLOWED}
    expectations: Mapping[str, str] = {"v9": ALLOWED, "seed": FORBIDDEN}

    def build(self, machine: "Machine", bind: Bind) -> None:
        """Spawn C0, C1 and D."""
        mm = machine.new_mm()
        frame = machine.frames.alloc(FrameKind.USER)
        machine.fill_page(frame, _OLD)
        mm.insert(Vma(mm, _VPN, _VPN + 1, True, True, pfnmap=True, pgoff=frame.pfn))
        warm, stored = Signal("warm"), Signal("stored")

        def c0() -> Steps:
            yield Wait(warm)
            yield from store(machine, mm, _VPN, _NEW)
            machine.sched.fire(stored)

        def device() -> Steps:
            yield from bind(machine, mm)
            yield from touch(machine, mm, _VPN, write=False)
            yield from device_load(machine, mm, _VPN)
            machine.sched.fire(warm)
            yield Wait(stored)
            yield from device_load(machine, mm, _VPN)

        spawn(machine, C0=c0(), D=device())
