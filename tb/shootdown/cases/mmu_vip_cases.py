"""The secondary MMU between the AXI agents of cocotbext-axi, an implementation that shares no code with this bench."""

import warnings
from functools import partial
from typing import Any

import cocotb
from cocotb.triggers import Combine

from shootdown.agents.translation import PAGE
from shootdown.cases.mmu_bench import Bench

with warnings.catch_warnings():
    # Written for cocotb 1: it warns while it is imported, and when its agents start (see quiet below).
    warnings.filterwarnings(
        "ignore", category=DeprecationWarning, module=r"cocotbext\.axi|cocotb_bus"
    )
    from cocotbext.axi import AxiBus, AxiMaster, AxiRam, AxiResp

BASE = 0x10_0000_0000
FRAME = 0x4000
PAGES = 8
RAM_BYTES = 1 << 27
"""The RAM of cocotbext-axi wraps addresses at its size: frames below 0x8000 are apart in it."""


def quiet() -> None:
    """Silence cocotbext-axi's own deprecation warnings, and no others."""
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"cocotbext\.axi")


async def prepared(bench: Bench) -> None:
    """Map the pages in reverse order of their frames."""
    root = await bench.context(1)
    for page in range(PAGES):
        bench.map(root, BASE + page * PAGE, FRAME + 2 * (PAGES - page))


def frame(page: int) -> int:
    """Give the frame of a page."""
    return FRAME + 2 * (PAGES - page)


def pump(bench: Bench) -> Any:
    """Run the bench's clock loop beside the agents of cocotbext-axi."""

    async def forever() -> None:
        while True:
            await bench.tick()

    return cocotb.start_soon(forever())


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def their_ram_behind_our_device(dut: Any) -> None:
    """Our device writes and reads through the MMU; the bytes lie in their RAM where the tables say."""
    quiet()
    bench = Bench(dut, "their ram", own_memory=False)
    await bench.start()
    ram = AxiRam(AxiBus.from_prefix(dut, "memory_"), dut.clk, dut.rst, size=RAM_BYTES)
    await prepared(bench)
    for page in range(PAGES):
        words = [bench.rng.getrandbits(64) for _ in range(16)]
        await bench.store(1, BASE + page * PAGE + 0x80, words, id=page % 4)
        stored = ram.read(frame(page) * PAGE + 0x80, 128)
        assert stored == b"".join(word.to_bytes(8, "little") for word in words), f"page {page}"
        access = await bench.load(1, BASE + page * PAGE + 0x80, beats=16, id=page % 4)
        assert access.words == words, f"page {page}: read back {access.words}"
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def their_master_before_our_memory(dut: Any) -> None:
    """Their master moves bytes of any length and alignment; translation is seen in our memory."""
    quiet()
    bench = Bench(dut, "their master", own_device=False)
    await bench.start()
    master = AxiMaster(AxiBus.from_prefix(dut, "device_"), dut.clk, dut.rst)
    await prepared(bench)
    loop = pump(bench)
    bench.data.latency = 3
    for page in range(PAGES):
        start, length = bench.rng.randrange(1024), bench.rng.randrange(1, 600)
        blob = bench.rng.randbytes(length)
        written = await master.write(BASE + page * PAGE + start, blob, awid=page % 4, user=1)
        assert written.resp == AxiResp.OKAY
        read = await master.read(BASE + page * PAGE + start, length, arid=page % 4, user=1)
        assert read.resp == AxiResp.OKAY, f"page {page}"
        assert bytes(read.data) == blob, f"page {page}"
        word = bench.memory.read(frame(page) * PAGE + (start + 7 & ~7))
        if length >= 16:
            at = (start + 7 & ~7) - start
            assert word == int.from_bytes(blob[at : at + 8], "little"), (
                f"page {page} lies elsewhere"
            )
    refused = await master.read(BASE + PAGES * PAGE, 8, user=1)
    assert refused.resp == AxiResp.SLVERR
    refused = await master.write(BASE + PAGES * PAGE, bytes(64), user=1)
    assert refused.resp == AxiResp.SLVERR
    loop.cancel()
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def their_agents_on_both_sides(dut: Any) -> None:
    """Many of their transfers at once, with an invalidation of every page in between; contents stay right."""
    quiet()
    bench = Bench(dut, "both", own_device=False, own_memory=False)
    await bench.start()
    ram = AxiRam(AxiBus.from_prefix(dut, "memory_"), dut.clk, dut.rst, size=RAM_BYTES)
    master = AxiMaster(AxiBus.from_prefix(dut, "device_"), dut.clk, dut.rst)
    await prepared(bench)
    loop = pump(bench)
    blobs = [bench.rng.randbytes(PAGE) for _ in range(PAGES)]

    async def fill(page: int) -> None:
        await master.write(BASE + page * PAGE, blobs[page], awid=page % 4, user=1)

    tasks = [cocotb.start_soon(fill(page)) for page in range(PAGES)]
    for page in range(PAGES):
        bench.after(30 + 25 * page, partial(bench.page, 1, BASE + page * PAGE))
    await Combine(*tasks)
    for page in range(PAGES):
        assert ram.read(frame(page) * PAGE, PAGE) == blobs[page], f"page {page} lies elsewhere"
        read = await master.read(BASE + page * PAGE, PAGE, user=1)
        assert bytes(read.data) == blobs[page], f"page {page} reads back wrong"
    loop.cancel()
    await bench.finish()
