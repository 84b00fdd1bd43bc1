"""AXI4 on both sides of the secondary MMU: shapes, order, back-pressure, refusals."""

from collections.abc import Callable
from functools import partial
from typing import Any

import cocotb
from cocotb import parametrize

from shootdown.agents.device import Access
from shootdown.agents.memory import beat_addresses
from shootdown.agents.pins import Sometimes, always
from shootdown.agents.translation import PAGE, USER_RO
from shootdown.cases.mmu_bench import Bench, reached

BASE = 0x10_0000_0000
ABSENT = BASE + 0x20_0000
READ_ONLY = BASE + 0x10_0000

FIXED, INCR, WRAP = 0, 1, 2
_BUS_CHANNELS = ("ar", "r", "aw", "w", "b", "walk ar", "walk r", "memory r")
CHANNELS = (*_BUS_CHANNELS, "invalidated", "drained", "fault")


async def prepared(dut: Any, name: str, **options: Any) -> Bench:
    """Start a bench with 16 pages of asid 1 at BASE (frames 0x5000 on), one read-only, none at ABSENT."""
    bench = await Bench(dut, name, **options).start()
    root = await bench.context(1)
    for page in range(16):
        bench.map(root, BASE + page * PAGE, 0x5000 + page * 3)
    bench.map(root, READ_ONLY, 0x7000, USER_RO)
    return bench


def some_data(bench: Bench, beats: int, size: int = 3) -> list[tuple[int, int]]:
    """Make the beats of a write with random words and some strobes missing."""
    strobes = (1 << (1 << size)) - 1
    return [
        (bench.rng.getrandbits(64), strobes if bench.rng.random() < 0.7 else 0x5A)
        for _ in range(beats)
    ]


def random_access(bench: Bench, ids: range, *, faults: bool = True) -> Access:
    """Queue a random burst: mostly good, some refused."""
    rng = bench.rng
    places = [BASE + rng.randrange(16) * PAGE] * 6 + (
        [ABSENT, READ_ONLY, BASE + 0xFF8] if faults else []
    )
    beats = rng.choice((1, 1, 2, 4, 8))
    va = rng.choice(places)
    va += rng.randrange(0, 0xF00, 8) if va & 0xFFF == 0 else 0
    if rng.random() < 0.4:
        return bench.device.write(1, va, [], data=some_data(bench, beats), id=rng.choice(ids))
    return bench.device.read(1, va, beats=beats, id=rng.choice(ids))


