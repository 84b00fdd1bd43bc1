"""The emulator with the secondary MMU in its slot: the whole way from descriptor to record."""

import dataclasses
from random import Random

from secmmu.csr import context_register
from secmmu.layouts import CommandKind, Event, FrameKind, Op, PteLayout
from secmmu.mmu import Secmmu
from tests.hdl.emulator.emulator_bench import (
    SMALL,
    TINY,
    Record,
    advance,
    arg_of,
    command,
    csr,
    descriptor,
    message,
    perform,
    tag,
)

ROOT, MIDDLE, LEAVES = 1, 2, 3
FRAMES = range(8, 12)
SV39 = 8


def pte(ppn: int, *, leaf: bool) -> int:
    """Return a page-table entry; a leaf has every right."""
    rights = {"r": 1, "w": 1, "u": 1, "a": 1, "d": 1} if leaf else {}
    return PteLayout().const({"v": 1, "ppn": ppn} | rights).as_bits()


def tables() -> list[list[int]]:
    """Map pages 0 to 3 of asid 1 to FRAMES and tag all frames for what they are."""
    return [
        *(tag(frame, kind=FrameKind.TABLE) for frame in (ROOT, MIDDLE, LEAVES)),
        *(tag(frame, kind=FrameKind.USER, read=2, write=2) for frame in FRAMES),
        message(Op.MEM_WRITE, ROOT << 12, pte(MIDDLE, leaf=False)),
        message(Op.MEM_WRITE, MIDDLE << 12, pte(LEAVES, leaf=False)),
        message(Op.MEM_WRITE, LEAVES << 12, *(pte(frame, leaf=True) for frame in FRAMES)),
        message(Op.CSR_WRITE, SV39 << 60 | ROOT, arg=context_register(1)),
    ]


def traffic(random: Random) -> list[list[int]]:
    """Return bursts and invalidations with idle gaps between them."""
    messages = []
    cycle = 0
    for index in range(3):
        messages += [
            descriptor(
                engine=random.randrange(2),
                tag=index,
                va=(random.randrange(5) << 12) + 128 * random.randrange(31),
                beats=random.randint(1, 16),
                write=random.randrange(2),
                data=index << 32,
            )
            for _ in range(4)
        ]
        page = random.randrange(4)
        messages.append(command(kind=CommandKind.PAGE, asid=1, tag=index, first=page, last=page))
        cycle += 400
        messages.append(advance(cycle, *random.choice([(), (Event.DRAINED,)])))
    return [*messages, advance(cycle + 400)]


def without_clocks(records: list[Record]) -> list[Record]:
    """Leave out the clock counts."""
    return [
        dataclasses.replace(record, a=0) if record.kind is Event.ADVANCED else record
        for record in records
    ]


def test_a_burst_is_translated_invalidated_and_freed() -> None:
    """Load, invalidate, free: no violation; a load afterwards without a new PTE: a violation and nothing hidden."""
    records = perform(
        [
            *tables(),
            message(Op.MEM_WRITE, FRAMES[1] << 12, 0x55),
            descriptor(va=0x1000, tag=1),
            advance(1000, Event.DMA_DONE),
            command(kind=CommandKind.PAGE, asid=1, tag=2, first=1, last=1),
            advance(1000, Event.DRAINED),
            tag(FRAMES[1], kind=FrameKind.FREE),
            descriptor(va=0x1000, tag=3),
            advance(1000),
            descriptor(va=0x9000, tag=4),
            advance(2000),
        ],
        mmu=Secmmu,
    )
    loads = {record.tag: record.a for record in records if record.kind is Event.LOAD}
    assert loads == {1: 0x55, 3: 0x55}
    (violation,) = [record for record in records if record.kind is Event.VIOLATION]
    freed = next(record.cycle for record in records if record.kind is Event.DRAINED)
    assert violation.a == FRAMES[1] << 12
    assert violation.cycle > freed
    (fault,) = [record for record in records if record.kind is Event.FAULT]
    assert (fault.a, arg_of(fault).asid) == (0x9000, 1)
    done = {record.tag: arg_of(record).code for record in records if record.kind is Event.DMA_DONE}
    assert done == {1: 0, 3: 0, 4: 2}


def test_the_walker_sets_the_bits_that_it_needs() -> None:
    """A on a load, A and D on a store, exclusively, in page tables alone: no fault and no violation."""
    svadu = dataclasses.replace(SMALL, mmu=dataclasses.replace(TINY, svadu=True))
    bare = [
        pte(frame, leaf=True) & ~(PteLayout().const({"a": 1, "d": 1}).as_bits()) for frame in FRAMES
    ]
    records = perform(
        [
            *tables(),
            message(Op.MEM_WRITE, LEAVES << 12, *bare),
            descriptor(va=0x1000, tag=1),
            descriptor(va=0x2000, tag=2, write=1, data=7),
            advance(1000),
            message(Op.MEM_READ, LEAVES << 12, arg=4),
        ],
        config=svadu,
        mmu=Secmmu,
    )
    kinds = {record.kind for record in records}
    assert not kinds & {Event.FAULT, Event.VIOLATION}
    done = {record.tag: arg_of(record).code for record in records if record.kind is Event.DMA_DONE}
    assert done == {1: 0, 2: 0}
    words = [word for r in records if r.kind is Event.READ_DATA for word in (r.a, r.b)]
    found = [PteLayout().from_bits(word) for word in words]
    assert [(entry.a, entry.d) for entry in found] == [(0, 0), (1, 0), (1, 1), (0, 0)]
    assert [word & ~0xC0 for word in words] == bare


def test_neither_warp_nor_the_carrier_changes_a_record() -> None:
    """The MMU's idle is honest, and its lanes depend on frozen state only."""
    messages = [*tables(), *traffic(Random(0))]
    plain = perform(messages, mmu=Secmmu)
    warped = perform([csr("warp", 1), *messages], mmu=Secmmu, stalls=Random(0))
    assert without_clocks(plain) == without_clocks(warped)
    assert warped[-1].a < plain[-1].a
    assert {Event.WALK, Event.FILL, Event.KILL, Event.FAULT} <= {record.kind for record in plain}
