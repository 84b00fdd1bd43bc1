"""The figures of the MMU: the fast ones are reached, and what is printed follows from what was measured."""

from pathlib import Path

import msgspec
import pytest

from shootdown.bench.figures import Figure, fpga_figures, measure, sweep_figure
from shootdown.bench.fpga import Fit
from shootdown.cli import main

FIT = Fit(
    name="tiny",
    luts=7000,
    flip_flops=5000,
    block_rams=2,
    ram_slices=10,
    fmax_mhz=[119.0, 121.5],
    critical_path=[],
)


@pytest.mark.slow
@pytest.mark.parametrize("setup", ["tiny"])
def test_the_fast_figures_are_reached(setup: str, tmp_path: Path) -> None:
    """Latencies of hits, misses and invalidations, at a memory latency of 20 cycles."""
    cases = ["hit_latency", "miss_latency", "accept_to_invalidated", "last_use_to_drained"]
    figures = measure(setup, 20, tmp_path, cases)
    assert {figure.name for figure in figures} == {
        "hit latency",
        "miss latency, warm",
        "miss latency, cold",
        "accept to invalidated",
        "last use to drained",
    }
    assert [str(figure) for figure in figures if not figure.passed] == []


def test_a_figure_is_reached_from_its_own_side() -> None:
    low = Figure(
        name="x",
        setup="tiny",
        latency=20,
        relation="<=",
        target=5,
        measured=5,
        unit="cycles",
        peer="",
    )
    assert low.passed
    assert not msgspec.structs.replace(low, measured=5.01).passed
    assert msgspec.structs.replace(low, relation=">=", measured=5.01).passed
    assert not msgspec.structs.replace(low, relation=">=", measured=4.99).passed


def test_the_fpga_figures_take_the_best_placement() -> None:
    clock, area = fpga_figures([FIT])
    assert (clock.measured, clock.target, clock.passed) == (121.5, 120, True)
    assert (area.measured, area.target, area.passed) == (7000, 8000, True)
    (clock,) = fpga_figures([msgspec.structs.replace(FIT, name="default")])
    assert (clock.target, clock.passed) == (115, True)
    assert fpga_figures([msgspec.structs.replace(FIT, name="test")]) == []
    (clock,) = fpga_figures([msgspec.structs.replace(FIT, name="default", routed=False)])
    assert clock.name.endswith("(not routed: estimate)")


def test_the_sweep_counts_by_its_failed_cases(tmp_path: Path) -> None:
    report = tmp_path / "sweep.xml"
    passed, failed = "<testcase name='a'/>", "<testcase name='b'><failure/></testcase>"
    hung, skipped = "<testcase name='c'><error/></testcase>", "<testcase><skipped/></testcase>"
    for cases, measured, ran in (
        ([passed, skipped], 0, 1),
        ([passed, failed, hung], 2, 3),
    ):
        report.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
        figure = sweep_figure(report)
        assert (figure.measured, figure.setup) == (measured, f"{ran} cases")
        assert figure.passed == (measured == 0)


def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "none.xml").write_text("<testsuites/>")
    for words, message in (
        (["figures", "--fpga", "none.json"], "cannot read none.json: No such file or directory"),
        (["figures", "--fpga", "bad.json"], "bad.json does not hold what fpga --json writes: "),
        (["figures", "--sweep", "bad.json"], "bad.json is no JUnit report: "),
        (["figures", "--sweep", "none.xml"], "none.xml tells of no case that ran: make sweep"),
        (["fpga", "--preset", "huge"], "preset must be one of tiny, default, test, not 'huge'"),
        (["fpga", "--seeds", "0"], "--seeds must be from 1 to 3, not 0"),
        (["fpga", "--limit", "nan"], "--limit must be more than 0 minutes, not nan"),
        (["verilog", "--preset", "x", "-o", "a.v"], "preset must be one of tiny, default, test"),
    ):
        assert main(words) == 2
        out, errors = capsys.readouterr()
        assert out == ""
        assert errors.startswith(f"shootdown: {message}")
        assert errors.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "none.xml"]
