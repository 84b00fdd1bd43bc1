"""Cases that fail on purpose, so that reporting has something to report."""

from typing import Any

import cocotb
from cocotb.triggers import Timer


@cocotb.test(timeout_time=1, timeout_unit="us")
async def passes(dut: Any) -> None:
    """Passes beside a failing case."""
    await Timer(1, "ns")
    assert dut.constant.value.to_unsigned() == 5


@cocotb.test(timeout_time=1, timeout_unit="us")
async def fails(dut: Any) -> None:
    """Fails with a message."""
    await Timer(1, "ns")
    assert dut.constant.value.to_unsigned() == 6, "constant is not six"


@cocotb.test(timeout_time=1, timeout_unit="us")
async def hangs(dut: Any) -> None:
    """Never ends by itself."""
    while True:
        await Timer(10, "ns")
