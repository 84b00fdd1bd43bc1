"""What the host decides: faults that stall for a resume, and uses that never end."""

from typing import Any

import cocotb
from cocotb import parametrize

from secmmu.csr import REGISTERS
from shootdown.agents.control import Command
from shootdown.agents.pins import always, never
from shootdown.agents.translation import PAGE
from shootdown.cases.mmu_bench import Bench, reached

BASE = 0x10_0000_0000
OTHER = 2
TIMEOUT = 60
CONTROL, FENCED, UNFENCE, LIMIT = (
    REGISTERS[name].address for name in ("control", "mmu.fenced", "mmu.unfence", "mmu.timeout")
)


async def stalling(dut: Any, name: str) -> tuple[Bench, int]:
    """Start a bench whose asid 1 stalls, with one page at BASE; asid 2 has some pages. Returns asid 1's root."""
    bench = await Bench(dut, name).start()
    root = await bench.context(1, stall=True)
    bench.map(root, BASE, 0x5000)
    other = await bench.context(OTHER)
    for page in range(4):
        bench.map(other, BASE + page * PAGE, 0x7000 + page)
    return bench, root


@cocotb.test(timeout_time=2, timeout_unit="ms")
@parametrize(write=[False, True], retry=[False, True])
async def a_stalled_fault_waits_for_its_resume(dut: Any, write: bool, retry: bool) -> None:
    """The access waits while others pass, then is translated again, or refused; its id stays in order."""
    bench, root = await stalling(dut, f"stall {write} {retry}")
    va = BASE + 4 * PAGE
    if write:
        access, after = bench.device.write(1, va, [3, 4]), bench.device.write(1, BASE, [5])
    else:
        access, after = bench.device.read(1, va, beats=2), bench.device.read(1, BASE)
    await bench.until(lambda: bench.control.faults, "the report")
    fault = bench.control.faults[0]
    assert fault.stalled, f"{fault} did not stall"
    passing = [bench.device.read(OTHER, BASE + page * PAGE, id=1) for page in range(4)]
    passing += [bench.device.write(OTHER, BASE + page * PAGE, [page], id=1) for page in range(4)]
    await bench.done(*passing)
    assert not access.done, f"{access} was answered before its resume"
    assert not after.done, f"{after} overtook {access}"
    if retry:
        bench.map(root, va, 0x6000)
    bench.control.resume(fault.place, retry=retry)
    await bench.done(access, after)
    assert access.refused != retry
    assert not after.refused
    assert len(bench.control.faults) == 1
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def as_many_faults_stall_as_there_is_room(dut: Any) -> None:
    """The others are refused at once; a retry that faults again is reported again; a stray resume does nothing."""
    bench, _ = await stalling(dut, "stalls")
    room = bench.config.stalls
    batch = [bench.device.read(1, BASE + (8 + page) * PAGE, id=page % 4) for page in range(room)]
    await bench.until(lambda: len(bench.control.faults) == room, "the stalled")
    assert all(fault.stalled for fault in bench.control.faults)
    extra = bench.device.read(1, BASE + 20 * PAGE, id=room % 4 if room < 4 else 0)
    if room < 4:
        await bench.done(extra)
        assert extra.refused
        assert not bench.control.faults[-1].stalled
    places = [fault.place for fault in bench.control.faults[:room]]
    bench.control.resume(next(n for n in range(256) if n not in places), retry=False)
    await bench.tick(20)
    assert not any(access.done for access in batch), "a stray resume let an access go"
    seen = len(bench.control.faults)
    bench.control.resume(places[0], retry=True)
    await bench.until(lambda: len(bench.control.faults) > seen, "the second report")
    again = bench.control.faults[seen]
    for place in {*places[1:], again.place}:
        bench.control.resume(place, retry=False)
    await bench.done(*batch)
    await bench.until(lambda: not bench.control.busy, "the resumes")
    while not extra.done:
        for fault in bench.control.faults[seen + 1 :]:
            bench.control.resume(fault.place, retry=False)
        await bench.tick(20)
    assert all(access.refused for access in batch)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_soft_reset_refuses_what_stalls(dut: Any) -> None:
    """Nothing waits for the host any more."""
    bench, _ = await stalling(dut, "reset stalls")
    access = bench.device.read(1, BASE + 9 * PAGE)
    await bench.until(lambda: bench.control.faults, "the report")
    await bench.write_register(CONTROL, 1)
    await bench.done(access)
    assert access.refused
    await bench.finish()


async def given_up(bench: Bench, *commands: Command) -> None:
    """Wait until the commands, of asid OTHER, are TIMED_OUT."""
    await bench.until(lambda: all(command.done for command in commands), "time-out", TIMEOUT + 40)
    assert all(command.timed_out is not None for command in commands)
    bench.scoreboard.fenced.add(OTHER)


