"""The judgement of a PTE against the model that the vectors agree with."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from amaranth.sim import Simulator

from secmmu.config import SecmmuConfig
from secmmu.layouts import GRAIN_SHIFTS
from secmmu.walker.pte import PteJudge, PteVerdict
from shootdown.agents.translation import (
    NAPOT,
    USER_RO,
    USER_RW,
    A,
    D,
    V,
    W,
    leaf,
    napot_leaf,
    pointer,
    translate,
)

ROOT = 0x10


def entries(level: int, rng: random.Random) -> Iterator[int]:
    """Yield good entries, each with every single bit changed, and random ones."""
    frame = 0x155_5555 << 9 * level & (1 << 44) - 1
    for good in (
        leaf(frame),
        leaf(frame, USER_RO),
        leaf(frame, USER_RW & ~A),
        leaf(frame, USER_RW & ~D),
        leaf(frame, USER_RW & ~(W | A)),
        napot_leaf(frame),
        pointer(frame),
    ):
        yield good
        yield from (good ^ 1 << bit for bit in range(64))
    for _ in range(300):
        yield rng.getrandbits(10) | rng.getrandbits(12) << 10 | V | rng.choice((0, 0, NAPOT))


def expected(pte: int, level: int, write: bool, svadu: bool) -> tuple[PteVerdict, int]:
    """Return the model's verdict and, of a leaf, the pages that it spans."""
    table = {ROOT << 12: pte}
    answer = translate(table.get, ROOT, 0, write, levels=level + 1, svadu=svadu)
    if answer.cause in (5, 7):
        return PteVerdict.POINTER, 0
    if answer.cause:
        return PteVerdict.REFUSED, 0
    verdict = PteVerdict.UPDATE if answer.update else PteVerdict.GRANTED
    return verdict, answer.last - answer.first + 1


@pytest.mark.parametrize("svadu", [False, True])
def test_every_verdict_is_the_models(svadu: bool) -> None:
    """At every level, for reads and writes; the frame and the size of leaves as well."""
    judge = PteJudge(SecmmuConfig(levels=5, svadu=svadu))
    seen = set()

    async def testbench(ctx: Any) -> None:
        rng = random.Random(1)
        for level in range(5):
            ctx.set(judge.level, level)
            for pte in entries(level, rng):
                ctx.set(judge.pte.as_value(), pte)
                for write in (False, True):
                    ctx.set(judge.write, int(write))
                    verdict, pages = expected(pte, level, write, svadu)
                    assert ctx.get(judge.verdict) == verdict, (hex(pte), level, write)
                    seen.add((level, verdict))
                    if pages:
                        assert 1 << GRAIN_SHIFTS[ctx.get(judge.grain)] == pages
                        frame = pte >> 10 & (1 << 44) - 1
                        assert ctx.get(judge.ppn) == frame - frame % pages
                    elif verdict == PteVerdict.POINTER:
                        assert ctx.get(judge.ppn) == pte >> 10 & (1 << 44) - 1

    simulator = Simulator(judge)
    simulator.add_testbench(testbench)
    simulator.run()
    assert {level for level, verdict in seen if verdict == PteVerdict.GRANTED} == set(range(5))
    assert {level for level, verdict in seen if verdict == PteVerdict.POINTER} == {1, 2, 3, 4}
    assert {level for level, verdict in seen if verdict == PteVerdict.UPDATE} == set(
        range(5 if svadu else 0)
    )
