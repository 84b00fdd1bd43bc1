"""The frame sanitizer: each verdict, in the cycle of the beat, and nothing else."""

from typing import Any

import pytest
from amaranth.sim import Simulator

from secmmu.emulator.sanitizer import Sanitizer
from secmmu.layouts import AccessArg, Event, FrameKind, FrameTagLayout, Op, Verdict
from tests.hdl.emulator.emulator_bench import (
    Record,
    advance,
    arg_of,
    csr,
    descriptor,
    message,
    perform,
    tag,
    words,
)

WALK = 1 << 60
"""The stand-in sends a read with this bit of its address to the walk port."""


def violations(records: list[Record]) -> list[tuple[int, int, int, int]]:
    """Return (source, verdict, address, tag word) of each violation."""
    return [
        (record.source, arg_of(record).code, record.a, record.b)
        for record in records
        if record.kind is Event.VIOLATION
    ]


@pytest.mark.parametrize("write", [0, 1])
@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"kind": FrameKind.FREE}, Verdict.FREED),
        ({"kind": FrameKind.FREE, "read": 0xFFFF, "write": 0xFFFF}, Verdict.FREED),
        ({"kind": FrameKind.USER}, Verdict.RIGHTS),
        ({"kind": FrameKind.USER, "read": 0xFFDF, "write": 0xFFDF}, Verdict.RIGHTS),
        ({"kind": FrameKind.USER, "read": 1 << 5, "write": 1 << 5}, None),
        ({"kind": FrameKind.TABLE, "read": 0xFFFF, "write": 0xFFFF}, Verdict.FOREIGN),
        ({"kind": FrameKind.RESERVED, "read": 0xFFFF, "write": 0xFFFF}, Verdict.FOREIGN),
    ],
)
def test_device_beats(fields: dict[str, int], verdict: Verdict | None, write: int) -> None:
    """Every beat is judged by its own frame's tag and its own asid."""
    records = perform(
        [
            tag(2, **fields),
            descriptor(engine=1, asid=5, va=0x2FF0, beats=2, write=write),
            advance(100),
        ]
    )
    if verdict is None:
        assert violations(records) == []
        return
    (word,) = words(FrameTagLayout(), **fields)
    assert violations(records) == [(0, verdict.value, 0x2FF0 + 8 * b, word) for b in range(2)]
    arg = arg_of(next(record for record in records if record.kind is Event.VIOLATION))
    assert (arg.asid, arg.id >> 3, arg.write, arg.beats) == (5, 1, write, 2)


def test_read_and_write_rights_are_apart() -> None:
    """A read-only frame may be read and not written, and the other way round."""
    records = perform(
        [
            tag(2, kind=FrameKind.USER, read=1 << 1),
            tag(3, kind=FrameKind.USER, write=1 << 1),
            *(
                descriptor(va=va, write=write, tag=va)
                for va in (0x2000, 0x3000)
                for write in (0, 1)
            ),
            advance(100),
        ]
    )
    found = {(arg_of(r).write, r.a) for r in records if r.kind is Event.VIOLATION}
    assert found == {(1, 0x2000), (0, 0x3000)}


@pytest.mark.parametrize("kind", list(FrameKind))
def test_walker_beats(kind: FrameKind) -> None:
    """The walker may read page tables only."""
    records = perform(
        [
            tag(2, kind=kind, read=0xFFFF, write=0xFFFF),
            descriptor(asid=3, va=WALK + 0x2008),
            advance(100),
        ]
    )
    found = violations(records)
    if kind is FrameKind.TABLE:
        assert found == []
    else:
        (word,) = words(FrameTagLayout(), kind=kind, read=0xFFFF, write=0xFFFF)
        assert found == [(1, Verdict.TABLE.value, 0x2008, word)]


def test_violation_comes_in_the_cycle_of_the_sample_and_of_the_store() -> None:
    """Reads in the cycle before R, writes in the cycle before B."""
    records = perform(
        [
            csr("memory.read_latency", 9),
            csr("memory.write_latency", 9),
            descriptor(va=0x1000, tag=1),
            descriptor(va=0x2000, tag=2, write=1),
            advance(100),
        ]
    )
    found = {arg_of(r).write: r.cycle for r in records if r.kind is Event.VIOLATION}
    done = {arg_of(r).write: r.cycle for r in records if r.kind is Event.DMA_DONE}
    assert found == {write: cycle - 1 for write, cycle in done.items()}


def test_tag_counts_from_the_hosts_step_on() -> None:
    """The beat of the cycle before the TAG message is judged by the old tag, the next one by the new."""
    issue = [tag(1, kind=FrameKind.USER, read=2), descriptor(va=0x1000, beats=4)]
    free = tag(1, kind=FrameKind.FREE)
    undisturbed = perform([*issue, advance(100)])
    done = next(record.cycle for record in undisturbed if record.kind is Event.DMA_DONE)
    samples = [done - 4 + beat for beat in range(4)]
    for changed in range(4):
        records = perform([*issue, advance(samples[changed]), free, advance(100)])
        found = [(r.cycle, r.a) for r in records if r.kind is Event.VIOLATION]
        assert found == [(samples[b], 0x1000 + 8 * b) for b in range(changed, 4)]


def test_host_and_outside_accesses_are_not_checked() -> None:
    """The host may touch anything; a DECERR touches nothing."""
    records = perform(
        [
            message(Op.MEM_WRITE, 0x1000, 1),
            message(Op.MEM_READ, 0x1000, arg=1),
            descriptor(va=1 << 40),
            descriptor(va=1 << 40, write=1),
            advance(100),
        ]
    )
    assert violations(records) == []


@pytest.mark.parametrize("kind", list(FrameKind))
def test_the_walker_may_write_page_tables_alone(kind: FrameKind) -> None:
    """A store of the walker (an A/D update) is judged as its reads are, whatever rights the frame gives."""
    dut = Sanitizer(frames=4, external=False)

    async def testbench(context: Any) -> None:
        context.set(dut.update.frame, 2)
        context.set(dut.update.tag, {"kind": kind, "write": 0xFFFF})
        context.set(dut.update.valid, 1)
        await context.tick()
        context.set(dut.update.valid, 0)
        context.set(dut.write.payload, {"address": 0x2008, "walker": 1})
        context.set(dut.write.valid, 1)
        await context.delay(0)
        violation = dut.write_violation
        assert context.get(violation.valid) == (kind is not FrameKind.TABLE)
        if kind is not FrameKind.TABLE:
            arg = AccessArg().from_bits(context.get(violation.payload.arg))
            assert context.get(violation.payload.source) == 1
            assert (arg.write, arg.code) == (1, Verdict.TABLE.value)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
