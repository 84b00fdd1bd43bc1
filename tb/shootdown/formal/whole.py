"""Proofs about the whole MMU: its ports keep the rules of AXI, and everything that it takes it answers."""

from dataclasses import replace

from amaranth.hdl import Assert, Assume, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from secmmu.axi import Burst
from secmmu.config import MUTANTS, SecmmuConfig
from secmmu.contexts import Contexts
from secmmu.internals import ContextLayout
from secmmu.layouts import (
    EPOCH_BITS,
    PAGE_BITS,
    VPN_BITS,
    WORD_BITS,
    CommandKind,
    Phase,
)
from secmmu.mmu import Secmmu
from shootdown.formal.parts import with_parts
from shootdown.formal.rules import (
    ADDRESS,
    ReadLedger,
    WriteLedger,
    channel,
    so_far,
    stays,
    within_page,
)
from shootdown.formal.spec import CONTEXTS
from shootdown.formal.whole_faults import faulty

__all__ = ["CONFIG", "WholeHarness"]

CONFIG = SecmmuConfig(
    asid_bits=1,
    contexts=CONTEXTS,
    id_bits=1,
    outstanding=2,
    tlb_sets=0,
    large_entries=2,
    use_slots=1,
    walks=1,
    walk_cache=1,
    waiters=2,
    stalls=1,
    write_beats=2,
    commands=2,
    filters=1,
    tag_bits=1,
    log=1,
    observe=False,
)
SV39 = 8
WORD_SIZE = 3
PPN_LOW, FRESH_BIT = 10, 28
"""Where the frame begins in a PTE; its bit that says when the PTE was read, in the proof of freshness."""
ROW_BITS = 4
PTE_BITS = 10
FREE_BITS = 90
OPEN_CYCLES, ANSWERED_WITHIN = 1, 44
"""In the proof of completion: cycles in which anything may come, and cycles from reset in which all is answered."""
STREAMS = ("invalidated", "drained", "dropped", "fault")
HOST = ("command", "dropin", "resume")
READY = (
    ("memory", "arready"),
    ("memory", "awready"),
    ("memory", "wready"),
    ("walk", "arready"),
    ("device", "rready"),
    ("device", "bready"),
    *((name, "ready") for name in STREAMS),
)
R, B = ("id", "data", "resp", "last"), ("id", "resp")
W = ("data", "strb", "last")


class _Rows(Contexts):
    """A context table that software has written before, in any way."""

    def __init__(self, config: SecmmuConfig, rows: list[data.View]) -> None:
        self._given = rows
        super().__init__(config)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for port in (self.lookup, self.command, self.dropin, self.bus):
            asid = Signal(len(port.asid))
            with m.If(port.en):
                m.d.sync += asid.eq(port.asid)
            m.d.comb += port.row.eq(Mux(asid[0], self._given[1], self._given[0]))
        return m


