"""Runs the cocotb cases of one module on a compiled model and returns what each did."""

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TextIO
from xml.etree import ElementTree

import cocotb_tools.config
from cocotb.regression import Test, TestGenerator
from cocotb_tools import runner as cocotb_runner

from shootdown.errors import SimulationError
from shootdown.simulators.builds import SIMULATORS, Built, Design, Simulator, build
from shootdown.simulators.processes import run_group

__all__ = [
    "LOG_NAME",
    "SIMULATORS",
    "SKIPPED",
    "Built",
    "CaseResult",
    "Design",
    "Simulator",
    "build",
    "case_names",
    "read_results",
    "run",
]

LOG_NAME = "sim.log"
SKIPPED = "skipped"
"""Message of a case that did not run."""


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """Outcome of one cocotb case; ``message`` is empty when it passed."""

    name: str
    passed: bool
    message: str
    sim_time_ns: float


class _Launcher(cocotb_runner.Runner):
    """cocotb's runner with our own command and process handling.

    The stock runners leave the simulator running when Python is killed, know no time limit, and turn waves on when
    WAVES stands in the environment.
    """

    supported_gpi_interfaces: ClassVar = {"verilog": ["vpi"]}

    def __init__(self, built: Built, log: Path, recording: Sequence[str], timeout_s: float) -> None:
        super().__init__()
        self._built = built
        self._log_path = log
        self._recording = recording
        self._timeout_s = timeout_s
        self.simulator_status = 0

    def _simulator_in_path(self) -> None:
        """Tools were found when the model was built."""

    def _set_env_test(self) -> None:
        super()._set_env_test()
        # The simulator runs in another folder, where relative entries would name other modules.
        self.env["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        if self._built.simulator == "verilator":
            self.env["COCOTB_TRUST_INERTIAL_WRITES"] = "1"

    def _build_command(self) -> Sequence[list[str]]:
        raise NotImplementedError("models are built by shootdown.simulators.builds")

    def _get_include_options(self, includes: Sequence[Any]) -> list[str]:
        raise NotImplementedError

    _get_define_options = _get_parameter_options = _get_include_options  # type: ignore[assignment]

    def _test_command(self) -> Sequence[list[str]]:
        command = [str(self._built.binary), *self._recording, *self.plusargs]
        if self._built.simulator == "icarus":
            library = str(cocotb_tools.config.lib_entry("vpi", "icarus"))
            command = ["vvp", "-m", library, *command]
        return [command]

    def _execute_cmds(
        self, cmds: Sequence[list[str]], cwd: os.PathLike[str] | str, stdout: TextIO | None = None
    ) -> None:
        with self._log_path.open("wb") as log:
            for command in cmds:
                self.simulator_status = run_group(
                    command, cwd=Path(cwd), env=self.env, log=log, timeout_s=self._timeout_s
                )


def _recording(built: Built, out: Path, waves_from: int | None) -> list[str]:
    """Return the options that have ``built`` record waves into ``out``, see :func:`run`."""
    verilator = built.simulator == "verilator"
    if not built.waves:
        return [] if verilator else ["-none"]
    dump = out / ("dump.fst" if verilator else "dump.vcd")
    if waves_from is not None:
        return [f"+waves_from={waves_from}", f"+waves_file={dump}"]
    return ["--trace", "--trace-file", str(dump)] if verilator else [f"+dump={dump}"]


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide environment variables that cocotb's runner would obey."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def case_names(module: str) -> list[str]:
    """Return the names of the cocotb cases of ``module``, in order.

    Raises
    ------
    SimulationError
        The module holds none.
    """
    names: list[str] = []
    for value in vars(importlib.import_module(module)).values():
        if isinstance(value, Test):
            names.append(value.name)
        elif isinstance(value, TestGenerator):
            names += [test.name for test in value.generate_tests()]
    if not names:
        raise SimulationError(f"no cocotb case in module {module}")
    return names


def run(
    built: Built,
    module: str,
    *,
    cases: Sequence[str] | None,
    seed: int,
    env: Mapping[str, str],
    out: Path,
    timeout_s: float,
    plusargs: Sequence[str] = (),
    waves_from: int | None = None,
) -> list[CaseResult]:
    """Run ``cases`` of ``module`` (all when None) in one simulation.

    Writes ``sim.log``, ``results.xml`` and, when the model was built with waves, ``dump.fst`` (Verilator) or
    ``dump.vcd`` (Icarus) into ``out``: of the whole simulation, or from the emulated cycle ``waves_from`` on, where
    the top is ``sim_top.v``. ``seed`` is :data:`cocotb.RANDOM_SEED` inside. Whatever ends this call, the simulator's
    process group is gone afterwards.

    Raises
    ------
    SimulationError
        The simulator crashed, ran longer than ``timeout_s`` seconds, or did not run each of ``cases``.
    """
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    log, results = out / LOG_NAME, out / "results.xml"
    launcher = _Launcher(built, log, _recording(built, out, waves_from), timeout_s)
    wanted = (
        None if cases is None else rf"^{re.escape(module)}\.({'|'.join(map(re.escape, cases))})$"
    )
    # cocotb rewrites the assertions of every module unless told which; only the case modules have any.
    extra = {"COCOTB_REWRITE_ASSERTION_FILES": "*_cases.py", "PYTHONHASHSEED": "0", **env}
    try:
        with _without(
            "WAVES", "GUI", "PYTEST_CURRENT_TEST", "COCOTB_TEST_FILTER", "COCOTB_TESTCASE"
        ):
            launcher.test(
                module,
                built.design.top,
                hdl_toplevel_lang="verilog",
                seed=seed,
                extra_env=extra,
                test_dir=out,
                results_xml=str(results),
                test_filter=wanted,
                plusargs=plusargs,
            )
    except TimeoutError as error:
        raise SimulationError(f"{error}: see {log}") from None
    if not results.is_file():
        status = launcher.simulator_status
        raise SimulationError(
            f"{built.simulator} ended with status {status} and no results: {_last_line(log)}: see {log}"
        )
    found = read_results(results)
    missing = sorted(set(cases or ()) - {result.name for result in found})
    if missing:
        raise SimulationError(f"{module} did not run {', '.join(missing)}: see {log}")
    return found


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


def read_results(file: Path) -> list[CaseResult]:
    """Return what each case of a JUnit report did, cocotb's or pytest's."""
    found = []
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        properties = {p.get("name"): p.get("value", "") for p in case.iter("property")}
        trouble = [e for kind in ("failure", "error") for e in case.findall(kind)]
        skipped = case.find("skipped")
        text = "\n".join((e.text or e.get("message") or e.tag).strip() for e in trouble)
        if skipped is not None:
            text = SKIPPED
        found.append(
            CaseResult(
                name=case.get("name", ""),
                passed=not trouble and skipped is None,
                message=text,
                sim_time_ns=float(properties.get("sim_time_duration") or 0.0),
            )
        )
    return found
