"""The invalidation protocol of the secondary MMU, point by point."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import cocotb
from cocotb import parametrize

from secmmu.layouts import CommandKind
from shootdown.agents.control import Command
from shootdown.agents.device import Access
from shootdown.agents.pins import always, never
from shootdown.agents.sv39 import PAGE, USER_RO, USER_RW, G, leaf, pointer
from shootdown.cases.mmu_bench import Bench, reached

MIB2 = 2 << 20
GIB = 1 << 30
BASE = 0x10_0000_0000
MIDDLE = BASE + 16 * GIB
BIG = BASE + 64 * GIB

KINDS = ("PAGE", "RANGE", "ASID", "ALL")


class Mapped:
    """A bench with pages, a 2 MiB and a 1 GiB leaf in asid 1 and the same addresses in asid 2."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.slots: dict[tuple[int, int], int] = {}
        self.roots: dict[int, int] = {}

    @classmethod
    async def start(cls, dut: Any, name: str) -> "Mapped":
        """Start a bench, fill the tables."""
        self = cls(await Bench(dut, name).start())
        await self.fill()
        return self

    async def fill(self) -> None:
        """Fill the tables and set the contexts."""
        bench = self.bench
        for asid in (1, 2):
            root = self.roots[asid] = await bench.context(asid)
            for page in range(8):
                va = BASE + page * PAGE
                self.slots[asid, va] = bench.map(root, va, 0x5000 * asid + page)
            self.slots[asid, MIDDLE] = bench.map(root, MIDDLE, 0x20_0000 * asid, level=1)
            self.slots[asid, BIG] = bench.map(root, BIG, 0x40_0000 * asid, level=2)

    def change(self, asid: int, va: int, ppn: int, bits: int = USER_RW) -> None:
        """Make the leaf at ``va`` point elsewhere, as the host does before it commands."""
        self.bench.write_word(self.slots[asid, va], leaf(ppn, bits))

    def command(self, kind: str, asid: int, va: int, **flags: Any) -> Command:
        """Queue a command of any kind that covers the page of ``va``."""
        first, last = va >> 12, va >> 12
        if kind == "RANGE":
            first, last = first - 1, last + 1
        return self.bench.send(CommandKind[kind], asid, first, last, **flags)

    async def walks(self) -> int:
        """Read the counter of walks."""
        return await self.bench.counter("mmu.walks")


