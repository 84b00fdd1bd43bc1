"""The scoreboard's Sv39 model against the vectors of an independent one."""

from pathlib import Path

import pytest

from shootdown.agents.sv39 import PAGE, USER_RO, USER_RW, Tables, leaf, pointer, translate
from shootdown.vectors import load_vectors

VECTORS = load_vectors(Path(__file__).parents[1] / "vectors", "sv39-svade")


def test_model_agrees_with_every_vector_without_napot() -> None:
    """27 accesses meet a Svnapot PTE, which the hardware does not have (it faults there); all others must agree."""
    compared = 0
    for vector in VECTORS.accesses:
        if VECTORS.meets_napot(vector):
            continue
        answer = translate(VECTORS.read, vector.root_ppn, vector.va, vector.write)
        assert (answer.pa, answer.cause) == (vector.pa, vector.cause), hex(vector.va)
        compared += 1
    assert compared == len(VECTORS.accesses) - 27


@pytest.mark.parametrize(("level", "pages"), [(0, 1), (1, 512), (2, 512 * 512)])
def test_span_of_a_leaf(level: int, pages: int) -> None:
    """A leaf answers with the whole span that it translates."""
    words: dict[int, int] = {}
    tables = Tables(words.__setitem__, 0x100)
    root, va = tables.root(), 0x10_4020_1000
    ppn = 0x80_0000
    tables.map(root, va, ppn, USER_RO, level)
    answer = translate(lambda address: words.get(address, 0), root, va + 8, False)
    first = (va >> 12) // pages * pages
    assert (answer.first, answer.last, answer.level) == (first, first + pages - 1, level)
    assert answer.pa == (ppn + (va >> 12) - first) * PAGE + 8
    assert translate(lambda address: words.get(address, 0), root, va, True).cause == 15


def test_bad_entries_fault() -> None:
    """No memory is an access fault, a pointer at the last level a page fault."""
    words = {
        0x100 * PAGE: pointer(0x101),
        0x101 * PAGE: pointer(0x102),
        0x102 * PAGE: pointer(0x103),
    }
    assert translate(words.get, 0x100, 0, False).cause == 13
    assert translate(words.get, 0x200, 0, False).cause == 5
    assert translate(words.get, 0x200, 0, True).cause == 7
    words[0x102 * PAGE] = leaf(0x55, USER_RW)
    assert translate(words.get, 0x100, 0x18, True).pa == 0x55018
