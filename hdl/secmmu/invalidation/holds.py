"""The filters that holds leave behind (range start to range end of a notifier)."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import GROUP_BITS, HoldCheckSignature, HoldLayout
from secmmu.page_numbers import below

__all__ = ["Holds"]

COUNT_BITS = 8
OVERFLOW_BITS = 16


class FilterLayout(data.StructLayout):
    """One held span and how often it is held; free when ``count`` is 0.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "count": COUNT_BITS,
                "asid": config.asid_bits,
                "group": GROUP_BITS,
                "first": config.vpn_bits,
                "last": config.vpn_bits,
            }
        )


class Holds(wiring.Component):
    """Which spans no walk may serve until they are released.

    A hold counts up the filter of its exact span, or takes a free filter. When there is none the whole asid is
    held, by counting; so is every global page, since its group is not known then. Asids without a context row are not
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
        What to place or release in this cycle.
    clear : In(1)
        Forget everything.
    page, span, dropin : In(HoldCheckSignature)
        The questions of a walk that is to begin, of one that has found its leaf, and of a drop-in.
    released : Out(1)
        Something was released in the cycle before; the checks show it in the next.
    overflowed : Out(1)
        A hold takes its whole asid in this cycle.
    """

    hold: data.View
    clear: Signal
    page: wiring.PureInterface
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
                "page": In(HoldCheckSignature(config)),
                "span": In(HoldCheckSignature(config)),
                "dropin": In(HoldCheckSignature(config)),
                "released": Out(1),
                "overflowed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the filters, the overflow counters and the three checks."""
        m = Module()
        config, hold = self.config, self.hold
        filters = [Signal(FilterLayout(config), name=f"filter{i}") for i in range(config.filters)]
        same = Signal(config.filters)
        growing = Signal(config.filters)
        free = Signal(config.filters)
        for i, row in enumerate(filters):
            span = (row.asid == hold.asid) & (row.first == hold.first) & (row.last == hold.last)
            m.d.comb += [
                same[i].eq((row.count != 0) & span),
                growing[i].eq(same[i] & ~row.count.all()),
                free[i].eq(row.count == 0),
            ]
        for i, row in enumerate(filters):
            grows = growing[i] & ~growing[:i].any()
            taken = free[i] & ~free[:i].any() & ~growing.any()
            with m.If(hold.place & grows):
                m.d.sync += row.count.eq(row.count + 1)
            with m.Elif(hold.place & taken):
                m.d.sync += [row.count.eq(1), row.asid.eq(hold.asid), row.group.eq(hold.group)]
                m.d.sync += [row.first.eq(hold.first), row.last.eq(hold.last)]
            with m.Elif(hold.release & same[i] & ~same[:i].any()):
                m.d.sync += row.count.eq(row.count - 1)
            with m.If(self.clear):
                m.d.sync += row.count.eq(0)
        m.d.comb += [
            self.overflowed.eq(hold.place & ~growing.any() & ~free.any()),
        ]
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
        walks = () if config.mutant == "rtl-no-hold" else (self.page, self.span)
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
        with m.If(overflow | (undone & (count == 1))):
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
            (row.count != 0)
            & ((row.asid == check.asid) | (check.shared & (row.group == check.group)))
            & ~below(check.last, row.first)
            & ~below(row.last, check.first)
            for row in filters
        ]
        asid = check.asid[: self.config.context_bits]
        held = whole.bit_select(asid, 1) | (check.shared & whole.any())
        return Cat(overlaps).any() | held | (overflow & (check.shared | (row == asid)))
