"""Link messages: what each does, when emulated time runs, and that the carrier changes nothing."""

import dataclasses
from random import Random

import pytest

from secmmu.config import EmulatorConfig, SecmmuConfig
from secmmu.csr import EMULATOR_REGISTERS
from secmmu.layouts import CommandKind, DropinLayout, Event, Op, ResumeLayout
from tests.hdl.emulator.emulator_bench import (
    SMALL,
    Record,
    advance,
    arg_of,
    command,
    csr,
    descriptor,
    message,
    perform,
    words,
)


def read_words(records: list[Record]) -> list[int]:
    """Return the words of all READ_DATA records (an odd last one with its padding)."""
    return [
        word
        for record in records
        if record.kind is Event.READ_DATA
        for word in (record.a, record.b)
    ]


def without_clocks(records: list[Record]) -> list[Record]:
    """Leave out the free-running clock count, the one thing that depends on the carrier."""
    return [
        dataclasses.replace(record, a=0) if record.kind is Event.ADVANCED else record
        for record in records
    ]


def test_memory_messages() -> None:
    """Write, read, copy (ascending, also onto itself), fill, swap and compare-exchange; no emulated time passes."""
    records = perform(
        [
            message(Op.MEM_WRITE, 0x1000, 1, 2, 3),
            message(Op.MEM_READ, 0x1000, arg=3),
            message(Op.MEM_COPY, 0x2000, 0x1000, arg=3),
            message(Op.MEM_COPY, 0x2008, 0x2000, arg=4),
            message(Op.MEM_READ, 0x2000, arg=6),
            message(Op.MEM_FILL, 0x1008, 9, arg=2),
            message(Op.MEM_COPY, 0x1000, 0x1008, arg=1),
            message(Op.MEM_READ, 0x1000, arg=4),
            message(Op.MEM_SWAP, 0x1000, 77),
            message(Op.MEM_CAS, 0x1000, 76, 1),
            message(Op.MEM_CAS, 0x1000, 77, 78),
            message(Op.MEM_READ, 0x1000, arg=1),
            message(Op.MEM_READ, 0x1000, arg=0),
            message(Op.MEM_COPY, 0x1000, 0x2000, arg=0),
            message(Op.MEM_FILL, 0x1000, 0, arg=0),
            message(Op.MEM_WRITE, 0x1000),
            message(Op.MEM_READ, 0x1000, arg=1),
        ]
    )
    assert read_words(records) == [1, 2, 3, 0, 1, 1, 1, 1, 1, 0, 9, 9, 9, 0, 78, 0, 78, 0]
    swapped = [record for record in records if record.kind is Event.SWAPPED]
    assert [(record.a, record.b) for record in swapped] == [(0x1000, 9), (0x1000, 77), (0x1000, 77)]
    assert [record.arg for record in records[:2]] == [0, 2]
    assert {record.cycle for record in records} == {0}


def test_strange_messages_are_survived() -> None:
    """Unknown operations, missing and superfluous words do nothing to the messages after them."""
    records = perform(
        [
            [0x0000_0000_0003_00FF, 1, 2, 3],
            message(Op.NOP, 1, 2, 3, 4, 5),
            message(Op.NOP),
            message(Op.MEM_WRITE, 0x1000, 5, 6),
            message(Op.MEM_READ, 0x1000, 1, 2, 3, arg=2),
            message(Op.MEM_FILL, 0x1000, arg=1),
            message(Op.MEM_READ, 0x1000, arg=1),
        ]
    )
    assert read_words(records) == [5, 6, 0, 0]


