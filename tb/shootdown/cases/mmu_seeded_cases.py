"""Races met at the very clocks at which a fault seeded into the RTL shows; the offset sweeps are many times dearer."""

from typing import Any

import cocotb

from secmmu.layouts import CommandKind
from shootdown.agents.control import Dropin
from shootdown.agents.translation import PAGE, leaf
from shootdown.cases.mmu_mapped import BASE, KINDS, MIDDLE, Mapped, stalled

STREAM = 32
"""Hits behind each other, one a cycle: some access is looked up in each clock of a command's way."""
FILL_OFFSETS = range(6, 24)
"""Clocks from a cold read, its tables a clock away, within which its entry is filled."""
FILL_CYCLES = 8
"""Clocks after which what was filled is found."""
HIT_OFFSETS = range(9)
"""Clocks from a command within which a hit made four clocks behind it is decided."""


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def commands_of_every_kind_among_hits(dut: Any) -> None:
    """None that is decided after the command is of the old entry, whether the sweep has come to it or not."""
    mapped = await Mapped.start(dut, "among hits")
    bench = mapped.bench
    ids = 1 << bench.config.id_bits
    for turn, kind in enumerate(KINDS):
        await bench.load(1, BASE)
        reads = [bench.device.read(1, BASE + 8 * at, id=at % ids) for at in range(STREAM)]
        await bench.tick(STREAM // 2)
        mapped.change(1, BASE, 0x6000 + turn)
        await bench.drained(mapped.command(kind, 1, BASE))
        await bench.done(*reads)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_command_beside_a_lone_hit(dut: Any) -> None:
    """A hit that joins no use is before the command, and waited for, or after it, and walks; in whatever clock it comes."""
    mapped = await Mapped.start(dut, "lone hit")
    bench = mapped.bench
    bench.data.latency = 8
    for kind in ("PAGE", "RANGE"):
        for offset in HIT_OFFSETS:
            await bench.load(1, BASE)
            await bench.tick(4)
            access = bench.device.read(1, BASE)
            access.address_after = bench.passed(4)
            await bench.tick(offset)
            mapped.change(1, BASE, 0x6000 + offset)
            await bench.drained(mapped.command(kind, 1, BASE))
            await bench.done(access)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_page_command_beside_a_fill(dut: Any) -> None:
    """Whatever clock of a fill it meets, in the page array and in the associative part, the old entry is not kept."""
    mapped = await Mapped.start(dut, "beside a fill")
    bench = mapped.bench
    for va, old in ((BASE, 0x6000), (MIDDLE, 0x60_0000)):
        for offset in FILL_OFFSETS:
            mapped.change(1, va, old)
            await bench.drained(mapped.command("ALL", 0, 0))
            access = bench.device.read(1, va)
            await bench.tick(offset)
            mapped.change(1, va, 2 * old)
            await bench.drained(mapped.command("PAGE", 1, va))
            await bench.done(access)
            bench.expect_word(await bench.load(1, va), 2 * old)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_drop_in_of_an_older_epoch(dut: Any) -> None:
    """A translation read before a command came is refused, however late it comes."""
    mapped = await Mapped.start(dut, "late drop-in")
    bench = mapped.bench
    mapped.change(1, BASE, 0x6000)
    await bench.drained(bench.send(CommandKind.FENCE), mapped.command("PAGE", 1, BASE))
    late = bench.control.drop_in(Dropin(1, BASE >> 12, leaf(0x5000), epoch=0))
    await bench.until(lambda: late.taken is not None, "the answer to the drop-in")
    await bench.tick(FILL_CYCLES)
    bench.expect_word(await bench.load(1, BASE), 0x6000)
    assert not late.taken
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def drained_waits_for_every_burst_of_a_page(dut: Any) -> None:
    """The first of two bursts that share a use slot has ended; DRAINED waits for the second."""
    mapped = await Mapped.start(dut, "two bursts")
    bench = mapped.bench
    await bench.load(1, BASE)
    resume = stalled(bench)
    first = bench.device.read(1, BASE, id=0)
    second = bench.device.read(1, BASE, id=1, beats=8)
    await bench.until(lambda: bench.memory_port.outstanding == 2, "the uses")
    command = mapped.command("PAGE", 1, BASE)
    await bench.until(lambda: command.invalidated is not None, "INVALIDATED")
    bench.data.answers = lambda: bench.memory_port.outstanding == 2
    await bench.done(first)
    await bench.tick(20)
    assert not second.done
    resume()
    await bench.drained(command)
    await bench.done(second)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def an_entry_lost_to_a_superset_is_had_again(dut: Any) -> None:
    """More ranges of others than there are filters empty the page array; the walk that stands still answers."""
    mapped = await Mapped.start(dut, "superset")
    bench = mapped.bench
    bench.expect_word(await bench.load(1, BASE), 0x5000)
    ranges = [
        mapped.command("RANGE", 2, BASE + at * PAGE) for at in range(2 * bench.config.filters)
    ]
    await bench.drained(*ranges)
    bench.expect_word(await bench.load(1, BASE), 0x5000)
    await bench.finish()