@cocotb.test(timeout_time=2, timeout_unit="ms")
@parametrize(given=[0, 2])
async def a_write_that_never_ends_is_ended(dut: Any, given: int) -> None:
    """TIMED_OUT; the memory gets beats without strobes, the device SLVERR; the asid stays out until it is let in."""
    bench, _ = await stalling(dut, f"time-out {given}")
    await bench.write_register(LIMIT, TIMEOUT)
    await bench.load(OTHER, BASE)
    stuck = bench.device.write(OTHER, BASE, [1, 2, 3, 4])
    left, released = given, False

    def comes() -> bool:
        nonlocal left
        left -= 1
        return released or left >= 0

    stuck.data_after = comes
    await bench.until(lambda: bench.memory_port.outstanding, "the use")
    await bench.tick(20)
    command = bench.page(OTHER, BASE)
    await given_up(bench, command)
    late = reached(command.timed_out) - reached(command.accepted)
    assert TIMEOUT <= late <= TIMEOUT + 4, f"TIMED_OUT after {late} cycles"
    await bench.until(lambda: not bench.memory_port.outstanding, "the end of the broken write")
    assert not stuck.done, "a write was answered before its data"
    refused = await bench.load(OTHER, BASE + PAGE)
    assert refused.refused, "a fenced asid was let in"
    released = True
    await bench.done(stuck)
    assert stuck.responses == [2]
    assert (await bench.store(1, BASE, [9])).responses == [0], "the late data went elsewhere"
    assert bench.memory.read(0x5000 * PAGE) == 9
    await bench.write_register(UNFENCE, OTHER)
    bench.scoreboard.fenced.clear()
    bench.expect_word(await bench.load(OTHER, BASE + PAGE), 0x7001)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_fenced_asid_stays_out_while_a_use_is_left(dut: Any) -> None:
    """A read that the memory does not answer: unfencing is refused until it has."""
    bench, _ = await stalling(dut, "left")
    await bench.write_register(LIMIT, TIMEOUT)
    await bench.load(OTHER, BASE)
    bench.data.answers = never
    access = bench.device.read(OTHER, BASE)
    await bench.until(lambda: bench.memory_port.outstanding, "the use")
    await given_up(bench, bench.page(OTHER, BASE))
    await bench.tick(4)
    assert await bench.try_register(UNFENCE, OTHER) == 2
    bench.data.answers = always
    await bench.done(access)
    await bench.tick(4)
    assert await bench.try_register(UNFENCE, OTHER) == 0
    bench.scoreboard.fenced.clear()
    assert not (await bench.load(OTHER, BASE + PAGE)).refused
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
@parametrize(stands=["behind one that is broken later", "last of all", "behind another's"])
async def a_broken_write_is_ended_wherever_it_stands(dut: Any, stands: str) -> None:
    """With it go those whose data the memory is owed before; the memory has all of its beats, the device its answers."""
    bench, _ = await stalling(dut, f"ended {stands}")
    await bench.write_register(LIMIT, TIMEOUT)
    for asid, va in ((1, BASE), (OTHER, BASE + PAGE), (OTHER, BASE + 2 * PAGE)):
        await bench.load(asid, va)
    released = False
    keeps = {"data_after": lambda: released}
    write, broken = bench.device.write, [BASE + PAGE]
    if stands == "last of all":
        ids = 1 << bench.config.id_bits
        others = range(bench.config.outstanding - 1)
        writes = [write(1, BASE, [1], id=at % ids, **keeps) for at in others]
        writes.append(write(OTHER, BASE + PAGE, [2], id=ids - 1, **keeps))
    elif stands == "behind another's":
        # It has given its data, and misses, so that the other's address leaves before its own.
        broken, bench.walk.latency = [BASE], 30
        writes = [write(OTHER, BASE, [2, 3], id=1), write(1, BASE, [1, 4], id=2, **keeps)]
    else:
        broken.append(BASE + 2 * PAGE)
        writes = [
            write(OTHER, va, [at] * 16, id=at, **keeps) for at, va in enumerate(reversed(broken))
        ]
    await bench.until(lambda: bench.memory_port.outstanding == len(writes), "the uses")
    await given_up(bench, *[bench.page(OTHER, va) for va in broken])
    await bench.until(lambda: not bench.memory_port.outstanding, "the end of the broken write", 200)
    released = True
    await bench.done(*writes)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
