"""A session whose device is busy and whose host sleeps: what the emulator costs when Python has nothing to do."""

import random

import numpy as np

from hostmm.driver.link import Link
from hostmm.driver.pack import packer
from secmmu.csr import EMULATOR_REGISTERS, context_register
from secmmu.layouts import Event, FrameKind, PteLayout
from shootdown.run.carriers import Records, Session

__all__ = ["stretch"]

_ASID = 1
_SV39 = 8
_ROOT, _MIDDLE, _LEAVES = 1, 2, 3
_FIRST_FRAME = 16
_PAGES = 256
_BEATS = 8
_CYCLE_NS = 10
_PER_BATCH = 96
_PTE = packer(PteLayout())


def _map_pages(link: Link) -> None:
    leaf = {"v": 1, "r": 1, "w": 1, "u": 1, "a": 1, "d": 1}
    leaves = [_PTE(ppn=_FIRST_FRAME + page, **leaf) for page in range(_PAGES)]
    for frame, ptes in ((_ROOT, [_PTE(v=1, ppn=_MIDDLE)]), (_MIDDLE, [_PTE(v=1, ppn=_LEAVES)])):
        link.write(0, frame << 12, ptes)
    link.write(0, _LEAVES << 12, leaves)
    for frame in (_ROOT, _MIDDLE, _LEAVES):
        link.tag(0, frame, kind=FrameKind.TABLE.value)
    rights = {"read": 1 << _ASID, "write": 1 << _ASID}
    for page in range(_PAGES):
        link.tag(0, _FIRST_FRAME + page, kind=FrameKind.USER.value, **rights)


def _set_up(link: Link, registers: dict[str, int]) -> None:
    for name, value in registers.items():
        link.csr_write(0, EMULATOR_REGISTERS[name].address, value, emulator=True)
    _map_pages(link)
    link.csr_write(0, context_register(_ASID), _SV39 << 60 | _ROOT)


def stretch(*, bursts: int, engines: int, registers: dict[str, int], seed: int) -> Session[int]:
    """Make the words of ``bursts`` bursts; return a session that has the engines perform them.

    Half of the bursts read and half write, 64 bytes each, in 256 pages of 4 KiB: more than the TLB holds. The session
    returns the number of records. All words are made here, so the session's time is the device's alone.

    Parameters
    ----------
    bursts : int
        Bursts in all.
    engines : int
        DMA engines of the emulator.
    registers : dict
        Names and values of the emulator's registers to set.
    seed : int
        Seed of the addresses.
    """
    choose = random.Random(seed)
    link = Link(cycle_ns=_CYCLE_NS)
    _set_up(link, registers)
    batches = [np.array(link.batch(None, ()), np.uint64)]
    for first in range(0, bursts, _PER_BATCH):
        for tag in range(first, min(first + _PER_BATCH, bursts)):
            # Waits in the hardware while the engine's queue is full; that is what paces the stretch.
            link.descriptor(
                0,
                engine=tag % engines,
                asid=_ASID,
                tag=tag & 0xFFFF,
                beats=_BEATS,
                write=choose.getrandbits(1),
                va=choose.randrange(_PAGES) << 12 | choose.randrange(64) << 6,
                data=tag << 8,
            )
        batches.append(np.array(link.batch(None, ()), np.uint64))
    return _perform(link, batches)


def _perform(link: Link, batches: list[Records]) -> Session[int]:
    records = 0
    for batch in batches:
        answer = yield batch
        link.answered(answer)
        records += len(answer)
    return records + (yield from _run_dry(link))


def _run_dry(link: Link) -> Session[int]:
    records, pending = 0, True
    while pending:
        now = link.synced_cycle * _CYCLE_NS
        link.csr_read(now, EMULATOR_REGISTERS["dma.pending"].address, emulator=True)
        answer = yield link.batch(now + 1000 * _CYCLE_NS, ())
        link.answered(answer)
        records += len(answer)
        data = answer[(answer[:, 0] & np.uint64(0xFF)) == Event.CSR_DATA.value]
        pending = bool(data[0, 3])
    return records
