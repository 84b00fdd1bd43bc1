"""The waiters that want a walk: which one asks for it next."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.block_ram import BlockRam
from secmmu.config import SecmmuConfig
from secmmu.datapath.flight import CandidateLayout, FlightLayout, place_bits
from secmmu.internals import ContextLayout, WalkRequestLayout
from secmmu.layouts import PAGE_BITS
from secmmu.picks import encoded, lowest

__all__ = ["WalkAsker"]


class WalkAsker(wiring.Component):
    """Asks for walks: for what stage D has just seen miss, unless an older waiter wants one.

    What is wanted stands in block RAM, so the next waiter to ask is fetched a cycle before it can. A context row read
    before an invalidation of its asid is not walked with: whoever wants, was fetched or asks then is looked up again.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``, widths.

    Members
    -------
    last : In(CandidateLayout), row : In(ContextLayout)
        The pipeline's last stage.
    looked_up : In(1), place : In
        It may become the waiter ``place``.
    missed : In(1)
        It becomes a waiter that wants a walk.
    wants : In(waiters)
        Those that want one since before this cycle.
    changes : In(1)
        A context row may have changed before the invalidation applied in this cycle.
    fetches : Out(waiters)
        One of ``wants`` is fetched: it does not want any more.
    asks : Out(1)
        What missed, or else what was fetched, begins to ask; when ``direct`` the former.
    direct : Out(1)
        What misses need not want.
    request : Out(stream of WalkRequestLayout)
        Asks the walker.
    """

    last: data.View
    row: data.View
    looked_up: Signal
    place: Signal
    missed: Signal
    wants: Signal
    changes: Signal
    fetches: Signal
    asks: Signal
    direct: Signal
    request: stream.Interface

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "last": In(CandidateLayout(config)),
                "row": In(ContextLayout()),
                "looked_up": In(1),
                "place": In(place_bits(config)),
                "missed": In(1),
                "wants": In(config.waiters),
                "changes": In(1),
                "fetches": Out(config.waiters),
                "asks": Out(1),
                "direct": Out(1),
                "request": Out(stream.Signature(WalkRequestLayout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the memory, the fetching and the request."""
        m = Module()
        config, request = self.config, self.request
        m.submodules.wanted = wanted = BlockRam(
            WalkRequestLayout(config), depth=config.waiters, observe=config.observe
        )
        fresh = Signal(WalkRequestLayout(config))
        flight: data.View[FlightLayout] = self.last.flight
        fetched = Signal()
        asking = Signal()
        free = Signal()
        payload = Signal(WalkRequestLayout(config))
        m.d.comb += [
            fresh.vpn.eq(flight.access.addr[PAGE_BITS:]),
            fresh.asid.eq(flight.access.asid),
            fresh.group.eq(self.row.global_group),
            fresh.root_ppn.eq(self.row.root_ppn),
            fresh.mode.eq(self.row.mode),
            fresh.write.eq(flight.write),
            # Also where nobody comes to stay: the place is free then.
            wanted.write.eq(self.looked_up),
            wanted.write_place.eq(self.place),
            wanted.item.eq(fresh),
            # One every other cycle at most: the walker is slow to say whether it takes one.
            free.eq(~asking | self.changes),
            self.direct.eq(free & (~(fetched | self.wants.any()) | self.changes)),
            self.asks.eq(Mux(self.direct, self.missed, free & fetched)),
            self.fetches.eq(
                Mux((~fetched | free) & ~self.changes, lowest(m, self.wants), 0),
            ),
            wanted.read_place.eq(encoded(self.fetches)),
            wanted.read.eq(self.fetches.any()),
            request.valid.eq(asking & ~self.changes),
            request.payload.eq(payload),
        ]
        m.d.sync += fetched.eq(~self.changes & (self.fetches.any() | (fetched & ~free)))
        with m.If(free):
            m.d.sync += [
                asking.eq(self.asks),
                payload.eq(Mux(self.direct, fresh, wanted.shown)),
            ]
        with m.Elif(request.ready):
            m.d.sync += asking.eq(0)
        return m
