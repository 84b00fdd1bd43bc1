"""What a user may get wrong, and what may interrupt a run: one clear line, status 2, nothing left behind."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hostmm import trace
from shootdown.cli import main
from tests.tb.cli import command, environment, shootdown

PREFIX = "shootdown: "


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return what gives the one line with which ``shootdown run WORDS`` is refused; it must leave nothing behind."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        before = _content(tmp_path)
        assert main(["run", *words]) == 2
        out, errors = capsys.readouterr()
        (line,) = _without_progress(errors)
        assert line.startswith(PREFIX)
        assert out == ""
        assert _content(tmp_path) == before
        return line.removeprefix(PREFIX)

    return run


def _content(folder: Path) -> list[Path]:
    """Return what lies in a folder; the empty one that results usually go to is nobody's loss."""
    return sorted(path for path in folder.rglob("*") if path != folder / "out")


def _without_progress(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if "runs done" not in line]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--policy", "v10"],
            "policy must be one of v9, seed, emm, v2.6.27, v3.7, v4.13, v6.6, not 'v10'",
        ),
        (["--scenario", "L9"], "scenario must be one of L1, "),
        (["--sim", "vcs"], "simulator must be one of verilator, icarus, model, not 'vcs'"),
        (["--mutant", "rtl-none"], "mutant must be one of rtl-no-drain, "),
        (["--seed", "-1"], "seed must be from 0 to "),
        (["--seed", "4294967296"], "seed must be from 0 to "),
        (["--frames", "5"], "frames must be from 64 to "),
        (["--cpus", "0"], "cpus must be from 1 to 16"),
        (["--memory-latency", "0"], "memory latency must be from 1 to 1000"),
        (["nothing"], "nothing"),
        (["words", "--scenario", "L1"], "a scenario replays no trace: leave out 'words' or --scen"),
    ],
)
def test_a_value_out_of_range_is_refused(
    words: list[str], message: str, refused: Callable[..., str]
) -> None:
    """The line says what is allowed."""
    assert message in refused(*words)


