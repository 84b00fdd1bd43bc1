"""Surroundings of a walker in a pure Python simulation: page tables in memory, accesses that wait, a TLB's door."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.internals import Outcome
from secmmu.layouts import GRAIN_SHIFTS, Response
from secmmu.walker.walker import Walker

__all__ = ["ROOT", "Access", "Memory", "WalkerBench", "simulate"]

ROOT = 0x10


@dataclass(eq=False)
class Access:
    """One access that missed, and what came of it.

    ``asked`` is the cycle in which its request was taken last, ``answered`` that in which its answer stood.
    """

    vpn: int
    write: bool = False
    asid: int = 1
    walk: int | None = None
    asked: int = -1
    answered: int = -1
    tries: int = 0
    outcome: Outcome | None = None
    entry: Any = None

    @property
    def pages(self) -> tuple[int, int, int]:
        """The frame that it may use, and the first and last page of the span."""
        span = self.entry.translation
        mask = (1 << GRAIN_SHIFTS[span.grain]) - 1
        assert span.vpn & mask == 0
        return self.entry.ppn | self.vpn & mask, span.vpn, span.vpn | mask


@dataclass
class _Reply:
    due: int
    id: int
    response: Response
    data: int = 0


@dataclass
class Memory:
    """Words behind an AXI port: out of order between ids, with an exclusive monitor an id.

    ``latency`` gives the cycles from the last handshake of a request to the first cycle of its answer.
    ``missing`` says which addresses nothing answers, ``exclusive`` whether there is a monitor.
    """

    words: dict[int, int] = field(default_factory=dict)
    latency: Callable[[], int] = lambda: 1
    ready: Callable[[], bool] = lambda: True
    missing: Callable[[int], bool] = lambda _address: False
    exclusive: bool = True
    reads: list[tuple[int, int]] = field(default_factory=list)
    writes: list[tuple[int, int, bool]] = field(default_factory=list)
    pending: list[_Reply] = field(default_factory=list)
    replies: list[_Reply] = field(default_factory=list)
    monitors: dict[int, int] = field(default_factory=dict)

    def read(self, address: int) -> int | None:
        """Give a word, None where nothing answers."""
        return None if self.missing(address) else self.words.get(address, 0)

    def store(self, address: int, value: int) -> None:
        """Store a word as a CPU does: exclusive writes to it fail."""
        self.words[address] = value
        self.monitors = {name: at for name, at in self.monitors.items() if at != address}


class WalkerBench:
    """Steps a walker cycle by cycle; one is made for each test.

    ``kill`` is what is announced in the next step, and applied in another behind it; ``held`` says which (first, last)
    are held.
    """

    def __init__(self, ctx: SimulatorContext, walker: Walker, seed: int = 0) -> None:
        self.ctx, self.walker, self.config = ctx, walker, walker.config
        self.rng = random.Random(seed)
        self.memory = Memory()
        self.mode = self.config.levels + 5
        self.cycle = 0
        self.accesses: list[Access] = []
        self.kill: dict[str, int] | None = None
        self.held: Callable[[int, int], bool] = lambda _first, _last: False
        self.group = 5
        self.young = False
        self.fill_ready: Callable[[], bool] = lambda: True
        self.fills: list[tuple[int, Any]] = []
        self.offers: list[tuple[int, int, int]] = []
        self.owed: set[int] = set()
        self.settled_at = -1
        self.records: list[tuple[int, str, Any]] = []
        self._address: tuple[int, int] | None = None
        self._data: int | None = None

    def ask(self, *accesses: Access) -> None:
        """Let accesses wait for walks."""
        self.accesses += accesses

    async def until(self, done: Callable[[], bool], limit: int = 2000) -> None:
        """Step until something holds."""
        for _ in range(limit):
            if done():
                return
            await self.step()
        raise AssertionError("it never came to that")

    async def finish(self, limit: int = 2000) -> None:
        """Step until nothing waits and nothing goes on."""
        await self.until(lambda: not self.accesses and bool(self.ctx.get(self.walker.idle)), limit)

    async def run(self, *accesses: Access) -> None:
        """Ask for accesses and step until they are answered."""
        self.ask(*accesses)
        await self.finish()

    async def step(self) -> None:
        """Make one cycle, or two with an invalidation."""
        kill, self.kill = self.kill, None
        if kill:
            await self._cycle({"valid": 1, "group": self.group, **kill}, applied=False)
        await self._cycle({}, applied=bool(kill))

    async def _cycle(self, coming: dict[str, int], *, applied: bool) -> None:
        ctx, walker = self.ctx, self.walker
        ctx.set(walker.coming, coming)
        ctx.set(walker.young, int(self.young))
        ctx.set(walker.fill.ready, int(self.fill_ready() and not applied))
        self._offer_replies()
        if not applied:
            self._take_answer()
        self._request()
        self._check_holds()
        self._take_fill()
        self._follow_owed()
        self._take_requests()
        self._observe()
        await ctx.tick()
        self.cycle += 1
        if self._taken is not None:
            self._taken()

    def _waiting(self, walk: int) -> list[Access]:
        return [access for access in self.accesses if access.walk == walk]

    def _request(self) -> None:
        ctx, door = self.ctx, self.walker.walk
        referred = sum(1 << i for i in range(self.config.walks) if self._waiting(i))
        ctx.set(door.referred, referred)
        new = next((access for access in self.accesses if access.walk is None), None)
        ctx.set(door.request.valid, int(new is not None))
        self._taken: Callable[[], None] | None = None
        if new is None:
            return
        ctx.set(
            door.request.payload,
            {
                "vpn": new.vpn,
                "asid": new.asid,
                "group": self.group,
                "root_ppn": ROOT,
                "mode": self.mode,
                "write": int(new.write),
            },
        )
        if not ctx.get(door.request.ready):
            return
        walk, cycle = ctx.get(door.number), self.cycle

        def take() -> None:
            new.walk, new.asked = walk, cycle

        self._taken = take

    def _take_answer(self) -> None:
        """Take one answer, for all that wait for it."""
        ctx, door = self.ctx, self.walker.walk
        answered = ctx.get(door.answered)
        ready = [i for i in range(self.config.walks) if answered >> i & 1 and self._waiting(i)]
        if not ready:
            return
        number = ready[0]
        ctx.set(door.select, number)
        answer = door.answer.shape().from_bits(ctx.get(door.answer.as_value()))
        for access in self._waiting(number):
            retries = answer.outcome in (Outcome.AGAIN, Outcome.HELD)
            fault = answer.outcome in (Outcome.PAGE_FAULT, Outcome.ACCESS_FAULT)
            access.tries += 1
            if retries or (fault and answer.write and not access.write):
                access.walk = None
                continue
            access.outcome, access.entry, access.answered = answer.outcome, answer.entry, self.cycle
            self.accesses.remove(access)

    def _check_holds(self) -> None:
        span = self.walker.span
        first, last = self.ctx.get(span.first), self.ctx.get(span.last)
        self.ctx.set(span.held, int(self.held(first, last)))

    def _take_fill(self) -> None:
        fill = self.walker.fill
        if self.ctx.get(fill.en) and self.ctx.get(fill.ready):
            self.fills.append(
                (self.cycle, fill.entry.shape().from_bits(self.ctx.get(fill.entry.as_value())))
            )

    def _follow_owed(self) -> None:
        owed, settled = self.ctx.get(self.walker.owed), self.ctx.get(self.walker.settled)
        for i in range(self.config.walks):
            if owed >> i & 1:
                self.owed.add(i)
            if settled >> i & 1 and i in self.owed:
                self.owed.remove(i)
                self.settled_at = self.cycle

    def _observe(self) -> None:
        for name in ("began", "ended"):
            record = getattr(self.walker, name)
            if self.ctx.get(record.valid):
                self.records.append(
                    (self.cycle, name, record.shape().from_bits(self.ctx.get(record.as_value())))
                )

    def _take_requests(self) -> None:
        """Take what the walker offers on AR, AW and W in this cycle."""
        ctx, bus, memory = self.ctx, self.walker.bus, self.memory
        ready = int(memory.ready())
        ctx.set(bus.arready, ready)
        if ctx.get(bus.arvalid):
            address, name = ctx.get(bus.araddr), ctx.get(bus.arid)
            assert (ctx.get(bus.arsize), ctx.get(bus.arlen), ctx.get(bus.arburst)) == (3, 0, 1)
            if not self.offers or self.offers[-1][1:] != (name, address) or self._taken_read:
                self.offers.append((self.cycle, name, address))
            self._taken_read = bool(ready)
            if ready:
                self._accept_read(name, address, bool(ctx.get(bus.arlock)))
        if not self.config.svadu:
            return
        address_ready, data_ready = int(memory.ready()), int(memory.ready())
        ctx.set(bus.awready, address_ready)
        ctx.set(bus.wready, data_ready)
        if ctx.get(bus.awvalid) and address_ready:
            assert (ctx.get(bus.awsize), ctx.get(bus.awlen), ctx.get(bus.awlock)) == (3, 0, 1)
            self._address = ctx.get(bus.awid), ctx.get(bus.awaddr)
        if ctx.get(bus.wvalid) and data_ready:
            assert (ctx.get(bus.wstrb), ctx.get(bus.wlast)) == (0xFF, 1)
            self._data = ctx.get(bus.wdata)
        if self._address is not None and self._data is not None:
            self._accept_write(*self._address, self._data)
            self._address = self._data = None

    _taken_read = True

    def _accept_read(self, name: int, address: int, lock: bool) -> None:
        memory = self.memory
        word = memory.read(address)
        memory.reads.append((self.cycle, address))
        granted = lock and memory.exclusive
        response = Response.EXOKAY if granted else Response.OKAY
        if granted:
            memory.monitors[name] = address
        due = self.cycle + memory.latency()
        refused = _Reply(due, name, Response.SLVERR, _GOOD_LEAF)
        memory.pending.append(refused if word is None else _Reply(due, name, response, word))

    def _accept_write(self, name: int, address: int, data: int) -> None:
        memory = self.memory
        done = memory.monitors.get(name) == address
        if done:
            memory.store(address, data)
        memory.writes.append((self.cycle, address, done))
        response = Response.EXOKAY if done else Response.OKAY
        if memory.missing(address):
            response = Response.DECERR
        memory.replies.append(_Reply(self.cycle + memory.latency(), name, response))

    def _offer_replies(self) -> None:
        ctx, bus, memory = self.ctx, self.walker.bus, self.memory
        due = [reply for reply in memory.pending if reply.due <= self.cycle]
        ctx.set(bus.rvalid, int(bool(due)))
        if due:
            reply = self.rng.choice(due)
            memory.pending.remove(reply)
            ctx.set(bus.rid, reply.id)
            ctx.set(bus.rdata, reply.data)
            ctx.set(bus.rresp, reply.response)
            assert ctx.get(bus.rready)
        if not self.config.svadu:
            return
        done = [reply for reply in memory.replies if reply.due <= self.cycle][:1]
        ctx.set(bus.bvalid, int(bool(done)))
        for reply in done:
            ctx.set(bus.bid, reply.id)
            ctx.set(bus.bresp, reply.response)
            assert ctx.get(bus.bready)
            memory.replies.remove(reply)


_GOOD_LEAF = 0x0000_0400_DEAD_00D7
"""Data of a refused read: a perfectly good user leaf, so that whoever ignores RRESP is found out."""


def simulate(scenario: Callable[[WalkerBench], Any], config: SecmmuConfig, seed: int = 0) -> None:
    """Run ``await scenario(bench)`` with a walker of ``config``."""
    walker = Walker(config)

    async def testbench(ctx: SimulatorContext) -> None:
        await scenario(WalkerBench(ctx, walker, seed))

    simulator = Simulator(walker)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