def stalled(bench: Bench) -> Callable[[], None]:
    """Stop every answer of the memory; returns what lets them go again."""
    bench.data.answers = never

    def resume() -> None:
        bench.data.answers = always

    return resume


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
async def an_empty_range_is_refused(dut: Any) -> None:
    """Last < first: REFUSED alone, nothing dies, with and without hold; unsigned over all 52 bits."""
    mapped = await Mapped.start(dut, "empty")
    bench = mapped.bench
    await bench.load(1, BASE)
    for first, last in ((5, 4), ((1 << 52) - 1, 0), (1 << 51, 1), ((BASE >> 12) + 1, BASE >> 12)):
        for hold in (False, True):
            command = bench.send(CommandKind.RANGE, 1, first, last, hold=hold)
            await bench.refusal(command)
    walks = await mapped.walks()
    await bench.load(1, BASE)
    assert await mapped.walks() == walks, "an empty range killed an entry"
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
@parametrize(kind=("PAGE", "RANGE", "ASID"))
async def a_hold_keeps_walks_out(dut: Any, kind: str) -> None:
    """An access inside the span waits until the release and then sees the PTE of the release, not of the hold."""
    mapped = await Mapped.start(dut, f"hold {kind}")
    bench = mapped.bench
    await bench.load(1, BASE + PAGE)
    for early in (False, True):
        held = mapped.command(kind, 1, BASE + PAGE, hold=True)
        if early:
            access = bench.device.read(1, BASE + PAGE, id=1)
        await bench.drained(held)
        if not early:
            access = bench.device.read(1, BASE + PAGE, id=1)
        await bench.tick(50)
        mapped.change(1, BASE + PAGE, 0x6000 + early)
        await bench.tick(50)
        assert not access.done, f"held: {access} was answered inside a hold"
        mapped.change(1, BASE + PAGE, 0x6100 + early)
        released = bench.release(held)
        await bench.done(access)
        bench.expect_word(access, 0x6100 + early)
        await bench.drained(released)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_hold_of_one_span_leaves_the_others_alone(dut: Any) -> None:
    """Other pages and other address spaces go on; commands go on, too."""
    mapped = await Mapped.start(dut, "hold one")
    bench = mapped.bench
    held = mapped.command("RANGE", 1, BASE + PAGE, hold=True)
    await bench.drained(held)
    for asid, va in ((1, BASE + 4 * PAGE), (2, BASE + PAGE), (1, MIDDLE), (2, BASE)):
        await bench.load(asid, va)
    await bench.drained(
        mapped.command("PAGE", 1, BASE + 4 * PAGE), mapped.command("PAGE", 1, BASE + PAGE)
    )
    await bench.drained(bench.send(CommandKind.FENCE), mapped.command("ALL", 0, 0))
    access = bench.device.read(1, BASE + PAGE)
    await bench.tick(60)
    assert not access.done, "held: ALL or a PAGE command lifted the hold"
    await bench.drained(bench.release(held))
    await bench.done(access)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def holds_nest_by_counting(dut: Any) -> None:
    """Twice held, twice released; overlapping holds each count; a release of another span lifts nothing."""
    mapped = await Mapped.start(dut, "nest")
    bench = mapped.bench
    twice = [mapped.command("PAGE", 1, BASE, hold=True) for _ in range(2)]
    await bench.drained(*twice)
    access = bench.device.read(1, BASE)
    await bench.drained(bench.release(twice[0]))
    await bench.tick(50)
    assert not access.done, "held: one of two releases lifted the hold"
    await bench.drained(bench.release(twice[1]))
    await bench.done(access)
    one = mapped.command("PAGE", 1, BASE, hold=True)
    wide = bench.send(CommandKind.RANGE, 1, BASE >> 12, (BASE >> 12) + 3, hold=True)
    await bench.drained(one, wide)
    access = bench.device.read(1, BASE)
    await bench.drained(bench.release(wide))
    await bench.tick(50)
    assert not access.done, "held: releasing the wide hold lifted the narrow one"
    await bench.drained(bench.release(one))
    await bench.done(access)
    await bench.finish()


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def holds_beyond_the_filters_hold_the_asid(dut: Any) -> None:
    """More holds than filters: the asid waits as a whole, the overflow is counted, each release is honoured."""
    mapped = await Mapped.start(dut, "overflow")
    bench = mapped.bench
    filters = bench.config.filters
    where = [BASE + 2 * page * PAGE for page in range(filters + 2)]
    holds = [mapped.command("PAGE", 1, va, hold=True) for va in where]
    await bench.drained(*holds)
    assert await bench.counter("mmu.filters.overflows") == 2
    await bench.load(2, BASE)
    held = bench.device.read(1, where[-1] if filters + 2 <= 4 else BASE + 4 * PAGE)
    for hold in holds[:filters]:
        await bench.drained(bench.release(hold))
    await bench.tick(50)
    assert not held.done, "held: the whole-asid hold was lifted by releases of the others"
    await bench.drained(bench.release(holds[filters]))
    await bench.tick(50)
    assert not held.done, "held: one of two whole-asid holds was enough"
    await bench.drained(bench.release(holds[filters + 1]))
    await bench.done(held)
    # The filters are free again.
    again = mapped.command("PAGE", 1, BASE, hold=True)
    await bench.drained(again)
    await bench.load(1, BASE + PAGE)
    await bench.drained(bench.release(again))
    assert await bench.counter("mmu.filters.overflows") == 2
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_hold_covers_superpages_that_overlap_it(dut: Any) -> None:
    """An access to another page of a 2 MiB leaf must not fill an entry that overlaps a held page."""
    mapped = await Mapped.start(dut, "hold span")
    bench = mapped.bench
    held = mapped.command("PAGE", 1, MIDDLE + 5 * PAGE, hold=True)
    await bench.drained(held)
    access = bench.device.read(1, MIDDLE + 300 * PAGE)
    await bench.tick(80)
    if bench.lanes:
        overlapping = [
            e for e in bench.lanes.shadow.values() if held.covers(e.asid, e.first, e.last)
        ]
        assert not overlapping, f"held: entry {overlapping[0]} overlaps the held page"
    mapped.change(1, MIDDLE, 0x60_0000)
    await bench.drained(bench.release(held))
    await bench.done(access)
    bench.expect_word(await bench.load(1, MIDDLE + 5 * PAGE), 0x60_0005)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def tags_are_opaque_and_duplicates_complete_apart(dut: Any) -> None:
    """Every command of a burst with one tag gets its own pair of completions; every tag value comes back."""
    mapped = await Mapped.start(dut, "tags")
    bench = mapped.bench
    top = (1 << bench.config.tag_bits) - 1
    for tag in (0, 1, top, top >> 1):
        commands = [
            mapped.command(kind, 1, BASE, tag=tag) for kind in (*KINDS, "PAGE", "PAGE", *KINDS)
        ]
        commands.append(bench.send(CommandKind.FENCE, tag=tag))
        await bench.drained(*commands)
        await bench.tick(50)
    assert await bench.counter("mmu.commands") == 4 * 11
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def undrained_commands_are_bounded(dut: Any) -> None:
    """Exactly config.commands undrained commands are taken, the next after the first has drained."""
    mapped = await Mapped.start(dut, "bounded")
    bench = mapped.bench
    await bench.load(1, BASE)
    resume = stalled(bench)
    access = bench.device.read(1, BASE)
    await bench.until(lambda: bench.memory_port.outstanding, "the use")
    limit = bench.config.commands
    commands = [mapped.command(KINDS[at % 4], 1, BASE) for at in range(limit + 3)]
    await bench.tick(100)
    taken = [command for command in commands if command.accepted is not None]
    assert len(taken) == limit, f"{len(taken)} undrained commands were taken, not {limit}"
    assert all(command.invalidated is not None for command in taken), (
        "INVALIDATED must not wait for uses"
    )
    resume()
    await bench.done(access)
    await bench.drained(*commands)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_command_is_taken_every_cycle(dut: Any) -> None:
    """With nothing in flight, config.commands commands are accepted back to back."""
    mapped = await Mapped.start(dut, "rate")
    bench = mapped.bench
    commands = [
        mapped.command(KINDS[at % 4], 1, BASE + at * PAGE) for at in range(bench.config.commands)
    ]
    await bench.drained(*commands)
    taken = [reached(command.accepted) for command in commands]
    gaps = [after - before for before, after in pairwise(taken)]
    assert set(gaps) == {1}, f"commands were accepted {gaps} cycles apart"
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_fence_comes_after_all_before_it(dut: Any) -> None:
    """Both signals of a fence come after those of earlier commands; nothing dies by it; alone it completes at once."""
    mapped = await Mapped.start(dut, "fence")
    bench = mapped.bench
    await bench.load(1, BASE)
    await bench.load(2, BASE)
    await bench.drained(bench.send(CommandKind.FENCE))
    walks = await mapped.walks()
    await bench.load(1, BASE)
    assert await mapped.walks() == walks, "a fence killed an entry"
    resume = stalled(bench)
    access = bench.device.read(1, BASE)
    await bench.until(lambda: bench.memory_port.outstanding, "the use")
    # A fence with nothing but uses in flight waits for no command.
    await bench.drained(bench.send(CommandKind.FENCE), cycles=60)
    slow = mapped.command("PAGE", 1, BASE)
    fence = bench.send(CommandKind.FENCE)
    await bench.tick(60)
    assert fence.drained is None, "fence: drained before the command before it"
    assert slow.drained is None, "drained early"
    resume()
    await bench.done(access)
    await bench.drained(slow, fence)
    assert reached(fence.drained) >= reached(slow.drained)
    assert reached(fence.invalidated) >= reached(slow.invalidated)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def completions_wait_for_their_taker(dut: Any) -> None:
    """A host that takes no completion loses none; commands meet back-pressure, traffic goes on."""
    mapped = await Mapped.start(dut, "taker")
    bench = mapped.bench
    bench.control.completion.pace = never
    commands = [
        mapped.command(KINDS[at % 4], 1, BASE) for at in range(2 * bench.config.commands + 2)
    ]
    await bench.tick(100)
    await bench.load(1, BASE)
    await bench.load(2, MIDDLE)
    bench.control.completion.pace = always
    await bench.drained(*commands)
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def soft_reset_drains_and_clears(dut: Any) -> None:
    """Control bit 0 reads 0 only once nothing is in flight; entries and holds are gone, later traffic is served."""
    mapped = await Mapped.start(dut, "soft reset")
    bench = mapped.bench
    await bench.load(1, BASE)
    held = mapped.command("PAGE", 2, BASE, hold=True)
    await bench.drained(held)
    resume = stalled(bench)
    flying = [bench.device.read(1, BASE, beats=3, id=1), bench.device.write(1, BASE + 8, 9, id=2)]
    await bench.until(lambda: bench.memory_port.outstanding == 2, "two uses")
    await bench.write_register(0x008, 1)
    late = bench.device.read(1, BASE + PAGE, id=3)
    await bench.tick(50)
    assert await bench.read_register(0x008) & 1, "reset: done with a use in flight"
    assert bench.memory_port.outstanding == 2, "reset: intake was not stopped"
    resume()
    await bench.done(*flying)
    for _ in range(100):
        if not await bench.read_register(0x008) & 1:
            break
    else:
        raise AssertionError("hang: soft reset never ends")
    bench.control.forget_holds()
    for asid, root in mapped.roots.items():
        await bench.context(asid, root)
    mapped.change(1, BASE, 0x6000)
    if bench.lanes:
        bench.lanes.shadow.clear()
    bench.expect_word(await bench.load(1, BASE), 0x6000)
    await bench.load(2, BASE)
    await bench.done(late)
    await bench.drained(mapped.command("ALL", 0, 0))
    await bench.finish()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_reset_in_the_middle_forgets_everything(dut: Any) -> None:
    """The hardware reset during walks, uses and holds: a fresh MMU afterwards."""
    mapped = await Mapped.start(dut, "reset")
    bench = mapped.bench
    for turn in range(6):
        bench.data.latency = bench.walk.latency = 20
        mapped.command("PAGE", 1, BASE, hold=True)
        accesses = [bench.device.read(1, BASE + page * PAGE, id=page % 4) for page in range(5)]
        accesses.append(bench.device.write(2, BASE, 4))
        await bench.tick(7 + 9 * turn)
        await bench.reset()
        await mapped.fill()
        for page in range(3):
            bench.expect_word(await bench.load(1, BASE + page * PAGE), 0x5000 + page)
        assert await mapped.walks() == 3, "counters or entries survived the reset"
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
