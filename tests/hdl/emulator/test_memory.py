"""The emulated memory: when each beat comes, when it is sampled or stored, and what it is."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from amaranth.hdl import C, Fragment, Module, Signal
from amaranth.lib import wiring
from amaranth.sim import Simulator

from secmmu.axi import Burst
from secmmu.emulator.bursts import jitter_cycles, next_address
from secmmu.emulator.channels import BURST_QUEUE
from secmmu.emulator.memory import AxiMemory
from secmmu.emulator.ram import OnChipRam
from secmmu.layouts import Response

BYTES = 64 << 10
OKAY, DECERR = Response.OKAY.value, Response.DECERR.value


class Bench:
    """A memory with its storage, running on every clock, and what was seen on its ports by cycle."""

    def __init__(self, **timing: int) -> None:
        self.memory = AxiMemory(id_bits=4, asid_bits=4, memory_bytes=BYTES)
        self.ram = OnChipRam(BYTES)
        self.timing = {"read_latency": 1, "write_latency": 1} | timing
        self.reads: list[tuple[int, int, int, int, int]] = []
        self.walks: list[tuple[int, int]] = []
        self.responses: list[tuple[int, int, int]] = []
        self.stores: list[tuple[int, int]] = []
        self.samples: list[tuple[int, int]] = []

    def module(self) -> Module:
        """Connect the two."""
        m = Module()
        m.submodules.memory = memory = self.memory
        m.submodules.ram = ram = self.ram
        wiring.connect(m, memory.data_read, ram.device)
        wiring.connect(m, memory.walk_read, ram.walk)
        wiring.connect(m, memory.data_write, ram.write)
        m.d.comb += ram.run.eq(1)
        m.d.sync += memory.cycle.eq(memory.cycle + 1)
        return m

    async def watch(self, context: Any) -> None:
        """Note what happens in each cycle."""
        port, walk, memory = self.memory.data, self.memory.walk, self.memory
        signals = (
            *(port.rvalid, port.rready, port.rid, port.rdata, port.rresp, port.rlast),
            *(port.bvalid, port.bready, port.bid, port.bresp),
            *(memory.write_access.valid, memory.write_access.payload.address),
            *(memory.read_access.valid, memory.read_access.payload.address),
            *(walk.rvalid, walk.rdata, memory.cycle),
        )
        async for _, _, *values in context.tick().sample(*signals):
            rvalid, rready, rid, rdata, rresp, rlast, bvalid, bready, bid, bresp, *rest = values
            stored, store_address, sampled, address, walked, word, cycle = rest
            if rvalid and rready:
                self.reads.append((cycle, rid, rdata, rresp, rlast))
            if bvalid and bready:
                self.responses.append((cycle, bid, bresp))
            if stored:
                self.stores.append((cycle, store_address))
            if sampled:
                self.samples.append((cycle, address))
            if walked:
                self.walks.append((cycle, word))

    async def address(self, context: Any, channel: str, addr: int, **fields: int) -> int:
        """Present an address phase; the result is the cycle of its handshake."""
        port = self.memory.walk if channel == "walk" else self.memory.data
        prefix = "ar" if channel == "walk" else channel
        values = {"addr": addr, "len": 0, "size": 3, "burst": Burst.INCR.value, "id": 0} | fields
        for name, value in values.items():
            context.set(getattr(port, prefix + name), value)
        context.set(getattr(port, f"{prefix}valid"), 1)
        (cycle,) = (
            await context.tick().sample(self.memory.cycle).until(getattr(port, f"{prefix}ready"))
        )
        context.set(getattr(port, f"{prefix}valid"), 0)
        return cycle

    async def data(self, context: Any, words: list[int], strobe: int = 0xFF) -> int:
        """Present the beats of a write; the result is the cycle of the last handshake."""
        port, cycle = self.memory.data, 0
        for index, word in enumerate(words):
            context.set(port.wdata, word)
            context.set(port.wstrb, strobe)
            context.set(port.wlast, index == len(words) - 1)
            context.set(port.wvalid, 1)
            (cycle,) = await context.tick().sample(self.memory.cycle).until(port.wready)
        context.set(port.wvalid, 0)
        return cycle

    async def write(self, context: Any, addr: int, words: list[int], **fields: int) -> int:
        """Write a burst; the result is the cycle of the last W handshake."""
        await self.address(context, "aw", addr, len=len(words) - 1, **fields)
        return await self.data(context, words)

    def run(self, test: Callable[[Any], Any]) -> None:
        """Run ``test`` with the chosen registers and a manager that takes all answers."""

        async def testbench(context: Any) -> None:
            for name, value in self.timing.items():
                context.set(self.memory.timing[name], value)
            context.set(self.memory.data.rready, 1)
            context.set(self.memory.data.bready, 1)
            context.set(self.memory.walk.rready, 1)
            await test(context)

        simulator = Simulator(self.module())
        simulator.add_clock(1e-6)
        simulator.add_process(self.watch)
        simulator.add_testbench(testbench)
        simulator.run()


@pytest.mark.parametrize("latency", [1, 2, 3, 20])
def test_first_beat_comes_exactly_after_the_latency(latency: int) -> None:
    """Both ports; bursts that follow each other do not wait for each other."""
    bench = Bench(read_latency=latency)
    accepted = []

    async def test(context: Any) -> None:
        await bench.write(context, 0x100, [7, 8, 9, 10])
        await context.tick().repeat(10)
        accepted.append(await bench.address(context, "ar", 0x100, len=3, id=5))
        await context.tick().repeat(3)
        accepted.append(await bench.address(context, "ar", 0x108, id=6))
        accepted.append(await bench.address(context, "walk", 0x118))
        await context.tick().repeat(latency + 10)

    bench.run(test)
    first, second, walk = accepted
    assert second == first + 4
    assert bench.reads == [
        (first + latency + beat, 5, 7 + beat, OKAY, beat == 3) for beat in range(4)
    ] + [(second + latency, 6, 8, OKAY, 1)]
    assert bench.walks == [(walk + latency, 10)]


@pytest.mark.parametrize("gap", [1, 5])
def test_beat_gap_lies_between_the_beats_of_a_burst(gap: int) -> None:
    """One beat per 1 + gap cycles; the next burst waits for its end."""
    bench = Bench(read_latency=4, beat_gap=gap)
    accepted = []

    async def test(context: Any) -> None:
        accepted.append(await bench.address(context, "ar", 0x0, len=2))
        accepted.append(await bench.address(context, "ar", 0x40))
        await context.tick().repeat(40)

    bench.run(test)
    first = accepted[0] + 4
    last = first + 2 * (1 + gap)
    assert [cycle for cycle, *_ in bench.reads] == [first, first + 1 + gap, last, last + 1]


@pytest.mark.parametrize("latency", [1, 2, 5, 30])
@pytest.mark.parametrize("beats", [1, 4, 16])
def test_write_is_stored_late_and_answered_exactly(latency: int, beats: int) -> None:
    """B comes latency cycles after the last W, the last beat is stored in the cycle before."""
    bench = Bench(write_latency=latency)
    last = []

    async def test(context: Any) -> None:
        last.append(await bench.write(context, 0x200, list(range(1, beats + 1)), id=3))
        await context.tick().repeat(latency + 5)

    bench.run(test)
    assert bench.responses == [(last[0] + latency, 3, OKAY)]
    end = last[0] + latency
    assert bench.stores == [(end - beats + beat, 0x200 + 8 * beat) for beat in range(beats)]


def test_read_sees_exactly_the_stores_up_to_the_cycle_of_its_sample() -> None:
    """A read sampled in the cycle of the store sees it, one sampled a cycle earlier does not."""
    bench = Bench(read_latency=1, write_latency=20)

    async def test(context: Any) -> None:
        await bench.write(context, 0x300, [1])
        await context.tick().repeat(30)
        last = await bench.write(context, 0x300, [2])
        store = last + 20 - 1
        await context.tick().repeat(store - 1 - context.get(bench.memory.cycle))
        assert await bench.address(context, "ar", 0x300) == store - 1
        assert await bench.address(context, "ar", 0x300) == store
        await context.tick().repeat(5)

    bench.run(test)
    assert [data for _, _, data, _, _ in bench.reads] == [1, 2]
    assert [cycle for cycle, _ in bench.samples] == [cycle - 1 for cycle, *_ in bench.reads]


def test_queue_takes_an_address_every_cycle() -> None:
    """BURST_QUEUE bursts wait; the one after them is held back."""
    bench = Bench(read_latency=200)
    accepted = []

    async def test(context: Any) -> None:
        accepted.extend(
            [await bench.address(context, "ar", 8 * index) for index in range(BURST_QUEUE + 1)]
        )
        await context.tick().repeat(250)

    bench.run(test)
    start = accepted[0]
    assert accepted[:BURST_QUEUE] == [start + index for index in range(BURST_QUEUE)]
    assert accepted[BURST_QUEUE] >= start + 199
    assert [cycle for cycle, *_ in bench.reads[:BURST_QUEUE]] == [
        start + 200 + index for index in range(BURST_QUEUE)
    ]


def test_held_back_beats_stay_and_keep_their_data() -> None:
    """A beat that the manager does not take stays as it was sampled, whatever is stored meanwhile."""
    bench = Bench(read_latency=2, write_latency=1)

    async def test(context: Any) -> None:
        await bench.write(context, 0x80, [5, 6])
        await context.tick().repeat(5)
        context.set(bench.memory.data.rready, 0)
        context.set(bench.memory.data.bready, 0)
        await bench.address(context, "ar", 0x80, len=1)
        await context.tick().repeat(4)
        await bench.write(context, 0x80, [50, 60])
        await context.tick().repeat(5)
        assert not context.get(bench.memory.idle)
        context.set(bench.memory.data.rready, 1)
        context.set(bench.memory.data.bready, 1)
        await context.tick().repeat(5)
        assert context.get(bench.memory.idle)

    bench.run(test)
    # The first beat was sampled before the write, the second only when the first had been taken.
    assert [data for _, _, data, _, _ in bench.reads] == [5, 60]
    assert len(bench.responses) == 2


@pytest.mark.parametrize(
    ("burst", "size", "length", "start", "addresses"),
    [
        (Burst.INCR, 3, 2, 0x108, [0x108, 0x110, 0x118]),
        (Burst.INCR, 1, 3, 0x103, [0x103, 0x104, 0x106, 0x108]),
        (Burst.FIXED, 3, 2, 0x108, [0x108, 0x108, 0x108]),
        (Burst.WRAP, 3, 3, 0x110, [0x110, 0x118, 0x100, 0x108]),
        (Burst.WRAP, 2, 1, 0x104, [0x104, 0x100]),
        (Burst.INCR, 3, 255, 0x1000, [0x1000 + 8 * beat for beat in range(256)]),
    ],
)
def test_beat_addresses_of_all_bursts(
    burst: Burst, size: int, length: int, start: int, addresses: list[int]
) -> None:
    """INCR, FIXED and WRAP, narrow and unaligned, for reads and for writes."""
    bench = Bench()
    fields = {"burst": burst.value, "size": size}

    async def test(context: Any) -> None:
        await bench.address(context, "ar", start, len=length, **fields)
        await bench.write(context, start, [0] * (length + 1), **fields)
        await context.tick().repeat(length + 10)

    bench.run(test)
    assert [address for _, address in bench.samples] == addresses
    assert [address for _, address in bench.stores] == addresses


def test_strobes_choose_the_bytes() -> None:
    """Bytes without a strobe stay; a beat without any touches nothing and is no access."""
    bench = Bench()

    async def test(context: Any) -> None:
        await bench.write(context, 0x40, [0x1122334455667788])
        await bench.address(context, "aw", 0x40)
        await bench.data(context, [0xAABBCCDDEEFF0099], strobe=0b1000_0110)
        await bench.address(context, "aw", 0x40)
        await bench.data(context, [0], strobe=0)
        await context.tick().repeat(5)
        await bench.address(context, "ar", 0x40)
        await context.tick().repeat(5)

    bench.run(test)
    assert [data for _, _, data, _, _ in bench.reads] == [0xAA22334455FF0088]
    assert len(bench.stores) == 2
    assert len(bench.responses) == 3


def test_outside_the_memory_is_a_decode_error() -> None:
    """Nothing is read, stored or shown there; the next burst is not affected."""
    bench = Bench()

    async def test(context: Any) -> None:
        for base in (0, BYTES, 1 << 55):
            await bench.write(context, base, [base + 1])
            await bench.address(context, "ar", base)
        await bench.write(context, 8, [9])
        await context.tick().repeat(5)

    bench.run(test)
    assert [(data, response) for _, _, data, response, _ in bench.reads] == [
        (1, OKAY),
        (0, DECERR),
        (0, DECERR),
    ]
    assert [response for *_, response in bench.responses] == [OKAY, DECERR, DECERR, OKAY]
    assert [address for _, address in bench.stores] == [0, 8]
    assert [address for _, address in bench.samples] == [0]


def test_jitter_is_the_stated_function_of_the_transaction_number() -> None:
    """Channels count apart; the delays are the function's."""
    bench = Bench(read_latency=3, write_latency=3, jitter=15, seed=1234)
    reads, writes, walks = [], [], []

    async def test(context: Any) -> None:
        for index in range(8):
            reads.append(await bench.address(context, "ar", 8 * index))
            writes.append(await bench.write(context, 8 * index, [1]))
            walks.append(await bench.address(context, "walk", 8 * index))
            await context.tick().repeat(25)

    bench.run(test)
    expected = [
        [
            start + 3 + jitter_cycles(1234, channel, count, 15)
            for count, start in enumerate(accepted)
        ]
        for channel, accepted in enumerate((reads, writes, walks))
    ]
    assert [cycle for cycle, *_ in bench.reads] == expected[0]
    assert [cycle for cycle, *_ in bench.responses] == expected[1]
    assert [cycle for cycle, *_ in bench.walks] == expected[2]
    assert len({cycle - start for cycle, start in zip(expected[0], reads, strict=True)}) > 3


def test_jitter_spreads_evenly() -> None:
    """Each of 16 delays comes about as often, for any seed."""
    random = Random(5)
    for seed in [0, 1, 2, random.getrandbits(32)]:
        for channel in range(3):
            counts = [0] * 16
            for count in range(1600):
                counts[jitter_cycles(seed, channel, count, 15)] += 1
            assert min(counts) > 50
            assert max(counts) < 170


def test_wrap_keeps_the_top_of_the_address() -> None:
    """Wrapping at the end of the address space changes no bit above the container."""
    address = Signal(56)
    m = Module()
    following = Signal(56)
    wrap = Burst.WRAP.value
    m.d.comb += following.eq(next_address(address, C(15, 8), C(3, 3), C(wrap, 2)))
    simulator = Simulator(Fragment.get(m, None))

    async def test(context: Any) -> None:
        context.set(address, (1 << 56) - 8)
        assert context.get(following) == (1 << 56) - 128

    simulator.add_testbench(test)
    simulator.run()
