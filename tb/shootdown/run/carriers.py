"""Carriers of the link: what takes a session's batches of words to an emulator and brings its records back.

A session (:mod:`hostmm`) is a generator that yields batches of link words and is sent arrays of records. Each carrier
has one method for it, ``exchange``: perform a batch, return every record up to the ADVANCED that closes it.
"""

import os
import weakref
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from cocotb.triggers import Timer

from secmmu.layouts import RECORD_WORDS, WORD_BITS, Event
from shootdown.errors import SimulationError
from shootdown.simulators.builds import Design

__all__ = [
    "CocotbCarrier",
    "Records",
    "Session",
    "Words",
    "drive",
    "drive_model",
    "simulation_design",
]

T = TypeVar("T")
Records: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]
Words: TypeAlias = Sequence[int] | Records
Session: TypeAlias = Generator[Words, Records, T]

SIM_TOP = Path(__file__).with_name("sim_top.v")
_WORDS_PER_ROW = 16
_ROWS = 16
_WRITTEN = ("words", "words_count", "final_part", "path", "attach", "give", "resume")
_READ = ("ready", "records_count", "done", "wake", "cycle")
_PART = _ROWS * _WORDS_PER_ROW
_PATH_BITS = 256
_RECORD_BYTES = RECORD_WORDS * WORD_BITS // 8
_NO_DELAY = 3
"""GPI action: write now. The simulator stands still, so there is nothing to be in step with."""


def simulation_design(verilog: str, extra_sources: tuple[Path, ...] = ()) -> Design:
    """Return the design that simulates an emulator.

    Parameters
    ----------
    verilog : str
        The emulator as Verilog, its module called ``emulator``.
    extra_sources : tuple of Path
        Verilog files that it instantiates.
    """
    return Design(
        name="emulator",
        verilog=verilog,
        top="sim_top",
        extra_sources=(SIM_TOP, *extra_sources),
        visible=_WRITTEN,
        readable=_READ,
        long=True,
    )


class ModelCarrier(Protocol):
    """A carrier that answers at once."""

    def exchange(self, words: Any) -> Records:
        """Perform a batch and return its records."""
        ...


class CocotbCarrier:
    """Carries batches to the mailbox of ``sim_top.v``, inside a cocotb simulation.

    Python runs once per batch, unless the batch has more than 256 words or 1024 records: then once per part.

    Parameters
    ----------
    dut : handle
        cocotb's handle of ``sim_top``.
    recorder : callable or None
        Is given the words of each batch, for :mod:`shootdown.run.linkfile`.

    Attributes
    ----------
    wakes : int
        How often Python was woken.
    batches : int
        How many batches were performed.
    """

    # Words go through the GPI objects behind cocotb's handles, as strings of binary digits: a fifth of the cost of
    # LogicArray. Records come as raw bytes through a pipe: a tenth of the cost of reading them from signals.
    def __init__(self, dut: Any, recorder: Callable[[Records], None] | None = None) -> None:
        self._rows = [dut.words[row]._handle.set_signal_val_binstr for row in range(_ROWS)]
        self._set_count = dut.words_count._handle.set_signal_val_int
        self._set_final = dut.final_part._handle.set_signal_val_int
        self._set_give = dut.give._handle.set_signal_val_int
        self._set_resume = dut.resume._handle.set_signal_val_int
        self._get_count = dut.records_count._handle.get_signal_val_long
        self._get_done = dut.done._handle.get_signal_val_long
        self._get_cycle = dut.cycle._handle.get_signal_val_binstr
        self._wake = dut.wake.value_change
        self._recorder = recorder
        self._dut = dut
        self._started = False
        self._give = self._resume = self._final = 0
        self.wakes = 0
        self.batches = 0

    @property
    def cycle(self) -> int:
        """The emulated cycle counter, now."""
        return int(self._get_cycle(), 2)

    async def exchange(self, words: Words) -> Records:
        """Perform a batch that ends with an ADVANCE; return its records in order, shape (n, 4).

        Raises
        ------
        SimulationError
            The batch does not end with an ADVANCE.
        """
        if not self._started:
            await self._start()
        batch = np.ascontiguousarray(words, dtype=np.uint64)
        if self._recorder is not None:
            self._recorder(batch)
        self.batches += 1
        taken: list[bytes] = []
        for start in range(0, len(batch), _PART):
            self._hand_over(batch[start : start + _PART], final=start + _PART >= len(batch))
            await self._wake
            self._take(taken)
            while not self._get_done():
                self._resume ^= 1
                self._set_resume(_NO_DELAY, self._resume)
                await self._wake
                self._take(taken)
        records = np.frombuffer(b"".join(taken), dtype=np.uint64).reshape(-1, RECORD_WORDS)
        if not len(records) or records[-1, 0] & np.uint64(0xFF) != Event.ADVANCED.value:
            raise SimulationError(f"a batch of {len(batch)} words did not end with an ADVANCE")
        return records

    async def _start(self) -> None:
        dut = self._dut
        # What is written before the simulator has run its initializers is lost.
        while dut.ready.value != 1:
            await dut.ready.value_change
        self._pipe, write_end = os.pipe()
        weakref.finalize(self, os.close, self._pipe)
        path = f"/proc/self/fd/{write_end}"
        dut.path._handle.set_signal_val_binstr(
            _NO_DELAY, format(int.from_bytes(path.encode(), "big"), f"0{_PATH_BITS}b")
        )
        dut.attach._handle.set_signal_val_int(_NO_DELAY, 1 - int(dut.attach.value))
        # The simulator opens the pipe for itself in the next step.
        await Timer(1, "ps")
        os.close(write_end)
        self._give = int(dut.give.value)
        self._resume = int(dut.resume.value)
        self._final = int(dut.final_part.value)
        self._started = True

    def _hand_over(self, part: Records, *, final: bool) -> None:
        rows = -(-len(part) // _WORDS_PER_ROW)
        row_bits = _WORDS_PER_ROW * WORD_BITS
        bits = format(int.from_bytes(part.tobytes(), "little"), f"0{rows * row_bits}b")
        for row in range(rows):
            end = (rows - row) * row_bits
            self._rows[row](_NO_DELAY, bits[end - row_bits : end])
        self._set_count(_NO_DELAY, len(part))
        if final != self._final:
            self._final = final
            self._set_final(_NO_DELAY, int(final))
        self._give ^= 1
        self._set_give(_NO_DELAY, self._give)

    def _take(self, taken: list[bytes]) -> None:
        self.wakes += 1
        missing = self._get_count() * _RECORD_BYTES
        while missing:
            taken.append(os.read(self._pipe, missing))
            missing -= len(taken[-1])


async def drive(session: "Session[T]", carrier: CocotbCarrier) -> T:
    """Run ``session`` to its end over an asynchronous carrier and return what it returns."""
    try:
        words = next(session)
        while True:
            words = session.send(await carrier.exchange(words))
    except StopIteration as end:
        return end.value


def drive_model(session: "Session[T]", model: ModelCarrier) -> T:
    """Run ``session`` to its end over a carrier that answers at once and return what it returns."""
    try:
        words = next(session)
        while True:
            words = session.send(model.exchange(words))
    except StopIteration as end:
        return end.value
