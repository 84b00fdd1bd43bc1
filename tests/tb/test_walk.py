"""The translation tool: all vectors of the independent model, and what a user may get wrong."""

import gzip
import json
from pathlib import Path

import pytest

from shootdown.cli import main
from shootdown.vectors import load_vectors
from tests.tb.cli import shootdown

VECTORS = Path(__file__).parents[1] / "vectors"
GOOD = "1 0x10 0x1000 r\n"


@pytest.mark.slow
@pytest.mark.parametrize("ad", ["svade", "svadu"])
@pytest.mark.parametrize("mode", ["sv39", "sv48", "sv57"])
def test_the_rtl_agrees_with_every_vector(mode: str, ad: str, tmp_path: Path) -> None:
    """The same answers, printed and in the file; the image changes in the same words and in no others.

    One of the two MMUs in each simulator.
    """
    name = f"{mode}-{ad}"
    before = gzip.decompress((VECTORS / f"{name}.img.gz").read_bytes())
    (tmp_path / "image").write_bytes(before)
    run = shootdown(
        [
            *("walk", "--image", "image", "--base", "0", "--mode", mode, "--ad", ad),
            *("--sim", {"svade": "icarus", "svadu": "verilator"}[ad]),
            *("--accesses", str(VECTORS / f"{name}.acc")),
            *("--json", "answers.json", "--image-out", "after"),
        ],
        tmp_path,
    )
    assert run.returncode == 0, run.stderr
    expected = [
        json.loads(line) for line in (VECTORS / f"{name}.exp.jsonl").read_text().splitlines()
    ]
    assert [json.loads(line) for line in run.stdout.splitlines()] == expected
    assert json.loads((tmp_path / "answers.json").read_text()) == expected
    after = (tmp_path / "after").read_bytes()
    words = {
        at: int.from_bytes(after[at : at + 8], "little")
        for at in range(0, len(before), 8)
        if after[at : at + 8] != before[at : at + 8]
    }
    assert len(after) == len(before)
    assert words == load_vectors(VECTORS, name).changed


def test_an_image_may_begin_anywhere_and_an_asid_may_change_its_root(tmp_path: Path) -> None:
    """Two sets of tables far up, used in turn by one asid; what lies below the image does not exist."""
    base = 0x80_0000_0000
    tables = bytearray(2 * 4096)
    for number, frame in ((0, 0x40000), (1, 0x80000)):
        tables[number * 4096 : number * 4096 + 8] = (frame << 10 | 0xD7).to_bytes(8, "little")
    (tmp_path / "image").write_bytes(tables)
    roots = [base >> 12, (base >> 12) + 1, base >> 12, (base >> 12) - 1]
    lines = ["# asid, root, address", *(f"3 {root:#x} 0x123456 r" for root in roots), "", "3 1 0 w"]
    (tmp_path / "accesses").write_text("\n".join(lines))
    run = shootdown(
        [
            *("walk", "--image", "image", "--base", hex(base), "--accesses", "accesses"),
            *("--sim", "icarus"),
        ],
        tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert [json.loads(line) for line in run.stdout.splitlines()] == [
        {"pa": "0x40123456"},
        {"pa": "0x80123456"},
        {"pa": "0x40123456"},
        {"cause": 5},
        {"cause": 7},
    ]


@pytest.mark.parametrize(
    ("image", "accesses", "words", "message"),
    [
        (None, GOOD, [], "cannot read image: No such file or directory"),
        (b"", GOOD, [], "image must be one or more words of 8 bytes, not 0 bytes"),
        (b"1234567", GOOD, [], "image must be one or more words of 8 bytes, not 7 bytes"),
        (bytes(8), None, [], "cannot read accesses: No such file or directory"),
        (bytes(8), "", [], "accesses holds no access: a line is asid root_ppn va r|w"),
        (bytes(8), "\udcff", [], "accesses is not text: a line is asid root_ppn va r|w"),
        (
            bytes(8),
            GOOD + "1 2 3",
            [],
            "accesses:2: an access is asid root_ppn va r|w, not '1 2 3'",
        ),
        (bytes(8), "1 2 3 x", [], "accesses:1: an access is asid root_ppn va r|w, not '1 2 3 x'"),
        (bytes(8), "256 2 3 r", [], "accesses:1: asid must be a number from 0 to 0xff, not '256'"),
        (
            bytes(8),
            "1 0x100000000000 3 r",
            [],
            "accesses:1: root_ppn must be a number from 0 to 0xfffffffffff, not '0x100000000000'",
        ),
        (
            bytes(8),
            "1 2 -3 r",
            [],
            "accesses:1: va must be a number from 0 to 0xffffffffffffffff, not '-3'",
        ),
        (bytes(8), GOOD, ["--base", "4"], "--base must be an address and a multiple of 8, not '4'"),
        (bytes(8), GOOD, ["--base", "x"], "--base must be an address and a multiple of 8, not 'x'"),
        (
            bytes(16),
            GOOD,
            ["--base", "0xfffffffffffff8"],
            "image at 0xfffffffffffff8 must end within 56 bits of address",
        ),
        (
            bytes(8),
            GOOD,
            ["--json", "nowhere/answers"],
            "cannot write nowhere/answers: its folder cannot be written",
        ),
        (
            bytes(8),
            GOOD,
            ["--image-out", "nowhere/after"],
            "cannot write nowhere/after: its folder cannot be written",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(
    image: bytes | None,
    accesses: str | None,
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 2, nothing written."""
    monkeypatch.chdir(tmp_path)
    if image is not None:
        Path("image").write_bytes(image)
    if accesses is not None:
        Path("accesses").write_bytes(accesses.encode(errors="surrogateescape"))
    before = sorted(tmp_path.iterdir())
    base = [] if "--base" in words else ["--base", "0"]
    assert main(["walk", "--image", "image", "--accesses", "accesses", *base, *words]) == 2
    assert capsys.readouterr() == ("", f"shootdown: {message}\n")
    assert sorted(tmp_path.iterdir()) == before
