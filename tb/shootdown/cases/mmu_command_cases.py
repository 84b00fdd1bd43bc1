"""The command and completion streams of the secondary MMU, and its resets."""

from itertools import pairwise
from typing import Any

import cocotb

from secmmu.layouts import CommandKind
from shootdown.agents.control import Dropin
from shootdown.agents.pins import always, never
from shootdown.agents.translation import PAGE, leaf
from shootdown.cases.mmu_bench import reached
from shootdown.cases.mmu_mapped import BASE, KINDS, MIDDLE, Mapped, stalled


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def an_empty_range_is_refused(dut: Any) -> None:
    """Last < first: REFUSED alone, nothing dies, with and without hold; unsigned over all 52 bits."""
    mapped = await Mapped.start(dut, "empty")
    bench = mapped.bench
    await bench.load(1, BASE)
    for first, last in ((5, 4), ((1 << 52) - 1, 0), (1 << 51, 1), ((BASE >> 12) + 1, BASE >> 12)):
        for hold in (False, True):
            command = bench.send(CommandKind.RANGE, 1, first, last, hold=hold)
            await bench.refusal(command)
    walks = await mapped.walks()
    await bench.load(1, BASE)
    assert await mapped.walks() == walks, "an empty range killed an entry"
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def tags_are_opaque_and_duplicates_complete_apart(dut: Any) -> None:
    """Every command of a burst with one tag gets its own pair of completions; every tag value comes back."""
    mapped = await Mapped.start(dut, "tags")
    bench = mapped.bench
    top = (1 << bench.config.tag_bits) - 1
    for tag in (0, 1, top, top >> 1):
        commands = [
            mapped.command(kind, 1, BASE, tag=tag) for kind in (*KINDS, "PAGE", "PAGE", *KINDS)
        ]
        commands.append(bench.send(CommandKind.FENCE, tag=tag))
        await bench.drained(*commands)
        await bench.tick(50)
    assert await bench.counter("mmu.commands") == 4 * 11
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def undrained_commands_are_bounded(dut: Any) -> None:
    """Exactly config.commands undrained commands are taken, the next after the first has drained."""
    mapped = await Mapped.start(dut, "bounded")
    bench = mapped.bench
    await bench.load(1, BASE)
    resume = stalled(bench)
    access = bench.device.read(1, BASE)
    await bench.until(lambda: bench.memory_port.outstanding, "the use")
    limit = bench.config.commands
    commands = [mapped.command(KINDS[at % 4], 1, BASE) for at in range(limit + 3)]
    await bench.tick(100)
    taken = [command for command in commands if command.accepted is not None]
    assert len(taken) == limit, f"{len(taken)} undrained commands were taken, not {limit}"
    assert all(command.invalidated is not None for command in taken), (
        "INVALIDATED must not wait for uses"
    )
    resume()
    await bench.done(access)
    await bench.drained(*commands)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_command_is_taken_every_cycle(dut: Any) -> None:
    """With nothing in flight, config.commands commands are accepted back to back."""
    mapped = await Mapped.start(dut, "rate")
    bench = mapped.bench
    commands = [
        mapped.command(KINDS[at % 4], 1, BASE + at * PAGE) for at in range(bench.config.commands)
    ]
    await bench.drained(*commands)
    taken = [reached(command.accepted) for command in commands]
    gaps = [after - before for before, after in pairwise(taken)]
    assert set(gaps) == {1}, f"commands were accepted {gaps} cycles apart"
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_fence_comes_after_all_before_it(dut: Any) -> None:
    """Both signals of a fence come after those of earlier commands; nothing dies by it; alone it completes at once."""
    mapped = await Mapped.start(dut, "fence")
    bench = mapped.bench
    await bench.load(1, BASE)
    await bench.load(2, BASE)
    await bench.drained(bench.send(CommandKind.FENCE))
    walks = await mapped.walks()
    await bench.load(1, BASE)
    assert await mapped.walks() == walks, "a fence killed an entry"
    resume = stalled(bench)
    access = bench.device.read(1, BASE)
    await bench.until(lambda: bench.memory_port.outstanding, "the use")
    # A fence with nothing but uses in flight waits for no command.
    await bench.drained(bench.send(CommandKind.FENCE), cycles=60)
    slow = mapped.command("PAGE", 1, BASE)
    fence = bench.send(CommandKind.FENCE)
    await bench.tick(60)
    assert fence.drained is None, "fence: drained before the command before it"
    assert slow.drained is None, "drained early"
    resume()
    await bench.done(access)
    await bench.drained(slow, fence)
    assert reached(fence.drained) >= reached(slow.drained)
    assert reached(fence.invalidated) >= reached(slow.invalidated)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def completions_wait_for_their_taker(dut: Any) -> None:
    """A host that takes no completion loses none; commands meet back-pressure, traffic goes on."""
    mapped = await Mapped.start(dut, "taker")
    bench = mapped.bench
    for sink in bench.control.completions:
        sink.pace = never
    commands = [
        mapped.command(KINDS[at % 4], 1, BASE) for at in range(2 * bench.config.commands + 2)
    ]
    await bench.tick(100)
    await bench.load(1, BASE)
    await bench.load(2, MIDDLE)
    for sink in bench.control.completions:
        sink.pace = always
    await bench.drained(*commands)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def soft_reset_drains_and_clears(dut: Any) -> None:
    """Control bit 0 reads 0 only once nothing is in flight; entries and holds are gone, later traffic is served."""
    mapped = await Mapped.start(dut, "soft reset")
    bench = mapped.bench
    await bench.load(1, BASE)
    held = mapped.command("PAGE", 2, BASE, hold=True)
    await bench.drained(held)
    before = Dropin(1, BASE >> 12, leaf(0x5000), epoch=1)
    resume = stalled(bench)
    flying = [bench.device.read(1, BASE, beats=3, id=1), bench.device.write(1, BASE + 8, 9, id=2)]
    await bench.until(lambda: bench.memory_port.outstanding == 2, "two uses")
    await bench.write_register(0x008, 1)
    late = bench.device.read(1, BASE + PAGE, id=3)
    await bench.tick(50)
    assert await bench.read_register(0x008) & 1, "reset: done with a use in flight"
    assert bench.memory_port.outstanding == 2, "reset: intake was not stopped"
    resume()
    await bench.done(*flying)
    for _ in range(100):
        if not await bench.read_register(0x008) & 1:
            break
    else:
        raise AssertionError("hang: soft reset never ends")
    bench.control.forget_holds()
    for asid, root in mapped.roots.items():
        await bench.context(asid, root)
    mapped.change(1, BASE, 0x6000)
    if bench.lanes:
        bench.lanes.shadow.clear()
    late_dropin = bench.control.drop_in(before)
    await bench.until(lambda: late_dropin.taken is not None, "the answer to the drop-in")
    assert not late_dropin.taken, "stale: a drop-in of before the reset is believed"
    bench.expect_word(await bench.load(1, BASE), 0x6000)
    await bench.load(2, BASE)
    await bench.done(late)
    await bench.drained(mapped.command("ALL", 0, 0))
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_reset_in_the_middle_forgets_everything(dut: Any) -> None:
    """The hardware reset during walks, uses and holds: a fresh MMU afterwards."""
    mapped = await Mapped.start(dut, "reset")
    bench = mapped.bench
    for turn in range(6):
        bench.data.latency = bench.walk.latency = 20
        mapped.command("PAGE", 1, BASE, hold=True)
        accesses = [bench.device.read(1, BASE + page * PAGE, id=page % 4) for page in range(5)]
        accesses.append(bench.device.write(2, BASE, 4))
        await bench.tick(7 + 9 * turn)
        await bench.reset()
        await mapped.fill()
        for page in range(3):
            bench.expect_word(await bench.load(1, BASE + page * PAGE), 0x5000 + page)
        assert await mapped.walks() == 3, "counters or entries survived the reset"
        await bench.finish()
