"""Build cache, simulation runs and the pytest layer above them, on a tiny adder, with both simulators."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secmmu.emit import to_verilog
from shootdown.errors import BuildError, SimulationError, ToolError
from shootdown.simulators import simulate
from tests.rtl import BUILD_S, RtlCases, collect_cases
from tests.tb.adder import Adder

cases = RtlCases(Adder, "tests.tb.adder_cases")

BROKEN = "tests.tb.broken_cases"
ROOT = Path(__file__).parents[3]


def _design() -> simulate.Design:
    return simulate.Design(name="adder", verilog=to_verilog(Adder(), name="dut"), top="dut")


def _run(
    simulator: simulate.Simulator, out: Path, *names: str, timeout_s: float = 60
) -> list[simulate.CaseResult]:
    built = simulate.build(_design(), simulator)
    return simulate.run(
        built, BROKEN, cases=names or None, seed=3, env={}, out=out, timeout_s=timeout_s
    )


def test_verilog_is_the_same_every_time_and_names_no_path() -> None:
    """The text is what the cache is keyed by."""
    text = to_verilog(Adder(), name="dut")
    assert text == to_verilog(Adder(), name="dut")
    assert str(ROOT) not in text
    # What starts the processes under Icarus 11 is set late enough.
    assert "initial \\$auto$verilog_backend" in text
    assert not re.search(r"reg \\\$auto\S+ = ", text)


def test_verilog_name_is_checked() -> None:
    """A name that is not an identifier is refused."""
    component = Adder()
    to_verilog(component, name="good")
    with pytest.raises(ValueError, match="name must be a Verilog identifier, not 'a b'"):
        to_verilog(component, name="a b")


def test_an_item_may_take_as_long_as_its_simulation(request: pytest.FixtureRequest) -> None:
    """Not what the other tests may: a whole sweep takes hours."""
    hours = RtlCases(Adder, "tests.tb.adder_cases", timeout_s=36_000)
    node = collect_cases(request.node.parent, "hours", hours)
    items = [item for simulator in node.collect() for item in simulator.collect()]
    limits = {item.get_closest_marker("timeout").args for item in items}
    assert limits == {(BUILD_S + 36_000,)}


@pytest.mark.parametrize("simulator", simulate.SIMULATORS)
def test_failing_case_is_reported(simulator: simulate.Simulator, tmp_path: Path) -> None:
    """A failing case gives its message; its neighbour still passes; a third is timed out in simulated time."""
    results = {result.name: result for result in _run(simulator, tmp_path)}
    assert results["passes"].passed
    assert not results["passes"].message
    assert not results["fails"].passed
    assert "constant is not six" in results["fails"].message
    assert not results["hangs"].passed
    assert results["hangs"].sim_time_ns == 1000.0


@pytest.mark.parametrize("simulator", simulate.SIMULATORS)
def test_selected_case_runs_alone(simulator: simulate.Simulator, tmp_path: Path) -> None:
    """Only the named case runs."""
    assert [result.name for result in _run(simulator, tmp_path, "passes")] == ["passes"]


def test_unknown_case_is_an_error(tmp_path: Path) -> None:
    """A case that the module does not have never counts as passed."""
    with pytest.raises(SimulationError, match=r"broken_cases did not run no_such_case|no results"):
        _run("icarus", tmp_path, "no_such_case")


def test_second_build_compiles_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The model is found by content, and other content is another model."""
    monkeypatch.setenv("SHOOTDOWN_CACHE", str(tmp_path / "cache"))
    first = simulate.build(_design(), "icarus").binary
    stamp = first.stat().st_mtime_ns
    assert simulate.build(_design(), "icarus").binary == first
    assert first.stat().st_mtime_ns == stamp
    assert simulate.build(_design(), "icarus", waves=True).binary != first


def test_refused_design_leaves_nothing_but_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A failed build is an error that names the log, and is not found as a model later."""
    monkeypatch.setenv("SHOOTDOWN_CACHE", str(tmp_path / "cache"))
    design = simulate.Design(name="bad", verilog="module dut; nonsense endmodule", top="dut")
    for _ in range(2):
        with pytest.raises(BuildError, match=r"iverilog failed with status \d+: see .*failed\.log"):
            simulate.build(design, "icarus")
    left = [path.suffix for path in (tmp_path / "cache").iterdir()]
    assert sorted(left) == [".lock", ".log"]


def test_cache_folder_with_blanks_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """GNU make cannot build there."""
    monkeypatch.setenv("SHOOTDOWN_CACHE", str(tmp_path / "a b"))
    with pytest.raises(ToolError, match="has blanks in its path"):
        simulate.build(_design(), "icarus")


@pytest.mark.parametrize(("simulator", "name"), [("verilator", "dump.fst"), ("icarus", "dump.vcd")])
def test_waves(simulator: simulate.Simulator, name: str, tmp_path: Path) -> None:
    """A model built with waves leaves a dump in which the ports are found."""
    import pywellen

    built = simulate.build(_design(), simulator, waves=True)
    simulate.run(built, BROKEN, cases=["passes"], seed=1, env={}, out=tmp_path, timeout_s=60)
    names = {variable.full_name for variable in pywellen.Waveform(str(tmp_path / name)).all_vars()}
    assert "dut.total" in names


def _children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_no_simulator(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM end the simulator together with us."""
    _run("icarus", tmp_path / "warm", "passes")
    script = (
        "from pathlib import Path; from tests.tb.simulators import test_simulate as t; from shootdown.simulators import simulate as s;"
        f"s.run(s.build(t._design(), 'icarus'), 'tests.tb.endless_cases', cases=None, seed=1, env={{}},"
        f" out=Path({str(tmp_path)!r}), timeout_s=60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        log = tmp_path / simulate.LOG_NAME
        while time.monotonic() < deadline and not (
            log.is_file() and "runs_for_ever" in log.read_text()
        ):
            time.sleep(0.05)
        simulators = _children_of(child.pid)
        assert simulators
        child.send_signal(number)
        assert child.wait(15) != 0
    finally:
        child.kill()
    assert not any(Path(f"/proc/{pid}").exists() for pid in simulators)


def test_time_limit_kills_the_simulator(tmp_path: Path) -> None:
    """A simulation that never ends is an error that says so."""
    built = simulate.build(_design(), "icarus")
    with pytest.raises(SimulationError, match=r"vvp ran longer than 3 s: see .*sim\.log"):
        simulate.run(
            built, "tests.tb.endless_cases", cases=None, seed=1, env={}, out=tmp_path, timeout_s=3
        )


def test_pytest_reports_each_case_and_its_replay_command(tmp_path: Path) -> None:
    """One item per case and simulator; a failure prints message, log and the command that replays it."""
    test = tmp_path / "test_broken.py"
    test.write_text(
        "from tests.rtl import RtlCases\nfrom tests.tb.adder import Adder\n"
        f"cases = RtlCases(Adder, {BROKEN!r}, simulators=('icarus',))\n"
    )
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-k",
        "not hangs",
        "--seed",
        "7",
        str(test),
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert "1 failed, 1 passed, 1 deselected" in done.stdout
    assert "constant is not six" in done.stdout
    assert "replay: pytest 'test_broken.py::cases::icarus::fails' --seed 7 --waves" in done.stdout
