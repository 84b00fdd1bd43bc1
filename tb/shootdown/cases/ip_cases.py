"""The MMU as a block for other systems, driven through its ports by cocotbext-axi alone."""

import random
import warnings
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import Combine, RisingEdge, with_timeout

from secmmu.csr import REGISTERS, context_register
from secmmu.layouts import (
    Cause,
    CommandKind,
    CommandLayout,
    CompletionLayout,
    DropinLayout,
    DroppedLayout,
    FaultLayout,
    Phase,
    PteLayout,
    ResumeLayout,
)

with warnings.catch_warnings():
    # Written for cocotb 1: it warns while it is imported, and when its agents start.
    warnings.filterwarnings(
        "ignore", category=DeprecationWarning, module=r"cocotbext\.axi|cocotb_bus"
    )
    from cocotbext.axi import (
        AxiBus,
        AxiLiteBus,
        AxiLiteMaster,
        AxiMaster,
        AxiRam,
        AxiRamRead,
        AxiReadBus,
        AxiResp,
        AxiStreamBus,
        AxiStreamFrame,
        AxiStreamSink,
        AxiStreamSource,
    )

ROOT, MIDDLE, LEAVES = 0x100, 0x101, 0x102
FRAME = 0x4000
PAGES = 8
BASE = 0x10_0000_0000
PAGE = 4096
RAM_BYTES = 1 << 27
LEAF = {"v": 1, "r": 1, "w": 1, "u": 1, "a": 1, "d": 1}
_LIMIT_US = 200