@parametrize(offset=[-3, -1, 0])
async def nobody_is_ended_for_a_slot_had_before(dut: Any, offset: int) -> None:
    """A use ends just when its command is given up, and a write takes its slot: that has broken nothing."""
    bench, root = await stalling(dut, f"slot {offset}")
    bench.map(root, BASE + PAGE, 0x5001)
    for asid, va in ((1, BASE), (1, BASE + PAGE), (OTHER, BASE)):
        await bench.load(asid, va)
    await bench.write_register(LIMIT, TIMEOUT)
    released = False
    keeps = {"data_after": lambda: released}
    writes = [bench.device.write(1, BASE, [1, 2], id=at % 3, **keeps) for at in range(9)]
    await bench.until(lambda: bench.memory_port.outstanding == len(writes), "the writes")
    bench.data.answers = never
    access = bench.device.read(OTHER, BASE)
    await bench.until(lambda: bench.memory_port.outstanding == len(writes) + 1, "the read")
    command = bench.page(OTHER, BASE)
    await bench.until(lambda: command.invalidated is not None, "the command")
    await bench.tick(reached(command.accepted) + TIMEOUT + offset - bench.cycle)
    bench.data.answers = always
    await bench.done(access)
    writes.append(bench.device.write(1, BASE + PAGE, [7], id=3, **keeps))
    await bench.tick(40)
    released = True
    await bench.done(*writes)
    assert not any(write.refused for write in writes), "writes were ended that nobody gave up"
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_waiter_of_a_fenced_asid_stays_out(dut: Any) -> None:
    """An access that missed before the time-out is answered by its walk after it."""
    bench, _ = await stalling(dut, "waiter")
    await bench.write_register(LIMIT, TIMEOUT)
    await bench.load(OTHER, BASE)
    bench.data.answers = never
    access = bench.device.read(OTHER, BASE)
    await bench.until(lambda: bench.memory_port.outstanding, "the use")
    bench.walk.latency = 2 * TIMEOUT
    late = bench.device.read(OTHER, BASE + PAGE, id=1)
    await given_up(bench, bench.page(OTHER, BASE))
    assert bench.walk_port.outstanding, "the walk has ended before the time-out"
    await bench.done(late)
    assert late.refused, "a fenced asid was let in"
    assert bench.memory_port.outstanding == 1
    bench.data.answers = always
    await bench.done(access)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_walk_that_never_ends_is_a_use(dut: Any) -> None:
    """A command that waits for its read is TIMED_OUT; its asid stays out as long as the read is owed."""
    bench, _ = await stalling(dut, "stuck walk")
    await bench.write_register(LIMIT, TIMEOUT)
    bench.walk.answers = never
    access = bench.device.read(OTHER, BASE)
    await bench.until(lambda: bench.walk_port.outstanding, "the walk")
    await given_up(bench, bench.page(OTHER, BASE))
    assert await bench.read_register(FENCED) == 1 << OTHER
    assert (await bench.load(OTHER, BASE + PAGE, id=1)).refused, "a fenced asid was let in"
    assert await bench.try_register(UNFENCE, OTHER) == 2
    bench.walk.answers = always
    await bench.done(access)
    assert access.refused
    assert await bench.try_register(UNFENCE, OTHER) == 0
    bench.scoreboard.fenced.clear()
    bench.expect_word(await bench.load(OTHER, BASE), 0x7000)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
@parametrize(delay=[3, 18])
async def a_soft_reset_meets_accesses_in_every_state(dut: Any, delay: int) -> None:
    """Held, stalled, walked for, in use, behind others: it ends, each access is answered, and the MMU goes on."""
    bench, _ = await stalling(dut, f"reset {delay}")
    await bench.load(OTHER, BASE)
    await bench.drained(bench.page(OTHER, BASE + PAGE, hold=True))
    bench.walk.latency, bench.data.latency = 12, 9
    accesses = []
    for at, (asid, page) in enumerate(((OTHER, 1), (1, 20), (1, 0), (OTHER, 0))):
        va = BASE + page * PAGE
        accesses += [bench.device.read(asid, va, id=at), bench.device.write(asid, va, [1], id=at)]
        accesses.append(bench.device.read(OTHER, BASE + 3 * PAGE, id=at))
    await bench.tick(delay)
    bench.page(OTHER, BASE)
    # What is held is refused, with a report.
    bench.scoreboard.fenced.add(OTHER)
    await bench.write_register(CONTROL, 1)
    while await bench.read_register(CONTROL) & 1:
        pass
    bench.control.forget_holds()
    if bench.lanes:
        bench.lanes.shadow.clear()
    while not all(access.done for access in accesses):
        for fault in bench.control.faults:
            bench.control.resume(fault.place, retry=False)
        await bench.tick(40)
    bench.expect_word(await bench.load(OTHER, BASE + PAGE), 0x7001)
    await bench.finish()
