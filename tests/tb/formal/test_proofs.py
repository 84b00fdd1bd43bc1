"""The proofs of ``make formal``: their list, and a reduced form of the runs."""

from dataclasses import replace

import msgspec
import pytest

from shootdown.cli import main
from shootdown.commands import formal
from shootdown.formal.proofs import PROOFS
from shootdown.formal.sby import Answer, Verdict, prove

TIMEOUT_S = 600


def test_every_proof_says_what_it_proves_and_of_what_and_has_a_fault_to_find():
    for name, proof in PROOFS.items():
        assert proof.name == name
        assert proof.depth > 0
        assert len(proof.says) > 20
        assert proof.configuration
        assert proof.mutants
        assert proof.search > 0


@pytest.mark.parametrize("missed", [False, True])
def test_the_table_counts_the_faults_that_were_found(missed, monkeypatch, tmp_path, capsys):
    def answer(proof, folder, *, mutant, timeout_s):
        finds = mutant is not None and not (missed and mutant == "curt")
        return Verdict(Answer.REFUTED if finds else Answer.PROVEN, None, folder)

    monkeypatch.setattr(formal, "prove", answer)
    options = ["--proof", "ports", "--proof", "stale", "--json", str(tmp_path / "formal.json")]
    assert main(["formal", *options]) == (1 if missed else 0)
    head, ports, stale = capsys.readouterr().out.splitlines()
    assert head.split() == ["proof", "configuration", "method", "answer", "seconds", "faults"]
    assert "bounded, 12 cycles" in ports
    assert ports.split()[-1] == ("5/6" if missed else "6/6")
    assert "2-induction" in stale
    assert stale.split()[-1] == "3/3"
    results = msgspec.json.decode((tmp_path / "formal.json").read_bytes())
    wrong = [result["mutant"] for result in results if not result["as_expected"]]
    assert wrong == (["curt"] if missed else [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mutant", "answer"),
    [("command-progress", None, Answer.PROVEN), ("command-progress", "endless", Answer.REFUTED)],
)
def test_a_short_proof_holds_and_finds_its_fault(name, mutant, answer, tmp_path):
    proof = replace(PROOFS[name], depth=5) if mutant is None else PROOFS[name].hunt()
    verdict = prove(proof, tmp_path / "proof", mutant=mutant, timeout_s=TIMEOUT_S)
    assert verdict.answer is answer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--proof", "everything"], "proof must be one of stale, isolation, "),
        (["--timeout", "0"], "timeout must be from 0.01 to 1000000.0, not 0.0"),
    ],
)
def test_bad_input_ends_in_one_line(options, message, capsys):
    assert main(["formal", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
