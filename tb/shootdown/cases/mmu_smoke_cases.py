"""The secondary MMU in a few minutes of a slow simulator's time: one case for each thing that it is."""

from typing import Any

import cocotb

from secmmu.layouts import CommandKind
from shootdown.agents.pins import NEVER, Sometimes, always, never
from shootdown.agents.translation import PAGE, leaf
from shootdown.cases.mmu_axi_cases import prepared, random_access
from shootdown.cases.mmu_bench import Bench
from shootdown.cases.mmu_soak_cases import Soak
from shootdown.cases.mmu_sweep_cases import CHANNELS, RACES, one_offset, press

BASE = 0x10_0000_0000


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def translates_and_refuses(dut: Any) -> None:
    """Reads and writes of mapped pages pass, an absent page is a reported fault."""
    bench = await Bench(dut, "smoke").start()
    bench.map(await bench.context(1), BASE, 0x5000)
    await bench.store(1, BASE + 8, [11, 12, 13])
    assert (await bench.load(1, BASE + 8, beats=3)).words == [11, 12, 13]
    assert (await bench.load(1, BASE + PAGE)).responses == [2]
    await bench.until(lambda: bench.control.faults, "the fault report")
    assert bench.control.faults[0].cause == 13
    await bench.finish()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def shoots_down_a_page_in_use(dut: Any) -> None:
    """INVALIDATED during the use, DRAINED after it, the new frame afterwards."""
    bench = await Bench(dut, "smoke shootdown").start()
    slot = bench.map(await bench.context(1), BASE, 0x5000)
    await bench.load(1, BASE)
    bench.data.answers = never
    access = bench.device.read(1, BASE, beats=4)
    await bench.until(lambda: bench.memory_port.outstanding, "the use")
    bench.write_word(slot, leaf(0x6000))
    command = bench.page(1, BASE)
    await bench.until(lambda: command.invalidated is not None, "INVALIDATED")
    await bench.tick(20)
    assert command.drained is None, "drained early"
    bench.data.answers = always
    await bench.done(access)
    await bench.drained(command)
    bench.expect_word(await bench.load(1, BASE), 0x6000)
    await bench.finish()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def holds_and_releases(dut: Any) -> None:
    """An access in a held range waits and sees the last PTE."""
    bench = await Bench(dut, "smoke hold").start()
    slot = bench.map(await bench.context(1), BASE, 0x5000)
    held = bench.send(CommandKind.RANGE, 1, BASE >> 12, (BASE >> 12) + 3, hold=True)
    await bench.drained(held)
    access = bench.device.read(1, BASE)
    await bench.tick(40)
    assert not access.done, "held: answered inside a hold"
    bench.write_word(slot, leaf(0x6000))
    bench.release(held)
    await bench.done(access)
    bench.expect_word(access, 0x6000)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def random_bursts_under_pressure(dut: Any) -> None:
    """Good and refused bursts of all ids, every receiver slow."""
    bench = await prepared(dut, "smoke bursts")
    for sink in (
        bench.data.ar,
        bench.data.aw,
        bench.data.w,
        bench.walk.ar,
        bench.device.r,
        bench.device.b,
    ):
        sink.pace = Sometimes(bench.rng, 0.5)
    batch = [random_access(bench, range(1 << bench.config.id_bits)) for _ in range(60)]
    await bench.done(*batch, cycles=10_000)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def some_offsets_of_each_sweep(dut: Any) -> None:
    """A few offsets of each race; the full sweep is a module of its own."""
    bench = await Bench(dut, "smoke sweep").start()
    for race in RACES.values():
        for offset in range(3, 24, 4):
            await one_offset(bench, race, 2, offset)
    await bench.finish()


async def trace(bench: Bench, race: str) -> list[tuple[int | None, ...]]:
    """Run an offset under pressure; gives the cycles of its bursts and of its commands, from its begin on."""
    bench.rng.seed(5)
    press(bench, CHANNELS, 0.4)
    begin = bench.cycle
    await one_offset(bench, RACES[race], 20, 30)
    cycles: list[tuple[int | None, ...]] = [
        (burst.addr, burst.begin, burst.accepted, burst.end)
        for port in (bench.device_port, bench.memory_port, bench.walk_port)
        for burst in port.bursts
    ]
    cycles += [
        (command.kind.value, command.accepted, command.invalidated, command.drained)
        for command in bench.control.commands
    ]
    return [(what, *(at if at is None else at - begin for at in when)) for what, *when in cycles]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def dozing_makes_no_difference(dut: Any) -> None:
    """Every burst and command has the same cycles when each edge is served, and the random numbers are as many."""
    bench = await Bench(dut, "smoke doze").start()
    for race in ("walks", "late_write", "drop_in"):
        start, served = bench.cycle, bench.served
        dozed, drawn = await trace(bench, race), bench.rng.random()
        assert 2 * (bench.served - served) < bench.cycle - start, "no doze"
        worth, bench.worth_a_doze = bench.worth_a_doze, NEVER
        start, served = bench.cycle, bench.served
        assert (await trace(bench, race), bench.rng.random()) == (dozed, drawn)
        assert bench.served - served == bench.cycle - start
        bench.worth_a_doze = worth


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def a_short_soak(dut: Any) -> None:
    """Random traffic, commands and holds."""
    bench = await Bench(dut, "smoke soak").start()
    bench.data.latency, bench.data.jitter, bench.walk.latency = 3, 4, 2
    soak = Soak(bench, holds=True)
    await soak.prepare()
    await soak.run(600, 0.5, 0.06)
