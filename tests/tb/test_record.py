"""The recorder: lackey's lines, system calls, and real programs under valgrind where it is there."""

import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hostmm import trace as tr
from shootdown.cli import main
from shootdown.record import RecordError
from shootdown.record.condense import WindowBuilder
from shootdown.record.descriptors import Descriptors, MappedFiles
from shootdown.record.elf import ElfImage
from shootdown.record.lackey import Accesses, LackeyParser
from shootdown.record.pipes import PipePool
from shootdown.record.process import ProcessRecorder
from shootdown.record.space import MappedRanges
from shootdown.record.syscalls import Call, CallReader

ROOT = Path(__file__).parents[2]

needs_valgrind = pytest.mark.skipif(
    shutil.which("valgrind") is None,
    reason="valgrind is missing: apt-get install -y valgrind",
)

LINES = b"""\
==42== Lackey, an example Valgrind tool
I  0401ab70,3
 S 1fff000748,8
 M 1ffefffffc,8
SYSCALL[42,1](12) sys_brk ( 0x0 ) --> [pre-success] Success(0x4035000)\x20
 L 04036fff,1
"""


def parse(data: bytes, step: int) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Return the text lines and the accesses of ``data``, fed ``step`` bytes at a time."""
    parser = LackeyParser()
    texts: list[str] = []
    accesses: list[tuple[int, int, int]] = []
    for at in range(0, len(data), step):
        for part in parser.feed(data[at : at + step]):
            if isinstance(part, str):
                texts.append(part)
            else:
                columns = (part.pages.tolist(), part.lines.tolist(), part.kinds.tolist())
                accesses += zip(*columns, strict=True)
    return texts, accesses


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_lackey_lines(step: int) -> None:
    """Accesses and text come out in whatever pieces the pipe delivers; a crossing counts twice."""
    texts, accesses = parse(LINES, step)
    assert texts == [
        "==42== Lackey, an example Valgrind tool",
        "SYSCALL[42,1](12) sys_brk ( 0x0 ) --> [pre-success] Success(0x4035000) ",
    ]
    assert accesses == [
        (0x401A, 0x2D, tr.Access.FETCH),
        (0x1FFF000, 0x1D, tr.Access.STORE),
        (0x1FFEFFF, 63, tr.Access.LOAD | tr.Access.STORE),
        (0x1FFF000, 0, tr.Access.LOAD | tr.Access.STORE),
        (0x4036, 63, tr.Access.LOAD),
    ]


def test_lackey_line_after_a_clone() -> None:
    """A new thread's first access shares the line of the call that made it."""
    line = b"SYSCALL[4,1](56) sys_clone ( 3d0f00, 0x52 ) --> [pre-success] Success(0x20e5) "
    texts, accesses = parse(line + b"I  0494db42,3\n", 1000)
    assert texts == [line.decode()]
    assert accesses == [(0x494D, 0x2D, tr.Access.FETCH)]


@pytest.mark.parametrize("line", [b"I  04zz,3\n", b" L 04036fff,1234\n", b" S ,8\n"])
def test_lackey_line_in_an_unknown_form(line: bytes) -> None:
    """What starts like an access and is none ends the recording."""
    with pytest.raises(RecordError, match="valgrind printed"):
        parse(line, 1000)


def test_lackey_address_of_64_bits() -> None:
    """The vsyscall page keeps its number."""
    assert parse(b"I  ffffffffff600000,9\n", 1000)[1] == [(0xFFFFFFFFFF600, 0, 4)]


def calls(text: str) -> list[Call]:
    """Return the calls that ``text`` holds."""
    reader = CallReader()
    return [call for line in text.splitlines() if (call := reader.feed(line))]


