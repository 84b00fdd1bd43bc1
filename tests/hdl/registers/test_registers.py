"""The register file: what software reads and writes."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from amaranth.sim import Simulator

from secmmu.config import PRESETS, SecmmuConfig
from secmmu.csr import BUCKETS, COUNTERS, HISTOGRAMS, REGISTERS, context_register
from secmmu.internals import ContextLayout
from secmmu.registers.registers import Registers

CONFIG = SecmmuConfig(asid_bits=8, contexts=128)
OKAY, SLVERR = 0, 2


class Software:
    """Writes and reads registers; the context table is a list."""

    def __init__(self, context: Any, dut: Registers) -> None:
        self.context = context
        self.dut = dut
        self.rows = [0] * dut.config.contexts

    async def tick(self) -> None:
        """Let a cycle pass, the context table doing its part."""
        bus = self.dut.context
        get, row = self.context.get, self.context.get(bus.asid)
        strobes, word, en = get(bus.strobes), get(bus.word.as_value()), get(bus.en)
        await self.context.tick()
        mask = sum(0xFF << 8 * byte for byte in range(8) if strobes >> byte & 1)
        self.rows[row] = (self.rows[row] & ~mask) | (word & mask)
        if en:
            self.context.set(bus.row, ContextLayout().from_bits(self.rows[row]))

    async def write(self, address: int, word: int, strobes: int = 0xFF) -> int:
        """Write; return the response."""
        csr = self.dut.csr
        for channel, fields in (
            ("aw", {"awaddr": address}),
            ("w", {"wdata": word, "wstrb": strobes}),
        ):
            for name, value in fields.items():
                self.context.set(getattr(csr, name), value)
            self.context.set(getattr(csr, f"{channel}valid"), 1)
            while not self.context.get(getattr(csr, f"{channel}ready")):
                await self.tick()
            await self.tick()
            self.context.set(getattr(csr, f"{channel}valid"), 0)
        self.context.set(csr.bready, 1)
        while not self.context.get(csr.bvalid):
            await self.tick()
        response = self.context.get(csr.bresp)
        await self.tick()
        self.context.set(csr.bready, 0)
        return response

    async def read(self, address: int) -> tuple[int, int]:
        """Read; return the word and the response."""
        csr = self.dut.csr
        self.context.set(csr.araddr, address)
        self.context.set(csr.arvalid, 1)
        while not self.context.get(csr.arready):
            await self.tick()
        await self.tick()
        self.context.set(csr.arvalid, 0)
        self.context.set(csr.rready, 1)
        while not self.context.get(csr.rvalid):
            await self.tick()
        word, response = self.context.get(csr.rdata), self.context.get(csr.rresp)
        await self.tick()
        self.context.set(csr.rready, 0)
        return word, response

    async def value(self, name: str, index: int = 0) -> int:
        """Read a register that exists."""
        word, response = await self.read(REGISTERS[name].at(index))
        assert response == OKAY
        return word


def run(case: Callable[[Software], Awaitable[None]], config: SecmmuConfig = CONFIG) -> None:
    dut = Registers(config)
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)

    async def testbench(context: Any) -> None:
        await case(Software(context, dut))

    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("preset", PRESETS)
def test_identity_and_features(preset: str) -> None:
    config = PRESETS[preset]

    async def case(software: Software) -> None:
        assert await software.value("identity") == 0x5ECC_0002
        features = REGISTERS["features"].unpack(await software.value("features"))
        assert features["levels"] == config.levels
        assert features["tlb_entries"] == config.tlb_entries
        assert (features["walks"], features["contexts"]) == (config.walks, config.contexts)

    run(case, config)


def test_every_register_answers_and_nothing_else_does() -> None:
    async def case(software: Software) -> None:
        known = {
            register.at(index)
            for register in REGISTERS.values()
            for index in range(CONFIG.contexts if register.name == "context" else register.count)
        }
        for address in range(0, 0x1000, 8):
            _, response = await software.read(address)
            assert response == (OKAY if address in known else SLVERR), hex(address)
        for address in (0x030, 0x7F8, context_register(CONFIG.contexts)):
            assert await software.write(address, -1 & (1 << 64) - 1) == SLVERR
        assert await software.write(REGISTERS["identity"].address, 0) == OKAY
        assert await software.value("identity") == 0x5ECC_0002

    run(case)


def test_context_rows_by_bytes() -> None:
    """A row holds what it has fields for, byte by byte."""

    async def case(software: Software) -> None:
        row = REGISTERS["context"].pack(root_ppn=0x123, global_group=7, stall=1, mode=8)
        await software.write(context_register(100), row | 7 << 56)
        assert await software.value("context", 100) == row
        assert software.rows[100] == row
        await software.write(context_register(100), 9 << 60, strobes=0x80)
        unpacked = REGISTERS["context"].unpack(await software.value("context", 100))
        assert unpacked == {"root_ppn": 0x123, "global_group": 7, "stall": 1, "mode": 9}
        assert sum(map(bool, software.rows)) == 1

    run(case)


def test_timeout_is_written_by_bytes() -> None:
    async def case(software: Software) -> None:
        await software.write(REGISTERS["mmu.timeout"].address, 0x1234_5678_9ABC_DEF0)
        assert await software.value("mmu.timeout") == 0x9ABC_DEF0
        await software.write(REGISTERS["mmu.timeout"].address, 0, strobes=0x2)
        assert software.context.get(software.dut.timeout) == 0x9ABC_00F0

    run(case)


def test_an_asid_stays_fenced_while_a_use_is_left() -> None:
    async def case(software: Software) -> None:
        context, dut = software.context, software.dut
        for asid in (3, 70):
            context.set(dut.fence, {"valid": 1, "asid": asid})
            await software.tick()
        context.set(dut.fence.valid, 0)
        assert await software.value("mmu.fenced", 0) == 1 << 3
        assert await software.value("mmu.fenced", 1) == 1 << 6
        assert await software.value("mmu.fenced", 2) == 0
        unfence = REGISTERS["mmu.unfence"].address
        context.set(dut.left, 1)
        assert await software.write(unfence, 70) == SLVERR
        assert context.get(dut.unfence) == 70
        assert await software.value("mmu.fenced", 1) == 1 << 6
        context.set(dut.left, 0)
        # No such asid; its low bits would name one.
        assert await software.write(unfence, 128 + 70) == SLVERR
        assert await software.write(unfence, 70, strobes=0xFE) == OKAY
        assert await software.value("mmu.fenced", 1) == 1 << 6
        assert await software.write(unfence, 70) == OKAY
        assert await software.value("mmu.fenced", 1) == 0
        assert await software.value("mmu.fenced", 0) == 1 << 3
        assert await software.value("mmu.unfence") == 0

    run(case)


def test_soft_reset_waits_for_quiet() -> None:
    async def case(software: Software) -> None:
        context, dut = software.context, software.dut
        await software.write(REGISTERS["control"].address, 0)
        assert not context.get(dut.stop)
        await software.write(REGISTERS["control"].address, 1)
        assert await software.value("control") == 1
        assert not context.get(dut.clear)
        context.set(dut.quiet, 1)
        await software.tick()
        assert context.get(dut.clear)
        await software.tick()
        assert not context.get(dut.clear)
        assert await software.value("control") == 0
        assert await software.value("status") == 1

    run(case)


def test_counters_and_histograms_count_what_they_are_told() -> None:
    """Each counter counts its own event alone, each histogram its own latency."""

    async def case(software: Software) -> None:
        context, dut = software.context, software.dut
        for position, name in enumerate(COUNTERS):
            field = name.removeprefix("mmu.").replace(".", "_")
            context.set(dut.events[field], 1)
            for _ in range(position + 1):
                await software.tick()
            context.set(dut.events[field], 0)
        for position, name in enumerate(COUNTERS):
            assert await software.value(name) == position + 1, name
        for position, name in enumerate(HISTOGRAMS):
            field = name.rpartition(".")[2]
            began = context.get(dut.now) - (1 << position + 2)
            context.set(dut.latencies[field], {"valid": 1, "began": began & (1 << 20) - 1})
            await software.tick()
            context.set(dut.latencies[field].valid, 0)
        for position, name in enumerate(HISTOGRAMS):
            counts = [await software.value(name, bucket) for bucket in range(16)]
            assert counts == [int(bucket == position + 2) for bucket in range(16)]

    run(case)


def test_busy_until_answered() -> None:
    """The emulator skips no cycle that a register access, or the clearing after a reset, needs."""

    async def case(software: Software) -> None:
        context, dut = software.context, software.dut

        async def settle() -> None:
            for _ in range(3 * (len(COUNTERS) + BUCKETS * (len(HISTOGRAMS) + 1))):
                await software.tick()
            assert not context.get(dut.busy)

        assert context.get(dut.busy)
        await settle()
        await software.read(REGISTERS["mmu.walks"].address)
        await settle()
        context.set(dut.csr.araddr, 0)
        context.set(dut.csr.arvalid, 1)
        await software.tick()
        context.set(dut.csr.arvalid, 0)
        for _ in range(20):
            assert context.get(dut.busy)
            await software.tick()

    run(case)
