"""Which translation each outstanding burst of one direction uses, in order per AXI id."""

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from secmmu.config import SecmmuConfig
from secmmu.internals import EndSignature

__all__ = ["BurstLayout", "UseOrder", "oldest_layout", "position_bits", "slot_bits"]


class BurstLayout(data.StructLayout):
    """One outstanding burst: its use slot, and what the observer wants to know at its end.

    Parameters
    ----------
    config : SecmmuConfig
        ``use_slots``, ``asid_bits``; without ``observe`` only the slot is kept.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        members = {"slot": slot_bits(config)}
        if config.observe:
            members |= {"asid": config.asid_bits, "len": 8}
        super().__init__(members)


class UseOrder(wiring.Component):
    """One queue per AXI id: bursts of an id end in the order in which they were presented.

    Parameters
    ----------
    config : SecmmuConfig
        ``id_bits``, ``outstanding`` and what :class:`BurstLayout` takes.

    Members
    -------
    begin : In(1), begin_id : In, burst : In(BurstLayout)
        A burst is presented in the next cycle; the intake sees to it that its id has room.
    end : In(EndSignature)
        The oldest burst of an id ends.
    ended : Out(1), ended_slot : Out
        A burst has ended, in the second cycle after its end; the slot that it used.
    begun : Out(1), position : Out
        A burst is presented first in this cycle; what names it while it is outstanding.
    oldest : Out(ArrayLayout)
        For each id, what names its oldest burst beside the id.
    outstanding : Out
        For each id, whether a burst is outstanding; from two cycles after ``begin`` to the cycle of the end.
    """

    begin: Signal
    begin_id: Signal
    burst: data.View
    end: wiring.PureInterface
    ended: Signal
    ended_slot: Signal
    begun: Signal
    position: Signal
    oldest: data.View
    outstanding: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "begin": In(1),
                "begin_id": In(config.id_bits),
                "burst": In(BurstLayout(config)),
                "end": In(EndSignature(config)),
                "ended": Out(1),
                "ended_slot": Out(slot_bits(config)),
                "begun": Out(1),
                "position": Out(position_bits(config)),
                "oldest": Out(oldest_layout(config)),
                "outstanding": Out(1 << config.id_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the pointers of each id and the memory they point into."""
        m = Module()
        config = self.config
        depth = config.outstanding_per_id
        begins_id = Signal(config.id_bits)
        burst = Signal(BurstLayout(config))
        ends = Signal()
        ends_position = Signal.like(self.position)
        end_position = Signal.like(self.position)
        m.d.sync += [
            self.begun.eq(self.begin),
            begins_id.eq(self.begin_id),
            burst.eq(self.burst),
            ends.eq(self.end.valid),
            ends_position.eq(end_position),
            self.ended.eq(ends),
        ]
        heads, tails = [], []
        for number in range(1 << config.id_bits):
            # Pointers run modulo twice the depth, so that full and empty differ.
            head = Signal(exact_log2(depth) + 1, name=f"head{number}")
            tail = Signal.like(head, name=f"tail{number}")
            m.d.comb += [
                self.outstanding[number].eq(head != tail),
                self.oldest[number].eq(head[:-1]),
            ]
            with m.If(self.begun & (begins_id == number)):
                m.d.sync += tail.eq(tail + 1)
            with m.If(self.end.valid & (self.end.id == number)):
                m.d.sync += head.eq(head + 1)
            heads.append(head)
            tails.append(tail)
        m.submodules.bursts = bursts = memory.Memory(
            shape=BurstLayout(config), depth=depth << config.id_bits, init=[]
        )
        write = bursts.write_port()
        read = bursts.read_port(domain="comb")
        m.d.comb += [
            self.position.eq(Cat(Array(tail[:-1] for tail in tails)[begins_id], begins_id)),
            write.en.eq(self.begun),
            write.addr.eq(self.position),
            write.data.eq(burst),
            end_position.eq(Cat(Array(head[:-1] for head in heads)[self.end.id], self.end.id)),
            read.addr.eq(ends_position),
        ]
        m.d.sync += self.ended_slot.eq(read.data.slot)
        if config.observe:
            look = bursts.read_port(domain="comb")
            m.d.comb += [
                look.addr.eq(end_position),
                self.end.asid.eq(look.data.asid),
                self.end.len.eq(look.data.len),
            ]
        return m


def position_bits(config: SecmmuConfig) -> int:
    """Return the width of what names an outstanding burst of one direction."""
    return config.id_bits + exact_log2(config.outstanding_per_id)


def oldest_layout(config: SecmmuConfig) -> data.ArrayLayout:
    """Return the layout of what names the oldest burst of each id."""
    return data.ArrayLayout(exact_log2(config.outstanding_per_id), 1 << config.id_bits)


def slot_bits(config: SecmmuConfig) -> int:
    """Return the width of the number of a use slot: one more of them than the configuration says."""
    return config.use_slots.bit_length()
