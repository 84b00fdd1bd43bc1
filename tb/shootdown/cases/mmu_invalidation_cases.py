"""What an invalidation of the secondary MMU kills, spares and waits for."""

from typing import Any

import cocotb
from cocotb import parametrize

from secmmu.layouts import CommandKind
from shootdown.agents.device import Access
from shootdown.agents.pins import always, never
from shootdown.agents.translation import PAGE, USER_RO, USER_RW, G, leaf, pointer
from shootdown.cases.mmu_bench import Bench, reached
from shootdown.cases.mmu_mapped import BASE, BIG, GIB, KINDS, MIDDLE, Mapped, stalled


@cocotb.test(timeout_time=2, timeout_unit="ms")
@parametrize(kind=KINDS)
async def kills_what_it_names(dut: Any, kind: str) -> None:
    """After DRAINED the new PTE is seen, for a 4 KiB, a 2 MiB and a 1 GiB entry; also with leaf_only set."""
    mapped = await Mapped.start(dut, f"kills {kind}")
    bench = mapped.bench
    for turn, leaf_only in enumerate((False, True)):
        for va, far, step in ((BASE + PAGE, 0, 1), (MIDDLE, 300, 512), (BIG, 200_000, 1 << 18)):
            await bench.load(1, va + far * PAGE)
            ppn = 0x80_0000 + turn * 0x40_0000 + step
            ppn = ppn // step * step
            mapped.change(1, va, ppn)
            await bench.drained(
                mapped.command(kind, 1, va + (far // 3) * PAGE, leaf_only=leaf_only)
            )
            bench.expect_word(await bench.load(1, va + far * PAGE), ppn + far)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def spares_what_it_does_not_name(dut: Any) -> None:
    """PAGE, RANGE and ASID leave other pages and other address spaces in the TLB."""
    mapped = await Mapped.start(dut, "spares")
    bench = mapped.bench
    await bench.load(1, BASE)
    await bench.load(2, BASE + PAGE)
    for command in (
        ("PAGE", 1, BASE + 2 * PAGE),
        ("PAGE", 2, BASE),
        ("PAGE", 1, BASE + PAGE),
        ("RANGE", 1, BASE + 3 * PAGE),
        ("RANGE", 2, BASE + 6 * PAGE),
        ("PAGE", 3, BASE),
        ("ASID", 3, BASE),
    ):
        await bench.drained(mapped.command(*command))
        walks = await mapped.walks()
        await bench.load(1, BASE)
        await bench.load(2, BASE + PAGE)
        assert await mapped.walks() == walks, f"{command} lost an entry it does not name"
    await bench.drained(mapped.command("ASID", 2, 0))
    await bench.load(1, BASE)
    assert await mapped.walks() == walks, "ASID 2 lost an entry of asid 1"
    await bench.load(2, BASE + PAGE)
    assert await mapped.walks() == walks + 1, "ASID 2 left an entry of asid 2"
    await bench.finish()


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def whole_spans_are_compared(dut: Any) -> None:
    """A 4 KiB command anywhere in a 2 MiB or 1 GiB entry kills it; ranges kill whatever they touch, from either end."""
    mapped = await Mapped.start(dut, "spans")
    bench = mapped.bench
    ppn = 0x80_0000
    for va, pages in ((MIDDLE, 512), (BIG, 512 * 512)):
        first, last = va >> 12, (va >> 12) + pages - 1
        spans = [
            (CommandKind.PAGE, at, at) for at in (first, first + 1, first + pages // 2 + 1, last)
        ]
        spans += [
            (CommandKind.RANGE, first - 4, first),
            (CommandKind.RANGE, last, last + 9),
            (CommandKind.RANGE, first + 3, first + 5),
            (CommandKind.RANGE, first - 1, last + 1),
            (CommandKind.RANGE, 0, (1 << 52) - 1),
        ]
        for kind, start, end in spans:
            where = va + bench.rng.randrange(pages) * PAGE
            await bench.load(1, where)
            ppn += 512 * 512
            mapped.change(1, va, ppn)
            await bench.drained(bench.send(kind, 1, start, end))
            bench.expect_word(await bench.load(1, where), ppn + (where - va) // PAGE)
        for start, end in ((first - 9, first - 1), (last + 1, last + 9)):
            await bench.load(1, va)
            walks = await mapped.walks()
            await bench.drained(bench.send(CommandKind.RANGE, 1, start, end))
            await bench.load(1, va)
            assert await mapped.walks() == walks, (
                f"range {start:#x}..{end:#x} lost the entry beside it"
            )
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def ranges_are_inclusive_and_spare_their_neighbours(dut: Any) -> None:
    """Of eight cached pages a range kills first to last, no more and no less."""
    mapped = await Mapped.start(dut, "ranges")
    bench = mapped.bench
    pages = range(bench.config.tlb_sets if bench.config.tlb_sets < 8 else 8)
    for first, last in ((0, 0), (1, 2), (0, pages[-1]), (pages[-1], pages[-1] + 5), (2, 2)):
        for page in pages:
            await bench.load(1, BASE + page * PAGE)
        await bench.drained(
            bench.send(CommandKind.RANGE, 1, (BASE >> 12) + first, (BASE >> 12) + last)
        )
        for page in pages:
            walks = await mapped.walks()
            await bench.load(1, BASE + page * PAGE)
            walked = await mapped.walks() - walks
            assert walked == (first <= page <= last), (
                f"range {first}..{last}: page {page} was walked {walked} times"
            )
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_global_entry_dies_for_every_asid_of_its_group(dut: Any) -> None:
    """A command that names one asid also kills the global entry that another asid of the group had filled."""
    bench = await Bench(dut, "global kill").start()
    root = await bench.context(1, group=9)
    await bench.context(2, root, group=9)
    slot = bench.map(root, BASE, 0x5000, USER_RW | G)
    for turn, kind in enumerate(
        (CommandKind.PAGE, CommandKind.RANGE, CommandKind.ASID, CommandKind.ALL)
    ):
        bench.expect_word(await bench.load(1, BASE), 0x5000 + turn)
        bench.expect_word(await bench.load(2, BASE), 0x5000 + turn)
        bench.write_word(slot, leaf(0x5001 + turn, USER_RW | G))
        await bench.drained(bench.send(kind, 2, BASE >> 12))
        bench.expect_word(await bench.load(2, BASE), 0x5001 + turn)
        await bench.drained(bench.send(kind, 1, BASE >> 12))
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
@parametrize(kind=KINDS, write=[False, True])
async def drained_waits_for_the_last_beat(dut: Any, kind: str, write: bool) -> None:
    """INVALIDATED comes while a use is in flight, DRAINED only after its last R beat or B."""
    mapped = await Mapped.start(dut, f"drain {kind} {write}")
    bench = mapped.bench
    await bench.load(1, BASE)
    resume = stalled(bench)
    data = [(beat, 0xFF) for beat in range(4)]
    access = (
        bench.device.write(1, BASE, [], data=data) if write else bench.device.read(1, BASE, beats=4)
    )
    await bench.until(lambda: bench.memory_port.outstanding, "the use")
    mapped.change(1, BASE, 0x6000)
    command = mapped.command(kind, 1, BASE)
    await bench.until(lambda: command.invalidated is not None, "INVALIDATED with a use in flight")
    await bench.tick(60)
    assert command.drained is None, (
        f"drained early: {command} in cycle {command.drained} before {access} ended"
    )
    resume()
    await bench.drained(command)
    late = reached(command.drained) - reached(bench.memory_port.bursts[-1].end)
    assert late >= 0, f"drained early: {-late} cycles before the last beat"
    assert late <= 8, f"DRAINED came {late} cycles after the last use"
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def drained_does_not_wait_for_other_pages(dut: Any) -> None:
    """Uses of other pages, other address spaces and accesses after INVALIDATED do not delay DRAINED."""
    mapped = await Mapped.start(dut, "no wait")
    bench = mapped.bench
    for asid, va in ((1, BASE), (1, BASE + PAGE), (2, BASE), (1, MIDDLE)):
        await bench.load(asid, va)
    resume = stalled(bench)
    waiting = [
        bench.device.read(1, BASE, id=0),
        bench.device.read(2, BASE, id=1),
        bench.device.read(1, MIDDLE, id=2),
    ]
    waiting.append(bench.device.write(1, BASE, 5, id=3))
    await bench.until(lambda: bench.memory_port.outstanding == 4, "four uses")
    for command in (
        mapped.command("PAGE", 1, BASE + PAGE),
        bench.send(CommandKind.RANGE, 1, (BASE >> 12) + 1, (BASE >> 12) + 7),
        mapped.command("PAGE", 2, MIDDLE),
        mapped.command("ASID", 3, 0),
    ):
        await bench.drained(command, cycles=60)
    assert bench.memory_port.outstanding == 4
    resume()
    await bench.done(*waiting)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def drained_waits_for_late_write_data(dut: Any) -> None:
    """A write whose address has left and whose data the device keeps back is a use until its B."""
    mapped = await Mapped.start(dut, "late W")
    bench = mapped.bench
    await bench.load(1, BASE)
    access = bench.device.write(1, BASE, 5)
    gate = [False]
    access.data_after = lambda: gate[0]
    await bench.tick(30)
    mapped.change(1, BASE, 0x6000)
    command = mapped.command("PAGE", 1, BASE)
    await bench.tick(80)
    begun = bool(bench.memory_port.bursts[-1].write)
    assert not (begun and command.drained is not None), (
        f"drained early: {command} before the data of {access}"
    )
    assert command.invalidated is not None, "INVALIDATED must not wait for late data"
    gate[0] = True
    await bench.done(access)
    await bench.drained(command)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_killed_walk_reads_its_tables_again(dut: Any) -> None:
    """A walk overtaken by a command neither answers nor fills; its reads are issued again; DRAINED waits for the old."""
    mapped = await Mapped.start(dut, "killed walk")
    bench = mapped.bench
    bench.walk.answers = never
    access = bench.device.read(1, BASE)
    await bench.until(lambda: bench.walk_port.outstanding, "the walk")
    mapped.change(1, BASE, 0x6000)
    command = mapped.command("PAGE", 1, BASE)
    await bench.until(lambda: command.invalidated is not None, "INVALIDATED with a walk in flight")
    await bench.tick(40)
    assert command.drained is None, f"drained early: {command} before the page-table read it killed"
    first = bench.walk_port.bursts[0]
    bench.walk.answers = always
    await bench.done(access)
    bench.expect_word(access, 0x6000)
    await bench.drained(command)
    assert reached(command.drained) >= reached(first.end), (
        f"drained early: before the end of {first}"
    )
    again = [burst for burst in bench.walk_port.bursts[1:] if burst.addr == first.addr]
    assert again, "the root was not read again after the kill"
    assert await bench.counter("mmu.walks.killed") == 1
    assert await bench.counter("mmu.walks") == 2
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_walk_of_another_page_lives(dut: Any) -> None:
    """Commands for other address spaces, or outside the 1 GiB that its root entry may map, leave a walk alone.

    What a walk has not yet read may turn out to be a leaf of up to 1 GiB, which an overlapping command must kill.
    """
    mapped = await Mapped.start(dut, "other walk")
    bench = mapped.bench
    bench.walk.answers = never
    access = bench.device.read(1, BASE)
    await bench.until(lambda: bench.walk_port.outstanding, "the walk")
    for command in (
        mapped.command("PAGE", 1, BASE + GIB),
        mapped.command("PAGE", 1, BASE - PAGE),
        mapped.command("RANGE", 1, MIDDLE),
        mapped.command("PAGE", 2, BASE),
        mapped.command("ASID", 2, BASE),
    ):
        await bench.drained(command, cycles=60)
    bench.walk.answers = always
    await bench.done(access)
    assert await bench.counter("mmu.walks.killed") == 0
    assert await mapped.walks() == 1
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def freed_tables_are_read_no_more(dut: Any) -> None:
    """After the DRAINED of a cleared non-leaf PTE no page-table read touches the old tables (I17)."""
    mapped = await Mapped.start(dut, "tables")
    bench = mapped.bench
    bench.walk.latency = 7
    for offset in range(0, 36, 3):
        slot = bench.tables.slot(mapped.roots[1], MIDDLE + GIB, 1)
        old, new = 0x800 + 2 * offset, 0x801 + 2 * offset
        for table, ppn in ((old, 0x6000), (new, 0x6100)):
            bench.write_word(table * PAGE, leaf(ppn + offset))
        bench.write_word(slot, pointer(old))
        access = bench.device.read(1, MIDDLE + GIB)
        await bench.tick(offset)
        bench.write_word(slot, pointer(new))
        command = bench.send(CommandKind.RANGE, 1, MIDDLE + GIB >> 12, (MIDDLE + GIB >> 12) + 511)
        await bench.drained(command)
        touched = [burst for burst in bench.walk_port.bursts if burst.addr >> 12 == old]
        drained = reached(command.drained)
        late = [burst for burst in touched if burst.end is None or burst.end > drained]
        assert not late, f"drained early: {command} before the table read {late[0]}"
        await bench.done(access)
        bench.expect_word(await bench.load(1, MIDDLE + GIB), 0x6100 + offset)
        assert len([b for b in bench.walk_port.bursts if b.addr >> 12 == old]) == len(touched), (
            "freed table read"
        )
        await bench.drained(mapped.command("ALL", 0, 0))
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_permission_change_is_seen_after_its_command(dut: Any) -> None:
    """Writable to read-only and back, present to absent and back: each answer after DRAINED is the new one."""
    mapped = await Mapped.start(dut, "permission")
    bench = mapped.bench
    await bench.store(1, BASE, 1)
    for bits, refused in ((USER_RO, True), (USER_RW, False), (0, True), (USER_RW, False)):
        mapped.change(1, BASE, 0x5000, bits)
        await bench.drained(mapped.command("PAGE", 1, BASE))
        access: Access = await bench.store(1, BASE, 1)
        assert access.refused == refused, f"bits {bits:#x}: {access} answered {access.responses}"
    await bench.finish()
