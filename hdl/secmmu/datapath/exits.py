"""The waiters that the host hears of, and those that are refused."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.block_ram import BlockRam
from secmmu.config import SecmmuConfig
from secmmu.datapath.flight import CandidateLayout, Source, Wait, place_bits
from secmmu.datapath.waiting import READ, WRITE, PlaceLayout, WriteRefusalLayout, is_in, waiting
from secmmu.internals import RefusalLayout
from secmmu.layouts import EPOCH_BITS, VA_BITS, FaultLayout, ResumeLayout
from secmmu.picks import chosen, encoded, lowest

__all__ = ["Exits"]


class ToldLayout(data.StructLayout):
    """What is told of an access that faults, or is refused; ``epoch`` is that of its last lookup.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``, ``id_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "va": VA_BITS,
                "asid": config.asid_bits,
                "id": config.id_bits,
                "len": 8,
                "write": 1,
                "epoch": EPOCH_BITS,
            }
        )


class Exits(wiring.Component):
    """Reports faults and hands refused accesses to those who answer for them, one of each at a time.

    What is told of them stands in block RAM: each is picked in one cycle and offered from the second one after it on.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``, ``stalls``, widths.

    Members
    -------
    last : In(CandidateLayout), epoch : In(64)
        The pipeline's last stage; the count of commands.
    looked_up : In(1), place : In
        It may become the waiter ``place``.
    places : In(ArrayLayout of PlaceLayout)
        The waiters.
    stop : In(1)
        Soft reset: refuse what waits for the host.
    reports : Out(waiters)
        One has its fault reported from now on.
    refuses : Out(waiters)
        Some are answered SLVERR from now on.
    reported : Out(1)
        The host has taken a report; ``fault.payload.stalled`` says what comes of it.
    leaves, retries : Out(waiters)
        Stalled ones that go on, and those of them that are looked up again.
    refused : Out(2)
        For reads and writes: one is answered in this cycle.
    fault : Out(stream of FaultLayout), resume : In(stream of ResumeLayout)
        The host's side of faults.
    read_refusal : Out(stream of RefusalLayout), write_refusal : Out(stream of WriteRefusalLayout)
        Who answers SLVERR; taken with the last of the answer.
    """

    last: data.View
    epoch: Signal
    looked_up: Signal
    place: Signal
    places: data.View
    stop: Signal
    reports: Signal
    refuses: Signal
    reported: Signal
    leaves: Signal
    retries: Signal
    refused: Signal
    fault: stream.Interface
    resume: stream.Interface
    read_refusal: stream.Interface
    write_refusal: stream.Interface

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        count = config.waiters
        super().__init__(
            {
                "last": In(CandidateLayout(config)),
                "epoch": In(EPOCH_BITS),
                "looked_up": In(1),
                "place": In(place_bits(config)),
                "places": In(data.ArrayLayout(PlaceLayout(config), count)),
                "stop": In(1),
                "reports": Out(count),
                "refuses": Out(count),
                "reported": Out(1),
                "leaves": Out(count),
                "retries": Out(count),
                "refused": Out(2),
                "fault": Out(stream.Signature(FaultLayout())),
                "resume": In(stream.Signature(ResumeLayout())),
                "read_refusal": Out(stream.Signature(RefusalLayout(config))),
                "write_refusal": Out(stream.Signature(WriteRefusalLayout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the memory and the three ways out."""
        m = Module()
        told = self._tell(m)
        # One sort has its turn in each cycle, so that none of them waits to know of another. Where nobody is due it is
        # always the first: what happens must not depend on how long nothing did.
        reports, refusals = self._due_reports(), [self._due_refusals(at) for at in (READ, WRITE)]
        turn = Signal(3, init=1)
        m.d.sync += turn.eq(Mux(Cat(reports, *refusals).any(), turn.rotate_left(1), 1))
        report, picked = self._pick(m, "report", reports, turn[0] & ~self.fault.valid)
        m.d.comb += self.reports.eq(report)
        self._report(m, report, picked, told.shown)
        picks = [report]
        for at, name, out in (
            (READ, "read", self.read_refusal),
            (WRITE, "write", self.write_refusal),
        ):
            may = turn[1 + at] & ~out.valid
            pick, picked = self._pick(m, name, refusals[at], may)
            self._refuse(m, pick, picked, told.shown, at)
            picks.append(pick)
        m.d.comb += [
            self.refuses.eq(picks[1] | picks[2]),
            told.read_place.eq(encoded(picks[0] | picks[1] | picks[2])),
        ]
        self._resume(m)
        return m

    def _tell(self, m: Module) -> BlockRam:
        """Build the memory; return it: it shows what is told of whom was picked in the cycle before."""
        m.submodules.told = told = BlockRam(
            ToldLayout(self.config), depth=self.config.waiters, observe=self.config.observe
        )
        access, item = self.last.flight.access, told.item
        m.d.comb += [
            # Also where nobody comes to stay: the place is free then.
            told.write.eq(self.looked_up),
            told.write_place.eq(self.place),
            told.read.eq(1),
            item.va.eq(access.addr),
            item.asid.eq(access.asid),
            item.id.eq(access.id),
            item.len.eq(access.len),
            item.write.eq(self.last.flight.write),
            item.epoch.eq(self.epoch),
        ]
        return told

    def _pick(self, m: Module, name: str, due: Value, may: Value) -> tuple[Signal, Signal]:
        """Pick one of ``due`` if that ``may`` be; return who is picked, and whether somebody was in the cycle before."""
        pick = Signal(self.config.waiters, name=f"{name}_pick")
        picked = Signal(name=f"{name}_picked")
        # Who is due stays so until it is picked.
        known = Signal(self.config.waiters, name=f"{name}_due")
        m.d.comb += pick.eq(Mux(may, lowest(m, known), 0))
        m.d.sync += [known.eq(due & ~pick), picked.eq(pick.any())]
        return pick, picked

    def _each(self) -> list[data.View]:
        return [self.places[number] for number in range(self.config.waiters)]

    def _of(self, one_hot: Value, field: str) -> Value:
        """Return a field of the waiter that is picked, 0 when none is."""
        fields = [Value.cast(place[field]) for place in self._each()]
        return Cat(
            chosen(one_hot, Cat(value[bit] for value in fields)) for bit in range(len(fields[0]))
        )

    def _due_reports(self) -> Value:
        return Cat(is_in(place, Wait.REPORT) & ~place.behind.any() for place in self._each())

    def _due_refusals(self, at: int) -> Value:
        return Cat(
            is_in(place, Wait.REFUSE)
            & (place.write == at)
            # Data that comes from the device is dropped in its turn.
            & (place.supplied | (place.source != Source.TURN))
            for place in self._each()
        )

    def _report(self, m: Module, pick: Signal, picked: Signal, told: data.View) -> None:
        """Offer a report; say whether the host decides on it."""
        config, fault = self.config, self.fault
        payload = fault.payload
        stalled = Signal(range(config.stalls + 1))
        stalls = (
            self._of(pick, "may_stall")
            & ~self._of(pick, "final")
            & (stalled != config.stalls)
            & ~self.stop
        )
        page_fault = Signal()
        m.d.comb += self.reported.eq(fault.valid & fault.ready)
        with m.If(pick.any()):
            m.d.sync += [
                page_fault.eq(self._of(pick, "page_fault")),
                payload.stalled.eq(stalls),
                payload.place.eq(encoded(pick)),
            ]
        with m.If(picked):
            m.d.sync += [fault.valid.eq(1), payload.cause.eq(Cat(1, told.write, 1, page_fault))]
            m.d.sync += [
                payload[field].eq(told[field]) for field in ("va", "asid", "id", "write", "epoch")
            ]
        with m.Elif(fault.ready):
            m.d.sync += fault.valid.eq(0)
        if config.stalls:
            gone = sum((bit for bit in self.leaves), Const(0, place_bits(config) + 1))
            m.d.sync += stalled.eq(stalled + (self.reported & payload.stalled) - gone)

    def _resume(self, m: Module) -> None:
        """Let the host decide on those that stall."""
        decided = self.resume.payload
        stalled = waiting(self._each(), Wait.STALLED)
        named = Cat(self.resume.valid & (decided.place == number) for number in range(len(stalled)))
        m.d.comb += [
            self.resume.ready.eq(1),
            self.leaves.eq(stalled & Mux(self.stop, -1, named)),
            self.retries.eq(Mux(decided.retry, named, 0)),
        ]

    def _refuse(self, m: Module, pick: Signal, picked: Signal, told: data.View, at: int) -> None:
        """Offer the refusal of a read or a write."""
        out = self.write_refusal if at == WRITE else self.read_refusal
        m.d.sync += self.refused[at].eq(out.valid & out.ready)
        if at == WRITE:
            with m.If(pick.any()):
                m.d.sync += [
                    Value.cast(out.payload.source).eq(self._of(pick, "source")),
                    out.payload.stash.eq(self._of(pick, "stash")),
                ]
        with m.If(picked):
            m.d.sync += [out.valid.eq(1), out.payload.id.eq(told.id)]
            if at == READ:
                m.d.sync += out.payload.len.eq(told.len)
        with m.Elif(out.ready):
            m.d.sync += out.valid.eq(0)
