"""Drives an emulator in amaranth.sim: messages in, records out."""

import dataclasses
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from amaranth.hdl import Fragment
from amaranth.lib import data
from amaranth.sim import Simulator

from secmmu.config import PRESETS, EmulatorConfig
from secmmu.csr import EMULATOR_REGISTERS
from secmmu.emulator.top import Emulator
from secmmu.layouts import (
    AccessArg,
    CommandLayout,
    DescriptorLayout,
    Event,
    FrameTagLayout,
    HeaderLayout,
    LoadArg,
    Op,
)
from tests.hdl.identity_mmu import IdentityMmu

__all__ = [
    "SMALL",
    "TINY",
    "Record",
    "advance",
    "arg_of",
    "command",
    "csr",
    "descriptor",
    "message",
    "perform",
    "tag",
    "words",
]

_NO_REGISTER = 0xFF0
_INTEGERS = ("source", "tag", "arg", "cycle", "a", "b")

TINY = dataclasses.replace(PRESETS["tiny"], id_bits=4, tag_bits=16, observe=True)
SMALL = EmulatorConfig(mmu=TINY, external_memory=False, memory_bytes=64 << 10, descriptors=8)


@dataclasses.dataclass(frozen=True)
class Record:
    """One record, its fields as integers."""

    kind: Event
    source: int
    tag: int
    arg: int
    cycle: int
    a: int
    b: int


def words(layout: data.Layout, **fields: Any) -> list[int]:
    """Pack ``fields`` into 64-bit words."""
    bits = layout.const(fields).as_bits()
    return [bits >> shift & (1 << 64) - 1 for shift in range(0, layout.size, 64)]


def message(op: Op, *payload: int, flags: int = 0, arg: int = 0) -> list[int]:
    """Return the words of a message."""
    return words(HeaderLayout(), op=op, flags=flags, count=len(payload), arg=arg) + list(payload)


def advance(cycle: int, *kinds: Event) -> list[int]:
    """Return an ADVANCE that stops at ``kinds``."""
    return message(Op.ADVANCE, cycle, arg=sum(1 << kind.value for kind in kinds))


def csr(name: str, value: int) -> list[int]:
    """Return a write of an emulator register."""
    return message(Op.CSR_WRITE, value, flags=1, arg=EMULATOR_REGISTERS[name].address)


def descriptor(**fields: Any) -> list[int]:
    """Return a DMA descriptor; asid 1 and 1 beat unless given."""
    return message(Op.DESCRIPTOR, *words(DescriptorLayout(), **({"asid": 1, "beats": 1} | fields)))


def command(**fields: Any) -> list[int]:
    """Return an invalidation command."""
    return message(Op.COMMAND, *words(CommandLayout(), **fields))


def tag(frame: int, **fields: Any) -> list[int]:
    """Return a TAG message."""
    return message(Op.TAG, frame, *words(FrameTagLayout(), **fields))


def arg_of(record: Record) -> Any:
    """Return the ``arg`` of a record of an access, unpacked."""
    layout = LoadArg() if record.kind is Event.LOAD else AccessArg()
    return layout.from_bits(record.arg)


def perform(
    messages: Sequence[list[int]],
    *,
    config: EmulatorConfig = SMALL,
    mmu: Callable[..., Any] = IdentityMmu,
    stalls: Random | None = None,
) -> list[Record]:
    """Send ``messages`` and return all records; ``stalls`` makes both streams irregular.

    A read of an emulator register that is not there is added at the end; its record ends the run.
    """
    top = Emulator(config, mmu=mmu(config.mmu))
    simulator = Simulator(Fragment.get(top, None))
    simulator.add_clock(1e-6)
    records: list[Record] = []
    end = message(Op.CSR_READ, flags=1, arg=_NO_REGISTER)
    pending = [word for each in (*messages, end) for word in each]

    async def sender(context: Any) -> None:
        for word in pending:
            while stalls is not None and stalls.random() < 0.3:
                await context.tick()
            context.set(top.request.valid, 1)
            context.set(top.request.payload, word)
            await context.tick().until(top.request.ready)
            context.set(top.request.valid, 0)

    async def receiver(context: Any) -> None:
        while True:
            take = stalls is None or stalls.random() < 0.3
            context.set(top.records.ready, take)
            sampled = await context.tick().sample(top.records.valid, top.records.payload)
            valid, payload = sampled[2:]
            if valid and take:
                if payload.kind is Event.CSR_DATA and payload.arg == _NO_REGISTER:
                    return
                fields = {name: payload[name] for name in _INTEGERS}
                records.append(Record(kind=payload.kind, **fields))

    simulator.add_testbench(sender, background=True)
    simulator.add_testbench(receiver)
    simulator.run()
    return records
