"""Translation of the secondary MMU against the privileged specification."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import cocotb

from secmmu.layouts import CommandKind
from shootdown.agents.device import Access
from shootdown.agents.translation import PAGE, USER_RO, USER_RW, A, D, G, R, U, V, X, leaf, pointer
from shootdown.cases.mmu_bench import Bench
from shootdown.vectors import load_vectors

VECTORS_VARIABLE = "SHOOTDOWN_VECTORS"

GIB = 1 << 30
MIB2 = 2 << 20
BASE = 0x10_0000_0000
HIGH = 0xFFFF_FFE0_0000_0000
"""A canonical address of the upper half: its sign bits are part of every VPN."""

FAULTY_LEAVES = {
    "not valid": leaf(0x5000, USER_RW & ~V),
    "write without read": leaf(0x5000, USER_RW & ~R),
    "execute only": leaf(0x5000, V | X | U | A | D),
    "supervisor": leaf(0x5000, USER_RW & ~U),
    "not accessed": leaf(0x5000, USER_RW & ~A),
    **{f"reserved bit {bit}": leaf(0x5000) | 1 << bit for bit in range(54, 64)},
    "pointer at the last level": pointer(0x5000),
}
STORE_FAULTS = {"read only": leaf(0x5000, USER_RO), "clean": leaf(0x5000, USER_RW & ~D)}
SET_UNDER_SVADU = ("not accessed", "clean")
"""Faults of these only where the walker does not set A and D."""
FAULTY_POINTERS = {
    "zero": 0,
    **{f"pointer with bit {bit}": pointer(0x5000) | 1 << bit for bit in (4, 6, 7, *range(54, 64))},
    "misaligned leaf": leaf(0x5001),
}


def answer_outside(code: int, address: int) -> int:
    """Refuse reads from frame 0x8000 on with ``code``."""
    return 0 if address >> 12 < 0x8000 else code


async def refused(
    bench: Bench, asid: int, va: int, cause: int, what: str, *, write: bool = False
) -> None:
    """Insist on SLVERR and a report with ``cause``."""
    seen = len(bench.control.faults)
    access = await (bench.store(asid, va, 1) if write else bench.load(asid, va))
    assert access.responses == [2], f"{what}: {access} was answered {access.responses}"
    await bench.until(lambda: len(bench.control.faults) > seen, f"{what}: the fault report")
    fault = bench.control.faults[-1]
    got = (fault.va, fault.asid, fault.id, fault.write, fault.cause)
    assert got == (va, asid, 0, int(write), cause), f"{what}: reported as {got}"


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_page_size_translates(dut: Any) -> None:
    """4 KiB, 2 MiB and 1 GiB leaves, at both ends of their spans, in both halves, reads and writes."""
    bench = await Bench(dut, "sizes").start()
    root = await bench.context(1)
    for base in (BASE, HIGH):
        bench.map(root, base, 0x5000)
        bench.map(root, base + MIB2, 0x20_0200, level=1)
        bench.map(root, base + 2 * GIB, 0x4_0000 * (3 if base == BASE else 5), level=2)
        for start, bytes_ in ((base, PAGE), (base + MIB2, MIB2), (base + 2 * GIB, GIB)):
            for va in (start, start + bytes_ - 8, start + bytes_ // 2 + 0x238):
                await bench.store(1, va, va ^ 0x1234)
                access = await bench.load(1, va)
                assert access.words == [va ^ 0x1234], f"{access} got {access.words}"
    await bench.finish()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def hits_walk_once(dut: Any) -> None:
    """A page is walked once, a superpage once for all its pages; the counters say so."""
    bench = await Bench(dut, "hits").start()
    root = await bench.context(2)
    bench.map(root, BASE, 0x5000)
    bench.map(root, BASE + MIB2, 0x20_0200, level=1)
    for _ in range(5):
        await bench.load(2, BASE + 8)
        await bench.store(2, BASE + 16, 7)
    for page in (0, 1, 17, 511):
        await bench.load(2, BASE + MIB2 + page * PAGE)
    names = (
        "accesses.reads",
        "accesses.writes",
        "tlb.hits",
        "tlb.misses",
        "walks",
        "walks.killed",
        "faults",
    )
    counted = [await bench.counter(f"mmu.{name}") for name in names]
    assert counted == [9, 5, 12, 2, 2, 0, 0], f"counters {dict(zip(names, counted, strict=True))}"
    # The second walk begins with the tables that the walk cache has of the first.
    assert len(bench.walk_port.bursts) == 4, (
        f"{len(bench.walk_port.bursts)} page-table reads, not 3 + 1"
    )
    await bench.finish()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def identity_and_status_read(dut: Any) -> None:
    """The registers that software finds the IP by."""
    bench = await Bench(dut, "identity").start()
    assert await bench.counter("identity") & 0xFFFF_FFFF == 0x5ECC_0002
    await bench.until(lambda: bench.pins["idle"], "idle after reset")
    assert await bench.counter("status") == 1
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def faulty_entries_are_refused(dut: Any) -> None:
    """Each way in which a PTE is bad: a page fault of the right cause, and no memory access."""
    bench = await Bench(dut, "faults").start()
    root = await bench.context(1)
    leaves = {**FAULTY_LEAVES, **STORE_FAULTS}
    for name in SET_UNDER_SVADU if bench.config.svadu else ():
        del leaves[name]
    page = 0
    for name, pte in leaves.items():
        page += 1
        va = BASE + page * PAGE
        bench.write_word(bench.tables.slot(root, va), pte)
        if name in STORE_FAULTS:
            assert not (await bench.load(1, va)).refused, name
        else:
            await refused(bench, 1, va, 13, name)
        await refused(bench, 1, va, 15, name, write=True)
    for level in (1, 2):
        for name, pte in FAULTY_POINTERS.items():
            page += 1
            va = (BASE if level == 1 else 0) + page * (MIB2 if level == 1 else GIB)
            bench.write_word(bench.tables.slot(root, va, level), pte)
            await refused(bench, 1, va, 13, f"{name} at level {level}")
            await refused(bench, 1, va, 15, f"{name} at level {level}", write=True)
    assert len(bench.memory_port.bursts) == len(STORE_FAULTS.keys() & leaves), (
        "a refused access reached the memory"
    )
    await bench.finish()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def addresses_that_are_not_canonical_are_refused(dut: Any) -> None:
    """Bits 63 to 39 must equal bit 38, hit or miss."""
    bench = await Bench(dut, "canonical").start()
    root = await bench.context(1)
    for va in (BASE, HIGH):
        bench.map(root, va, 0x5000)
        await bench.load(1, va)
        for bit in (39, 40, 51, 62, 63):
            await refused(bench, 1, va ^ 1 << bit, 13, f"bit {bit}")
            await refused(bench, 1, va ^ 1 << bit, 15, f"bit {bit}", write=True)
        await refused(bench, 1, va ^ 1 << 38, 13, "bit 38 alone")
    await bench.finish()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def missing_tables_are_access_faults(dut: Any) -> None:
    """A page-table read that the bus refuses, at each level and with each code; a context of mode 0."""
    bench = await Bench(dut, "bus").start()
    await refused(bench, 1, BASE, 5, "mode 0")
    await refused(bench, 1, BASE, 7, "mode 0", write=True)
    for code in (2, 3):
        bench.walk.response = partial(answer_outside, code)
        bench.memory.exists = lambda address: address >> 60 == 1 or address >> 12 < 0x8000
        root = await bench.context(1, 0x8000 + code)
        await bench.drained(bench.send(CommandKind.ASID, 1))
        await refused(bench, 1, BASE, 5, "root outside")
        root = await bench.context(1)
        await bench.drained(bench.send(CommandKind.ASID, 1))
        for level in (2, 1):
            va = BASE + level * 2 * GIB
            bench.write_word(bench.tables.slot(root, va, level), pointer(0x9000))
            await refused(bench, 1, va, 5, f"level {level - 1} outside")
            await refused(bench, 1, va, 7, f"level {level - 1} outside", write=True)
    await bench.finish()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def address_spaces_are_apart(dut: Any) -> None:
    """The same address in every address space leads to frames of its own, hit or miss."""
    bench = await Bench(dut, "apart").start()
    for asid in range(bench.config.contexts):
        bench.map(await bench.context(asid, group=1), BASE, 0x6000 + asid)
    for _ in range(3):
        for asid in range(bench.config.contexts):
            bench.expect_word(await bench.load(asid, BASE), 0x6000 + asid)
    await bench.finish()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def globals_are_shared_inside_their_group_only(dut: Any) -> None:
    """A global page filled by one asid serves the others of its group, and no asid of another group."""
    bench = await Bench(dut, "globals").start()
    roots = [await bench.context(asid, group=(9, 9, 7)[asid]) for asid in range(3)]
    for asid, root in enumerate(roots):
        bench.map(root, BASE, 0x6000 if asid < 2 else 0x7000, USER_RW | G)
    bench.expect_word(await bench.load(0, BASE), 0x6000)
    walks = await bench.counter("mmu.walks")
    bench.expect_word(await bench.load(1, BASE), 0x6000)
    assert await bench.counter("mmu.walks") == walks, (
        "a global page was walked again inside its group"
    )
    bench.expect_word(await bench.load(2, BASE), 0x7000)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_new_context_row_holds_after_its_invalidation(dut: Any) -> None:
    """Software changes a live row, invalidates the asid, and sees the new tables alone."""
    bench = await Bench(dut, "row").start()
    for turn in range(4):
        root = await bench.context(1)
        bench.map(root, BASE, 0x6000 + turn)
        bench.map(root, BASE + MIB2, 0x20_0000 + turn * 512, level=1)
        await bench.drained(bench.send(CommandKind.ASID, 1))
        bench.expect_word(await bench.load(1, BASE), 0x6000 + turn)
        bench.expect_word(await bench.load(1, BASE + MIB2 + 5 * PAGE), 0x20_0005 + turn * 512)
    await bench.finish()


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def random_tables_agree_with_the_model(dut: Any) -> None:
    """Random leaves of all sizes, random damage, more pages than the TLB holds; the scoreboard knows each answer."""
    bench = await Bench(dut, "random tables").start()
    rng = bench.rng
    asids = range(bench.config.contexts)
    places: list[tuple[int, int]] = []
    for asid in asids:
        root = await bench.context(asid, group=rng.choice((1, asid)))
        for _ in range(24):
            level = rng.choice((0, 0, 0, 1, 2))
            region = rng.choice((0, HIGH)) + (level + 1) * 4 * GIB
            va = region + rng.randrange(12) * PAGE * 512**level
            bits = USER_RW if rng.random() < 0.7 else rng.randrange(256) | V
            pte = leaf(rng.randrange(1 << 20) << 9 * level & (1 << 44) - 1 | 1 << 30, bits & ~G)
            pte |= rng.random() < 0.15 and 1 << rng.randrange(10, 64)
            bench.write_word(bench.tables.slot(root, va, level), pte)
            places.append((asid, va + rng.randrange(512**level) * PAGE))
    for _ in range(12):
        batch: list[Access] = []
        for _ in range(24):
            asid, va = (
                rng.choice(places)
                if rng.random() < 0.9
                else (rng.choice(asids), rng.randrange(1 << 64))
            )
            options = {"id": rng.randrange(1 << bench.config.id_bits)}
            va = va & -PAGE | rng.randrange(512) * 8
            write = rng.random() < 0.4
            batch.append(
                bench.device.write(asid, va, 5, **options)
                if write
                else bench.device.read(asid, va, **options)
            )
        await bench.done(*batch, cycles=10_000)
    assert any(use.memory for use in bench.scoreboard.uses)
    assert bench.control.faults
    await bench.finish()


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def vectors_of_an_independent_model_agree(dut: Any) -> None:
    """Every access goes where it must, or is refused for the right reason; of the image the right words change."""
    bench = await Bench(dut, "vectors").start()
    name = f"sv39-{'svadu' if bench.config.svadu else 'svade'}"
    vectors = load_vectors(Path(os.environ[VECTORS_VARIABLE]), name)
    bench.memory.initial = lambda address: vectors.words.get(address, 0)
    bench.memory.exists = lambda address: address >> 60 == 1 or address < vectors.image_bytes
    await bench.context(1, vectors.accesses[0].root_ppn)
    for vector in vectors.accesses:
        begun, faults = len(bench.memory_port.bursts), len(bench.control.faults)
        if vector.write:
            # No strobes: a leaf may point into the image, whose tables must stay as they are.
            await bench.store(1, vector.va, [], data=[(0, 0)])
        else:
            await bench.load(1, vector.va)
        await bench.tick()
        addresses = [burst.addr for burst in bench.memory_port.bursts[begun:]]
        causes = [fault.cause for fault in bench.control.faults[faults:]]
        expected = ([vector.pa], []) if vector.cause is None else ([], [vector.cause])
        assert (addresses, causes) == expected, f"{vector}: went to {addresses}, reported {causes}"
    changed = {at: bench.memory.read(at) for at in vectors.words}
    assert {
        at: word for at, word in changed.items() if word != vectors.words[at]
    } == vectors.changed
    await bench.finish()
