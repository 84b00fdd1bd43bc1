"""One pytest item per cocotb case, one simulation per module, configuration and simulator.

A test file states what to simulate::

    cases = RtlCases(lambda: Tlb(SecmmuConfig()), "shootdown.cases.tlb_cases")

and pytest collects ``test_tlb.py::cases::verilator::fills_and_hits`` and so on. The first item to run builds the
model and runs every *selected* case of its simulator; the others read their result. Cases that take long are run
*apart*, so that each is reported as it ends and several workers share them.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from amaranth.lib import wiring

from secmmu.emit import to_verilog
from shootdown.errors import ShootdownError
from shootdown.simulators import simulate

__all__ = ["RtlCases"]

BUILD_S = 480.0
"""Wall-clock limit of compiling a model, in seconds."""


@dataclasses.dataclass(frozen=True)
class RtlCases:
    """The cocotb cases of ``module``, run on ``component()`` by each of ``simulators``.

    Parameters
    ----------
    component : callable
        Makes the device under test: a Component, whose Verilog top is called ``dut``, or a ready
        :class:`shootdown.simulators.simulate.Design`.
    module : str
        Importable module of cocotb cases, named ``*_cases``.
    simulators : tuple of str
        Which simulators run it.
    env : mapping
        Environment of the cases, for example the configuration they are to expect.
    timeout_s : float
        Wall-clock limit of one simulation, in seconds.
    apart : bool
        Whether each case is a simulation of its own.
    """

    component: Callable[[], wiring.Component | simulate.Design]
    module: str
    simulators: tuple[simulate.Simulator, ...] = simulate.SIMULATORS
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    timeout_s: float = 120.0
    apart: bool = False

    def design(self) -> simulate.Design:
        """Return the design to build."""
        made = self.component()
        if isinstance(made, simulate.Design):
            return made
        name = type(made).__name__.lower()
        return simulate.Design(name=name, verilog=to_verilog(made, name="dut"), top="dut")


class CasesNode(pytest.Collector):
    """Collects one node per simulator."""

    cases: RtlCases

    def collect(self) -> Iterator[pytest.Collector]:
        """Yield the simulators."""
        for simulator in self.cases.simulators:
            node = SimulationNode.from_parent(self, name=simulator)
            node.cases, node.simulator = self.cases, simulator
            yield node


class SimulationNode(pytest.Collector):
    """The simulations of one simulator; its items are the cases. xdist's loadscope keeps them on one worker."""

    cases: RtlCases
    simulator: simulate.Simulator

    def collect(self) -> Iterator[pytest.Item]:
        """Yield the cases."""
        # Whichever item comes first waits for the model and for the whole simulation.
        limit = pytest.mark.timeout(BUILD_S + self.cases.timeout_s)
        self._results: dict[str, simulate.CaseResult] = {}
        self._errors: dict[str, ShootdownError] = {}
        for name in simulate.case_names(self.cases.module):
            item = CaseItem.from_parent(self, name=name)
            item.add_marker(limit)
            yield item

    def out(self, name: str) -> Path:
        """Give the folder of the log, results and waves of the simulation of case ``name``."""
        parts = self.nodeid.removesuffix(self.name).replace("/", ".").strip(":").split("::")
        folder = self.config.rootpath / "out" / "tests" / ".".join(parts) / self.name
        return folder / name.replace("/", ".") if self.cases.apart else folder

    def result(self, name: str) -> simulate.CaseResult:
        """Return what case ``name`` did, running its simulation first if need be.

        Raises
        ------
        ShootdownError
            The model cannot be built, or its simulation failed.
        """
        if name not in self._results and name not in self._errors:
            selected = [item.name for item in self.session.items if item.parent is self]
            self._simulate(name, [name] if self.cases.apart else selected)
        if name in self._errors:
            raise self._errors[name]
        return self._results[name]

    def _simulate(self, name: str, selected: list[str]) -> None:
        try:
            built = simulate.build(
                self.cases.design(), self.simulator, waves=self.config.getoption("--waves")
            )
            found = simulate.run(
                built,
                self.cases.module,
                cases=selected,
                seed=self.config.getoption("--seed"),
                env=self.cases.env,
                out=self.out(name),
                timeout_s=self.cases.timeout_s,
            )
        except ShootdownError as error:
            self._errors |= dict.fromkeys(selected, error)
        else:
            self._results |= {result.name: result for result in found}


class CaseFailedError(Exception):
    """A cocotb case failed; the text is all that a reader needs."""


class CaseItem(pytest.Item):
    """One cocotb case on one simulator."""

    parent: SimulationNode

    def runtest(self) -> None:
        """Fail when the case failed."""
        result = self.parent.result(self.name)
        if not result.passed:
            raise CaseFailedError(result.message)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """Return the case's own message, where its log is, and the command that replays it."""
        if not isinstance(excinfo.value, (CaseFailedError, ShootdownError)):
            return str(super().repr_failure(excinfo))
        seed = self.config.getoption("--seed")
        log = self.parent.out(self.name) / simulate.LOG_NAME
        env = self.parent.cases.env
        given = "".join(f"{name}={env[name]} " for name in env if name in os.environ)
        replay = f"{given}pytest '{self.nodeid}' --seed {seed} --waves"
        return f"{excinfo.value}\nlog: {log}\nreplay: {replay}"

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return the place and name that reports show."""
        return self.path, None, f"{self.cases_name}[{self.parent.name}] {self.name}"

    @property
    def cases_name(self) -> str:
        """Name of the RtlCases variable."""
        return self.parent.parent.name if self.parent.parent is not None else ""


def collect_cases(collector: pytest.Collector, name: str, cases: RtlCases) -> CasesNode:
    """Return the node of a module's RtlCases variable."""
    node = CasesNode.from_parent(collector, name=name)
    node.cases = cases
    return node
