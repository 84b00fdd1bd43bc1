"""Exclusive accesses of the walk port: what is stored, what is lost, and what the host's stores do to them."""

from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from secmmu.emulator.memory import AxiMemory
from secmmu.emulator.monitor import ExclusiveMonitor
from secmmu.emulator.ram import HostOp, OnChipRam
from secmmu.layouts import Response

BYTES = 64 << 10
WORD = 0x1040
OKAY, EXOKAY, DECERR = (Response[name].value for name in ("OKAY", "EXOKAY", "DECERR"))


class Bench:
    """A memory with storage and monitor; time passes while ``run`` is 1."""

    def __init__(self) -> None:
        self.memory = AxiMemory(
            id_bits=2, asid_bits=2, memory_bytes=BYTES, walk_bits=2, walk_writes=True
        )
        self.ram = OnChipRam(BYTES)
        self.monitor = ExclusiveMonitor(id_bits=2, address_bits=self.ram.address_bits)

    def module(self) -> Module:
        """Connect the three."""
        m = Module()
        m.submodules.memory = memory = self.memory
        m.submodules.ram = ram = self.ram
        m.submodules.monitor = monitor = self.monitor
        wiring.connect(m, memory.data_read, ram.device)
        wiring.connect(m, memory.walk_read, ram.walk)
        wiring.connect(m, memory.data_write, ram.write)
        wiring.connect(m, memory.exclusive, monitor.access)
        m.d.comb += [
            monitor.run.eq(ram.run),
            monitor.stores.eq(memory.data_write.en),
            monitor.address.eq(memory.data_write.address),
            monitor.host_valid.eq(ram.host.valid),
            monitor.host.eq(ram.host.payload),
        ]
        m.d.sync += memory.cycle.eq(memory.cycle + 1)
        return m

    def run(self, test: Any) -> None:
        """Run ``test``."""

        async def testbench(context: Any) -> None:
            self.context = context
            context.set(self.ram.run, 1)
            context.set(self.memory.timing, {"read_latency": 2, "write_latency": 2})
            for ready in (
                self.memory.walk.rready,
                self.memory.walk.bready,
                self.memory.data.bready,
            ):
                context.set(ready, 1)
            await test(context)

        simulator = Simulator(self.module())
        simulator.add_clock(1e-6)
        simulator.add_testbench(testbench)
        simulator.run()

    async def read(self, id: int, address: int = WORD) -> tuple[int, int]:
        """Read exclusively; return word and response."""
        port = self.memory.walk
        await self._address(port, "ar", id, address, lock=1)
        context = self.context
        while not context.get(port.rvalid):
            await context.tick()
        assert context.get(port.rid) == id
        answer = context.get(port.rdata), context.get(port.rresp)
        await context.tick()
        return answer

    async def write(self, id: int, word: int, address: int = WORD, *, lock: int = 1) -> int:
        """Write over the walk port; return the response."""
        return await self.store(self.memory.walk, id, word, address, lock=lock)

    async def store(
        self, port: Any, id: int, word: int, address: int = WORD, *, lock: int = 0
    ) -> int:
        """Write over a port; return the response."""
        context = self.context
        await self._address(port, "aw", id, address, lock=lock)
        context.set(port.wdata, word)
        context.set(port.wstrb, 0xFF)
        context.set(port.wlast, 1)
        context.set(port.wvalid, 1)
        await context.tick().until(port.wready)
        context.set(port.wvalid, 0)
        while not context.get(port.bvalid):
            await context.tick()
        response = context.get(port.bresp)
        await context.tick()
        return response

    async def _address(self, port: Any, channel: str, id: int, address: int, lock: int) -> None:
        for name, value in {"id": id, "addr": address, "size": 3, "lock": lock, "burst": 1}.items():
            self.context.set(getattr(port, channel + name), value)
        self.context.set(getattr(port, f"{channel}valid"), 1)
        await self.context.tick().until(getattr(port, f"{channel}ready"))
        self.context.set(getattr(port, f"{channel}valid"), 0)

    async def host(self, op: HostOp, address: int, **fields: int) -> None:
        """Let the host do something to the storage while time stands still."""
        context, request = self.context, self.ram.host.payload
        context.set(self.ram.run, 0)
        context.set(request.op, op)
        context.set(request.address, address >> 3)
        for name, value in fields.items():
            context.set(request[name], value)
        context.set(self.ram.host.valid, 1)
        await context.tick().until(self.ram.host.ready)
        context.set(self.ram.host.valid, 0)
        context.set(self.ram.run, 1)


