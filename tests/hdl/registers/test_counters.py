"""Counters and histograms: nothing that happens is lost, whatever is read meanwhile."""

from random import Random
from typing import Any

import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.sim import Simulator

from secmmu.registers.counter_bank import ANSWER_CYCLES, CounterBank
from secmmu.registers.counters import code_bits, following, ordinals

NAMES = ("one", "two", "three", "four", "five")
ROUND = CounterBank(NAMES, observe=True).place(0)


def simulate(dut: Any, testbench: Any) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("seed", range(3))
def test_a_read_counts_everything_before_it(seed: int) -> None:
    """Events in every cycle, reads at any time: each answer is what happened until the counter was visited."""
    random = Random(seed)
    dut = CounterBank(NAMES, observe=True)

    async def testbench(context: Any) -> None:
        totals = dict.fromkeys(NAMES, 0)
        history: list[dict[str, int]] = []

        async def tick() -> None:
            for name in NAMES:
                count = random.randrange(2)
                context.set(dut.events[name], count)
                totals[name] += count
            await context.tick()
            history.append(dict(totals))

        for _ in range(40):
            for _ in range(random.randrange(12)):
                await tick()
            name = random.choice(NAMES)
            context.set(dut.index, NAMES.index(name))
            context.set(dut.request, 1)
            while not context.get(dut.done):
                await tick()
            assert context.get(dut.value) == history[-1 - ANSWER_CYCLES][name]
            await tick()
            context.set(dut.request, 0)

    simulate(dut, testbench)


def test_rests_when_nothing_happens() -> None:
    """Two quiet rounds at most and the pointer rests; an event then is not lost."""
    dut = CounterBank(NAMES, observe=True)

    async def testbench(context: Any) -> None:
        for expected in range(1, 4):
            context.set(dut.events.two, 1)
            await context.tick()
            context.set(dut.events.two, 0)
            await context.tick().repeat(3 * ROUND)
            assert not context.get(dut.busy)
            context.set(dut.index, 1)
            context.set(dut.request, 1)
            *_, value = await context.tick().sample(dut.value).until(dut.done)
            assert value == expected
            context.set(dut.request, 0)
            await context.tick().repeat(3 * ROUND)
            assert not context.get(dut.busy)

    simulate(dut, testbench)


@pytest.mark.parametrize("rested", [False, True])
def test_an_event_in_every_cycle_is_counted(rested: bool) -> None:
    """Of every counter, from the first cycle after a reset on, or from the end of a rest."""
    dut = CounterBank(NAMES, observe=True)

    async def testbench(context: Any) -> None:
        if rested:
            await context.tick().repeat(3 * ROUND)
            assert not context.get(dut.busy)
        for name in NAMES:
            context.set(dut.events[name], 1)
        await context.tick().repeat(100)
        for name in NAMES:
            context.set(dut.events[name], 0)
        for index in range(len(NAMES)):
            context.set(dut.index, index)
            context.set(dut.request, 1)
            *_, value = await context.tick().sample(dut.value).until(dut.done)
            assert value == 100
            context.set(dut.request, 0)
            await context.tick()

    simulate(dut, testbench)


def test_words_of_before_a_reset_do_not_show() -> None:
    """The memory keeps its words over a reset: the first round clears them."""
    dut = CounterBank(NAMES, observe=True)
    reset = Signal()

    async def testbench(context: Any) -> None:
        await context.tick().repeat(3 * ROUND)
        assert not context.get(dut.busy)
        context.set(dut.events.four, 1)
        await context.tick().repeat(30)
        context.set(dut.events.four, 0)
        context.set(dut.index, 3)
        for expected in (30, 0):
            context.set(dut.request, 1)
            *_, value = await context.tick().sample(dut.value).until(dut.done)
            assert value == expected
            context.set(dut.request, 0)
            context.set(reset, 1)
            await context.tick()
            context.set(reset, 0)
            assert context.get(dut.busy)

    simulate(ResetInserter(reset)(dut), testbench)


@pytest.mark.parametrize("events", [5, 6, 13, 29, 61, 125])
def test_codes_tell_steps_apart(events: int) -> None:
    """No code comes twice in as many steps as the width is for, and each has its place."""
    bits = code_bits(events)
    code = Signal(bits)
    dut = Module()
    dut.d.sync += code.eq(following(code))
    places = ordinals(bits)

    async def testbench(context: Any) -> None:
        for step in range(3 << bits):
            assert places[context.get(code)] == step % ((1 << bits) - 1)
            await context.tick()

    assert (1 << bits) - 1 > events
    simulate(dut, testbench)


def test_too_many_events_for_a_code_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 126, not 127"):
        code_bits(127)


def test_buckets_are_powers_of_two() -> None:
    """Latencies back to back, the same and different ones, land in the bucket of their logarithm."""
    dut = CounterBank(NAMES, ["some", "other"], observe=True)
    random = Random(1)
    latencies = [0, 1, 2, 3, 4, 7, 8, 1 << 14, 1 << 15, (1 << 20) - 1, *[5] * 200]
    latencies += [random.randrange(1, 40) for _ in range(200)]
    expected = [0] * 16
    for latency in latencies:
        expected[min(max(latency, 1).bit_length() - 1, 15)] += 1

    async def testbench(context: Any) -> None:
        while context.get(dut.busy):
            await context.tick()
        for now, latency in enumerate(latencies):
            context.set(dut.now, now)
            began = now - latency & (1 << 20) - 1
            context.set(dut.latencies.other, {"valid": 1, "began": began})
            await context.tick()
        context.set(dut.latencies.other.valid, 0)
        counts = []
        context.set(dut.request, 1)
        for bucket in range(32):
            context.set(dut.index, dut.place(0) + bucket)
            *_, count = await context.tick().sample(dut.value).until(dut.done)
            counts.append(count)
        assert counts == [0] * 16 + expected

    simulate(dut, testbench)
