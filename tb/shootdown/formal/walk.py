"""Proofs about the walker: what it grants, that it answers, and that its port keeps the rules of AXI."""

from dataclasses import replace

from amaranth.hdl import Assert, Assume, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from secmmu.config import SecmmuConfig
from secmmu.internals import KillLayout, Outcome, WalkRequestLayout
from secmmu.layouts import PPN_BITS, PteLayout
from secmmu.page_numbers import span_mask
from secmmu.walker.pte import PteJudge, PteVerdict
from secmmu.walker.walker import Walker
from shootdown.formal.rules import ADDRESS, WriteLedger, channel, so_far, stays
from shootdown.formal.spec import CONTEXTS

__all__ = ["CONFIG", "WalkHarness"]

CONFIG = SecmmuConfig(
    asid_bits=1,
    contexts=CONTEXTS,
    id_bits=1,
    walks=1,
    walk_cache=1,
    observe=False,
)
"""One walk at a time, Sv39, Svade: the last word that was read is the leaf that is granted."""
SV39 = 8
WORD_SIZE = 3
ANSWERED_WITHIN = 12
"""Cycles from a request to its answer, when data comes in the cycle after its address."""


class _UserBlindJudge(PteJudge):
    """Takes every leaf for one of the user: the fault that the proof of permission must find."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sound = sound = PteJudge(self.config)
        m.d.comb += [
            sound.pte.eq(self.pte),
            sound.pte.u.eq(self.pte.u | self.pte.r),
            sound.level.eq(self.level),
            sound.write.eq(self.write),
            self.verdict.eq(sound.verdict),
            self.grain.eq(sound.grain),
            self.ppn.eq(sound.ppn),
        ]
        return m


class _EndlessJudge(PteJudge):
    """Takes everything for a pointer: the fault that the proof of progress must find."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += [self.verdict.eq(PteVerdict.POINTER), self.ppn.eq(self.pte.ppn)]
        return m


