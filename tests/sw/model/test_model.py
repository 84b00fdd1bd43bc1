"""The model of the emulator: every message, translation, and the invalidation protocol's promises."""

import numpy as np
import pytest

from hostmm.driver.link import message
from hostmm.driver.pack import field_of, packer, unpacker
from hostmm.model import Model
from secmmu.csr import CONTEXT_BASE, EMULATOR_REGISTERS, REGISTERS
from secmmu.layouts import (
    AccessArg,
    Cause,
    CommandKind,
    CommandLayout,
    DescriptorLayout,
    Event,
    FrameKind,
    FrameTagLayout,
    Op,
    PteLayout,
    RecordLayout,
    Response,
    Verdict,
)

PTE = packer(PteLayout())
COMMAND = packer(CommandLayout())
DESCRIPTOR = packer(DescriptorLayout())
TAG = packer(FrameTagLayout())
CODE = unpacker(AccessArg())
LEAF = {"v": 1, "r": 1, "w": 1, "u": 1, "a": 1, "d": 1}
ROOT, MIDDLE, TABLE, FRAME = 16, 17, 18, 32
VA = 0x4000_0000
FAR = 1 << 20


def words(value, count=3):
    return [value >> 64 * index & (1 << 64) - 1 for index in range(count)]


class Bench:
    """A model with one page of asid 1 mapped, and shorthand for messages."""

    def __init__(self, **leaf):
        self.model = Model(memory_bytes=1 << 20)
        self.out = []
        for table in (ROOT, MIDDLE, TABLE):
            self.tag(table, kind=FrameKind.TABLE.value)
        self.tag(FRAME, kind=FrameKind.USER.value, read=2, write=2)
        self.write(ROOT << 12 | 8, PTE(v=1, ppn=MIDDLE))
        self.write(MIDDLE << 12, PTE(v=1, ppn=TABLE))
        self.write(TABLE << 12, PTE(**LEAF | leaf, ppn=FRAME))
        self.out += message(Op.CSR_WRITE, (ROOT | 8 << 60,), arg=CONTEXT_BASE + 8)

    def tag(self, pfn, **fields):
        self.out += message(Op.TAG, (pfn, TAG(**fields)))

    def write(self, address, *values):
        self.out += message(Op.MEM_WRITE, (address, *values))

    def dma(self, *, tag=1, write=0, beats=2, va=VA, data=0, engine=0):
        value = DESCRIPTOR(
            engine=engine, asid=1, tag=tag, beats=beats, write=write, va=va, data=data
        )
        self.out += message(Op.DESCRIPTOR, words(value))

    def command(self, kind, *, first=VA >> 12, last=VA >> 12, tag=9, **flags):
        value = COMMAND(kind=kind.value, asid=1, tag=tag, first=first, last=last, **flags)
        self.out += message(Op.COMMAND, words(value))

    def advance(self, cycle=FAR, stop=()):
        mask = sum(1 << kind.value for kind in stop)
        batch, self.out = self.out + message(Op.ADVANCE, (cycle,), arg=mask), []
        return Records(self.model.exchange(batch))


class Records:
    def __init__(self, rows):
        self.rows = rows
        self.kinds = field_of(RecordLayout(), "kind")(rows[:, 0])

    def of(self, kind):
        return self.rows[self.kinds == kind.value]

    def cycle(self, kind):
        (row,) = self.of(kind)
        return int(row[1])

    def code(self, kind):
        (row,) = self.of(kind)
        return CODE(int(row[0]) >> 32)["code"]


def test_a_write_and_a_read_move_data_through_the_translation():
    bench = Bench()
    bench.dma(write=1, data=100)
    bench.advance(1000)
    bench.dma(tag=2)
    records = bench.advance()
    (load,) = records.of(Event.LOAD)
    assert list(load[2:]) == [100, 101]
    assert list(bench.model.memory[FRAME << 9 : (FRAME << 9) + 2]) == [100, 101]
    assert records.code(Event.DMA_DONE) == Response.OKAY.value
    assert not len(records.of(Event.WALK)), "the second access must hit"


@pytest.mark.parametrize(
    ("leaf", "write", "cause"),
    [
        ({"v": 0}, 0, Cause.LOAD_PAGE),
        ({"r": 0}, 0, Cause.LOAD_PAGE),
        ({"u": 0}, 0, Cause.LOAD_PAGE),
        ({"a": 0}, 0, Cause.LOAD_PAGE),
        ({"d": 0}, 1, Cause.STORE_PAGE),
        ({"w": 0}, 1, Cause.STORE_PAGE),
        ({"reserved": 1}, 0, Cause.LOAD_PAGE),
        ({"n": 1}, 0, Cause.LOAD_PAGE),
    ],
)
def test_a_pte_that_does_not_permit_faults(leaf, write, cause):
    bench = Bench(**leaf)
    bench.dma(write=write)
    records = bench.advance()
    assert records.code(Event.FAULT) == cause.value
    assert records.code(Event.DMA_DONE) == Response.SLVERR.value
    assert not len(records.of(Event.USE_BEGIN))


def test_no_context_is_an_access_fault_and_a_foreign_address_a_page_fault():
    bench = Bench()
    bench.dma(va=1 << 40)
    assert bench.advance(1000).code(Event.FAULT) == Cause.LOAD_PAGE.value
    bench.out += message(Op.CSR_WRITE, (0,), arg=CONTEXT_BASE + 8)
    bench.dma()
    assert bench.advance().code(Event.FAULT) == Cause.LOAD_ACCESS.value


