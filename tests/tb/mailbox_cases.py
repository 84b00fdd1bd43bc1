"""Cases of the mailbox and its carrier, on the stand-in of echo_emulator.v."""

import random
from collections.abc import Generator
from typing import Any

import cocotb
import numpy as np
import pytest

from secmmu.layouts import Op
from shootdown.errors import SimulationError
from shootdown.run.carriers import CocotbCarrier, Records, drive


def _message(op: Op, *payload: int, arg: int = 0) -> list[int]:
    return [op.value | len(payload) << 16 | arg << 32, *payload]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def advance_closes_a_batch(dut: Any) -> None:
    """The ADVANCED record of the last ADVANCE ends the batch, all earlier ones are in it, in order."""
    carrier = CocotbCarrier(dut)
    for count in (1, 2, 5, 9):
        batch = [word for i in range(count) for word in _message(Op.ADVANCE, 100 * count + i)]
        records = await carrier.exchange(batch)
        assert [int(cycle) for cycle in records[:, 1]] == [100 * count + i for i in range(count)]
    assert carrier.wakes == carrier.batches == 4


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def records_keep_all_bits_and_order(dut: Any) -> None:
    """Words and records of 64 random bits arrive as they were sent."""
    carrier = CocotbCarrier(dut)
    choose = random.Random(cocotb.RANDOM_SEED)
    for _ in range(20):
        reads = [
            (choose.getrandbits(63), choose.randrange(1, 5)) for _ in range(choose.randrange(8))
        ]
        batch = [word for a, n in reads for word in _message(Op.MEM_READ, a, arg=n)]
        records = await carrier.exchange(batch + _message(Op.ADVANCE, (1 << 64) - 1))
        expected = [(a, a + i) for a, n in reads for i in range(n)]
        assert [(int(r[3]), int(r[2])) for r in records[:-1]] == expected
        assert int(records[-1, 1]) == (1 << 64) - 1


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def batch_longer_than_the_mailbox(dut: Any) -> None:
    """A batch of several mailboxes, cut inside messages, loses nothing."""
    carrier = CocotbCarrier(dut)
    for words in (255, 256, 257, 511, 512, 513, 2000):
        body = _message(Op.MEM_WRITE, *([Op.ADVANCE.value] * (words - 5)))
        records = await carrier.exchange(
            body + _message(Op.MEM_READ, 8, arg=1) + _message(Op.ADVANCE, 3)
        )
        assert [int(record[0]) & 255 for record in records] == [1, 0]


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def more_records_than_the_mailbox(dut: Any) -> None:
    """An answer of several mailboxes, also one that fills it exactly, loses nothing."""
    carrier = CocotbCarrier(dut)
    for count in (1022, 1023, 1024, 1025, 2047, 5000):
        records = await carrier.exchange(
            _message(Op.MEM_READ, 64, arg=count) + _message(Op.ADVANCE, 9)
        )
        assert [int(a) for a in records[:, 2]] == [*range(64, 64 + count), 0]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def wake_costs_one_clock(dut: Any) -> None:
    """Between two batches one emulated clock passes unused, however long Python thinks."""
    carrier = CocotbCarrier(dut)
    await carrier.exchange(_message(Op.ADVANCE, 1))
    before = carrier.cycle
    await carrier.exchange(_message(Op.ADVANCE, 1))
    first = carrier.cycle - before
    await carrier.exchange(_message(Op.ADVANCE, 1))
    # The unused one, header, cycle, seven clocks of the stand-in's delay, the record.
    assert (first, carrier.cycle - before) == (11, 22)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def batch_without_an_end_is_refused(dut: Any) -> None:
    """A batch that does not end with an ADVANCE is an error, not an empty answer."""
    carrier = CocotbCarrier(dut)
    with pytest.raises(SimulationError, match="a batch of 1 words did not end with an ADVANCE"):
        await carrier.exchange(_message(Op.NOP))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def session_is_driven_to_its_end(dut: Any) -> None:
    """A session's batches are recorded as they go, and its result comes back."""

    def session() -> Generator[list[int], Records, int]:
        total = 0
        for cycle in (5, 6, 7):
            records = yield _message(Op.ADVANCE, cycle)
            total += int(records[-1, 1])
        return total

    recorded: list[np.ndarray] = []
    assert await drive(session(), CocotbCarrier(dut, recorded.append)) == 18
    assert [int(batch[1]) for batch in recorded] == [5, 6, 7]
