"""The queue in distributed RAM, against a list."""

from random import Random
from typing import Any

import pytest
from amaranth.lib import data
from amaranth.sim import Simulator

from secmmu.queue import Queue

DEPTH = 4


@pytest.mark.parametrize("fill", [1, 2, 3])
def test_what_is_pushed_comes_out_in_order(fill: int) -> None:
    """Pushes and pops at random, the more of the former the greater ``fill``: the head and the places are right."""
    random = Random(fill)
    dut = Queue(data.StructLayout({"value": 8}), depth=DEPTH)

    async def testbench(context: Any) -> None:
        held: list[int] = []
        popped = 0
        for _ in range(400):
            assert context.get(dut.valid) == bool(held)
            assert context.get(dut.head_place) == popped % (2 * DEPTH)
            assert context.get(dut.tail_place) == (popped + len(held)) % (2 * DEPTH)
            if held:
                place = random.randrange(len(held))
                assert context.get(dut.head.value) == held[0]
                context.set(dut.look_place, (popped + place) % (2 * DEPTH))
                await context.delay(0)
                assert context.get(dut.looked_at.value) == held[place]
            pops = bool(held) and random.randrange(4) >= fill
            pushes = len(held) < DEPTH and random.randrange(4) < fill
            value = random.randrange(256)
            context.set(dut.pop, pops)
            context.set(dut.push, pushes)
            context.set(dut.item.value, value)
            await context.tick()
            held = held[pops:] + [value] * pushes
            popped += pops

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
