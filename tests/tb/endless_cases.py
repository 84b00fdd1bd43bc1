"""A case without an end, to be interrupted."""

import cocotb
from cocotb.triggers import Timer


@cocotb.test
async def runs_for_ever(_dut: object) -> None:
    """Keep the simulator busy until somebody kills it."""
    while True:
        await Timer(1, "us")