def test_registers_keep_values_in_their_range() -> None:
    """Each register of the table is written and read; what is out of range becomes the nearest value inside."""
    expected = {
        "memory.read_latency": (1, 0xFFFF),
        "memory.write_latency": (1, 0xFFFF),
        "memory.jitter": (0, 0xFFFF),
        "memory.beat_gap": (0, 0xFFFF),
        "memory.seed": (0, 0xFFFF_FFFF),
        "warp": (0, 1),
        "dma.outstanding": (1, SMALL.outstanding),
        "cycle": (0, 0),
        "dma.bytes": (0, 0),
        "dma.pending": (0, 0),
    }
    assert set(expected) == set(EMULATOR_REGISTERS)
    messages = []
    for name, register in EMULATOR_REGISTERS.items():
        read = message(Op.CSR_READ, flags=1, arg=register.address)
        messages += [csr(name, 0), read, csr(name, (1 << 64) - 1), read]
    records = perform([*messages, message(Op.CSR_READ, flags=1, arg=0xFF8)])
    values = [record.b for record in records]
    assert values == [value for name in EMULATOR_REGISTERS for value in expected[name]] + [0]
    assert {record.kind for record in records} == {Event.CSR_DATA}


def test_the_slots_registers_are_reached_over_the_bus() -> None:
    """Emulated time runs until the answer."""
    records = perform(
        [
            message(Op.CSR_WRITE, 0x1234_5678_9ABC_DEF0, arg=0x800),
            message(Op.CSR_READ, arg=0x800),
        ]
    )
    (record,) = records
    assert (record.kind, record.arg, record.b) == (Event.CSR_DATA, 0x800, 0x1234_5678_9ABC_DEF0)
    assert record.cycle == 4


def test_commands_are_recorded_in_the_cycle_of_their_handshake() -> None:
    """ACCEPTED, then INVALIDATED and DRAINED or REFUSED alone, each with the command's tag."""
    records = perform(
        [
            command(kind=CommandKind.RANGE, asid=1, tag=0xABCD, first=5, last=9),
            advance(20),
            command(kind=CommandKind.RANGE, asid=1, tag=7, first=9, last=5),
            advance(40),
        ]
    )
    kept = [(r.kind, r.tag, r.arg, r.cycle, r.a, r.b) for r in without_clocks(records)]
    assert kept == [
        (Event.ACCEPTED, 0xABCD, CommandKind.RANGE.value, 2, 5, 9),
        (Event.INVALIDATED, 0xABCD, 0, 3, 0, 0),
        (Event.DRAINED, 0xABCD, 0, 4, 0, 0),
        (Event.ADVANCED, 0, 0, 20, 0, 0),
        (Event.ACCEPTED, 7, CommandKind.RANGE.value, 22, 9, 5),
        (Event.REFUSED, 7, 0, 23, 0, 0),
        (Event.ADVANCED, 0, 0, 40, 0, 0),
    ]


def test_dropins_and_resumes_reach_the_mmu() -> None:
    """Every field of them arrives, and what the MMU answers is recorded whole."""
    dropin = words(DropinLayout(), asid=1, tag=0x1235, vpn=5, epoch=9)
    resumes = [words(ResumeLayout(), place=place, retry=retry) for place, retry in ((6, 1), (7, 0))]
    records = perform(
        [
            message(Op.DROPIN, *dropin),
            message(Op.DROPIN, *words(DropinLayout(), tag=2)),
            *(message(Op.RESUME, *resume) for resume in resumes),
            advance(20),
        ]
    )
    dropped = [(r.tag, r.arg) for r in records if r.kind is Event.DROPPED]
    assert dropped == [(0x1235, 1), (2, 0)]
    faults = [r for r in records if r.kind is Event.FAULT]
    assert [(r.tag, arg_of(r).stalled, r.b) for r in faults] == [(6, 1, 2), (0, 0, 2)]
    assert [r.cycle for r in records[:4]] == [1, 2, 2, 3]