class _HastyWalker(Walker):
    """An invalidation takes back the address that is offered: the fault that the proof of AXI must find."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        with m.If(self.coming.valid):
            m.d.comb += self.bus.arvalid.eq(0)
        return m


_JUDGES = {"user-blind": _UserBlindJudge, "endless": _EndlessJudge}


class WalkHarness(wiring.Component):
    """Any requests, invalidations, page tables and timing; one walk at a time.

    Asserted is, by ``claim``:

    ``permission``  what is filled or answered GRANTED is what the last word read from memory says, and that word is a
                    leaf that lets a user read, and write where the walk was for a write (privileged spec 4.3.2)
    ``progress``    a walk is answered within 12 cycles, when memory answers in the next one and nothing is invalidated
    ``axi``         what is offered stays as it is until it is taken; each read and each write is one word; a write has
                    one beat of data (Svadu)

    Parameters
    ----------
    claim : str
        What is asserted.
    fault : str or None
        ``user-blind``, ``endless`` or ``hasty``: the walker has that fault.
    """

    def __init__(self, claim: str, fault: str | None) -> None:
        self.claim = claim
        config = replace(CONFIG, svadu=claim == "axi")
        self.walker = (_HastyWalker if fault == "hasty" else Walker)(config)
        if fault in _JUDGES:
            self.walker.entry.judge = _JUDGES[fault](config)
        super().__init__(
            {
                "request": In(WalkRequestLayout(CONFIG)),
                "request_valid": In(1),
                "kill": In(KillLayout(CONFIG)),
                "arready": In(1),
                "rvalid": In(1),
                "rdata": In(64),
                "rresp": In(2),
                "fill_ready": In(1),
                "lets_go": In(1),
                "write_ready": In(2),
                "bvalid": In(1),
                "bresp": In(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wire the walker to any memory, and assert."""
        m = Module()
        m.submodules.walker = walker = self.walker
        walk, bus = walker.walk, walker.bus
        referred, reading = Signal(), Signal()
        asked = walk.request.valid & walk.request.ready
        m.d.comb += [
            walk.request.payload.eq(self.request),
            walk.request.payload.mode.eq(SV39),
            walk.request.valid.eq(self.request_valid & ~referred),
            walk.referred.eq(referred),
            walker.coming.eq(self.kill),
            walker.fill.ready.eq(self.fill_ready),
            bus.arready.eq(self.arready),
            bus.rvalid.eq(self.rvalid),
            bus.rdata.eq(self.rdata),
            bus.rresp.eq(self.rresp),
            bus.rlast.eq(1),
            Assume(~self.rvalid | reading),
            Assume(~(self.kill.valid & (self.kill.last < self.kill.first))),
        ]
        # Whoever waits takes the answer in a cycle in which it stands.
        m.d.sync += [
            referred.eq((referred | asked) & ~(walk.answered[0] & self.lets_go)),
            reading.eq((reading & ~self.rvalid) | (bus.arvalid & bus.arready)),
        ]
        claim = {
            "permission": self._claim_permission,
            "progress": self._claim_progress,
            "axi": self._claim_axi,
        }[self.claim]
        claim(m, asked, referred, reading)
        return m

    def _claim_permission(self, m: Module, asked: Value, referred: Signal, reading: Signal) -> None:
        """Keep the last word, and compare with it what is granted."""
        walker = self.walker
        leaf, subject = Signal(PteLayout()), Signal(WalkRequestLayout(CONFIG))
        with m.If(self.rvalid):
            m.d.sync += leaf.eq(self.rdata)
        with m.If(asked):
            m.d.sync += subject.eq(self.request)
        answer = walker.walk.answer
        granted = walker.walk.answered[0] & referred & (answer.outcome == Outcome.GRANTED)
        m.d.comb += [
            Assert(~granted | self._allows(leaf, answer.entry)),
            Assert(~(granted & answer.write) | (leaf.w & leaf.d & answer.entry.writable)),
            Assert(~granted | (answer.entry.translation.asid == subject.asid)),
            Assert(~walker.fill.en | self._allows(leaf, walker.fill.entry)),
        ]

    def _allows(self, leaf: data.View, entry: data.View) -> Value:
        """Return whether an entry says no more than its leaf does."""
        grain = entry.translation.grain
        napot = leaf.n
        ppn = Mux(napot, Cat(leaf.ppn[:3], Const(0, 1), leaf.ppn[4:]), leaf.ppn)[:PPN_BITS]
        aligned = (ppn & span_mask(grain)) == 0
        usable = leaf.v & leaf.r & leaf.u & leaf.a & ~leaf.reserved.any() & ~leaf.pbmt.any()
        sized = Mux(napot, (grain == 1) & leaf.ppn[3], grain != 1) & (grain <= 3)
        says = (entry.ppn == ppn) & (~entry.writable | (leaf.w & leaf.d))
        return usable & sized & aligned & says & (~leaf.g | entry.translation.shared)

    def _claim_progress(self, m: Module, asked: Value, referred: Signal, reading: Signal) -> None:
        """Count from the request on."""
        age = Signal(range(ANSWERED_WITHIN + 2))
        answered = self.walker.walk.answered[0]
        m.d.sync += age.eq(Mux(referred & ~answered, age + (age <= ANSWERED_WITHIN), 0))
        m.d.comb += [
            Assume(self.arready & self.fill_ready & self.lets_go & ~self.kill.valid),
            Assume(~reading | self.rvalid),
            Assert(age <= ANSWERED_WITHIN),
        ]

    def _claim_axi(self, m: Module, asked: Value, referred: Signal, reading: Signal) -> None:
        """Ask for the rules on every channel that the walker drives, A/D updates among them."""
        bus = self.walker.bus
        writes = WriteLedger(m, bus, depth=1)
        one_word = Cat(
            ~valid | ((length == 0) & (size == WORD_SIZE) & (address[:WORD_SIZE] == 0))
            for valid, length, size, address in (
                (bus.arvalid, bus.arlen, bus.arsize, bus.araddr),
                (bus.awvalid, bus.awlen, bus.awsize, bus.awaddr),
            )
        )
        rules = [
            stays(m, bus.arvalid, bus.arready, channel(bus, "ar", ADDRESS)),
            stays(m, bus.awvalid, bus.awready, channel(bus, "aw", ADDRESS)),
            stays(m, bus.wvalid, bus.wready, channel(bus, "w", ("data", "strb", "last"))),
            one_word.all(),
            writes.allows_data(bus),
            writes.fits,
        ]
        m.d.comb += [
            Cat(bus.awready, bus.wready).eq(self.write_ready),
            bus.bresp.eq(self.bresp),
            bus.bvalid.eq(self.bvalid & writes.answerable[0]),
            Assert(so_far(m, Cat(rules).all())),
        ]
