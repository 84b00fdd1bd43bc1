"""The scoreboard's model of translation against the vectors of an independent one."""

from pathlib import Path

import pytest

from shootdown.agents.translation import (
    LEVELS,
    PAGE,
    USER_RO,
    USER_RW,
    Tables,
    leaf,
    pointer,
    translate,
)
from shootdown.vectors import load_vectors

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.mark.parametrize("svadu", [False, True])
@pytest.mark.parametrize("mode", ["sv39", "sv48", "sv57"])
def test_model_agrees_with_every_vector(mode: str, svadu: bool) -> None:
    """The same addresses and causes; in the end the same words of the tables have changed."""
    vectors = load_vectors(VECTORS, f"{mode}-{'svadu' if svadu else 'svade'}")
    changed: dict[int, int] = {}

    def read(address: int) -> int | None:
        return changed.get(address, vectors.read(address))

    for vector in vectors.accesses:
        answer = translate(
            read, vector.root_ppn, vector.va, vector.write, levels=LEVELS[mode], svadu=svadu
        )
        assert (answer.pa, answer.cause) == (vector.pa, vector.cause), hex(vector.va)
        if answer.update:
            changed[answer.update[0]] = answer.update[1]
    assert changed == vectors.changed
    assert bool(changed) == svadu


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
    assert (answer.first, answer.last) == (first, first + pages - 1)
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