def test_advance_stops_in_the_cycle_after_the_event() -> None:
    """Without a further cycle; other kinds do not stop it; a target in the past ends it at once."""
    records = perform(
        [
            command(kind=CommandKind.ALL, tag=1),
            advance(1000, Event.DRAINED, Event.FAULT),
            advance(3, Event.DRAINED),
            advance(10, Event.DRAINED),
        ]
    )
    assert [(r.kind, r.cycle, r.arg) for r in records[1:]] == [
        (Event.INVALIDATED, 3, 0),
        (Event.DRAINED, 4, 0),
        (Event.ADVANCED, 5, 1),
        (Event.ADVANCED, 5, 0),
        (Event.ADVANCED, 10, 0),
    ]


def test_advance_stops_at_once_for_an_event_of_an_earlier_message() -> None:
    """A record counts until an ADVANCE that names some kind has ended; one that names none lets it pass."""
    records = perform(
        [
            command(kind=CommandKind.ALL, tag=1),
            advance(1000, Event.ACCEPTED),
            advance(50, Event.ACCEPTED),
            command(kind=CommandKind.ALL, tag=2),
            advance(60),
            advance(70, Event.ACCEPTED),
            advance(80, Event.ACCEPTED),
        ]
    )
    advanced = [(r.cycle, r.arg) for r in records if r.kind is Event.ADVANCED]
    assert advanced == [(3, 1), (50, 0), (60, 0), (60, 1), (80, 0)]


def test_all_events_of_the_stopping_cycle_are_recorded_before_advanced() -> None:
    """A stop in a cycle with several events waits for the last of them."""
    messages = [
        csr("memory.read_latency", 6),
        csr("memory.write_latency", 6),
        descriptor(engine=0, va=0x1000, tag=1),
        descriptor(engine=1, va=0x2000, tag=2),
        advance(1000, Event.VIOLATION),
        advance(1000, Event.USE_END),
        advance(100),
    ]
    records = perform(messages)
    kinds = [record.kind for record in records]
    stops = [index for index, kind in enumerate(kinds) if kind is Event.ADVANCED]
    for stop in stops:
        later = {record.cycle for record in records[stop + 1 :]}
        assert all(cycle >= records[stop].cycle for cycle in later)
        assert records[stop - 1].cycle < records[stop].cycle
    first = records[stops[0] - 1]
    assert (first.kind, first.cycle) == (Event.VIOLATION, records[stops[0]].cycle - 1)
    last = [r for r in records if r.cycle == records[stops[1]].cycle - 1]
    assert {Event.LOAD, Event.DMA_DONE, Event.USE_END} <= {record.kind for record in last}


@pytest.mark.parametrize("seed", range(2))
def test_records_do_not_depend_on_the_carrier(seed: int) -> None:
    """Stalls on both streams and a full record queue change no record but the count of clocks."""
    random = Random(seed)
    messages = [csr("memory.read_latency", 3), csr("memory.jitter", 7)]
    for index in range(12):
        engine = random.randrange(2)
        messages.append(
            descriptor(
                engine=engine,
                tag=index,
                va=0x1000 * random.randrange(16),
                beats=random.randint(1, 16),
                write=random.randrange(2),
                data=index << 32,
            )
        )
        if random.random() < 0.3:
            messages.append(command(kind=CommandKind.ALL, tag=100 + index))
        if random.random() < 0.3:
            messages.append(advance(1000, Event.DMA_DONE, Event.VIOLATION))
    messages += [advance(400), message(Op.MEM_READ, 0x1000, arg=64)]
    smooth = perform(messages)
    stalled = perform(messages, stalls=Random(seed + 100))
    assert without_clocks(smooth) == without_clocks(stalled)
    assert len(smooth) > 100
    # Those of a message follow those of the messages before it, so cycles never go back.
    assert [r.cycle for r in smooth] == sorted(r.cycle for r in smooth)


def test_emulator_refuses_more_asids_than_a_tag_has_rights() -> None:
    """The tag of a frame has 16 rights."""
    with pytest.raises(
        ValueError, match=r"mmu\.asid_bits must be at most 4 in the emulator, not 5"
    ):
        EmulatorConfig(mmu=SecmmuConfig(asid_bits=5))