def shapes() -> list[tuple[int, int, int]]:
    """List (burst type, beats, size) of every kind, each length of FIXED and WRAP, telling ones of INCR."""
    found = [(WRAP, beats, size) for beats in (2, 4, 8, 16) for size in range(4)]
    found += [(FIXED, beats, size) for beats in (1, 2, 7, 16) for size in range(4)]
    found += [(INCR, beats, size) for beats in (1, 2, 3, 16, 17, 255, 256) for size in (0, 3)]
    return found + [(INCR, beats, size) for beats in (1, 5, 64) for size in (1, 2)]


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def every_burst_shape_passes(dut: Any) -> None:
    """Type, length, size and offset reach the memory as the device gave them, and the data comes through."""
    bench = await prepared(dut, "shapes")
    bench.data.latency = 2
    for burst, beats, size in shapes():
        limit = PAGE - (beats << size if burst == INCR else 1 << size)
        offset = bench.rng.randrange(limit + 1)
        # An INCR burst may start anywhere; the others on a beat.
        offset &= -(1 << size) if burst != INCR or bench.rng.random() < 0.5 else -1
        va = BASE + 3 * PAGE + offset
        name = bench.rng.randrange(1 << bench.config.id_bits)
        shape = {"size": size, "burst": burst, "id": name}
        bench.device.write(1, va, [], data=some_data(bench, beats, size), **shape)
        bench.device.read(1, va, beats=beats, **shape)
        await bench.until(lambda: not bench.device.busy, f"burst {shape} x{beats}", 3000)
    assert len(bench.memory_port.bursts) == 2 * len(shapes())
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def the_last_beat_of_a_page_is_not_beyond_it(dut: Any) -> None:
    """Bursts that end with the page pass, for every size; no refused access at offset 0xff8."""
    bench = await prepared(dut, "page end")
    for size in range(4):
        for beats in (1, 2, 16, 200):
            va = BASE + PAGE - (beats << size)
            access = await bench.load(1, va, beats=beats, size=size)
            assert not access.refused, f"{access} size {size} was refused"
    wrapped = await bench.load(1, BASE + PAGE - 8, beats=16, burst=WRAP)
    fixed = await bench.load(1, BASE + PAGE - 8, beats=16, burst=FIXED)
    assert not wrapped.refused, "WRAP bursts never leave their page"
    assert not fixed.refused, "FIXED bursts never leave their page"
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def crossing_bursts_are_refused(dut: Any) -> None:
    """A burst that crosses 4 KiB gets SLVERR in full and is never forwarded, mapped or not, read or write."""
    bench = await prepared(dut, "crossing")
    await bench.load(1, BASE)
    begun = len(bench.memory_port.bursts)
    for va, beats, size in (
        (BASE + 0xFF8, 2, 3),
        (BASE + 0xFFC, 2, 2),
        (BASE + 0xFFF, 2, 0),
        (BASE + 0x808, 256, 3),
        (BASE + 0xFF1, 3, 3),
        (ABSENT + 0xFF8, 2, 3),
    ):
        crosses = len({beat >> 12 for beat in beat_addresses(va, beats, size, INCR)}) == 2
        assert crosses, "the case itself is wrong"
        read = bench.device.read(1, va, beats=beats, size=size)
        write = bench.device.write(1, va, [], data=some_data(bench, beats, size), size=size)
        await bench.done(read, write)
        assert read.responses == [2] * beats, f"{read} was answered {read.responses}"
        assert write.responses == [2], f"{write} was answered {write.responses}"
    assert len(bench.memory_port.bursts) == begun, "a crossing burst was forwarded"
    await bench.store(1, BASE, 1)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def one_id_stays_in_order_with_refusals(dut: Any) -> None:
    """Refused and good bursts of one id are answered in the order of their issue, slow memory or not."""
    bench = await prepared(dut, "one id")
    for latency in (1, 6, 30):
        bench.data.latency = bench.walk.latency = latency
        batch = [random_access(bench, range(1)) for _ in range(40)]
        await bench.done(*batch, cycles=20_000)
        for write in (False, True):
            ends = [reached(access.answered) for access in batch if access.write is write]
            assert ends == sorted(ends), "answers of one id overtook each other"
    assert bench.control.faults
    await bench.finish()


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def many_ids_with_a_memory_that_reorders(dut: Any) -> None:
    """All ids at once, answers of different ids reordered and interleaved, random latency."""
    bench = await prepared(dut, "many ids")
    bench.data.reorder = True
    bench.data.latency, bench.data.jitter = 3, 25
    bench.walk.jitter = 9
    for _ in range(6):
        batch = [random_access(bench, range(1 << bench.config.id_bits)) for _ in range(40)]
        await bench.done(*batch, cycles=20_000)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def write_data_may_come_early_or_late(dut: Any) -> None:
    """W before, with and long after its AW, several writes queued, walks in between."""
    bench = await prepared(dut, "early and late W")
    for lead in (None, 1, 5):
        for lag in (0, 1, 7, 40):
            pages = bench.rng.sample(range(16), 3)
            batch = []
            for page in pages:
                data = some_data(bench, bench.rng.choice((1, 4)))
                access = bench.device.write(1, BASE + page * PAGE + 8, [], data=data, id=page % 4)
                if lead is not None:
                    access.address_after = bench.passed(lead)
                else:
                    access.data_after = late(bench, access, lag)
                batch.append(access)
            batch.append(bench.device.read(1, BASE + pages[0] * PAGE, id=3))
            await bench.done(*batch)
    await bench.finish()


