"""GTKWave save files, enums from emitted Verilog, and the command that opens them."""

import itertools
import shlex
import subprocess
from pathlib import Path

import pytest
import pywellen
from amaranth.hdl import Module
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import EmulatorConfig
from secmmu.emit import to_verilog
from secmmu.layouts import CommandKind
from shootdown.cli import main
from shootdown.errors import SimulationError
from shootdown.report.results import DeviceCounters, PageCounters, RunResult, ViolationResult
from shootdown.run import runs
from shootdown.run.carriers import simulation_design
from shootdown.run.config import RunConfig
from shootdown.run.jobs import Job
from shootdown.run.outcome import Outcome
from shootdown.simulators import simulate
from shootdown.simulators.designs import emulator_verilog
from shootdown.simulators.waves import GROUPS, cycle_time, dump_of, enum_names, write_save_file

HERE = Path(__file__).parents[1]
INVALIDATION = "emulator.emulated.mmu.invalidation"
KINDS = {kind.value: kind.name for kind in CommandKind}


class Mood(enum.Enum, shape=2):
    """Any enum."""

    CALM = 0
    WILD = 2


class Moody(wiring.Component):
    """An enum in a struct, one alone, and an FSM in a submodule."""

    mood: In(Mood)
    pair: Out(data.StructLayout({"mood": Mood, "other": 1}))
    go: In(1)
    busy: Out(1)

    def elaborate(self, platform: object) -> Module:
        """Idle, then busy for two cycles."""
        m = Module()
        m.d.comb += self.pair.mood.eq(self.mood)
        m.submodules.inner = inner = Module()
        with inner.FSM():
            with inner.State("Idle"), inner.If(self.go):
                inner.next = "First-Cycle"
            with inner.State("First-Cycle"):
                inner.d.comb += self.busy.eq(1)
                inner.next = "Last-Cycle"
            with inner.State("Last-Cycle"):
                inner.d.comb += self.busy.eq(1)
                inner.next = "Idle"
        return m


def test_enums_and_states_are_read_off_the_verilog() -> None:
    """Every wire of an enum's shape and every FSM's state is found by its path."""
    moods = {0: "CALM", 2: "WILD"}
    assert enum_names(to_verilog(Moody(), name="moody")) == {
        "moody.mood": moods,
        "moody.pair.mood": moods,
        "moody.inner.fsm_state": {0: "Idle", 1: "First-Cycle", 2: "Last-Cycle"},
    }


def test_other_attributes_are_no_enums() -> None:
    """An attribute of another kind names nothing, and names do not leak to the next wire."""
    verilog = """\
module \\a.b (x);
  (* keep = 1 *)
  wire first;
  (* enum_base_type = "Mood" *)
  (* enum_value_00 = "CALM" *)
  output reg [1:0] \\mood.now  = 2'h0;
  wire [1:0] next;
"""
    assert enum_names(verilog) == {"a.b.mood.now": {0: "CALM"}}


