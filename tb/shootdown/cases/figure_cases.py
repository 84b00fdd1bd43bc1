"""The figures of the secondary MMU, each measured at its pins in cycles."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import cocotb

from secmmu.layouts import CommandKind
from shootdown.agents.device import Access
from shootdown.cases.figure_bench import FRAMES, Meter, save

_BASE = 0x1000
"""First page of the working set; a multiple of 512, so that it begins a leaf table."""
_SLOTS = 16
_WINDOW = 400


async def _meter(dut: Any, name: str) -> Meter:
    return await Meter(dut, name).start()


def _translation(meter: Meter, write: bool) -> int:
    """Cycles from the last ARVALID or AWVALID of the device to the one that it led to."""
    return meter.shown["memory", write][-1][0] - meter.shown["device", write][-1][0]


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def hit_latency(dut: Any) -> None:
    """From the device's AxVALID to the memory's, either direction, nothing else going on."""
    meter = await _meter(dut, "hit latency")
    await meter.warm(1, [_BASE])
    worst = 0
    for write in (False, True) * 4:
        await meter.tick(meter.rng.randrange(1, 8))
        meter.access(write, 1, _BASE)
        await meter.settle()
        worst = max(worst, _translation(meter, write))
    save("hit latency", worst)


def _offering(meter: Meter, turns: Iterator[tuple[bool, int, int]]) -> Callable[[], None]:
    """Make what keeps a few accesses (write, page, id) queued at the device; to be called once a cycle."""
    waiting: deque[Access] = deque(maxlen=8)

    def offer() -> None:
        while sum(access.accepted is None for access in waiting) < 6:
            write, page, number = next(turns)
            waiting.append(meter.access(write, 1, page, id=number))

    return offer


async def _stream(meter: Meter, turns: Iterator[tuple[bool, int, int]], cycles: int) -> float:
    """Offer accesses for as long as needed; return translations per cycle in a window of ``cycles``."""
    offer = _offering(meter, turns)

    async def run(count: int) -> int:
        for _ in range(count):
            offer()
            await meter.tick()
        return sum(len(meter.shown["memory", write]) for write in (False, True))

    before = await run(cycles // 4 + 2 * meter.latency)
    return (await run(cycles) - before) / cycles


def _turns(
    meter: Meter, directions: tuple[bool, ...], ids: list[int], pages: list[int]
) -> Iterator[tuple[bool, int, int]]:
    at = 0
    while True:
        write = directions[at % len(directions)]
        yield write, pages[at % len(pages)], ids[at // len(directions) % len(ids)]
        at += 1


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def hit_throughput(dut: Any) -> None:
    """Hits back to back, as many pages as there are use slots, ids in turn."""
    meter = await _meter(dut, "hit throughput")
    pages = [_BASE + at for at in range(min(_SLOTS, meter.config.use_slots))]
    await meter.warm(1, pages)
    ids = list(range(meter.ids))
    for name, directions in (("reads", (False,)), ("writes", (True,)), ("mixed", (False, True))):
        rate = await _stream(meter, _turns(meter, directions, ids, pages), _WINDOW)
        save(f"hit throughput, {name}", rate)
        await meter.settle()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def hits_under_misses(dut: Any) -> None:
    """Hits of other ids while as many walks as there can be wait for memory."""
    meter = await _meter(dut, "hits under misses")
    walks = min(8, meter.config.walks)
    pages = [_BASE + at for at in range(min(8, meter.config.use_slots))]
    await meter.warm(1, pages)
    for at in range(walks):
        meter.map(1, _BASE + 512 * (at + 1))
    meter.walk.latency = 100 * _WINDOW
    # Half of them reads and half of them writes: an id of each is free for hits in the other direction.
    busy = [meter.ids - 1 - at // 2 for at in range(walks)]
    for at, number in enumerate(busy):
        meter.access(bool(at % 2), 1, _BASE + 512 * (at + 1), id=number)
    await meter.until(lambda: meter.walk.outstanding == walks)
    ids = [number for number in range(meter.ids) if number not in busy]
    rate = await _stream(meter, _turns(meter, (False, True), ids, pages), _WINDOW)
    assert meter.walk.outstanding == walks
    save("hits under misses", rate)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def miss_latency(dut: Any) -> None:
    """The first access of all, then others whose leaf table was read before."""
    meter = await _meter(dut, "miss latency")
    pages = [_BASE + at for at in range(12)]
    for page in pages:
        meter.map(1, page)
    worst = 0
    for at, page in enumerate(pages):
        write = bool(at % 2)
        await meter.tick(meter.rng.randrange(1, 8))
        meter.access(write, 1, page)
        await meter.settle()
        if at == 0:
            save("miss latency, cold", _translation(meter, write))
        else:
            worst = max(worst, _translation(meter, write))
    save("miss latency, warm", worst)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def miss_throughput(dut: Any) -> None:
    """Random pages, each once, below pointers that the walk cache holds."""
    meter = await _meter(dut, "miss throughput")
    tables = max(1, meter.config.walk_cache // 2)
    pages = [_BASE + at for at in range(tables * 512)]
    for page in pages:
        meter.map(1, page)
    for at in range(tables):
        meter.access(False, 1, pages.pop(512 * at - at))
        await meter.settle()
    meter.rng.shuffle(pages)
    ids = list(range(meter.ids))
    turns = _turns(meter, (False,), ids, pages)
    rate = await _stream(meter, turns, 6 * (meter.latency + 12))
    save("miss throughput", rate)
    assert await meter.counter("mmu.tlb.hits") == 0


_SPANS = {
    CommandKind.PAGE: (2, _BASE, _BASE),
    CommandKind.RANGE: (2, 0, (1 << 26) - 1),
    CommandKind.ASID: (2, 0, 0),
    CommandKind.ALL: (0, 0, 0),
}


async def _hits(meter: Meter) -> Callable[[], None]:
    """Fill the working set; return what keeps the device busy with hits, to be called once a cycle."""
    pages = [_BASE + at for at in range(min(_SLOTS, meter.config.use_slots))]
    await meter.warm(1, pages)
    return _offering(meter, _turns(meter, (False, True), list(range(meter.ids)), pages))


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def accept_to_invalidated(dut: Any) -> None:
    """Every kind under full hit traffic; ranges of every length."""
    meter = await _meter(dut, "invalidated")
    offer = await _hits(meter)
    meter.map(2, _BASE)
    worst = 0
    for kind, (asid, first, last) in _SPANS.items():
        for _ in range(8):
            end = first + meter.rng.randrange(1, last - first) if last > first else last
            tag = meter.send(kind, asid, first, end)
            while tag not in meter.drained:
                offer()
                await meter.tick()
            worst = max(worst, meter.invalidated[tag] - meter.accepted[tag])
            for _ in range(meter.rng.randrange(1, 30)):
                offer()
                await meter.tick()
    save("accept to invalidated", worst)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def accept_to_drained(dut: Any) -> None:
    """Every kind, nothing that overlaps in flight: idle for ALL, under another asid's traffic for the others."""
    meter = await _meter(dut, "drained")
    worst = 0
    await meter.warm(2, [_BASE])
    for kind, (asid, first, last) in _SPANS.items():
        for _ in range(4):
            tag = meter.send(kind, asid, first, last)
            await meter.until(lambda tag=tag: tag in meter.drained)
            worst = max(worst, meter.drained[tag] - meter.accepted[tag])
            await meter.tick(meter.rng.randrange(1, 80))
    offer = await _hits(meter)
    for kind in (CommandKind.PAGE, CommandKind.RANGE, CommandKind.ASID):
        asid, first, last = _SPANS[kind]
        for _ in range(8):
            tag = meter.send(kind, asid, first, last)
            while tag not in meter.drained:
                offer()
                await meter.tick()
            worst = max(worst, meter.drained[tag] - meter.accepted[tag])
            for _ in range(meter.rng.randrange(1, 30)):
                offer()
                await meter.tick()
    save("accept to drained", worst)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def last_use_to_drained(dut: Any) -> None:
    """A page in flight with bursts of any length, both directions; one command at a time."""
    meter = await _meter(dut, "last use")
    page, other = _BASE, _BASE + 1
    await meter.warm(1, [page, other])
    worst = waited = 0
    for _ in range(24):
        for at in range(meter.rng.randrange(1, 5)):
            beats = meter.rng.randrange(1, 9)
            write = bool(meter.rng.randrange(2))
            words = {"words": [at] * beats} if write else {"beats": beats}
            where = meter.rng.choice((page, page, other))
            meter.access(write, 1, where, id=meter.rng.randrange(meter.ids), **words)
        await meter.tick(meter.rng.randrange(4, 16 + meter.latency))
        tag = meter.send(CommandKind.PAGE, 1, page, page)
        await meter.until(lambda tag=tag: tag in meter.drained)
        last = _last_use(meter, page, meter.accepted[tag] + 1)
        await meter.settle()
        if last is not None and last + 3 >= meter.accepted[tag] + 6:
            waited += 1
            worst = max(worst, meter.drained[tag] - last)
            assert meter.drained[tag] > last, "drained before the last use had ended"
        meter.access(False, 1, page)
        await meter.settle()
    assert waited >= 3, f"only {waited} commands had a use to wait for"
    save("last use to drained", worst)


