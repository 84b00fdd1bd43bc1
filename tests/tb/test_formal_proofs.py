"""The proofs of ``make formal``: their list, and a reduced form of the runs."""

from dataclasses import replace

import pytest

from shootdown.cli import main
from shootdown.formal.proofs import PROOFS
from shootdown.formal.sby import Answer, prove

TIMEOUT_S = 600


def test_every_proof_says_what_it_proves_and_most_have_a_fault_to_find():
    for name, proof in PROOFS.items():
        assert proof.name == name
        assert proof.depth > 0
        assert len(proof.says) > 20
        assert bool(proof.mutants) == bool(proof.search)


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
        (["--timeout", "0"], "--timeout must be positive, not 0"),
    ],
)
def test_bad_input_ends_in_one_line(options, message, capsys):
    assert main(["formal", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