class WholeHarness(wiring.Component):
    """A device, a memory, page tables and a host that do whatever AXI lets them do.

    So that a solver can follow, few bits of what they say are free, and the others are 0: of a page number the lowest
    of each index, of a burst whether it has one or two beats and begins at the first or the last word of its page, of a
    PTE its flags and a bit of each part of its frame. A device gives no data before its address.

    Asserted is, by ``claim``:

    ``ports``       on the device's, the memory's and the host's side the MMU keeps the rules of AXI: what is offered
                    stays; no burst leaves its page; every answer is owed, in order, with as many beats; WLAST and RLAST
    ``fresh``       with INVALIDATED of a command of kind ALL, no address is first presented on the memory side that comes
                    of a PTE read, or of a drop-in made, before the command's handshake
    ``completion``  everybody else answers at once: what is offered in the first cycle is answered within 44

    Parameters
    ----------
    claim : str
        What is asserted.
    fault : str or None
        One of :data:`shootdown.formal.whole_faults.FAULTS`, or of the RTL's own: the MMU has it.
    """

    def __init__(self, claim: str, fault: str | None) -> None:
        self.claim = claim
        config = replace(CONFIG, mutant=fault if fault in MUTANTS else None)
        self.eager = claim == "completion"
        self._rows = [Signal(ContextLayout(), name=f"row{i}") for i in range(CONTEXTS)]
        parts = {"Contexts": lambda config: _Rows(config, self._rows), **faulty(fault)}
        self.mmu = with_parts(Secmmu, **parts)(config)
        super().__init__({"rows": In(ROW_BITS * CONTEXTS), "free": In(FREE_BITS)})

    def elaborate(self, platform: object) -> Module:
        """Surround the MMU, and assert."""
        m = Module()
        m.submodules.mmu = mmu = self.mmu
        depth = CONFIG.outstanding_per_id
        self._reads = ReadLedger(m, mmu.device, depth=depth)
        self._writes = WriteLedger(m, mmu.device, depth=depth)
        self._memory_reads = ReadLedger(m, mmu.memory, depth=depth)
        self._memory_writes = WriteLedger(m, mmu.memory, depth=depth)
        self._table_reads = ReadLedger(m, mmu.walk, depth=1)
        self._taken = 0
        self._open = self._count_cycles(m)
        self._fix_rows(m)
        for port, name in READY:
            ready = Const(1, 1) if self.eager else self._take()
            m.d.comb += getattr(getattr(mmu, port), name).eq(ready)
        self._drive_device(m)
        self._drive_memory(m)
        self._drive_host(m)
        {
            "ports": self._claim_ports,
            "fresh": self._claim_fresh,
            "completion": self._claim_completion,
        }[self.claim](m)
        return m

    def _take(self, width: int = 1) -> Value:
        """Return free bits that nobody has yet."""
        taken = self.free[self._taken : self._taken + width]
        self._taken += width
        assert len(taken) == width
        return taken

    def _count_cycles(self, m: Module) -> Value:
        """Return whether anything new may come."""
        if not self.eager:
            return Const(1, 1)
        self._cycle = Signal(range(ANSWERED_WITHIN + 1))
        m.d.sync += self._cycle.eq(self._cycle + (self._cycle != ANSWERED_WITHIN))
        return self._cycle < OPEN_CYCLES

    def _fix_rows(self, m: Module) -> None:
        """Let each context row be anything, the same all the time; where all must be answered, no fault stalls."""
        kept, started = Signal.like(self.rows), Signal()
        now = Mux(started, kept, self.rows)
        m.d.sync += [kept.eq(now), started.eq(1)]
        for i, row in enumerate(self._rows):
            root, group, stall, mode = now[ROW_BITS * i : ROW_BITS * (i + 1)]
            m.d.comb += [
                row.root_ppn.eq(root),
                row.global_group.eq(group),
                row.stall.eq(Const(0) if self.eager else stall),
                row.mode.eq(Mux(mode, SV39, 0)),
            ]

    def _drive_device(self, m: Module) -> None:
        device = self.mmu.device
        for prefix in ("ar", "aw"):
            signals = {field: getattr(device, prefix + field) for field in (*ADDRESS, "valid")}
            last_word = self._take().replicate(PAGE_BITS - WORD_SIZE)
            address = Cat(Const(0, WORD_SIZE), last_word, self._take_page())
            m.d.comb += [
                signals["addr"].eq(address),
                signals["size"].eq(WORD_SIZE),
                signals["burst"].eq(Burst.INCR),
                *(signals[field].eq(self._take()) for field in ("id", "user", "len")),
                signals["valid"].eq(
                    self._take() & self._may(m, getattr(device, f"{prefix}ready"), signals["valid"])
                ),
                Assume(
                    stays(
                        m,
                        signals["valid"],
                        getattr(device, f"{prefix}ready"),
                        channel(device, prefix, ADDRESS),
                    )
                ),
            ]
        m.d.comb += [
            device.wvalid.eq((self._take() | self.eager) & self._writes.owed),
            device.wlast.eq(self._writes.last),
            device.wdata.eq(self._take()),
            device.wstrb.eq(Const(-1, 8)),
            Assume(stays(m, device.wvalid, device.wready, channel(device, "w", W))),
        ]

    def _may(self, m: Module, ready: Value, valid: Value) -> Value:
        """Return whether VALID may be up: to the end of the open cycles, and then as long as it waits."""
        waits = Signal()
        m.d.sync += waits.eq(valid & ~ready)
        return self._open | waits

    def _drive_memory(self, m: Module) -> None:
        memory, walk = self.mmu.memory, self.mmu.walk
        reads, writes, tables = self._memory_reads, self._memory_writes, self._table_reads
        for valid, number, owed in (
            (memory.rvalid, memory.rid, reads.some),
            (memory.bvalid, memory.bid, writes.answerable),
        ):
            m.d.comb += number.eq(self._take())
            m.d.comb += valid.eq((self._take() | self.eager) & owed.bit_select(number, 1))
            if self.eager:
                m.d.comb += Assume(~owed.any() | valid)
        m.d.comb += [
            memory.rlast.eq(reads.last.bit_select(memory.rid, 1)),
            memory.rdata.eq(self._take()),
            walk.rvalid.eq((self._take() | self.eager) & tables.some[0]),
            walk.rlast.eq(1),
            walk.rdata.eq(self._take_pte()),
            *(resp[1].eq(self._take()) for resp in (memory.rresp, memory.bresp, walk.rresp)),
            Assume(stays(m, memory.rvalid, memory.rready, channel(memory, "r", R))),
            Assume(stays(m, memory.bvalid, memory.bready, channel(memory, "b", B))),
            Assume(stays(m, walk.rvalid, walk.rready, channel(walk, "r", R))),
        ]
        if self.eager:
            # A walk is one read: what is not a leaf of 1 GiB faults.
            m.d.comb += Assume(walk.rdata[1])

    def _drive_host(self, m: Module) -> None:
        command, dropin, resume = (getattr(self.mmu, name) for name in HOST)
        for port in (command, dropin, resume):
            m.d.comb += [
                port.valid.eq(self._take() & self._may(m, port.ready, port.valid)),
                Assume(stays(m, port.valid, port.ready, port.payload.as_value())),
            ]
        payload = command.payload
        for field in ("leaf_only", "whole_asid", "keep_global", "asid", "tag"):
            m.d.comb += payload[field].eq(self._take())
        m.d.comb += [
            payload.kind.eq(self._take(3)),
            # What is held waits for a RELEASE, however long.
            payload.hold.eq(self._take() & (not self.eager)),
            payload.first.eq(self._take_page()),
            payload.last.eq(self._take_page()),
            dropin.payload.asid.eq(self._take()),
            dropin.payload.grain.eq(self._take(2)),
            dropin.payload.tag.eq(self._take()),
            dropin.payload.vpn.eq(self._take_page()),
            dropin.payload.pte.eq(self._take_pte()),
            dropin.payload.epoch.eq(self._take(2)),
            resume.payload.place.eq(self._take()),
            resume.payload.retry.eq(self._take()),
        ]

    def _take_page(self) -> Value:
        return _placed(self._take(3), (0, 9, 18), VPN_BITS)

    def _take_pte(self) -> Value:
        """Return a PTE of which V, R, W, U, G, A, D and the lowest bit of each part of the frame are free."""
        return _placed(self._take(PTE_BITS), (0, 1, 2, 4, 5, 6, 7, 10, 19, 28), WORD_BITS)

    def _claim_ports(self, m: Module) -> None:
        """Say what each side that the MMU drives must do."""
        mmu, device, memory = self.mmu, self.mmu.device, self.mmu.memory
        rules = [
            self._reads.fits,
            self._reads.allows(device),
            self._writes.fits,
            self._writes.allows_answer(device),
            stays(m, device.rvalid, device.rready, channel(device, "r", R)),
            stays(m, device.bvalid, device.bready, channel(device, "b", B)),
            self._memory_reads.fits,
            self._memory_writes.fits,
            self._memory_writes.allows_data(memory),
            stays(m, memory.arvalid, memory.arready, channel(memory, "ar", ADDRESS)),
            stays(m, memory.awvalid, memory.awready, channel(memory, "aw", ADDRESS)),
            stays(m, memory.wvalid, memory.wready, channel(memory, "w", W)),
            ~memory.arvalid | within_page(memory, "ar"),
            ~memory.awvalid | within_page(memory, "aw"),
            self._table_reads.fits,
            stays(m, mmu.walk.arvalid, mmu.walk.arready, channel(mmu.walk, "ar", ADDRESS)),
        ]
        for name in STREAMS:
            port = getattr(mmu, name)
            rules.append(stays(m, port.valid, port.ready, port.payload.as_value()))
        m.d.comb += Assert(so_far(m, Cat(rules).all()))

    def _claim_fresh(self, m: Module) -> None:
        """Let a bit of every frame say whether its PTE is from before the watched command, which alone has tag 1."""
        mmu = self.mmu
        command, dropin, walk = mmu.command, mmu.dropin, mmu.walk
        accepted, dropped = command.valid & command.ready, dropin.valid & dropin.ready
        watched = command.payload.kind == CommandKind.ALL
        renewed, read_before, answered = Signal(), Signal(), Signal()
        count, number = Signal(EPOCH_BITS), Signal(EPOCH_BITS)
        with m.If(accepted):
            m.d.sync += count.eq(count + 1)
            with m.If(watched & ~renewed):
                m.d.sync += [renewed.eq(1), number.eq(count)]
        with m.If(walk.arvalid & walk.arready):
            m.d.sync += read_before.eq(~renewed)
        new_read, new_dropin = walk.rdata[FRESH_BIT], dropin.payload.pte.as_value()[FRESH_BIT]
        later = renewed & (dropin.payload.epoch > number)
        said = mmu.invalidated.valid & (mmu.invalidated.payload.tag == 1)
        m.d.sync += answered.eq(answered | said)
        m.d.comb += [
            Assume(command.payload.tag == (watched & ~renewed)),
            Assume(~walk.rvalid | (renewed & read_before) | (new_read == renewed)),
            Assume(~dropped | (new_dropin == later)),
        ]
        rules = []
        for prefix in ("ar", "aw"):
            valid, waited = getattr(mmu.memory, f"{prefix}valid"), Signal()
            m.d.sync += waited.eq(valid & ~getattr(mmu.memory, f"{prefix}ready"))
            new = getattr(mmu.memory, f"{prefix}addr")[FRESH_BIT + PAGE_BITS - PPN_LOW]
            rules.append(~(valid & ~waited & (answered | said)) | new)
        m.d.comb += Assert(so_far(m, Cat(rules).all()))

    def _claim_completion(self, m: Module) -> None:
        """Count the commands, too."""
        mmu = self.mmu
        pending = Signal(range(CONFIG.commands + 1))
        refused = mmu.invalidated.valid & (mmu.invalidated.payload.phase == Phase.REFUSED)
        m.d.sync += pending.eq(
            pending + (mmu.command.valid & mmu.command.ready) - mmu.drained.valid - refused
        )
        owes = self._reads.some.any() | self._writes.some.any() | (pending != 0)
        waits = mmu.device.arvalid | mmu.device.awvalid | mmu.command.valid | mmu.dropin.valid
        m.d.comb += Assert((self._cycle != ANSWERED_WITHIN) | ~(owes | waits))


def _placed(bits: Value, places: tuple[int, ...], width: int) -> Value:
    """Return ``width`` bits: these at their places, the others 0."""
    at = dict(zip(places, bits, strict=True))
    return Cat(at.get(i, Const(0, 1)) for i in range(width))
