"""Cases of the adder of test_simulate.py."""

import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge


async def _start(dut: Any) -> RisingEdge:
    Clock(dut.clk, 10, unit="ns").start()
    edge = RisingEdge(dut.clk)
    dut.rst.value = 1
    await edge
    await edge
    dut.rst.value = 0
    return edge


@cocotb.test(timeout_time=10, timeout_unit="us")
async def sums_one_cycle_later(dut: Any) -> None:
    """The registered sum of two inputs appears after the next edge."""
    edge = await _start(dut)
    choose = random.Random(cocotb.RANDOM_SEED)
    for _ in range(20):
        left, right = choose.randrange(256), choose.randrange(256)
        dut.left.value, dut.right.value = left, right
        await edge
        await edge
        assert dut.total.value.to_unsigned() == left + right
        assert dut.parity.value == (left + right) % 2


@cocotb.test(timeout_time=10, timeout_unit="us")
async def constant_is_driven(dut: Any) -> None:
    """A combinational output without inputs has its value from the start (amaranth issue 1629)."""
    edge = await _start(dut)
    await edge
    assert dut.constant.value.to_unsigned() == 5