def late(bench: Bench, access: Access, cycles: int) -> Callable[[], bool]:
    """Hold the data of a write back until ``cycles`` after its address was taken."""
    return lambda: access.accepted is not None and bench.cycle >= access.accepted + cycles


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_refused_write_swallows_its_own_data_only(dut: Any) -> None:
    """Good and refused writes in turn, data early and late: each good one writes its own words."""
    bench = await prepared(dut, "swallow")
    for lag in (None, 0, 12):
        batch = []
        for turn in range(12):
            bad = (ABSENT, READ_ONLY, BASE + 0xFF8)[turn // 2 % 3]
            va = bad if turn % 2 else BASE + turn * PAGE
            access = bench.device.write(1, va, [], data=some_data(bench, 2 + turn % 3), id=turn % 4)
            if lag is not None:
                access.data_after = late(bench, access, lag)
            batch.append(access)
        await bench.done(*batch, cycles=5000)
        good = [access for access in batch if not access.refused]
        assert len(good) == 6, f"{[str(access) for access in good]} passed, not 6 writes"
    await bench.finish()


@cocotb.test(timeout_time=3, timeout_unit="ms")
@parametrize(channel=CHANNELS)
async def back_pressure_on(dut: Any, channel: str) -> None:
    """One channel stalls three clocks out of four; nothing is lost, changed or reordered."""
    bench = await prepared(dut, f"pressure {channel}")
    slow = Sometimes(bench.rng, 0.25)
    sinks = {
        "ar": bench.data.ar,
        "aw": bench.data.aw,
        "w": bench.data.w,
        "r": bench.device.r,
        "b": bench.device.b,
        "walk ar": bench.walk.ar,
        "invalidated": bench.control.completions[0],
        "drained": bench.control.completions[1],
        "fault": bench.control.fault,
    }
    if channel in sinks:
        sinks[channel].pace = slow
    else:
        (bench.walk if channel == "walk r" else bench.data).answers = slow
    batch = [random_access(bench, range(1 << bench.config.id_bits)) for _ in range(60)]
    for page in range(8):
        bench.after(40 * page, partial(bench.page, 1, BASE + page * PAGE))
    await bench.done(*batch, cycles=20_000)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def valid_waits_for_no_ready(dut: Any) -> None:
    """Every receiver becomes ready only after it saw valid, and AWREADY only after the data: AXI allows both."""
    bench = await prepared(dut, "ready after valid")
    for sink in (
        bench.data.ar,
        bench.data.w,
        bench.device.r,
        bench.device.b,
        bench.walk.ar,
        bench.control.fault,
    ):
        sink.after_valid = True
    for sink in bench.control.completions:
        sink.after_valid = True
    bench.data.hold_aw_until_data()
    batch = [random_access(bench, range(1 << bench.config.id_bits)) for _ in range(40)]
    bench.after(30, lambda: bench.page(1, BASE))
    await bench.done(*batch, cycles=20_000)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def error_answers_of_the_memory_pass(dut: Any) -> None:
    """SLVERR and DECERR of the memory reach the device, beat by beat, without a fault report."""
    bench = await prepared(dut, "errors")
    bench.data.response = lambda address: (
        {0x5000: 2, 0x5003: 3}.get(address >> 12, 0) if address & 8 else 0
    )
    for page, code in ((0, 2), (1, 3), (2, 0)):
        va = BASE + page * PAGE
        read = await bench.load(1, va, beats=4)
        assert read.responses == [0, code, 0, code], f"{read} was answered {read.responses}"
        write = await bench.store(1, va + 8, 5)
        assert write.responses == [code], f"{write} was answered {write.responses}"
    assert not bench.control.faults, "an error of the memory was reported as a fault"
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def more_pages_than_the_tlb_and_the_slots_hold(dut: Any) -> None:
    """Use slots and TLB run over while the memory is slow; everything is answered."""
    bench = await prepared(dut, "overflow")
    bench.data.latency, bench.walk.latency = 60, 3
    bench.data.ar.pace = always
    ids = 1 << bench.config.id_bits
    batch = [
        bench.device.read(1, BASE + page % 16 * PAGE + 8 * page, id=page % ids)
        for page in range(48)
    ]
    batch += [
        bench.device.write(1, BASE + page % 16 * PAGE, page, id=page % ids) for page in range(48)
    ]
    await bench.done(*batch, cycles=30_000)
    await bench.finish()