def _last_use(meter: Meter, page: int, applied: int) -> int | None:
    """Cycle of the end of the last use of a page that was presented before a command was applied.

    The memory answers each direction in the order of the addresses, so the nth end belongs to the nth use.
    """
    last = None
    for write in (False, True):
        uses = meter.shown["memory", write]
        ends = [cycle for cycle, was_write, _id in meter.ended if was_write is write]
        for (cycle, address), end in zip(uses, ends, strict=False):
            if address >> 12 == FRAMES + (1 << 16) + page and cycle <= applied:
                last = max(last or 0, end)
    return last


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def hundred_pages(dut: Any) -> None:
    """A hundred random PAGE commands back to back, some of the pages in the TLB, to the last answer."""
    meter = await _meter(dut, "hundred pages")
    pages = [_BASE + meter.rng.randrange(512) for _ in range(100)]
    await meter.warm(1, pages[:40])
    tags = [meter.send(CommandKind.PAGE, 1, page, page) for page in pages]
    await meter.until(lambda: all(tag in meter.drained for tag in tags))
    save("hundred pages", max(meter.drained.values()) - meter.accepted[tags[0]])


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def hits_beside_invalidations(dut: Any) -> None:
    """One invalidation every ten cycles, targets outside the hit set: no hit is lost and hardly a cycle."""
    meter = await _meter(dut, "beside")
    pages = [_BASE + at for at in range(min(_SLOTS, meter.config.use_slots))]
    await meter.warm(1, pages)
    meter.map(2, _BASE)
    kinds = (*_SPANS, CommandKind.CONTEXT, CommandKind.YOUNG, CommandKind.FENCE)
    worst = 1.0
    before = await meter.counter("mmu.tlb.misses")
    for kind in kinds:
        if kind is CommandKind.ALL:  # everything is its target
            continue
        spans = (_SPANS.get(kind, (2, _BASE, _BASE)), (1, _BASE + 4096, _BASE + 8191))
        asid, first, last = spans[kind is CommandKind.RANGE]
        turns = _turns(meter, (False, True), list(range(meter.ids)), pages)
        rate = await _stream(meter, _with_commands(meter, turns, kind, asid, first, last), _WINDOW)
        worst = min(worst, rate)
        await meter.settle()
    save("hits beside invalidations", worst)
    save("entries lost", await meter.counter("mmu.tlb.misses") - before)


def _with_commands(
    meter: Meter,
    turns: Iterator[tuple[bool, int, int]],
    kind: CommandKind,
    asid: int,
    first: int,
    last: int,
) -> Iterator[tuple[bool, int, int]]:
    """Send a command whenever ten cycles have passed since the last one."""
    sent = meter.cycle
    for turn in turns:
        if meter.cycle - sent >= 10:
            sent += 10
            meter.send(kind, asid, first, last)
        yield turn
