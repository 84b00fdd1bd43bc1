"""Offset sweeps across the walker's own writes: an invalidation, and the host's change before it, moved one clock at a time."""

from typing import Any

import cocotb
from cocotb import parametrize

from shootdown.agents.device import Access
from shootdown.agents.translation import USER_RW, A, D
from shootdown.cases.mmu_bench import Bench
from shootdown.cases.mmu_sweep_cases import ASID, Race, late_write, one_read, pressed_sweep, sweep


def _read_and_write(bench: Bench, va: int) -> list[Access]:
    return [bench.device.read(ASID, va, id=1), bench.device.write(ASID, va + 8, 7, id=2)]


UPDATES = {
    "read": Race(False, one_read, bits=USER_RW & ~(A | D)),
    "write": Race(False, late_write, bits=USER_RW & ~D),
    "both": Race(False, _read_and_write, bits=USER_RW & ~(A | D)),
}
"""Where the walker sets A and D: the leaf lacks them."""


@cocotb.test(timeout_time=500, timeout_unit="ms")
@parametrize(latency=[1, 20, 100], race=list(UPDATES))
async def invalidation_moved_across_an_update(dut: Any, latency: int, race: str) -> None:
    """PAGE, RANGE, ASID and ALL in turn, remapping and unmapping; the host's change of the PTE is never lost."""
    bench = await Bench(dut, f"update {race} {latency}").start()
    await sweep(bench, UPDATES[race], latency)


@cocotb.test(timeout_time=500, timeout_unit="ms")
@parametrize(latency=[1, 20, 100], race=list(UPDATES))
async def invalidation_moved_across_an_update_under_pressure(
    dut: Any, latency: int, race: str
) -> None:
    """The same under back-pressure."""
    bench = await Bench(dut, f"pressed update {race} {latency}").start()
    await pressed_sweep(bench, UPDATES[race], latency)