def test_syscalls() -> None:
    """Calls of every form that valgrind prints, two threads, a fork, a failure and a signal."""
    found = calls("""\
SYSCALL[7,1](257) sys_openat ( 4294967196, 0x48(/lib/a, b (c).so), 524288 ) --> [async] ...\x20
SYSCALL[7,2](9) sys_mmap ( 0x0, 8192, 3, 34, 4294967295, 0 ) --> [pre-success] Success(0x4835000)\x20
SYSCALL[7,1](257) ... [async] --> Success(0x4)\x20
SYSCALL[7,1](257) sys_openat ( 4294967196, 0x48(/none), 0 ) --> [async] ...\x20
SYSCALL[7,1](257) ... [async] --> Failure(0x2)\x20
SYSCALL[7,1](61) sys_wait4 ( 4294967295, 0x1f, 0, 0x0 ) --> [async] ...\x20
SYSCALL[7,1](3) sys_close ( 4 )[sync] --> Success(0x0)\x20
SYSCALL[7,1](56) sys_clone ( 1200011, 0x0, 0x0 )   clone(fork): process 7 created child 9
 --> [pre-success] Success(0x9)\x20
SYSCALL[7,1](58) sys_fork ( )   fork: process 7 created child 10
 --> [pre-success] Success(0xa)\x20
SYSCALL[7,1](72) sys_fcntl[ARG3=='arg'] ( 4, 1030, 10 )[sync] --> Success(0xb)\x20
SYSCALL[7,1](25) sys_mremap ( 0x483c000, 8192, 16384, 0x1 ) --> [pre-success] Success(0x483e000)\x20
SYSCALL[7,1](231) exit_group( 0 ) --> [pre-success] Success(0x0)\x20
""")
    assert found == [
        Call("mmap", (0, 8192, 3, 34, 0xFFFFFFFF, 0), None, 0x4835000, None),
        Call("openat", (4294967196, 524288), "/lib/a, b (c).so", 4, None),
        Call("close", (4,), None, 0, None),
        Call("clone", (), None, 9, 9),
        Call("fork", (), None, 10, 10),
        Call("fcntl", (4, 1030, 10), None, 11, None),
        Call("mremap", (0x483C000, 8192, 16384, 1), None, 0x483E000, None),
        Call("exit_group", (0,), None, 0, None),
    ]


def test_descriptors(tmp_path: Path) -> None:
    """Copies refer to the same file, exec closes what it must, and a file keeps its id."""
    (tmp_path / "a").write_bytes(bytes(5000))
    table = Descriptors(os.getpid())
    table.take(Call("openat", (4294967196, 0o2000000), str(tmp_path / "a"), 5, None))
    table.take(Call("dup2", (5, 6), None, 6, None))
    table.take(Call("fcntl", (6, 1030, 10), None, 11, None))
    child = table.forked(1)
    child.exec()
    table.take(Call("close", (6,), None, 0, None))
    files = MappedFiles()
    assert files.add(table.file(5), 4096) == files.add(child.file(6), 9000) == 0
    assert files.add(child.file(5), 4096) == 1
    assert files.add(child.file(11), 4096) == 2
    assert files.table()[:2] == (tr.TraceFile(0, "a", 5000), tr.TraceFile(1, "fd-5", 4096))


def accesses(*triples: tuple[int, int, int]) -> Accesses:
    """Return accesses given as (page, line, kind)."""
    pages, lines, kinds = zip(*triples, strict=True)
    return Accesses(
        np.array(pages, dtype=np.int64),
        np.array(lines, dtype=np.uint8),
        np.array(kinds, dtype=np.uint8),
    )


def test_windows_end_before_the_instruction_too_many() -> None:
    """Each page comes once, in order of first access; data belongs to its instruction."""
    builder = WindowBuilder(2)
    run = accesses((9, 1, 4), (5, 2, 1), (9, 3, 4), (5, 4, 2), (3, 5, 3), (9, 6, 4), (7, 7, 1))
    (first,) = builder.add(run)
    (last,) = builder.flush()
    assert first.instructions == 2
    assert first.pages.tolist() == [9, 5, 3]
    assert first.kinds.tolist() == [4, 3, 3]
    assert first.lines.tolist() == [1, 2, 5]
    assert (last.instructions, last.pages.tolist()) == (1, [9, 7])
    assert list(builder.flush()) == []


def test_windows_drop_the_vsyscall_page_and_refuse_others() -> None:
    """The vsyscall page is counted; any other address above the user half is an error."""
    builder = WindowBuilder(10)
    list(builder.add(accesses((1, 0, 4), (0xFFFFFFFFFF600, 0, 4))))
    (window,) = builder.flush()
    assert (window.pages.tolist(), builder.dropped) == ([1], 1)
    list(builder.add(accesses((1 << 26, 0, 1))))
    with pytest.raises(RecordError, match="0x4000000000, above the 38-bit"):
        list(builder.flush())


