"""Plays a litmus test: a conductor starts the rows, a thread a column does the steps."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hostmm.machine.locks import Signal, Wait
from hostmm.machine.scheduler import Gate, Steps
from hostmm.machine.timeline import Row
from hostmm.mm.files import AddressSpace
from hostmm.mm.space import MmStruct, Vma
from hostmm.paths.kernel_tables import KERNEL_VPN
from hostmm.scenarios.base import ALLOWED, FORBIDDEN, Bind, Outcome, Scenario
from hostmm.scenarios.litmus.parse import read
from hostmm.scenarios.litmus.script import DENIED, FAULT, PageSpec, Script, Step
from hostmm.scenarios.litmus.steps import VERBS, Stage, device_step
from hostmm.subscribers.kinds import SUBSCRIBERS
from secmmu.csr import EMULATOR_REGISTERS, REGISTERS
from secmmu.layouts import Event, FrameKind

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine

__all__ = ["SUFFIX", "Litmus", "bugs", "hmm", "races", "shipped", "trial"]

SUFFIX = ".litmus"
"""How the name of a script ends."""
_FIRST_VPN = 0x400
_APART = 2048
"""Pages from the start of one named run of pages to the next: each has page tables of its own."""
_POLL_NS, _LONG_POLL_NS = 500, 8000
_CPU, _DEVICE, _DENIED = 0, 1, 2


class Litmus(Scenario):
    """A litmus test as a scenario; it keeps no state, so one object serves any number of runs."""

    frames = 256

    def __init__(self, script: Script) -> None:
        self.script = script
        self.name = script.name
        self.title = script.title
        pages = sum(page.pages for page in script.pages.values())
        # Huge pages want aligned blocks, so the frames below the first one are lost to them.
        huge = any(page.kind == "hugetlb" for page in script.pages.values())
        self.frames = 256 + 2 * pages + 512 * huge

    def build(self, machine: "Machine", bind: Bind) -> None:
        """Spawn the conductor, which binds the devices and starts the threads."""
        _Performance(machine, self.script).spawn(bind)

    def outcome(self, columns: Mapping[str, np.ndarray], broken: Collection[str] = ()) -> Outcome:
        """Judge a finished run by its registers and by the invariants that it broke."""
        found = registers(self.script, columns)
        bad = self.script.forbidden.holds(found, broken)
        value = next(reversed(found.values()), 0)
        text = ", ".join(f"{name} = {_shown(value)}" for name, value in found.items())
        return Outcome(self.name, FORBIDDEN if bad else ALLOWED, value, text)

    def expected(self, policy: str, subscriber: str = "sva") -> str:
        """Return what the script's ``shows:`` line predicts."""
        return FORBIDDEN if self.script.shown_by(policy, subscriber) else ALLOWED


def _shown(value: int) -> str:
    if value == DENIED:
        return "denied"
    return str(value) if value < 1 << 32 else hex(value)


