"""Proofs about the whole MMU: its ports keep the rules of AXI, and everything that it takes it answers."""

from collections.abc import Mapping
from dataclasses import replace

from amaranth.hdl import Assert, Assume, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from secmmu.axi import Burst
from secmmu.config import MUTANTS, SecmmuConfig
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
from secmmu.registers.contexts import Contexts
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
LEAF = 0b10
"""The R of a PTE."""
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
    open_cycles : int
        For ``completion``: cycles in which anything may be offered.

    Members
    -------
    rows, free : In
        The context rows, read in the first cycle; what everybody does. Of no bit anything is assumed, but for ``fresh``:
        what is made of them keeps the rules.
    owes : Out(1)
        For ``completion``: something is offered, or not answered.
    """

    rows: Signal
    free: Signal
    owes: Signal

    def __init__(self, claim: str, fault: str | None, *, open_cycles: int = OPEN_CYCLES) -> None:
        self.claim = claim
        self.open_cycles = open_cycles
        config = replace(CONFIG, mutant=fault if fault in MUTANTS else None)
        self.eager = claim == "completion"
        self._rows = [Signal(ContextLayout(), name=f"row{i}") for i in range(CONTEXTS)]
        parts = {"Contexts": lambda config: _Rows(config, self._rows), **faulty(fault)}
        self.mmu = with_parts(Secmmu, **parts)(config)
        super().__init__({"rows": In(ROW_BITS * CONTEXTS), "free": In(FREE_BITS), "owes": Out(1)})

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
        return self._cycle < self.open_cycles

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
            last_word = self._take().replicate(PAGE_BITS - WORD_SIZE)
            free: dict[str, Value] = {
                "addr": Cat(Const(0, WORD_SIZE), last_word, self._take_page()),
                "size": Const(WORD_SIZE),
                "burst": Const(Burst.INCR.value),
                **{field: self._take() for field in ("id", "user", "len")},
            }
            fields = {field: getattr(device, prefix + field) for field in ADDRESS}
            ready, valid = getattr(device, f"{prefix}ready"), getattr(device, f"{prefix}valid")
            may = self._take() & self._open
            self._offer(m, valid, ready, may, _payload(fields), _payload(fields, free))
        # A beat is taken, or it stays: with no other that may come meanwhile only its data is free.
        may = (self._take() | self.eager) & self._writes.owed
        fields = {"data": device.wdata, "strb": device.wstrb}
        free = {"data": self._take(), "strb": Const(-1, len(device.wstrb))}
        self._offer(m, device.wvalid, device.wready, may, _payload(fields), _payload(fields, free))
        m.d.comb += device.wlast.eq(self._writes.last)

    def _offer(
        self, m: Module, valid: Value, ready: Value, may: Value, payload: Value, free: Value
    ) -> None:
        """Offer what is ``free`` when it ``may`` be; what is offered and not taken stays (A3.2.1)."""
        waits, before = Signal(), Signal(len(payload))
        m.d.comb += [valid.eq(waits | may), payload.eq(Mux(waits, before, free))]
        m.d.sync += [waits.eq(valid & ~ready), before.eq(payload)]

    def _drive_memory(self, m: Module) -> None:
        memory, walk = self.mmu.memory, self.mmu.walk
        reads, writes, tables = self._memory_reads, self._memory_writes, self._table_reads
        for prefix, owed, said in (
            ("r", reads.some, {"data": self._take()}),
            ("b", writes.answerable, {}),
        ):
            fields = {field: getattr(memory, prefix + field) for field in ("id", *said, "resp")}
            number = self._take()
            if self.eager:
                number = Mux(owed.all(), number, owed[1])
            free = {"id": number, **said, "resp": Cat(Const(0), self._take())}
            may = (self._take() | self.eager) & owed.bit_select(number, 1)
            valid, ready = getattr(memory, f"{prefix}valid"), getattr(memory, f"{prefix}ready")
            self._offer(m, valid, ready, may, _payload(fields), _payload(fields, free))
        m.d.comb += memory.rlast.eq(reads.last.bit_select(memory.rid, 1))
        fields = {"data": walk.rdata, "resp": walk.rresp}
        pte = self._take_pte()
        if self.eager:
            # A walk is one read: what is not a leaf of 1 GiB faults.
            pte = pte | LEAF
        free = {"data": pte, "resp": Cat(Const(0), self._take())}
        may = (self._take() | self.eager) & tables.some[0]
        self._offer(m, walk.rvalid, walk.rready, may, _payload(fields), _payload(fields, free))
        m.d.comb += walk.rlast.eq(1)

    def _drive_host(self, m: Module) -> None:
        ports = {name: getattr(self.mmu, name) for name in HOST}
        free = {name: Signal.like(port.payload, name=name) for name, port in ports.items()}
        for name, port in ports.items():
            may = self._take() & self._open
            payload = port.payload.as_value()
            self._offer(m, port.valid, port.ready, may, payload, free[name].as_value())
        command, dropin, resume = free.values()
        for field in ("leaf_only", "whole_asid", "keep_global", "asid", "tag"):
            m.d.comb += command[field].eq(self._take())
        m.d.comb += [
            command.kind.eq(self._take(3)),
            # What is held waits for a RELEASE, however long.
            command.hold.eq(self._take() & (not self.eager)),
            command.first.eq(self._take_page()),
            command.last.eq(self._take_page()),
            dropin.asid.eq(self._take()),
            dropin.grain.eq(self._take(2)),
            dropin.tag.eq(self._take()),
            dropin.vpn.eq(self._take_page()),
            dropin.pte.eq(self._take_pte()),
            dropin.epoch.eq(self._take(2)),
            resume.place.eq(self._take()),
            resume.retry.eq(self._take()),
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
        m.d.comb += [
            self.owes.eq(owes | waits),
            Assert((self._cycle != ANSWERED_WITHIN) | ~self.owes),
        ]


def _payload(fields: Mapping[str, Value], free: Mapping[str, Value] | None = None) -> Value:
    """Return the fields one after the other, or what is ``free`` for them and 0 for the others."""
    if free is None:
        return Cat(fields.values())
    return Cat(
        (free.get(name, Const(0)) | Const(0, len(field)))[: len(field)]
        for name, field in fields.items()
    )


def _placed(bits: Value, places: tuple[int, ...], width: int) -> Value:
    """Return ``width`` bits: these at their places, the others 0."""
    at = dict(zip(places, bits, strict=True))
    return Cat(at.get(i, Const(0, 1)) for i in range(width))