def test_ranges_against_a_set_of_pages() -> None:
    """Ranges behave like a set of pages under random changes."""
    rng = np.random.default_rng(1)
    ranges, model = MappedRanges(), set[int]()
    for _ in range(300):
        first, count = int(rng.integers(0, 60)), int(rng.integers(1, 12))
        pages = set(range(first, first + count))
        if rng.integers(0, 2):
            ranges.add(first << 12, count << 12)
            model |= pages
        else:
            ranges.remove(first << 12, count << 12)
            model -= pages
        strays = {
            page
            for addr, length in ranges.strays(np.arange(75))
            for page in range(addr >> 12, (addr + length) >> 12)
        }
        assert strays == set(range(75)) - model


def test_elf_segments() -> None:
    """The segments of this interpreter are whole pages, ascending, one executable and one not."""
    image = ElfImage(Path(sys.executable).resolve())
    found = image.segments(0x10000)
    assert found[0].addr == 0x10000
    assert all(s.addr % 4096 == 0 == s.length % 4096 and s.length > 0 for s in found)
    assert all(a.addr + a.length <= b.addr for a, b in pairwise(found))
    assert {s.prot & 4 for s in found} == {0, 4}


def test_elf_refuses_another_file(tmp_path: Path) -> None:
    """A script has no segments."""
    (tmp_path / "script").write_text("#!/bin/sh\n")
    with pytest.raises(ValueError, match="no 64-bit ELF"):
        ElfImage(tmp_path / "script")


def test_a_process_from_its_stream() -> None:
    """Events end windows, strays are mapped before their window, and a fork names its child."""
    items: list[tr.Item] = []
    children: list[int] = []

    def fork(_maker: ProcessRecorder, pid: int) -> int:
        children.append(pid)
        return 2

    process = ProcessRecorder(
        0,
        1,
        window_instructions=100,
        files=MappedFiles(),
        emit=lambda _process, item: items.append(item),
        fork=fork,
        parent=None,
    )
    process.feed(LINES)
    process.feed(b"""\
SYSCALL[42,1](12) sys_brk ( 0x4036800 ) --> [pre-success] Success(0x4036800)\x20
SYSCALL[42,1](9) sys_mmap ( 0x0, 5000, 3, 34, 4294967295, 0 ) --> [pre-success] Success(0x4100000)\x20
I  04101000,4
SYSCALL[42,1](10) sys_mprotect ( 0x4100000, 4096, 1 )[sync] --> Success(0x0)\x20
SYSCALL[42,1](26) sys_msync ( 0x4100000, 4096, 0x4 ) --> [async] ...\x20
SYSCALL[42,1](26) ... [async] --> Success(0x0)\x20
SYSCALL[42,1](28) sys_madvise ( 0x4100000, 4096, 4 )[sync] --> Success(0x0)\x20
SYSCALL[42,1](56) sys_clone ( 1200011, 0x0 )   clone(fork): process 42 created child 43
 --> [pre-success] Success(0x2b)\x20
SYSCALL[42,1](11) sys_munmap ( 0x4100000, 5000 )[sync] --> Success(0x0)\x20
SYSCALL[42,1](231) exit_group( 0 ) --> [pre-success] Success(0x0)\x20
I  04101000,4
""")
    process.close()
    made_up = [item for item in items if isinstance(item, tr.Mmap)][:-1]
    assert [(m.addr, m.length) for m in made_up] == [
        (0x401A000, 0x1000),
        (0x4036000, 0x1000),
        (0x1FFEFFF000, 0x2000),
    ]
    assert process.synthesized_pages == 4
    assert children == [43]
    rest = items[len(made_up) :]
    assert isinstance(rest[0], tr.Window)
    assert isinstance(rest[3], tr.Window)
    assert [item for item in rest if not isinstance(item, tr.Window)] == [
        tr.Brk(0x4035000, 0x4037000),
        tr.Mmap(0x4100000, 0x2000, 3, 34, None, 0),
        tr.Mprotect(0x4100000, 4096, 1),
        tr.Msync(0x4100000, 4096, 4),
        tr.Madvise(0x4100000, 4096, 4),
        tr.Fork(2),
        tr.Munmap(0x4100000, 0x2000),
        tr.Exit(),
    ]