def registers(script: Script, columns: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return what each register held at the end, in the order of the script."""
    hardware = columns["hw"] == 1
    loads = np.flatnonzero(hardware & (columns["kind"] == Event.LOAD.value))
    found: dict[str, int] = {}
    for row in np.flatnonzero(~hardware & (columns["kind"] == Row.REGISTER)):
        name = script.registers[int(columns["tag"][row])]
        kind, value = int(columns["a"][row]), int(columns["b"][row])
        if kind == _DEVICE:
            mine = loads[(columns["tag"][loads] == value) & (loads < row)]
            value = int(columns["a"][mine[-1]])
        found[name] = DENIED if kind == _DENIED else value
    return {name: found[name] for name in script.registers if name in found}


@cache
def shipped() -> dict[str, Litmus]:
    """Return the litmus tests that come with the package, by name, in order of their names."""
    return _read_all("scripts")


@cache
def races() -> dict[str, Litmus]:
    """Return the scripts without an order that schedules are explored on, by name."""
    return _read_all("races")


@cache
def bugs() -> dict[str, Litmus]:
    """Return the scripts that expose the historic bugs, by name, and the one that exposes none (``bug-none``)."""
    return _read_all("bugs")


@cache
def hmm() -> dict[str, Litmus]:
    """Return the scenarios of the kernel's hmm-tests, by name."""
    return _read_all("hmm")


@cache
def trial() -> dict[str, Litmus]:
    """Return the scripts that try the seed patch, beside L1, L3 and S1, by name."""
    return _read_all("trial")


def _read_all(folder: str) -> dict[str, Litmus]:
    place = Path(str(files("hostmm.scenarios.litmus") / folder))
    return {path.stem: Litmus(read(path)) for path in sorted(place.glob(f"*{SUFFIX}"))}


@dataclass(eq=False)
class _Cue:
    """One step on its way: ``begin`` starts it; it has settled when it has ended or stalls."""

    step: Step
    begin: Signal
    gate: Gate | None = None
    ended: bool = field(default=False)

    @property
    def settled(self) -> bool:
        return self.ended or (self.gate is not None and self.gate.reached.fired)


class _Performance:
    """One run of a script."""

    def __init__(self, machine: "Machine", script: Script) -> None:
        self._machine = machine
        self._script = script
        self._stage = Stage(machine, home=next(iter(script.mms)))
        self._cues = [
            {t: _Cue(s, Signal(f"row {n}")) for t, s in row.steps.items()}
            for n, row in enumerate(script.rows, 1)
        ]
        self._stalled: dict[str, _Cue] = {}

    def spawn(self, bind: Bind) -> None:
        for name, count in self._script.mms.items():
            self._stage.mms[name] = self._machine.new_mm()
            self._stage.mms[name].cpus = count
        for place, page in enumerate(self._script.pages.values()):
            for mm in list(self._stage.mms.values()):
                self._map(mm, page, _FIRST_VPN + _APART * place)
        engines = {name: i for i, name in enumerate(self._script.devices)}
        for thread in self._script.threads:
            steps = self._column(thread, engines.get(thread))
            self._machine.sched.spawn(thread, steps)
        # Where there is a race, only its steps are numbered, as only they can be rearranged.
        self._machine.sched.numbered = not any(row.free for row in self._script.rows)
        self._machine.sched.spawn("conductor", self._conduct(bind))

    def _map(self, mm: MmStruct, page: PageSpec, vpn: int) -> None:
        """Map a run of pages in an address space; the first one is what the page's name means."""
        if page.kind == "kernel":
            # No vma: it is an address in the upper half.
            self._stage.vmas[page.name] = Vma(
                mm, vpn + KERNEL_VPN, vpn + KERNEL_VPN + 1, True, True
            )
            return
        first = self._stage.vmas.get(page.name)
        vma = Vma(mm, vpn, vpn + page.pages, True, True, shared=page.shared, pgoff=vpn)
        if page.kind == "pfn":
            vma.pfnmap = True
            vma.pgoff = first.pgoff if first else self._raw_frame(page.value)
        elif page.kind != "anon":
            vma.file, vma.pgoff = first.file if first else self._file(page), 0
            vma.nonlinear = page.kind == "nonlinear"
            assert vma.file is not None
            (vma.file.nonlinear if vma.nonlinear else vma.file.vmas).append(vma)
        mm.insert(vma)
        self._stage.vmas.setdefault(page.name, vma)

    def _raw_frame(self, value: int) -> int:
        frame = self._machine.frames.alloc(FrameKind.USER)
        self._machine.fill_page(frame, value)
        return frame.pfn

    def _file(self, page: PageSpec) -> AddressSpace:
        file = self._machine.new_file(
            page.name,
            tmpfs=page.kind in ("tmpfs", "nonlinear"),
            hugetlb=page.kind == "hugetlb",
        )
        if page.kind == "hole":
            file.holes.add(0)
        return file

    # --- the conductor -----------------------------------------------------------------------------------

    def _conduct(self, bind: Bind) -> Steps:
        self._set_registers()
        stage = self._stage
        for device, mm in self._script.devices.items():
            kind = self._script.kinds.get(device)
            own = SUBSCRIBERS[kind].bind if kind else bind
            stage.subscribers[device] = yield from own(self._machine, stage.mms[mm])
        for row, cues in zip(self._script.rows, self._cues, strict=True):
            self._machine.sched.numbered |= row.free
            for thread, cue in cues.items():
                self._cue(thread, cue)
            if not row.free:
                yield from self._settle(list(cues.values()))

    def _set_registers(self) -> None:
        now, link = self._machine.sched.now, self._machine.link
        if self._script.memory_cycles is not None:
            for name in ("memory.read_latency", "memory.write_latency"):
                address = EMULATOR_REGISTERS[name].address
                link.csr_write(now, address, self._script.memory_cycles, emulator=True)
        if self._script.timeout_cycles is not None:
            link.csr_write(now, REGISTERS["mmu.timeout"].address, self._script.timeout_cycles)

    def _cue(self, thread: str, cue: _Cue) -> None:
        if cue.step.verb == "go on":
            before = self._stalled.pop(thread)
            assert before.gate is not None
            self._machine.sched.fire(before.gate.opened)
        elif cue.step.stall is not None:
            self._stalled[thread] = cue
        self._machine.sched.fire(cue.begin)

    def _settle(self, cues: list[_Cue]) -> Steps:
        waited, pause = 0, _POLL_NS
        while waited < self._script.patience_ns and not all(cue.settled for cue in cues):
            yield pause
            waited, pause = waited + pause, min(2 * pause, _LONG_POLL_NS)

    # --- a column ----------------------------------------------------------------------------------------

    def _column(self, thread: str, engine: int | None) -> Steps:
        for cue in self._own(thread):
            if cue.step.stall is not None:
                self._set_gate(thread, cue)
            yield Wait(cue.begin)
            if engine is not None and cue.step.verb != "go on":
                yield from self._device(thread, engine, cue.step)
            elif cue.step.verb != "go on":
                result = yield from VERBS[cue.step.verb].play(self._stage, cue.step)
                self._note(cue.step, _DENIED if result == DENIED else _CPU, result or 0)
            if cue.gate is not None and cue.gate in self._machine.sched.gates:
                self._machine.sched.gates.remove(cue.gate)
            cue.ended = True

    def _own(self, thread: str) -> Iterator[_Cue]:
        return (row[thread] for row in self._cues if thread in row)

    def _set_gate(self, thread: str, cue: _Cue) -> None:
        stall = cue.step.stall
        assert stall is not None
        reached, opened = Signal(f"{thread} stalls"), Signal(f"{thread} may go on")
        # A device's fault is served by a thread of its own, outside every path.
        who, path = ("iopf", "-") if stall.path == FAULT else (thread, stall.path)
        cue.gate = Gate(who, path, stall.step, reached, opened, passes=stall.nth - 1)
        self._machine.sched.gates.append(cue.gate)

    def _device(self, thread: str, engine: int, step: Step) -> Steps:
        if step.verb == "wait":
            yield from VERBS["wait"].play(self._stage, step)
            return
        handle = self._stage.subscribers[thread].handle
        tag, dropped = yield from device_step(self._stage, engine, handle, step)
        self._note(step, _DENIED if dropped else _DEVICE, tag)

    def _note(self, step: Step, kind: int, value: int) -> None:
        if step.register is not None:
            index = self._script.registers.index(step.register)
            self._machine.sched.log(
                Row.REGISTER, tag=index, a=kind, b=0 if kind == _DENIED else value
            )