def test_an_undisturbed_pair_succeeds_once() -> None:
    bench = Bench()

    async def test(context: Any) -> None:
        assert await bench.read(1) == (0, EXOKAY)
        assert await bench.write(1, 7) == EXOKAY
        assert await bench.write(1, 8) == OKAY
        assert await bench.read(2) == (7, EXOKAY)
        assert await bench.write(1, 9) == OKAY
        assert await bench.write(2, 10) == EXOKAY
        assert await bench.read(1) == (10, EXOKAY)

    bench.run(test)


def test_the_first_of_two_wins() -> None:
    """Both have read; the one that writes second has lost, whatever the value."""
    bench = Bench()

    async def test(context: Any) -> None:
        await bench.read(1)
        await bench.read(2)
        await bench.read(3, WORD + 8)
        assert await bench.write(2, 5) == EXOKAY
        assert await bench.write(1, 6) == OKAY
        assert await bench.write(3, 7, WORD + 8) == EXOKAY
        assert (await bench.read(0))[0] == 5

    bench.run(test)


def test_stores_of_the_device_and_ordinary_ones_disturb() -> None:
    bench = Bench()

    async def test(context: Any) -> None:
        await bench.read(1)
        assert await bench.store(bench.memory.data, 0, 0) == OKAY
        assert await bench.write(1, 6) == OKAY
        await bench.read(1)
        assert await bench.write(2, 3, lock=0) == OKAY
        assert await bench.write(1, 6) == OKAY
        await bench.read(1)
        assert await bench.store(bench.memory.data, 0, 9, WORD + 8) == OKAY
        assert await bench.write(1, 6) == EXOKAY
        assert (await bench.read(0))[0] == 6

    bench.run(test)


@pytest.mark.parametrize(
    ("op", "fields", "disturbs"),
    [
        (HostOp.READ, {"address": WORD}, False),
        (HostOp.WRITE, {"address": WORD, "value": 0}, True),
        (HostOp.WRITE, {"address": WORD + 8, "value": 0}, False),
        (HostOp.SWAP, {"address": WORD, "value": 0}, True),
        (HostOp.CAS, {"address": WORD, "expected": 0, "value": 0}, True),
        (HostOp.FILL, {"address": WORD - 16, "count": 3, "value": 0}, True),
        (HostOp.FILL, {"address": WORD - 16, "count": 2, "value": 0}, False),
        (HostOp.FILL, {"address": WORD + 8, "count": 4, "value": 0}, False),
        (HostOp.COPY, {"address": WORD - 8, "source": 0, "count": 2}, True),
        (HostOp.COPY, {"address": 0, "source": WORD >> 3, "count": 4}, False),
    ],
)
def test_the_host_disturbs_what_it_writes(
    op: HostOp, fields: dict[str, int], disturbs: bool
) -> None:
    """In zero time, between the read and the write, and be it the same value."""
    bench = Bench()

    async def test(context: Any) -> None:
        await bench.read(1)
        await bench.host(op, **fields)
        assert await bench.write(1, 6) == (OKAY if disturbs else EXOKAY)
        assert (await bench.read(1))[0] == (0 if disturbs else 6)

    bench.run(test)


def test_outside_the_memory_nothing_is_exclusive() -> None:
    bench = Bench()

    async def test(context: Any) -> None:
        assert await bench.read(1, BYTES + WORD) == (0, DECERR)
        assert await bench.write(1, 6, BYTES + WORD) == DECERR
        assert await bench.write(1, 6) == OKAY
        assert await bench.read(1) == (0, EXOKAY)

    bench.run(test)


def test_the_device_goes_first_where_both_store() -> None:
    """One word a cycle: the walk port waits, nothing is lost."""
    bench = Bench()

    async def test(context: Any) -> None:
        data, walk = bench.memory.data, bench.memory.walk
        await bench.read(1)
        for port, address in ((data, 0x2000), (walk, WORD)):
            for name, value in {"id": 1, "addr": address, "size": 3, "burst": 1}.items():
                context.set(getattr(port, f"aw{name}"), value)
            context.set(port.wdata, address)
            context.set(port.wstrb, 0xFF)
            context.set(port.wlast, 1)
        context.set(walk.awlock, 1)
        for channel in ("aw", "w"):
            for port in (data, walk):
                context.set(getattr(port, f"{channel}valid"), 1)
            await context.tick()
            for port in (data, walk):
                context.set(getattr(port, f"{channel}valid"), 0)
        answered = {}
        for cycle in range(8):
            for name, port in (("data", data), ("walk", walk)):
                if context.get(port.bvalid):
                    answered[name] = cycle, context.get(port.bresp)
            await context.tick()
        assert answered["walk"] == (answered["data"][0] + 1, EXOKAY)
        assert (await bench.read(1))[0] == WORD
        assert (await bench.read(1, 0x2000))[0] == 0x2000

    bench.run(test)