def test_pipes_are_there_before_the_processes() -> None:
    """The next process finds its pipe; an ordinary file in its place is noticed."""
    pool = PipePool()
    try:
        process = subprocess.Popen(["true"])
        process.wait()
        descriptor = pool.open(process.pid)
        assert descriptor is not None
        os.close(descriptor)
        (pool.directory / "ordinary").write_bytes(b"")
        (pool.directory / "ordinary").rename(pool.directory / str(process.pid))
        assert pool.open(process.pid) is None
    finally:
        pool.close()
    assert not pool.directory.exists()


def run_record(tmp_path: Path, *program: str) -> tr.Trace:
    """Record ``program`` and return its trace."""
    output = tmp_path / "out.trace"
    assert main(["record", "-o", str(output), "--", *program]) == 0
    return tr.load(output)


@needs_valgrind
def test_record_a_shell(tmp_path: Path) -> None:
    """A real fork, exec and pipe; nothing was accessed that was not mapped."""
    trace = run_record(tmp_path, "sh", "-c", "echo 2 1 | tr ' ' '\\n' | sort >/dev/null")
    assert trace.name == "out"
    assert trace.command[-3:-1] == ("sh", "-c")
    assert len(trace.processes) == 4
    assert trace.synthesized_pages == 0
    assert {"libc.so.6", "sort", "tr"} <= {file.name for file in trace.files}
    images = [sum(isinstance(i, tr.Exec) for i in p.items) for p in trace.processes]
    assert images == [0, 0, 1, 1]
    assert all(isinstance(p.items[-1], tr.Exit) for p in trace.processes)


VFORK = """
#include <sys/wait.h>
#include <unistd.h>
int main(void)
{
    pid_t child = vfork();
    if (child == 0) {
        execl("/bin/true", "true", (char *)0);
        _exit(1);
    }
    return waitpid(child, 0, 0) != child;
}
"""


@needs_valgrind
@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is missing: apt-get install -y gcc")
def test_record_a_vfork(tmp_path: Path) -> None:
    """A parent that cannot report its child before the child has its pipe does not hang."""
    source = tmp_path / "vforks.c"
    source.write_text(VFORK)
    subprocess.run(["gcc", "-o", tmp_path / "vforks", source], check=True)
    trace = run_record(tmp_path, str(tmp_path / "vforks"))
    assert len(trace.processes) == 2
    assert any(isinstance(item, tr.Exec) for item in trace.processes[1].items)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run ``shootdown record`` with bad input and return its one line."""
    assert main(["record", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_record_without_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    """One line says how to name a program."""
    assert "name a program to record" in refused(capsys)


def test_record_into_no_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The folder is looked for before the program runs."""
    for output in (tmp_path / "none" / "a.trace", tmp_path):
        line = refused(capsys, "-o", str(output), "--", "true")
        assert line.startswith(f"shootdown: cannot write trace {output}")


def test_record_without_valgrind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A missing valgrind gives the command that installs it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    line = refused(capsys, "--", "/bin/true")
    assert "valgrind" in line
    assert "apt-get install" in line


@needs_valgrind
def test_record_no_such_program(capsys: pytest.CaptureFixture[str]) -> None:
    """The program that is missing is named."""
    assert refused(capsys, "--", "none-such") == "shootdown: program not found: none-such"


@needs_valgrind
def test_record_a_program_that_is_killed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The signal is named and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert main(["record", "--", "sh", "-c", "kill -9 $$"]) == 2
    assert "sh was killed by signal 9 (SIGKILL); no trace written" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@needs_valgrind
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_record_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    """No half-written file, no pipe and no process stays behind."""
    code = "import sys; from shootdown.cli import main; sys.exit(main())"
    paths = os.pathsep.join(str(ROOT / root) for root in ("hdl", "sw", "tb"))
    marker = f"sleep {6000 + os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "record", "--", "sh", "-c", f"{marker}; true"],
        env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(line.endswith(marker) for line in running(marker)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors.splitlines()[-1].startswith("shootdown: interrupted")
    assert not running(marker)
    assert list(tmp_path.iterdir()) == []


def running(marker: str) -> list[str]:
    """Return the command lines that hold the marker, but for the recorder's own."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().decode(errors="replace").replace("\0", " ").strip()
        except OSError:
            continue
        if marker in line and "record --" not in line:
            found.append(line)
    return found
