"""A bench of the datapath alone: models of device, memory, TLB and walker, stepped by one clock loop."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.datapath.datapath import Datapath
from secmmu.internals import Outcome

__all__ = ["Access", "DatapathBench"]

PAGE = 4096


@dataclass(eq=False)
class Access:
    """A burst of the device; ``taken``, ``left``, ``ended`` are cycles."""

    write: bool
    asid: int
    va: int
    id: int = 0
    beats: int = 1
    data: list[int] = field(default_factory=list)
    taken: int | None = None
    left: int | None = None
    ended: int | None = None
    responses: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)


class DatapathBench:
    """Steps the models.

    ``tables`` maps (asid, page) to (frame, writable); what is not there faults. The TLB keeps what walks granted, up
    to ``entries``. ``pace`` names channels that are not always ready, with the share of cycles in which they are.
    """

    def __init__(self, config: SecmmuConfig, *, seed: int = 1, latency: int = 3) -> None:
        self.config = config
        self.rng = random.Random(seed)
        self.latency = latency
        self.walk_latency = 6
        self.pace: dict[str, float] = {}
        self.data_after: Callable[[Access], bool] = lambda _access: True
        self.tables: dict[tuple[int, int], tuple[int, bool]] = {}
        self.tlb: dict[tuple[int, int], tuple[int, bool]] = {}
        self.queue: dict[bool, deque[Access]] = {False: deque(), True: deque()}
        self.inside: dict[tuple[bool, int], deque[Access]] = {}
        self.data: deque[tuple[Access, int]] = deque()
        self.accesses: list[Access] = []
        self.cycle = 0
        self.faults: list[dict[str, int]] = []
        self.stored: dict[int, int] = {}
        self.walks: dict[int, dict[str, int]] = {}
        self._lookups: deque[tuple[int, int] | None] = deque([None] * config.lookup_latency)
        self._reads: deque[tuple[int, int, int, int]] = deque()
        self._aws: deque[tuple[int, int, int]] = deque()
        self._ws: deque[tuple[int, int, int]] = deque()
        self._bs: deque[tuple[int, int]] = deque()
        self._offered: dict[str, bool] = {}
        self.max_inside = 0

    # --- running -----------------------------------------------------------------------------------------

    def run(self, testbench: Callable[["DatapathBench", Any], Any]) -> None:
        """Simulate ``testbench(bench, ctx)``."""
        self.dut = Datapath(self.config)

        async def process(ctx: SimulatorContext) -> None:
            for asid in range(self.config.contexts):
                del asid
            ctx.set(self.dut.row, {"root_ppn": 1, "mode": 8, "global_group": 0})
            ctx.set(self.dut.fault.ready, 1)
            self._drive(ctx)
            await testbench(self, ctx)

        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(process)
        simulator.run()

    def issue(self, write: bool, va: int, **options: Any) -> Access:
        """Queue a burst of asid 1."""
        beats = options.get("beats", 1)
        data = [self.rng.getrandbits(32) for _ in range(beats)] if write else []
        access = Access(write, options.pop("asid", 1), va, data=data, **options)
        self.queue[write].append(access)
        self.accesses.append(access)
        return access

    async def until_done(self, ctx: SimulatorContext, cycles: int = 5000) -> None:
        """Step until every burst is answered."""
        limit = self.cycle + cycles
        while any(access.ended is None for access in self.accesses):
            assert self.cycle < limit, f"hang: {[a for a in self.accesses if a.ended is None][:3]}"
            await self.step(ctx)

    def _goes(self, channel: str) -> bool:
        return self.rng.random() < self.pace.get(channel, 1.0)

    async def step(self, ctx: SimulatorContext) -> None:
        """One clock cycle: note the handshakes, pass the edge, drive anew."""
        device, memory, dut = self.dut.device, self.dut.memory, self.dut
        get = ctx.get
        for write, channel in ((False, "ar"), (True, "aw")):
            if get(getattr(device, f"{channel}valid")) and get(getattr(device, f"{channel}ready")):
                access = self.queue[write].popleft()
                access.taken = self.cycle
                self._offered[channel] = False
                self.inside.setdefault((write, access.id), deque()).append(access)
        if get(device.wvalid) and get(device.wready):
            self.data.popleft()
            self._offered["w"] = False
        if get(memory.arvalid) and get(memory.arready):
            self._read(get(memory.araddr), get(memory.arid), get(memory.arlen) + 1)
        if get(memory.awvalid) and get(memory.awready):
            self._aws.append((get(memory.awaddr), get(memory.awid), get(memory.awlen) + 1))
        if get(memory.wvalid) and get(memory.wready):
            self._ws.append((get(memory.wdata), get(memory.wstrb), get(memory.wlast)))
        self._answers(ctx)
        self._match_writes()
        if get(dut.fault.valid) and get(dut.fault.ready):
            payload = get(dut.fault.payload)
            self.faults.append(
                {
                    name: int(getattr(payload, name))
                    for name in ("va", "asid", "id", "write", "stalled", "place")
                }
                | {"cause": payload.cause.value}
            )
        advance = get(dut.lookup.advance)
        looked_up = (get(dut.lookup.asid), get(dut.lookup.vpn)) if get(dut.lookup.en) else None
        request = self._take_request(ctx)
        await ctx.tick()
        self.cycle += 1
        if advance:
            self._lookups.append(looked_up)
            self._lookups.popleft()
        self._walk(ctx, request)
        self._drive(ctx)

    def _take_request(self, ctx: SimulatorContext) -> dict[str, int] | None:
        request = self.dut.walk.request
        if not (ctx.get(request.valid) and ctx.get(request.ready)):
            return None
        payload = ctx.get(request.payload)
        number = ctx.get(self.dut.walk.number)
        return {"number": number, "vpn": payload.vpn, "asid": payload.asid, "write": payload.write}

    def _walk(self, ctx: SimulatorContext, request: dict[str, int] | None) -> None:
        """Serve walks: each its own number, its answer after a while, until nobody refers to it."""
        if request is not None:
            self.walks[request["number"]] = {**request, "due": self.cycle + self.walk_latency}
        referred = ctx.get(self.dut.walk.referred)
        fresh = request["number"] if request else None
        for number in list(self.walks):
            if not referred >> number & 1 and number != fresh:
                del self.walks[number]
        answered = 0
        for number, walk in self.walks.items():
            if self.cycle >= walk["due"]:
                answered |= 1 << number
                page = walk["asid"], walk["vpn"]
                if self._outcome(walk) is Outcome.GRANTED and not walk.get("filled"):
                    self.tlb[page] = self.tables[page]
                    walk["filled"] = 1
                    while len(self.tlb) > 5:
                        self.tlb.pop(next(iter(self.tlb)))
        ctx.set(self.dut.walk.answered, answered)
        free = [n for n in range(self.config.walks) if n not in self.walks]
        ctx.set(self.dut.walk.request.ready, bool(free))
        ctx.set(self.dut.walk.number, free[0] if free else 0)
        selected = self.walks.get(ctx.get(self.dut.walk.select))
        if selected is not None:
            self._answer(ctx, selected)

    def _outcome(self, walk: dict[str, int]) -> Outcome:
        leaf = self.tables.get((walk["asid"], walk["vpn"]))
        good = leaf is not None and (leaf[1] or not walk["write"])
        return Outcome.GRANTED if good else Outcome.PAGE_FAULT

    def _answer(self, ctx: SimulatorContext, walk: dict[str, int]) -> None:
        frame, writable = self.tables.get((walk["asid"], walk["vpn"]), (0, False))
        answer = {
            "outcome": self._outcome(walk),
            "write": walk["write"],
            "entry": self._entry(walk["asid"], walk["vpn"], frame, writable),
        }
        ctx.set(self.dut.walk.answer, answer)

    def _entry(self, asid: int, vpn: int, frame: int, writable: bool) -> dict[str, Any]:
        translation = {"vpn": vpn, "grain": 0, "shared": 0, "asid": asid, "group": 0}
        return {"ppn": frame, "writable": writable, "translation": translation}

    def _read(self, address: int, name: int, beats: int) -> None:
        due = self.cycle + self.latency
        for beat in range(beats):
            self._reads.append((due, name, address + 8 * beat, beat == beats - 1))
        self._leave(False, name, address)

    def _leave(self, write: bool, name: int, address: int) -> None:
        for access in self.inside.get((write, name), ()):
            if access.left is None:
                frame, _ = self.tables.get((access.asid, access.va // PAGE), (None, False))
                if frame is None or address % PAGE != access.va % PAGE:
                    continue
                assert address // PAGE == frame, f"{access} left for {address:#x}"
                access.left = self.cycle
                return
        raise AssertionError(f"invented access to {address:#x}")

    def _match_writes(self) -> None:
        while self._aws and any(last for _, _, last in self._ws):
            address, name, beats = self._aws.popleft()
            self._leave(True, name, address)
            access = next(a for a in self.inside[True, name] if a.left is not None and not a.words)
            length = [last for _, _, last in self._ws].index(1) + 1
            assert length == beats, f"cycle {self.cycle}: {access} got {length} beats: {self._ws}"
            words = [self._ws.popleft() for _ in range(beats)]
            assert [last for _, _, last in words] == [0] * (beats - 1) + [1]
            assert [word for word, _, _ in words] == access.data, f"{access} got {words}"
            access.words = [word for word, _, _ in words]
            self._bs.append((self.cycle + self.latency, name))

    def _answers(self, ctx: SimulatorContext) -> None:
        device, memory, get = self.dut.device, self.dut.memory, ctx.get
        if get(memory.rvalid) and get(memory.rready):
            self._reads.popleft()
            self._offered["r"] = False
        if get(memory.bvalid) and get(memory.bready):
            self._bs.popleft()
            self._offered["b"] = False
        if get(device.rvalid) and get(device.rready):
            access = self.inside[False, get(device.rid)][0]
            access.responses.append(get(device.rresp))
            access.words.append(get(device.rdata))
            if get(device.rlast):
                assert len(access.responses) == access.beats
                access.ended = self.cycle
                self.inside[False, get(device.rid)].popleft()
        if get(device.bvalid) and get(device.bready):
            access = self.inside[True, get(device.bid)].popleft()
            access.responses.append(get(device.bresp))
            access.ended = self.cycle

    def _offer(self, channel: str, wanted: bool) -> bool:
        """Say whether to offer: what is offered stays."""
        self._offered[channel] = self._offered.get(channel, False) or (
            wanted and self._goes(channel)
        )
        return self._offered[channel]

    def _drive(self, ctx: SimulatorContext) -> None:
        device, memory, put = self.dut.device, self.dut.memory, ctx.set
        lookup = self._lookups[0]
        entry = self.tlb.get(lookup) if lookup else None
        put(self.dut.lookup.hit, entry is not None)
        if lookup and entry:
            put(self.dut.lookup.entry, self._entry(*lookup, *entry))
        for write, channel in ((False, "ar"), (True, "aw")):
            queue = self.queue[write]
            was = self._offered.get(channel, False)
            offered = self._offer(channel, bool(queue))
            put(getattr(device, f"{channel}valid"), offered)
            if offered and not was:
                access = queue[0]
                put(getattr(device, f"{channel}addr"), access.va)
                put(getattr(device, f"{channel}id"), access.id)
                put(getattr(device, f"{channel}len"), access.beats - 1)
                put(getattr(device, f"{channel}size"), 3)
                put(getattr(device, f"{channel}burst"), 1)
                put(getattr(device, f"{channel}user"), access.asid)
                if write:
                    self.data.extend((access, at) for at in range(access.beats))
        ready = bool(self.data) and self.data_after(self.data[0][0])
        offered = self._offer("w", ready)
        put(device.wvalid, offered)
        if offered:
            access, at = self.data[0]
            put(device.wdata, access.data[at])
            put(device.wstrb, 255)
            put(device.wlast, at == access.beats - 1)
        for channel in ("arready", "awready", "wready"):
            put(getattr(memory, channel), self._goes(f"memory {channel}"))
        put(device.rready, self._goes("device rready"))
        put(device.bready, self._goes("device bready"))
        put(memory.rvalid, self._offer("r", bool(self._reads) and self._reads[0][0] <= self.cycle))
        if self._reads:
            _, name, address, last = self._reads[0]
            put(memory.rid, name)
            put(memory.rdata, address)
            put(memory.rlast, last)
        put(memory.bvalid, self._offer("b", bool(self._bs) and self._bs[0][0] <= self.cycle))
        if self._bs:
            put(memory.bid, self._bs[0][1])

    def check(self) -> None:
        """Insist that every burst got what the tables allow."""
        for access in self.accesses:
            frame, writable = self.tables.get((access.asid, access.va // PAGE), (None, False))
            good = frame is not None and (writable or not access.write)
            good = good and access.va % PAGE + 8 * access.beats <= PAGE
            want = [0 if good else 2] * (1 if access.write else access.beats)
            assert access.responses == want, f"{access} was answered {access.responses}"
            if good and not access.write:
                first = frame * PAGE + access.va % PAGE
                assert access.words == [first + 8 * beat for beat in range(access.beats)]
            if not good:
                assert access.left is None