def test_drained_waits_for_the_use_and_invalidated_does_not():
    bench = Bench()
    bench.dma()
    bench.advance(1000)
    bench.dma(tag=2)
    bench.advance(1010)
    bench.command(CommandKind.PAGE)
    records = bench.advance()
    assert records.cycle(Event.INVALIDATED) < records.cycle(Event.USE_END)
    assert records.cycle(Event.DRAINED) >= records.cycle(Event.USE_END)


def test_a_walk_in_progress_is_killed_and_walked_again():
    bench = Bench()
    bench.dma()
    bench.advance(25)
    bench.command(CommandKind.PAGE)
    bench.write(TABLE << 12, PTE(**LEAF, ppn=FRAME + 1))
    records = bench.advance()
    assert len(records.of(Event.WALK_KILLED)) == 1
    (fill,) = records.of(Event.FILL)
    assert PTE(ppn=FRAME + 1) & int(fill[3]) == PTE(ppn=FRAME + 1)
    assert records.cycle(Event.DRAINED) >= records.cycle(Event.WALK_KILLED)


def test_a_hold_keeps_accesses_waiting_until_as_many_releases():
    bench = Bench()
    for tag in (1, 2):
        bench.command(CommandKind.RANGE, hold=1, tag=tag)
    bench.dma()
    assert not len(bench.advance(2000).of(Event.DMA_DONE))
    bench.command(CommandKind.RELEASE, tag=3)
    assert not len(bench.advance(4000).of(Event.DMA_DONE))
    bench.command(CommandKind.RELEASE, tag=4)
    assert len(bench.advance().of(Event.DMA_DONE)) == 1


def test_an_empty_range_is_refused_and_a_fence_comes_after_what_is_before_it():
    bench = Bench()
    bench.command(CommandKind.RANGE, first=5, last=4)
    records = bench.advance(100)
    assert len(records.of(Event.REFUSED)) == 1
    assert not len(records.of(Event.DRAINED))
    bench.dma()
    bench.advance(1000)
    bench.dma(tag=2)
    bench.advance(1010)
    bench.command(CommandKind.PAGE, tag=7)
    bench.command(CommandKind.FENCE, tag=8)
    drained = bench.advance().of(Event.DRAINED)
    assert list(field_of(RecordLayout(), "tag")(drained[:, 0])) == [7, 8]


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"kind": FrameKind.FREE.value}, Verdict.FREED),
        ({"kind": FrameKind.USER.value, "read": 1}, Verdict.RIGHTS),
        ({"kind": FrameKind.RESERVED.value}, Verdict.FOREIGN),
        ({"kind": FrameKind.TABLE.value}, Verdict.FOREIGN),
    ],
)
def test_the_sanitizer_names_what_was_touched(fields, verdict):
    bench = Bench()
    bench.tag(FRAME, **fields)
    bench.dma(beats=1)
    assert bench.advance().code(Event.VIOLATION) == verdict.value


def test_the_sanitizer_watches_the_walker():
    bench = Bench()
    bench.tag(TABLE, kind=FrameKind.FREE.value)
    bench.dma()
    records = bench.advance()
    (row,) = records.of(Event.VIOLATION)
    assert field_of(RecordLayout(), "source")(row[:1])[0] == 1


def test_memory_messages():
    bench = Bench()
    bench.write(0x8000, 1, 2, 3)
    bench.out += message(Op.MEM_COPY, (0x9000, 0x8000), arg=3)
    bench.out += message(Op.MEM_FILL, (0xA000, 77), arg=2)
    bench.out += message(Op.MEM_SWAP, (0x9000, 50))
    bench.out += message(Op.MEM_CAS, (0x9008, 2, 60))
    bench.out += message(Op.MEM_CAS, (0x9010, 99, 70))
    bench.out += message(Op.MEM_READ, (0x9000,), arg=3)
    bench.out += message(Op.MEM_READ, (0xA000,), arg=2)
    records = bench.advance(10)
    assert [int(row[3]) for row in records.of(Event.SWAPPED)] == [1, 2, 3]
    assert [list(map(int, row[2:])) for row in records.of(Event.READ_DATA)] == [
        [50, 60],
        [3, 0],
        [77, 77],
    ]


def test_registers_count():
    bench = Bench()
    bench.dma()
    bench.advance(1000)
    for name in ("mmu.walks", "mmu.accesses.reads"):
        bench.out += message(Op.CSR_READ, arg=REGISTERS[name].address)
    bench.out += message(Op.CSR_READ, flags=1, arg=EMULATOR_REGISTERS["dma.bytes"].address)
    assert [int(row[3]) for row in bench.advance().of(Event.CSR_DATA)] == [1, 1, 16]


def test_advance_stops_in_the_cycle_of_an_event_and_remembers_one_that_came_before():
    bench = Bench()
    bench.dma()
    records = bench.advance(stop=[Event.FILL])
    (last,) = records.of(Event.ADVANCED)
    assert int(last[1]) == records.cycle(Event.FILL) + 1
    bench.out += message(Op.ADVANCE, (FAR,))
    again = bench.advance(2 * FAR, stop=[Event.DMA_DONE])
    assert [int(row[1]) for row in again.of(Event.ADVANCED)] == [FAR, FAR]


def test_one_batch_or_many_give_the_same_records():
    def run(split):
        bench = Bench()
        for tag in range(8):
            bench.dma(tag=tag, write=tag & 1, data=100 * tag, engine=tag & 1)
            bench.out += message(Op.ADVANCE, (60 * (tag + 1),))
            if tag == 4:
                bench.command(CommandKind.PAGE)
            if split:
                bench.parts = [*getattr(bench, "parts", []), bench.advance(0).rows]
        rows = np.concatenate([*getattr(bench, "parts", []), bench.advance().rows])
        return rows[field_of(RecordLayout(), "kind")(rows[:, 0]) != Event.ADVANCED.value]

    assert np.array_equal(run(split=True), run(split=False))