class System:
    """A small system: a device, a memory shared with the walker, a processor with registers and streams."""

    def __init__(self, dut: Any, name: str) -> None:
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"cocotbext\.axi")
        self.dut = dut
        self.random = random.Random(f"{cocotb.RANDOM_SEED}:{name}")
        clock = {"clock": dut.aclk, "reset": dut.aresetn, "reset_active_level": False}
        self.device = AxiMaster(AxiBus.from_prefix(dut, "s_axi"), **clock)
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), size=RAM_BYTES, **clock)
        walk = AxiReadBus.from_prefix(dut, "m_axi_walk")
        self.tables = AxiRamRead(walk, mem=self.ram.mem, **clock)
        self.registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), **clock)
        self.sources = {
            name: AxiStreamSource(AxiStreamBus.from_prefix(dut, f"s_axis_{name}"), **clock)
            for name in ("command", "dropin", "resume")
        }
        self.sinks = {
            name: AxiStreamSink(AxiStreamBus.from_prefix(dut, f"m_axis_{name}"), **clock)
            for name in ("invalidated", "drained", "dropped", "fault")
        }

    async def start(self) -> None:
        """Reset, and map the pages in reverse order of their frames."""
        Clock(self.dut.aclk, 10, unit="ns").start()
        self.dut.aresetn.value = 0
        for _ in range(4):
            await RisingEdge(self.dut.aclk)
        self.dut.aresetn.value = 1
        await RisingEdge(self.dut.aclk)
        self.put(ROOT, BASE >> 30 & 511, ppn=MIDDLE, v=1)
        self.put(MIDDLE, BASE >> 21 & 511, ppn=LEAVES, v=1)
        for page in range(PAGES):
            self.map(page)
        await self.context(stall=0)

    async def context(self, **fields: int) -> None:
        """Write the context row of asid 1."""
        row = REGISTERS["context"].pack(root_ppn=ROOT, global_group=1, mode=8, **fields)
        await self.registers.write_qword(context_register(1), row)

    def put(self, table: int, index: int, **fields: int) -> None:
        """Write a page-table entry."""
        pte = PteLayout().const(fields).as_bits()
        self.ram.write_qword(table * PAGE + 8 * index, pte)

    def map(self, page: int, **fields: int) -> None:
        """Map a page to its frame."""
        self.put(LEAVES, page, ppn=frame(page), **(LEAF | fields))

    async def send(self, name: str, layout: Any, **fields: Any) -> None:
        """Send one word on a stream."""
        bits = layout.const(fields).as_bits()
        width = len(self.sources[name].bus.tdata)
        await self.sources[name].send(AxiStreamFrame(bits.to_bytes(width // 8, "little")))

    async def receive(self, name: str, layout: Any) -> Any:
        """Receive one word from a stream, unpacked."""
        frame = await with_timeout(self.sinks[name].recv(), _LIMIT_US, "us")
        return layout.from_bits(int.from_bytes(frame.tdata, "little") & (1 << layout.size) - 1)

    async def count(self, name: str) -> int:
        """Read a counter."""
        return int(await self.registers.read_qword(REGISTERS[name].address))


def frame(page: int) -> int:
    """Give the frame of a page."""
    return FRAME + 2 * (PAGES - page)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def bytes_go_where_the_tables_say(dut: Any) -> None:
    """Transfers of any length and alignment, many at once; counters agree."""
    system = System(dut, "bytes")
    await system.start()
    blobs = [system.random.randbytes(system.random.randrange(1, PAGE)) for _ in range(PAGES)]

    async def store(page: int) -> None:
        await system.device.write(BASE + page * PAGE, blobs[page], awid=page % 4, user=1)

    await Combine(*(cocotb.start_soon(store(page)) for page in range(PAGES)))
    for page, blob in enumerate(blobs):
        assert system.ram.read(frame(page) * PAGE, len(blob)) == blob, f"page {page} lies elsewhere"
        read = await system.device.read(BASE + page * PAGE, len(blob), arid=page % 4, user=1)
        assert (bytes(read.data), read.resp) == (blob, AxiResp.OKAY)
    reads, hits = await system.count("mmu.accesses.reads"), await system.count("mmu.tlb.hits")
    misses = await system.count("mmu.tlb.misses")
    writes = await system.count("mmu.accesses.writes")
    assert reads >= PAGES
    assert hits + misses == reads + writes
    assert misses >= PAGES
    assert await system.count("mmu.faults") == 0


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def an_invalidation_takes_effect(dut: Any) -> None:
    """The PTE changes, the old frame is served until the command, and never after its answers."""
    system = System(dut, "invalidation")
    await system.start()
    system.ram.write_qword(frame(0) * PAGE, 0x01D)
    system.ram.write_qword(frame(1) * PAGE, 0x9E3)
    assert await system.device.read_qword(BASE, user=1) == 0x01D
    system.put(LEAVES, 0, ppn=frame(1), **LEAF)
    assert await system.device.read_qword(BASE, user=1) == 0x01D
    command = {"kind": CommandKind.PAGE, "asid": 1, "first": BASE >> 12, "last": BASE >> 12}
    await system.send("command", CommandLayout(), tag=0x5A, **command)
    invalidated = await system.receive("invalidated", CompletionLayout())
    drained = await system.receive("drained", CompletionLayout())
    assert (invalidated.tag, invalidated.phase) == (0x5A, Phase.INVALIDATED)
    assert (drained.tag, drained.phase) == (0x5A, Phase.DRAINED)
    assert await system.device.read_qword(BASE, user=1) == 0x9E3
    assert await system.count("mmu.commands.page") == 1
    assert await system.count("mmu.drains") == 1


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def faults_are_reported_stalled_and_resumed(dut: Any) -> None:
    """SLVERR with a report; with the row's stall bit the access waits, and goes on when it is resumed."""
    system = System(dut, "faults")
    await system.start()
    system.map(2, v=0)
    refused = await system.device.read(BASE + 2 * PAGE, 8, user=1)
    assert refused.resp == AxiResp.SLVERR
    fault = await system.receive("fault", FaultLayout())
    assert (fault.va, fault.asid, fault.cause) == (BASE + 2 * PAGE, 1, Cause.LOAD_PAGE)
    assert not fault.stalled
    await system.context(stall=1)
    system.ram.write_qword(frame(2) * PAGE, 0x60)
    waiting = cocotb.start_soon(system.device.read(BASE + 2 * PAGE, 8, user=1))
    fault = await system.receive("fault", FaultLayout())
    assert fault.stalled
    system.map(2)
    await system.send("resume", ResumeLayout(), place=fault.place, retry=1)
    answer = await with_timeout(waiting, _LIMIT_US, "us")
    assert (int.from_bytes(answer.data, "little"), answer.resp) == (0x60, AxiResp.OKAY)
    assert await system.count("mmu.faults.load_page") == 2
    assert await system.count("mmu.faults.stalled") == 1


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_dropped_in_entry_is_used_and_an_old_one_refused(dut: Any) -> None:
    """The epoch of a miss before an overlapping command is too old."""
    system = System(dut, "drop-in")
    await system.start()
    page = BASE + 20 * PAGE
    pte = LEAF | {"ppn": frame(3)}
    fields = {"asid": 1, "grain": 0, "vpn": page >> 12, "pte": pte}
    system.ram.write_qword(frame(3) * PAGE, 0xD)
    await system.send("dropin", DropinLayout(), tag=3, epoch=0, **fields)
    answer = await system.receive("dropped", DroppedLayout())
    assert (answer.tag, answer.taken) == (3, 1)
    assert await system.device.read_qword(page, user=1) == 0xD
    await system.send("command", CommandLayout(), kind=CommandKind.ASID, asid=1, tag=1)
    await system.receive("drained", CompletionLayout())
    await system.send("dropin", DropinLayout(), tag=4, epoch=0, **fields)
    answer = await system.receive("dropped", DroppedLayout())
    assert (answer.tag, answer.taken) == (4, 0)
    assert (await system.device.read(page, 8, user=1)).resp == AxiResp.SLVERR
    assert await system.count("mmu.dropins.taken") == 1
    assert await system.count("mmu.dropins.refused") == 1
