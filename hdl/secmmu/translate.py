"""The translator of one direction: takes address beats from the device, presents them on the memory side."""

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.enum import EnumView
from amaranth.lib.wiring import In, Out

from secmmu.axi import Burst
from secmmu.config import SecmmuConfig
from secmmu.internals import (
    SV39_MODE,
    SV39_VPN_BITS,
    AccessLayout,
    ContextLayout,
    EntryLayout,
    HoldCheckSignature,
    KillLayout,
    LookupSignature,
    Outcome,
    RefusalLayout,
    UseLayout,
    WalkSignature,
    is_killed,
    killed_asid,
    span_mask,
)
from secmmu.layouts import PAGE_BITS, PPN_BITS, Cause, FaultLayout

__all__ = ["Translator"]


class Translator(wiring.Component):
    """Translates one burst at a time; any number may be in flight behind it.

    A hit is presented three cycles after its address beat was taken, and one every second cycle is sustained. An
    invalidation that overlaps what the translator holds, up to the cycle before AxVALID rises, sends it back to
    look up again.

    ================  ==========================================================================================
    state             meaning
    ================  ==========================================================================================
    ``Idle``          an address beat is taken and looked up at once
    ``Lookup``        it is looked up again
    ``Result``        the TLB, the context row and the holds answer
    ``Hold``          its page is held
    ``Walk``          a walk is asked for
    ``Walking``       its end is awaited
    ``Leaf-Hold``     the leaf reaches into a held range: a release is awaited
    ``Present``       a hit waits for the output register and for a use slot
    ``Report``        the fault is reported
    ``Refuse``        the burst is answered SLVERR
    ================  ==========================================================================================

    Parameters
    ----------
    config : SecmmuConfig
        Widths, ``mutant``.
    write : bool
        The direction.

    Members
    -------
    access : In(stream of AccessLayout)
        Address beats of the device.
    memory : Out(stream of AccessLayout)
        Address beats of the memory side, stable while they wait; ``addr`` is the physical address.
    va : Out(64)
        Virtual address of the beat on ``memory``.
    lookup, walk, hold, use, fault, refusal : Out
        The TLB, the walker, the holds, the in-flight table, the fault port, the one who answers SLVERR.
    context : In(ContextLayout)
        Row of the asid that ``lookup`` named last, from the cycle after that.
    kill : In(KillLayout)
        The invalidation applied in this cycle.
    released : In(1)
        A hold is released in this cycle.
    stop : In(1)
        Soft reset: take nothing; refuse what waits for a release.
    hit, miss : Out(1)
        The first lookup of a burst hits, or misses, in this cycle.
    idle : Out(1)
        Holds no burst.
    """

    access: stream.Interface
    memory: stream.Interface
    va: Signal
    lookup: wiring.PureInterface
    walk: wiring.PureInterface
    hold: wiring.PureInterface
    use: stream.Interface
    fault: stream.Interface
    refusal: stream.Interface
    context: data.View
    kill: data.View
    released: Signal
    stop: Signal
    hit: Signal
    miss: Signal
    idle: Signal

    def __init__(self, config: SecmmuConfig, *, write: bool) -> None:
        self.config = config
        self.is_write = write
        super().__init__(
            {
                "access": In(stream.Signature(AccessLayout(config))),
                "memory": Out(stream.Signature(AccessLayout(config))),
                "va": Out(64),
                "lookup": Out(LookupSignature(config)),
                "walk": Out(WalkSignature(config)),
                "hold": Out(HoldCheckSignature(config)),
                "use": Out(stream.Signature(UseLayout(config))),
                "fault": Out(stream.Signature(FaultLayout())),
                "refusal": Out(stream.Signature(RefusalLayout(config))),
                "context": In(ContextLayout()),
                "kill": In(KillLayout(config)),
                "released": In(1),
                "stop": In(1),
                "hit": Out(1),
                "miss": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the state machine around one burst."""
        m = Module()
        config = self.config
        access = Signal(AccessLayout(config))
        entry = Signal(EntryLayout(config))
        cause = Signal(Cause, init=Cause.LOAD_ACCESS)
        first_lookup = Signal()
        released = Signal()
        stale = self._connect(m, access, entry, cause)
        refuse_held = Cause.STORE_ACCESS if self.is_write else Cause.LOAD_ACCESS
        with m.FSM() as fsm:
            with m.State("Idle"):
                self._take(m, access, first_lookup)
            with m.State("Lookup"):
                m.d.comb += self.lookup.en.eq(1)
                m.next = "Result"
            with m.State("Result"):
                m.d.sync += [entry.eq(self.lookup.entry), first_lookup.eq(0)]
                self._judge(m, access, cause, stale, first_lookup)
            with m.State("Hold"):
                with m.If(~self.hold.held):
                    m.next = "Lookup"
                with m.Elif(self.stop):
                    m.d.sync += cause.eq(refuse_held)
                    m.next = "Report"
            with m.State("Walk"):
                m.d.comb += self.walk.request.valid.eq(~stale)
                m.d.sync += released.eq(0)
                with m.If(stale | (self.walk.filled & ~self.walk.request.ready)):
                    m.next = "Lookup"
                with m.Elif(self.walk.request.ready):
                    m.next = "Walking"
            with m.State("Walking"):
                with m.If(self.released):
                    m.d.sync += released.eq(1)
                with m.If(self.walk.done):
                    m.d.sync += cause.eq(self.walk.result.cause)
                    with m.Switch(self.walk.result.outcome):
                        with m.Case(Outcome.FAULT):
                            m.next = "Report"
                        with m.Case(Outcome.HELD):
                            m.next = "Leaf-Hold"
                        with m.Default():
                            m.next = "Lookup"
            with m.State("Leaf-Hold"):
                with m.If(released | self.released):
                    m.next = "Lookup"
                with m.Elif(self.stop):
                    m.d.sync += cause.eq(refuse_held)
                    m.next = "Report"
            with m.State("Present"):
                dead = is_killed(self.kill, entry.translation, config)
                # No use begins for a translation that dies in this cycle: AxVALID would rise in the next.
                m.d.comb += self.use.valid.eq(~dead & (~self.memory.valid | self.memory.ready))
                with m.If(dead):
                    m.next = "Lookup"
                with m.Elif(self.use.valid & self.use.ready):
                    self._take(m, access, first_lookup)
            with m.State("Report"):
                m.d.comb += self.fault.valid.eq(1)
                with m.If(self.fault.ready):
                    m.next = "Refuse"
            with m.State("Refuse"):
                m.d.comb += self.refusal.valid.eq(1)
                with m.If(self.refusal.ready):
                    m.next = "Idle"
        m.d.comb += self.idle.eq(fsm.ongoing("Idle") & ~self.memory.valid)
        self._present(m, access, entry)
        return m

    def _take(self, m: Module, access: data.View, first_lookup: Signal) -> None:
        """Take an address beat, if there is one, and look it up in the same cycle."""
        m.d.comb += self.access.ready.eq(~self.stop)
        with m.If(self.access.valid & ~self.stop):
            m.d.comb += [
                self.lookup.en.eq(1),
                self.lookup.asid.eq(self.access.payload.asid),
                self.lookup.vpn.eq(self.access.payload.addr[PAGE_BITS:]),
            ]
            m.d.sync += [access.eq(self.access.payload), first_lookup.eq(1)]
            m.next = "Result"
        with m.Else():
            m.next = "Idle"

    def _judge(
        self,
        m: Module,
        access: data.View,
        cause: "EnumView[Cause]",
        stale: Signal,
        first_lookup: Signal,
    ) -> None:
        """Decide what becomes of the access when the answers are there."""
        write = self.is_write
        sign = access.addr[PAGE_BITS + SV39_VPN_BITS - 1 :]
        usable = Signal()
        # An entry that does not permit the access is a miss: its PTE may have been upgraded since (I11).
        m.d.comb += usable.eq(self.lookup.hit & (self.lookup.entry.writable if write else 1))
        with m.If(self._crosses(access) | (self.context.mode != SV39_MODE)):
            m.d.sync += cause.eq(Cause.STORE_ACCESS if write else Cause.LOAD_ACCESS)
            m.next = "Report"
        with m.Elif(~(sign.all() | ~sign.any())):
            m.d.sync += cause.eq(Cause.STORE_PAGE if write else Cause.LOAD_PAGE)
            m.next = "Report"
        with m.Else():
            m.d.comb += [
                self.hit.eq(first_lookup & usable & ~stale & ~self.hold.held),
                self.miss.eq(first_lookup & ~self.hit),
            ]
            with m.If(stale):
                m.next = "Lookup"
            with m.Elif(self.hold.held):
                m.next = "Hold"
            with m.Elif(usable):
                m.next = "Present"
            with m.Else():
                m.next = "Walk"

    def _connect(
        self, m: Module, access: data.View, entry: data.View, cause: "EnumView[Cause]"
    ) -> Signal:
        """Drive what follows from the access held; return whether the invalidation overlaps its page."""
        vpn = access.addr[PAGE_BITS:]
        group = self.context.global_group
        stale = Signal()
        m.d.comb += [
            stale.eq(
                killed_asid(self.kill, asid=access.asid, group=group, shared=Const(1))
                & (self.kill.first <= vpn[:SV39_VPN_BITS])
                & (vpn[:SV39_VPN_BITS] <= self.kill.last)
            ),
            self.lookup.asid.eq(access.asid),
            self.lookup.vpn.eq(vpn),
            self.lookup.group.eq(group),
            self.hold.asid.eq(access.asid),
            self.hold.first.eq(vpn),
            self.hold.last.eq(vpn),
            self.walk.request.payload.vpn.eq(vpn),
            self.walk.request.payload.asid.eq(access.asid),
            self.walk.request.payload.group.eq(group),
            self.walk.request.payload.root_ppn.eq(self.context.root_ppn),
            self.walk.request.payload.id.eq(access.id),
            self.walk.request.payload.beats.eq(access.len + 1),
            self.use.payload.translation.eq(entry.translation),
            # The use is the access's own even where the entry is another asid's, shared.
            self.use.payload.translation.asid.eq(access.asid),
            self.use.payload.id.eq(access.id),
            self.use.payload.len.eq(access.len),
            self.fault.payload.va.eq(access.addr),
            self.fault.payload.asid.eq(access.asid),
            self.fault.payload.id.eq(access.id),
            self.fault.payload.write.eq(self.is_write),
            self.fault.payload.cause.eq(cause),
            self.refusal.payload.id.eq(access.id),
            self.refusal.payload.len.eq(access.len),
        ]
        return stale

    def _crosses(self, access: data.View) -> Value:
        """Return whether the burst leaves its 4 KiB page; only an incrementing one can."""
        aligned = access.addr[:PAGE_BITS] & ~((1 << access.size) - 1)
        end = aligned + ((access.len + 1) << access.size)
        return (access.burst == Burst.INCR.value) & (end > (1 << PAGE_BITS))

    def _present(self, m: Module, access: data.View, entry: data.View) -> None:
        """Load the output register when a use begins, and hold it until its handshake."""
        vpn = access.addr[PAGE_BITS:][:SV39_VPN_BITS]
        mask = span_mask(entry.translation.level)
        ppn = (entry.ppn & ~mask) | (vpn & mask)
        with m.If(self.memory.ready):
            m.d.sync += self.memory.valid.eq(0)
        with m.If(self.use.valid & self.use.ready):
            m.d.sync += [
                self.memory.valid.eq(1),
                self.memory.payload.eq(access),
                self.memory.payload.addr.eq(Cat(access.addr[:PAGE_BITS], ppn[:PPN_BITS])),
                self.va.eq(access.addr),
            ]
            if self.is_write:
                # Non-bufferable, so that B comes from the destination (docs/secmmu.md, point 9).
                m.d.sync += self.memory.payload.cache[0].eq(0)
