"""Warp: skipping idle cycles changes no record."""

import dataclasses
from random import Random

import pytest

from secmmu.layouts import CommandKind, Event
from tests.hdl.emulator.emulator_bench import Record, advance, command, csr, descriptor, perform


def scenario(random: Random) -> list[list[int]]:
    """Return messages with long and short gaps between bursts of work."""
    messages = [
        csr("memory.read_latency", random.choice([1, 2, 17])),
        csr("memory.write_latency", random.choice([1, 5, 30])),
        csr("memory.jitter", random.choice([0, 7])),
        csr("memory.beat_gap", random.choice([0, 2])),
    ]
    cycle = 0
    for index in range(6):
        messages += [
            descriptor(
                engine=random.randrange(2),
                tag=index,
                va=8 * random.randrange(1000),
                beats=random.randint(1, 16),
                write=random.randrange(2),
                data=index,
            )
            for _ in range(random.randrange(4))
        ]
        if random.random() < 0.5:
            messages.append(command(kind=CommandKind.ALL, tag=index))
        cycle += random.choice([1, 3, 20, 100, 300])
        kinds = random.choice([(), (Event.DMA_DONE,), (Event.DRAINED, Event.LOAD)])
        messages.append(advance(cycle, *kinds))
    return [*messages, advance(cycle + 500)]


def without_clocks(records: list[Record]) -> list[Record]:
    """Leave out the clock counts, which warp is there to change."""
    return [
        dataclasses.replace(record, a=0) if record.kind is Event.ADVANCED else record
        for record in records
    ]


@pytest.mark.parametrize("seed", range(4))
def test_warp_changes_no_record(seed: int) -> None:
    """Same events, same cycles; fewer clocks."""
    messages = scenario(Random(seed))
    slow = perform(messages)
    fast = perform([csr("warp", 1), *messages])
    assert without_clocks(slow) == without_clocks(fast)
    assert fast[-1].a < slow[-1].a - 300


def test_warp_takes_a_few_clocks_for_any_gap() -> None:
    """A gap of 2^40 cycles; the counter lands exactly on the target."""
    records = perform([csr("warp", 1), advance(1 << 40), descriptor(va=0), advance(1 << 41)])
    advanced = [record for record in records if record.kind is Event.ADVANCED]
    assert [record.cycle for record in advanced] == [1 << 40, 1 << 41]
    assert advanced[-1].a < 100
