"""Which translation each outstanding burst of one direction uses, in order per AXI id."""

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from secmmu.config import SecmmuConfig
from secmmu.internals import EndSignature

__all__ = ["UseOrder"]

DEPTH = 8
"""Bursts that one id may have outstanding."""


class BurstLayout(data.StructLayout):
    """One outstanding burst: its use slot, and what the observer wants to know at its end.

    Parameters
    ----------
    config : SecmmuConfig
        ``use_slots``, ``asid_bits``; without ``observe`` only the slot is kept.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        members = {"slot": _slot_bits(config)}
        if config.observe:
            members |= {"asid": config.asid_bits, "len": 8}
        super().__init__(members)


class UseOrder(wiring.Component):
    """One FIFO per AXI id: bursts of an id end in the order in which they were presented.

    Parameters
    ----------
    config : SecmmuConfig
        ``id_bits`` and what :class:`BurstLayout` takes.

    Members
    -------
    begin : In(1), begin_id : In, burst : In(BurstLayout)
        A burst is presented; only where ``room`` of its id is high.
    end : In(EndSignature)
        The oldest burst of an id ends.
    end_slot : Out
        The slot it used, in the same cycle.
    room : Out
        For each id, whether one more burst may be presented.
    none : Out
        For each id, whether nothing is outstanding.
    """

    begin: Signal
    begin_id: Signal
    burst: data.View
    end: wiring.PureInterface
    end_slot: Signal
    room: Signal
    none: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "begin": In(1),
                "begin_id": In(config.id_bits),
                "burst": In(BurstLayout(config)),
                "end": In(EndSignature(config)),
                "end_slot": Out(_slot_bits(config)),
                "room": Out(1 << config.id_bits),
                "none": Out(1 << config.id_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the pointers of each id and the memory they point into."""
        m = Module()
        config = self.config
        ids = 1 << config.id_bits
        # Pointers run modulo twice the depth, so that full and empty differ.
        heads = [Signal(exact_log2(DEPTH) + 1, name=f"head{i}") for i in range(ids)]
        tails = [Signal(exact_log2(DEPTH) + 1, name=f"tail{i}") for i in range(ids)]
        for i, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            m.d.comb += [self.none[i].eq(head == tail), self.room[i].eq((tail ^ head) != DEPTH)]
            with m.If(self.begin & (self.begin_id == i)):
                m.d.sync += tail.eq(tail + 1)
            with m.If(self.end.valid & (self.end.id == i)):
                m.d.sync += head.eq(head + 1)
        m.submodules.bursts = bursts = memory.Memory(
            shape=BurstLayout(config), depth=ids * DEPTH, init=[]
        )
        write = bursts.write_port()
        read = bursts.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.begin),
            write.addr.eq(Cat(Array(tail[:-1] for tail in tails)[self.begin_id], self.begin_id)),
            write.data.eq(self.burst),
            read.addr.eq(Cat(Array(head[:-1] for head in heads)[self.end.id], self.end.id)),
            self.end_slot.eq(read.data.slot),
        ]
        if config.observe:
            m.d.comb += [self.end.asid.eq(read.data.asid), self.end.len.eq(read.data.len)]
        return m


def _slot_bits(config: SecmmuConfig) -> int:
    # At least one: a memory without width cannot be emitted.
    return max(1, ceil_log2(config.use_slots))
