"""The filters that holds leave behind (range start to range end of a notifier)."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import GROUP_BITS, HoldCheckSignature, HoldLayout
from secmmu.page_numbers import below
from secmmu.picks import lowest

__all__ = ["Holds"]

COUNT_BITS = 8
OVERFLOW_BITS = 16


class FilterLayout(data.StructLayout):
    """One held span and how often it is held; ``used`` and ``full`` say that ``count`` is not 0, and at its end.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "count": COUNT_BITS,
                "used": 1,
                "full": 1,
                "asid": config.asid_bits,
                "group": GROUP_BITS,
                "first": config.vpn_bits,
                "last": config.vpn_bits,
            }
        )


class Holds(wiring.Component):
    """Which spans no walk may serve until they are released.

    A hold counts up the filter of its exact span, or takes one that was free in the cycle before. When there is none the
    whole asid is held, by counting; so is every global page, since its group is not known then. Asids without a context row are not
    held. A release counts down the
    filter of its exact span, else the counter of its asid; one that matches neither does nothing. A change
    made in one cycle is seen by the checks of the next. Up to 65535 holds of one asid may overflow.

    Parameters
    ----------
    config : SecmmuConfig
        ``filters``, ``contexts``, widths, ``mutant``.

    Members
    -------
    hold : In(HoldLayout)
        What to place or release in the next cycle: it is compared ahead.
    clear : In(1)
        Forget everything.
    span, dropin : In(HoldCheckSignature)
        The questions of a walk, when it begins and when it has found its leaf, and of a drop-in.
    released : Out(1)
        Something was released in the cycle before; the checks show it in the next.
    overflowed : Out(1)
        The hold placed in this cycle takes its whole asid.
    """

    hold: data.View
    clear: Signal
    span: wiring.PureInterface
    dropin: wiring.PureInterface
    released: Signal
    overflowed: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "hold": In(HoldLayout(config)),
                "clear": In(1),
                "span": In(HoldCheckSignature(config)),
                "dropin": In(HoldCheckSignature(config)),
                "released": Out(1),
                "overflowed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the filters, the overflow counters and the three checks."""
        m = Module()
        config, coming = self.config, self.hold
        hold = Signal(HoldLayout(config))
        filters = [Signal(FilterLayout(config), name=f"filter{i}") for i in range(config.filters)]
        # Of the hold of this cycle: its filters; the one that it may take, which has its span already.
        alike, offered = Signal(config.filters), Signal(config.filters)
        same, growing, taken = (Signal(config.filters) for _ in range(3))
        used = Cat(row.used for row in filters)
        full = Cat(row.full for row in filters)
        next_offered = lowest(m, ~(used | taken))
        m.d.sync += [hold.eq(coming), offered.eq(next_offered)]
        m.d.comb += [
            same.eq(alike & used),
            growing.eq(same & ~full),
            taken.eq(Mux(hold.place & ~growing.any(), offered, 0)),
            self.overflowed.eq(hold.place & ~growing.any() & ~offered.any()),
        ]
        grows, shrinks = lowest(m, growing), lowest(m, same)
        for i, row in enumerate(filters):
            span = (row.first == coming.first) & (row.last == coming.last)
            m.d.sync += alike[i].eq(span & (row.asid == coming.asid))
            with m.If(next_offered[i]):
                m.d.sync += [row.asid.eq(coming.asid), row.group.eq(coming.group)]
                m.d.sync += [row.first.eq(coming.first), row.last.eq(coming.last)]
            with m.If((hold.place & grows[i]) | taken[i]):
                m.d.sync += [
                    row.count.eq(row.count + 1),
                    row.used.eq(1),
                    row.full.eq(row.count == (1 << COUNT_BITS) - 2),
                ]
            with m.Elif(hold.release & shrinks[i]):
                m.d.sync += [
                    row.count.eq(row.count - 1),
                    row.used.eq(row.count != 1),
                    row.full.eq(0),
                ]
            with m.If(self.clear):
                m.d.sync += [row.count.eq(0), row.used.eq(0), row.full.eq(0)]
        # It takes long to find that no filter will do, so that the counters follow in the next cycle.
        undo, overflow = Signal(), Signal()
        row = Signal(config.context_bits)
        m.d.sync += [
            self.released.eq(hold.release),
            undo.eq(hold.release & ~same.any()),
            overflow.eq(self.overflowed),
            row.eq(hold.asid),
        ]
        whole = self._count_overflows(m, row, overflow, undo)
        # With the mutant walks do not ask.
        walks = () if config.mutant == "rtl-no-hold" else (self.span,)
        for check in (*walks, self.dropin):
            m.d.comb += check.held.eq(self._is_held(check, filters, whole, row, overflow))
        return m

    def _count_overflows(self, m: Module, row: Signal, overflow: Signal, undo: Signal) -> Signal:
        """Count the holds of whole asids; return the set of asids held."""
        config = self.config
        whole = Signal(config.contexts)
        m.submodules.overflows = overflows = memory.Memory(
            shape=OVERFLOW_BITS, depth=config.contexts, init=[]
        )
        reader = overflows.read_port(domain="comb")
        writer = overflows.write_port()
        held = whole.bit_select(row, 1)
        # A count is meaningful only under its bit of ``whole``, so clearing that forgets it.
        count = Mux(held, reader.data, 0)
        undone = undo & held
        m.d.comb += [
            reader.addr.eq(row),
            writer.addr.eq(row),
            writer.en.eq(overflow | undone),
            # One adder: all ones is -1.
            writer.data.eq(count + Cat(1, undone.replicate(OVERFLOW_BITS - 1))),
        ]
        with m.If(overflow | (undone & (reader.data == 1))):
            m.d.sync += held.eq(overflow)
        with m.If(self.clear):
            m.d.sync += whole.eq(0)
        return whole

    def _is_held(
        self,
        check: wiring.PureInterface,
        filters: list[data.View],
        whole: Signal,
        row: Signal,
        overflow: Signal,
    ) -> Value:
        """Return whether a filter, or a hold of the whole asid, counted or not yet, overlaps the span asked about."""
        overlaps = [
            row.used
            & ((row.asid == check.asid) | (check.shared & (row.group == check.group)))
            & ~below(check.last, row.first)
            & ~below(row.last, check.first)
            for row in filters
        ]
        asid = check.asid[: self.config.context_bits]
        held = whole.bit_select(asid, 1) | (check.shared & whole.any())
        return Cat(overlaps).any() | held | (overflow & (check.shared | (row == asid)))
