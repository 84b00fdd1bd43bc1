"""What the host decides: faults that stall for a resume, and uses that never end."""

from typing import Any

import cocotb
from cocotb import parametrize

from secmmu.csr import REGISTERS
from shootdown.agents.pins import always, never
from shootdown.agents.translation import PAGE
from shootdown.cases.mmu_bench import Bench, reached

BASE = 0x10_0000_0000
OTHER = 2
TIMEOUT = 60


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
    await bench.write_register(REGISTERS["control"].address, 1)
    await bench.done(access)
    assert access.refused
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
@parametrize(given=[0, 2])
async def a_write_that_never_ends_is_ended(dut: Any, given: int) -> None:
    """TIMED_OUT; the memory gets beats without strobes, the device SLVERR; the asid stays out until it is let in."""
    bench, _ = await stalling(dut, f"time-out {given}")
    await bench.write_register(REGISTERS["mmu.timeout"].address, TIMEOUT)
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
    await bench.until(lambda: command.done, "the time-out", TIMEOUT + 40)
    late = reached(command.timed_out) - reached(command.accepted)
    assert TIMEOUT <= late <= TIMEOUT + 4, f"TIMED_OUT after {late} cycles"
    bench.scoreboard.fenced.add(OTHER)
    await bench.until(lambda: not bench.memory_port.outstanding, "the end of the broken write")
    assert not stuck.done, "a write was answered before its data"
    refused = await bench.load(OTHER, BASE + PAGE)
    assert refused.refused, "a fenced asid was let in"
    released = True
    await bench.done(stuck)
    assert stuck.responses == [2]
    assert (await bench.store(1, BASE, [9])).responses == [0], "the late data went elsewhere"
    assert bench.memory.read(0x5000 * PAGE) == 9
    await bench.write_register(REGISTERS["mmu.unfence"].address, OTHER)
    bench.scoreboard.fenced.clear()
    bench.expect_word(await bench.load(OTHER, BASE + PAGE), 0x7001)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_fenced_asid_stays_out_while_a_use_is_left(dut: Any) -> None:
    """A read that the memory does not answer: unfencing is refused until it has."""
    bench, _ = await stalling(dut, "left")
    await bench.write_register(REGISTERS["mmu.timeout"].address, TIMEOUT)
    await bench.load(OTHER, BASE)
    bench.data.answers = never
    access = bench.device.read(OTHER, BASE)
    await bench.until(lambda: bench.memory_port.outstanding, "the use")
    command = bench.page(OTHER, BASE)
    await bench.until(lambda: command.timed_out is not None, "the time-out", TIMEOUT + 40)
    bench.scoreboard.fenced.add(OTHER)
    await bench.tick(4)
    assert await bench.try_register(REGISTERS["mmu.unfence"].address, OTHER) == 2
    bench.data.answers = always
    await bench.done(access)
    await bench.tick(4)
    assert await bench.try_register(REGISTERS["mmu.unfence"].address, OTHER) == 0
    bench.scoreboard.fenced.clear()
    assert not (await bench.load(OTHER, BASE + PAGE)).refused
    await bench.finish()
