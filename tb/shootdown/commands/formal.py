"""``shootdown formal``: prove the properties of the RTL, and that each proof finds its seeded faults."""

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from shootdown.errors import UsageError
from shootdown.files import require_writable, write_whole
from shootdown.formal.proofs import PROOFS
from shootdown.formal.sby import Answer, Proof, find_tools, prove
from shootdown.run.config import within

__all__ = ["add_parser"]


_MOST_S = 1_000_000.0


@dataclass(frozen=True)
class Result:
    """One run of the solver, and whether it says what it must."""

    proof: str
    configuration: str
    mutant: str | None
    answer: str
    depth: int
    induction: bool
    step: int | None
    seconds: float
    as_expected: bool

    @property
    def line(self) -> str:
        """What is told of it when it is over."""
        subject = self.proof if self.mutant is None else f"  fault {self.mutant}"
        outcome = self.answer if self.as_expected else f"{self.answer}, WHICH IS WRONG"
        return f"{subject:<30} {outcome:<28} {self.seconds:6.0f} s"


_COLUMNS = "{:<17} {:<38} {:<22} {:<8} {:>7} {:>7}"


def _table(results: list[Result]) -> str:
    """Return one line for each proof: on what it was proven, how, and how many of its faults were found."""
    lines = [_COLUMNS.format("proof", "configuration", "method", "answer", "seconds", "faults")]
    for sound in (result for result in results if result.mutant is None):
        faults = [other for other in results if other.proof == sound.proof and other.mutant]
        found = sum(fault.as_expected for fault in faults)
        method = f"bounded, {sound.depth} cycles"
        if sound.induction:
            method = f"{sound.depth}-induction"
        seconds = sum(other.seconds for other in results if other.proof == sound.proof)
        lines.append(
            _COLUMNS.format(
                sound.proof,
                sound.configuration,
                method,
                sound.answer,
                f"{seconds:.0f}",
                f"{found}/{len(faults)}",
            )
        )
    return "\n".join(lines)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "formal",
        help="prove the properties of the RTL, and that each proof finds its seeded faults",
    )
    parser.add_argument(
        "--proof",
        action="append",
        metavar="NAME",
        help=f"one of {', '.join(PROOFS)}; repeatable (default: all)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=3600.0,
        metavar="S",
        help="seconds for one run of the solver (default 3600)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/formal"),
        metavar="DIR",
        help="logs and counterexamples",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the answers here as well")
    parser.set_defaults(command=_formal)


def _formal(chosen: argparse.Namespace) -> int:
    names = list(dict.fromkeys(chosen.proof or PROOFS))
    for name in names:
        if name not in PROOFS:
            raise UsageError(f"proof must be one of {', '.join(PROOFS)}, not {name!r}")
    within("timeout", chosen.timeout, 0.01, _MOST_S)
    require_writable(chosen.json)
    find_tools()  # before a harness is made, which takes its time
    try:
        chosen.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {chosen.out}: {error.strerror}") from None
    results = []
    for name in names:
        proof = PROOFS[name]
        print(f"{name}: {proof.says}", file=sys.stderr, flush=True)
        for mutant in (None, *proof.mutants):
            results.append(_run(proof, mutant, chosen.out, chosen.timeout))
            print(results[-1].line, file=sys.stderr, flush=True)
    print(_table(results))
    if chosen.json is not None:
        text = msgspec.json.format(
            msgspec.json.encode([asdict(result) for result in results]), indent=2
        )
        write_whole(chosen.json, f"{text.decode()}\n")
    return 0 if all(result.as_expected for result in results) else 1


def _run(proof: Proof, mutant: str | None, out: Path, timeout_s: float) -> Result:
    asked = proof if mutant is None else proof.hunt()
    began = time.monotonic()
    verdict = prove(
        asked, out / proof.name / (mutant or "sound"), mutant=mutant, timeout_s=timeout_s
    )
    return Result(
        proof=proof.name,
        configuration=proof.configuration,
        mutant=mutant,
        answer=verdict.answer.value,
        depth=asked.depth,
        induction=asked.induction,
        step=verdict.step,
        seconds=round(time.monotonic() - began, 1),
        as_expected=verdict.answer is (Answer.PROVEN if mutant is None else Answer.REFUTED),
    )