def test_every_signal_of_the_groups_is_in_the_emulator() -> None:
    """A signal that was renamed would silently leave the save file."""
    module, wires = "", set()
    for line in emulator_verilog(EmulatorConfig()).splitlines():
        words = line.split()
        if words[:1] == ["module"]:
            module = words[1].lstrip("\\").partition("(")[0]
        elif words[:1] in (["wire"], ["reg"], ["input"], ["output"]):
            wire = next(word for word in words[1:] if not word.startswith("["))
            wires.add(f"{module}.{wire.strip(';').lstrip(chr(92))}")
    rows = [row for group in GROUPS.values() for row in group]
    paths = [prefix + suffix for prefix, suffixes in rows for suffix in suffixes.split()]
    assert len(paths) == len(set(paths))
    assert [path for path in paths if path not in wires] == []


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the stand-in's waves: VCD and FST as Icarus writes them, and a VCD named as Verilator names it."""
    folder = tmp_path_factory.mktemp("standin")
    binary = folder / "sim.vvp"
    subprocess.run(["iverilog", "-g2012", "-o", binary, HERE / "standin.v"], check=True)
    for kind in ("vcd", "fst"):
        out = folder / kind
        out.mkdir()
        command = ["vvp", binary, f"-{kind}", f"+file={out}/dump.{kind}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    plain = folder / "plain"
    plain.mkdir()
    text = (folder / "vcd" / "dump.vcd").read_text()
    (plain / "dump.vcd").write_text(text.replace(" \\", " "))
    return folder


@pytest.mark.parametrize("kind", ["vcd", "fst", "plain"])
def test_save_file(standin: Path, kind: str) -> None:
    """Groups hold the dumped signals with the names that the dump has, decoded; the marker is where the cycle is."""
    dump = dump_of(standin / kind)
    enums = {
        f"{INVALIDATION}.command__payload.kind": KINDS,
        f"{INVALIDATION}.drained__payload.phase": {1: "DRAINED"},
    }
    saved = write_save_file(dump, enums, marker=(70, "I4"))
    lines = saved.read_text().splitlines()
    assert lines[0] == f'[dumpfile] "{dump}"'

    escape = "" if kind == "plain" else "\\"
    names = [line.split(" ", 1)[1] for line in lines if line.startswith("+{")]
    assert names == [
        "sim_top.cycle[63:0]",
        "sim_top.emulator.emulated.mmu.device__araddr[63:0]",
        "sim_top.emulator.emulated.mmu.device__rresp[1:0]",
        "sim_top.emulator.emulated.mmu.invalidation.command__valid",
        "sim_top.emulator.emulated.mmu.invalidation.command__ready",
        f"sim_top.emulator.emulated.mmu.invalidation.{escape}command__payload.kind[2:0]",
        f"sim_top.emulator.emulated.mmu.invalidation.{escape}drained__payload.phase[1:0]",
    ]
    dumped = {var.full_name for var in pywellen.Waveform(str(dump)).all_vars()}
    assert {name.partition("[")[0] for name in names} <= dumped
    aliases = [line[2 : line.index("}")] for line in lines if line.startswith("+{")]
    assert aliases[3:] == ["command_valid", "command_ready", "command_kind", "drained_phase"]
    titles = [line[1:] for line in lines if line.startswith("-")]
    assert titles[::2] == titles[1::2] == list(GROUPS)

    time = cycle_time(dump, 70)
    assert f"[timestart] {time - 150_000}" in lines
    assert f"*-15.5 {time} {time}" in lines
    assert "[markername] AI4" in lines


def test_filters_name_the_values_of_their_signals(standin: Path) -> None:
    """A traced enum has a filter file with each value, all its digits, and its name."""
    dump = dump_of(standin / "fst")
    saved = write_save_file(dump, {f"{INVALIDATION}.command__payload.kind": KINDS})
    lines = saved.read_text().splitlines()
    filters = {}
    for line, following in itertools.pairwise(lines):
        if line.startswith("^"):
            alias = following[2 : following.index("}")]
            filters[alias] = Path(line.split(" ", 1)[1]).read_text().splitlines()
    assert filters == {
        "device_rresp": ["00 OKAY", "01 EXOKAY", "10 SLVERR", "11 DECERR"],
        "command_kind": [f"{kind.value:03b} {kind.name}" for kind in CommandKind],
    }
    assert not any(line.startswith(("[marker", "*")) for line in lines)


def test_time_of_a_cycle(standin: Path) -> None:
    """A cycle that was skipped counts as reached with the next; one beyond the end gives the last change."""
    for kind in ("vcd", "fst"):
        dump = dump_of(standin / kind)
        (counter,) = [var for var in pywellen.Waveform(str(dump)).all_vars() if var.name == "cycle"]
        times = {value: time for time, value in counter.tv}
        assert cycle_time(dump, 9) == times[9]
        assert cycle_time(dump, 20) == cycle_time(dump, 49) == times[49] == times[9] + 10_000
        assert cycle_time(dump, 10**6) == max(times.values())


def test_no_cycle_counter(tmp_path: Path) -> None:
    """Waves of something else are refused."""
    dump = tmp_path / "dump.vcd"
    dump.write_text(
        "$timescale 1ps $end\n$scope module dut $end\n$var wire 1 ! a $end\n$upscope $end\n"
        "$enddefinitions $end\n#0\n1!\n"
    )
    with pytest.raises(SimulationError, match=r"dump\.vcd holds no sim_top\.cycle"):
        cycle_time(dump, 1)


def test_no_waveform(tmp_path: Path) -> None:
    """A folder without waves is refused, and the message says how to get some."""
    with pytest.raises(SimulationError, match=r"no waveform in .*: run with --waves"):
        dump_of(tmp_path)


@pytest.mark.parametrize("simulator", simulate.SIMULATORS)
def test_recording_from_a_cycle_on(simulator: simulate.Simulator, tmp_path: Path) -> None:
    """With ``waves_from`` nothing before that cycle is recorded; without it, all is."""
    verilog = (HERE / "echo_emulator.v").read_text()
    built = simulate.build(simulation_design(verilog), simulator, waves=True)
    first = {}
    for waves_from in (None, 300):
        out = tmp_path / str(waves_from)
        (result,) = simulate.run(
            built,
            "tests.tb.mailbox_cases",
            cases=["batch_longer_than_the_mailbox"],
            seed=1,
            env={},
            out=out,
            timeout_s=60,
            waves_from=waves_from,
        )
        assert result.passed
        variables = {v.full_name: v for v in pywellen.Waveform(str(dump_of(out))).all_vars()}
        values = [value for _, value in variables["sim_top.cycle"].tv if isinstance(value, int)]
        first[waves_from] = values[0]
        assert values[-1] > 1000
    assert first == {None: 0, 300: 300}


def _outcome(config: RunConfig, *violations: tuple[int, bool]) -> Outcome:
    run = RunResult(
        policy=config.policy,
        cpus=config.cpus,
        paths={},
        device=DeviceCounters(accesses=0, tlb_hits=0, walks=0, faults=0, bytes=0),
        pages=PageCounters(allocated=0, freed=0, reclaimed=0, written_back=0),
        cycles=100_000,
        wall_s=1.0,
        violations=[
            ViolationResult(
                invariant="I1",
                expected=expected,
                path="munmap",
                cycle=cycle,
                thread="C0",
                what="a frame was freed",
                kinds="B",
            )
            for cycle, expected in violations
        ],
    )
    return Outcome(config=config, frames=64, run=run, scenario=None, examined={}, kinds="B")


def test_only_unexpected_violations_without_waves_are_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The window lies around the first unexpected violation, and starts with the run at the earliest."""
    found: list[tuple[object, ...]] = []
    built: list[bool] = []

    def note_jobs(jobs: list[Job], *, at_once: int) -> None:
        found.extend(job.arguments for job in jobs)

    def note_build(design: object, simulator: str, *, waves: bool) -> None:
        built.append(waves)

    monkeypatch.setattr(runs, "run_jobs", note_jobs)
    monkeypatch.setattr(runs.simulate, "build", note_build)
    late = RunConfig(policy="v9", cpus=1)
    early = RunConfig(policy="v9", cpus=2)
    outcomes = [
        _outcome(late, (9000, False), (8000, False), (10, True)),
        _outcome(early, (1500, False)),
        _outcome(RunConfig(policy="v9", cpus=3), (1500, True)),
        _outcome(RunConfig(policy="v9", cpus=4, waves=True), (1500, False)),
        _outcome(RunConfig(policy="v9", cpus=5)),
    ]
    runs.record_unexpected(outcomes, tmp_path)
    assert found == [
        (late, (6000, 8500), tmp_path / "v9-1cpu"),
        (early, (0, 2000), tmp_path / "v9-2cpu"),
    ]
    assert built == [True, True]


@pytest.mark.slow
def test_part_of_a_run_is_the_same_run(tmp_path: Path) -> None:
    """A repeated part shows what the whole run showed in those cycles, and nothing before them."""
    config = RunConfig(policy="seed", scenario="L1", simulator="icarus", waves=True)
    whole, part = tmp_path / "whole", tmp_path / "part"
    runs.perform(config, whole)
    cycle = Outcome.load(whole / "outcome.json").run.violations[0].cycle
    runs.record_part(config, (cycle - 200, cycle + 50), part)
    assert [file.name for file in part.iterdir()] == ["dump.vcd"]
    seen = []
    for dump in (whole / "dump.vcd", part / "dump.vcd"):
        begin, end = cycle_time(dump, cycle - 190), cycle_time(dump, cycle + 50)
        seen.append(
            {
                var.full_name: [(at, value) for at, value in var.tv if begin < at < end]
                for var in pywellen.Waveform(str(dump)).all_vars()
                if var.full_name.startswith("sim_top.emulator.emulated.mmu.memory__")
            }
        )
    assert seen[0] == seen[1]
    assert seen[0]["sim_top.emulator.emulated.mmu.memory__rvalid"]
    assert cycle_time(part / "dump.vcd", 0) == cycle_time(whole / "dump.vcd", cycle - 200)


def test_command_without_a_display(
    standin: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where there is no display the command that would open the waves is printed."""
    monkeypatch.delenv("DISPLAY", raising=False)
    folder = tmp_path / "out dir" / "v9-L1"
    folder.mkdir(parents=True)
    dump = folder / "dump.fst"
    dump.write_bytes((standin / "fst" / "dump.fst").read_bytes())
    saved = write_save_file(dump, {})
    assert main(["waves", "--out", str(folder.parent)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert shlex.split(printed[0]) == ["gtkwave", "--save", str(saved), str(dump)]

    # A run that broke something comes first.
    broken = folder.with_name("v9-S1")
    broken.mkdir()
    (broken / "dump.fst").write_bytes(dump.read_bytes())
    broken_saved = write_save_file(broken / "dump.fst", {})
    _outcome(RunConfig(policy="v9"), (5, True)).save(folder / "outcome.json")
    _outcome(RunConfig(policy="v9"), (5, False)).save(broken / "outcome.json")
    for options, expected in (([], broken_saved), (["--run", "v9-L1"], saved)):
        assert main(["waves", "--out", str(folder.parent), *options]) == 0
        assert shlex.split(capsys.readouterr().out.splitlines()[0])[2] == str(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "nowhere"], "no results in nowhere: type make sim first"),
        (["--out", "."], "no waveform of any run in .; there are: none"),
        (["--out", ".", "--run", "v9-4cpu"], "no waveform of v9-4cpu in .; there are: none"),
    ],
)
def test_command_without_waves(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line says what is missing."""
    monkeypatch.chdir(tmp_path)
    assert main(["waves", *options]) == 2
    assert capsys.readouterr().err == f"shootdown: {message}\n"