def test_a_refusal_is_one_line_on_stderr_of_a_process(tmp_path: Path) -> None:
    """What the others look at inside the process is all that its user sees."""
    run = shootdown(["run", "--cpus", "0"], tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"{PREFIX}cpus must be from 1 to 16")
    assert run.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_truncated_trace_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    """The end of a recording is missing."""
    whole = trace.shipped()["shell"].read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    assert "cut" in refused("cut")


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(200), b"not a trace at all\n"])
def test_a_foreign_file_is_refused(
    content: bytes, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """It never was a recording."""
    (tmp_path / "foreign").write_bytes(content)
    assert "foreign" in refused("foreign")


def test_a_folder_is_no_trace(tmp_path: Path, refused: Callable[..., str]) -> None:
    """Nor is a folder."""
    (tmp_path / "folder").mkdir()
    assert "folder" in refused("folder")


def test_an_output_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    """A file stands where the folder is to be."""
    (tmp_path / "file").write_text("mine")
    words = ["--scenario", "I24", "--sim", "icarus", "--out"]
    assert "cannot write" in refused(*words, "file/out")
    assert "cannot write" in refused(*words, "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_results_file_that_cannot_be_written_is_refused(refused: Callable[..., str]) -> None:
    """Before anything is run."""
    words = ["--scenario", "I24", "--sim", "icarus", "--json", "missing/results.json"]
    assert "cannot write missing/results.json" in refused(*words)


@pytest.mark.slow
def test_frames_too_few_to_run_are_refused(refused: Callable[..., str]) -> None:
    """Known only when the run is under way, or about to be."""
    words = ["compile", "--frames", "64", "--policy", "v9", "--cpus", "1", "--sim", "icarus"]
    assert "frames" in refused(*words)


def running(marker: str) -> list[int]:
    """Return the processes that have ``marker`` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if marker.encode() in (entry / "environ").read_bytes() and state != "Z":
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.fixture
def marker(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield a word that a run's processes are known by; whatever is left of them is ended."""
    word = f"SHOOTDOWN_TEST_MARKER={os.getpid()}-{request.node.name}"
    yield word
    for number in running(word):
        os.kill(number, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(
    number: signal.Signals, whole_group: bool, marker: str, tmp_path: Path
) -> None:
    """Ctrl-C goes to the whole group of processes, a kill to one of them."""
    name, value = marker.split("=")
    words = ("run", "--scenario", "storm", "--sim", "icarus", "--out", "out/mine")
    process = subprocess.Popen(
        command(*words),
        cwd=tmp_path,
        env=environment() | {name: value},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _until_simulating(process, marker)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert _without_progress(errors) == [
        f"{PREFIX}interrupted" + (f" by {number.name}" if number is signal.SIGTERM else "")
    ]
    assert _gone(marker)
    assert not list(tmp_path.rglob("*mine*"))


@pytest.mark.slow
def test_an_interrupted_matrix_ends_at_once(marker: str, tmp_path: Path) -> None:
    """Not when all that its pool of processes was given is done."""
    name, value = marker.split("=")
    process = subprocess.Popen(
        command("matrix", "--policy", "v9", "--schedules", "100000"),
        cwd=tmp_path,
        env=environment() | {name: value},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("matrix: ")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.splitlines()[-1] == f"{PREFIX}interrupted"
    assert "Traceback" not in errors
    assert _gone(marker)
    assert not list(tmp_path.rglob("matrix"))


@pytest.mark.slow
def test_a_matrix_whose_process_is_killed_says_so(marker: str, tmp_path: Path) -> None:
    """As the kernel does when memory runs out: a pool that waits for the process' answer would wait for ever."""
    name, value = marker.split("=")
    process = subprocess.Popen(
        command("matrix", "--policy", "v9", "--schedules", "100000"),
        cwd=tmp_path,
        env=environment() | {name: value},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("matrix: ")
    os.kill(max(set(running(marker)) - {process.pid}), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.splitlines()[-1].startswith(f"{PREFIX}a process that played schedules was killed")
    assert "Traceback" not in errors
    assert _gone(marker)
    assert not list(tmp_path.rglob("matrix"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "--rounds", "0"], "rounds must be from 1 to 100, not 0"),
        (["bench", "--trace", "nothing"], "cannot read trace nothing: No such file or directory"),
        (["bench", "--trace", "pipe"], "cannot read trace pipe: it is no ordinary file"),
        (["compare", "--traces", "pipe"], "cannot read trace pipe: it is no ordinary file"),
        (["compare", "--seeds", "9" * 20], f"seeds must be from 2 to 1000, not {'9' * 20}"),
        (["explore", "--schedules", "9" * 20], "schedules must be from 1 to 10000000, not"),
        (["record", "--window", "4294967296", "--", "true"], "window must be from 1 to 2147483647"),
        (["formal", "--timeout", "nan"], "timeout must be from 0.01 to 1000000.0, not nan"),
        (["formal", "--out", "file/out"], "cannot write file/out: Not a directory"),
        (["policies", "fork", "--json", "/proc/x"], "cannot write /proc/x: No such file"),
    ],
)
def test_other_commands_refuse_in_one_line_too(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything is built or run, and without a wait for a pipe that nobody fills."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    assert main(words) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith(f"{PREFIX}{message}")
    assert errors.count("\n") == 1
    assert sorted(path.name for path in _content(tmp_path)) == ["file", "pipe"]


def _until_simulating(process: "subprocess.Popen[str]", marker: str) -> None:
    """Wait until a simulator of the run is well under way."""
    vvp = shutil.which("vvp")
    assert vvp is not None
    for _ in range(600):
        assert process.poll() is None, "the run ended early"
        programs = [Path(f"/proc/{number}/comm") for number in running(marker)]
        if any(program.exists() and program.read_text() == "vvp\n" for program in programs):
            time.sleep(2)
            return
        time.sleep(0.1)
    raise AssertionError("no simulator was started")


def _gone(marker: str) -> bool:
    """Whether every process of the run ends within a moment."""
    for _ in range(30):
        if not running(marker):
            return True
        time.sleep(0.1)
    return False
