"""DMA engines: order, ids, limits, data and what is reported."""

from collections import Counter
from random import Random

import pytest

from secmmu.config import EmulatorConfig, SecmmuConfig
from secmmu.csr import EMULATOR_REGISTERS
from secmmu.layouts import Event, Op, Response
from tests.hdl.emulator.emulator_bench import (
    SMALL,
    Record,
    advance,
    arg_of,
    csr,
    descriptor,
    message,
    perform,
)


def of_kind(records: list[Record], kind: Event) -> list[Record]:
    """Return the records of one kind."""
    return [record for record in records if record.kind is kind]


@pytest.mark.parametrize("beats", [1, 2, 3, 15, 16])
def test_load_brings_back_what_a_write_stored(beats: int) -> None:
    """A write stores data + beat; a load shows two beats a record and the descriptor's names."""
    records = perform(
        [
            descriptor(
                engine=1, asid=3, tag=0x1234, va=0x1008, beats=beats, write=1, data=(1 << 64) - 2
            ),
            advance(200, Event.DMA_DONE),
            descriptor(engine=0, asid=5, tag=0x4321, va=0x1008, beats=beats),
            advance(200, Event.DMA_DONE),
            message(Op.MEM_READ, 0x1008 + 8 * beats, arg=1),
        ]
    )
    stored = [((1 << 64) - 2 + beat) % (1 << 64) for beat in range(beats)]
    loads = of_kind(records, Event.LOAD)
    pairs = [(record.a, record.b)[: arg_of(record).count] for record in loads]
    assert [word for pair in pairs for word in pair] == stored
    assert [arg_of(record).beat for record in loads] == list(range(0, beats, 2))
    assert all((record.tag, record.source) == (0x4321, 0) for record in loads)
    assert all((arg_of(record).asid, arg_of(record).id >> 3) == (5, 0) for record in loads)
    write, read = of_kind(records, Event.DMA_DONE)
    assert (write.tag, write.source, write.a) == (0x1234, 1, 0x1008)
    assert (read.tag, read.source, read.a) == (0x4321, 0, 0x1008)
    for done, expected in ((write, (3, 1, beats)), (read, (5, 0, beats))):
        arg = arg_of(done)
        assert (arg.asid, arg.write, arg.beats) == expected
        assert arg.id >> 3 == done.source
        assert arg.code == Response.OKAY.value
        assert done.b < done.cycle
    assert of_kind(records, Event.READ_DATA)[0].a == 0


def test_issue_cycle_is_that_of_the_first_valid() -> None:
    """The stand-in shows the handshake, which is at once when nothing waits."""
    records = perform([descriptor(va=0x40), advance(100)])
    (begin,) = of_kind(records, Event.USE_BEGIN)
    (done,) = of_kind(records, Event.DMA_DONE)
    assert done.b == begin.cycle
    assert done.cycle == done.b + 20


def test_error_answers_have_no_loads_and_no_bytes() -> None:
    """DECERR outside the memory, read and write."""
    outside = SMALL.memory_bytes
    records = perform(
        [
            descriptor(va=outside, beats=4, tag=1),
            descriptor(va=outside, beats=4, tag=2, write=1),
            descriptor(va=0, beats=3, tag=3),
            descriptor(va=0, beats=2, tag=4, write=1),
            advance(200),
            message(Op.CSR_READ, flags=1, arg=EMULATOR_REGISTERS["dma.bytes"].address),
            message(Op.CSR_READ, flags=1, arg=EMULATOR_REGISTERS["dma.pending"].address),
        ]
    )
    codes = {record.tag: arg_of(record).code for record in of_kind(records, Event.DMA_DONE)}
    assert codes == {1: 3, 2: 3, 3: 0, 4: 0}
    assert {record.tag for record in of_kind(records, Event.LOAD)} == {3}
    assert [record.b for record in of_kind(records, Event.CSR_DATA)] == [5 * 8, 0]


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_outstanding_bursts_are_limited_and_ids_are_not_shared(limit: int) -> None:
    """At no time does an engine have more open bursts than allowed, nor two with one id."""
    random = Random(limit)
    messages = [
        descriptor(
            engine=index % 2,
            tag=index,
            va=64 * index,
            beats=random.randint(1, 4),
            write=random.randrange(2),
        )
        for index in range(16)
    ]
    setup = [csr("dma.outstanding", limit), csr("memory.read_latency", 40)]
    records = perform([*setup, *messages, advance(700)])
    done = of_kind(records, Event.DMA_DONE)
    assert sorted(record.tag for record in done) == list(range(16))
    for engine in range(2):
        own = [record for record in done if record.source == engine]
        assert all(arg_of(record).id >> 3 == engine for record in own)
        open_at = [
            Counter(arg_of(r).id for r in own if r.b <= cycle <= r.cycle)
            for cycle in range(max(r.cycle for r in own))
        ]
        assert max(sum(ids.values()) for ids in open_at) == limit
        assert max(count for ids in open_at for count in ids.values()) == 1
        issued = [record.tag for record in sorted(own, key=lambda record: record.b)]
        assert issued == sorted(issued)


def test_full_queue_holds_the_message_back_until_there_is_room() -> None:
    """DESCRIPTOR runs emulated time; pending counts queued and outstanding ones."""
    pending = message(Op.CSR_READ, flags=1, arg=EMULATOR_REGISTERS["dma.pending"].address)
    messages = [csr("memory.read_latency", 100), csr("dma.outstanding", 1)]
    for index in range(SMALL.descriptors + 3):
        messages += [descriptor(va=0, tag=index), pending]
    records = perform([*messages, advance(1500)])
    counts = [record.b for record in of_kind(records, Event.CSR_DATA)]
    assert counts[:4] == [1, 2, 3, 4]
    assert max(counts) <= SMALL.descriptors + 2
    assert [r.tag for r in of_kind(records, Event.DMA_DONE)] == list(range(SMALL.descriptors + 3))


def test_descriptor_of_an_engine_that_is_not_there_is_dropped() -> None:
    """The messages after it are performed."""
    records = perform([descriptor(engine=2, va=0), descriptor(va=8, tag=5), advance(50)])
    assert [record.tag for record in of_kind(records, Event.DMA_DONE)] == [5]


def test_engines_take_turns() -> None:
    """Three engines with work issue one after the other; ids are split by two bits."""
    config = EmulatorConfig(
        mmu=SecmmuConfig(id_bits=4),
        engines=3,
        descriptors=8,
        external_memory=False,
        memory_bytes=64 << 10,
    )
    # The first burst of each engine is long to fetch, the second ones then come out in turn.
    messages = [csr("memory.read_latency", 100), csr("dma.outstanding", 1)]
    for index in range(3):
        messages += [descriptor(engine=engine, va=0, tag=3 * index + engine) for engine in range(3)]
    records = perform([*messages, csr("dma.outstanding", 4), advance(600)], config=config)
    done = of_kind(records, Event.DMA_DONE)
    assert sorted(record.tag for record in done) == list(range(9))
    issued = sorted(done, key=lambda record: record.b)
    assert {arg_of(record).id >> 2 for record in issued if record.source == 2} == {2}
    turns = [record.source for record in issued[3:]]
    assert sorted(turns[:3]) == [0, 1, 2]
    assert turns[3:] == turns[:3]
