"""Write responses back to the device, with the answers to refused and to ended writes."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.datapath.use_order import oldest_layout, position_bits
from secmmu.datapath.waiting import WriteRefusalLayout
from secmmu.datapath.write_buffer import DropLayout
from secmmu.internals import WriteResponseLayout
from secmmu.layouts import Response
from secmmu.picks import chosen

__all__ = ["WriteReturn"]


class WriteReturn(wiring.Component):
    """Passes B through; puts in SLVERR for refused writes, and in the place of the answer to one that was ended.

    The data of a refused write is lost first. Its B follows when nothing older of its id is outstanding. A write that
    was ended is answered when the memory has answered it and the device has given the rest of its data, whichever
    comes last: until then the memory's answer is kept back.

    Parameters
    ----------
    config : SecmmuConfig
        ``id_bits``, ``outstanding``.

    Members
    -------
    begin : In(1), position : In
        A write was presented first in this cycle; what names it.
    spoiled : In(1), spoiled_position : In
        A write was ended; this is noted.
    swallowed : In(stream of an id)
        The data of an ended write has come to its end.
    memory : In(stream of WriteResponseLayout), device : Out(stream of WriteResponseLayout)
        The B channels; passed through without a cycle of delay.
    oldest : In(ArrayLayout)
        For each id, what names its oldest write beside the id.
    refusal : In(stream of WriteRefusalLayout)
        The write to refuse; taken with its B.
    drop : Out(stream of DropLayout)
        Its data, to be lost.
    outstanding : In
        For each id, whether something is outstanding.
    """

    begin: Signal
    position: Signal
    spoiled: Signal
    spoiled_position: Signal
    swallowed: stream.Interface
    memory: stream.Interface
    device: stream.Interface
    oldest: data.View
    refusal: stream.Interface
    drop: stream.Interface
    outstanding: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        position = position_bits(config)
        super().__init__(
            {
                "begin": In(1),
                "position": In(position),
                "spoiled": In(1),
                "spoiled_position": In(position),
                "swallowed": In(stream.Signature(config.id_bits)),
                "memory": In(stream.Signature(WriteResponseLayout(config))),
                "device": Out(stream.Signature(WriteResponseLayout(config))),
                "oldest": In(oldest_layout(config)),
                "refusal": In(stream.Signature(WriteRefusalLayout(config))),
                "drop": Out(stream.Signature(DropLayout(config))),
                "outstanding": In(1 << config.id_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the marks and the choice between the two sources of B."""
        m = Module()
        refusal, device = self.refusal, self.device
        marked = self._mark(m)
        # Each id for itself, so that who answers is asked once.
        names = Cat(self.memory.payload.id == i for i in range(1 << self.config.id_bits))
        spoiled = chosen(names, marked)
        lost = Signal()
        due = refusal.valid & lost & ~self.outstanding.bit_select(refusal.payload.id, 1)
        m.d.comb += [
            self.drop.valid.eq(refusal.valid & ~lost),
            self.drop.payload.source.eq(refusal.payload.source),
            self.drop.payload.stash.eq(refusal.payload.stash),
        ]
        with m.If(self.drop.valid & self.drop.ready):
            m.d.sync += lost.eq(1)
        kept, late, late_id = self._keep_back(m, names, marked)
        with m.FSM():
            with m.State("Pass"):
                wiring.connect(m, wiring.flipped(self.memory), wiring.flipped(device))
                with m.If(spoiled):
                    m.d.comb += device.payload.resp.eq(Response.SLVERR)
                with m.If(kept):
                    m.d.comb += [device.valid.eq(0), self.memory.ready.eq(1)]
                # A B that is offered must stay: change over only when none is, or when it goes.
                with m.If(~device.valid | device.ready):
                    with m.If(late):
                        m.next = "Late"
                    with m.Elif(due):
                        m.next = "Refuse"
            with m.State("Refuse"):
                m.d.comb += [
                    device.valid.eq(1),
                    device.payload.id.eq(refusal.payload.id),
                    device.payload.resp.eq(Response.SLVERR),
                    refusal.ready.eq(device.ready),
                ]
                with m.If(device.ready):
                    m.d.sync += lost.eq(0)
                    m.next = "Pass"
            with m.State("Late"):
                m.d.comb += [
                    device.valid.eq(1),
                    device.payload.id.eq(late_id),
                    device.payload.resp.eq(Response.SLVERR),
                    self._answers_late.eq(device.ready),
                ]
                with m.If(device.ready):
                    m.next = "Pass"
        return m

    def _keep_back(self, m: Module, names: Value, marked: Signal) -> tuple[Value, Value, Signal]:
        """Count, for each id, which came first of an ended write: its answer, or the end of its data.

        ``names`` is the id of the answer, one-hot, ``marked`` are the ids whose oldest write was ended. Returns whether
        the memory's answer is kept back, and whether one kept back is to be given now, of which id.
        """
        ids = 1 << self.config.id_bits
        depth = self.config.outstanding_per_id + 1
        given = Signal()
        given_id = Signal(self.config.id_bits)
        answered = [Signal(range(depth), name=f"answered{i}") for i in range(ids)]
        complete = [Signal(range(depth), name=f"complete{i}") for i in range(ids)]
        self._answers_late = Signal()
        keeps = Signal(ids)
        kept = Signal()
        early = Signal()
        late = Signal()
        spoiled = chosen(names, marked)
        m.d.comb += [
            # Known for each id before it is known whose answer comes.
            keeps.eq(marked & Cat(number == 0 for number in complete)),
            kept.eq(self.memory.valid & chosen(names, keeps)),
            late.eq(given & Cat(number != 0 for number in answered).bit_select(given_id, 1)),
            # One at a time: an answer that comes in this very cycle is counted first.
            early.eq(given & ~late & ~(self.memory.valid & spoiled)),
            self.swallowed.ready.eq(~given),
        ]
        with m.If(self.swallowed.valid & ~given):
            m.d.sync += [given.eq(1), given_id.eq(self.swallowed.payload)]
        with m.Elif(early | self._answers_late):
            m.d.sync += given.eq(0)
        passes = self.memory.valid & self.memory.ready
        takes = kept & self.memory.ready
        for i in range(ids):
            mine, its = names[i], given_id == i
            m.d.sync += [
                answered[i].eq(answered[i] + (takes & mine) - (self._answers_late & its)),
                complete[i].eq(
                    complete[i] + (early & its) - (passes & mine & marked[i] & ~keeps[i])
                ),
            ]
        return kept, late, given_id

    def _mark(self, m: Module) -> Signal:
        """Keep a mark for each outstanding write; return that of the oldest of each id."""
        config = self.config
        depth = config.outstanding_per_id
        marks = Signal(depth << config.id_bits)
        marked = Signal(1 << config.id_bits)
        m.d.comb += [
            marked[i].eq(
                Cat(marks[i * depth + at] & (self.oldest[i] == at) for at in range(depth)).any()
            )
            for i in range(1 << config.id_bits)
        ]
        for place, mark in enumerate(marks):
            with m.If(self.spoiled & (self.spoiled_position == place)):
                m.d.sync += mark.eq(1)
            with m.If(self.begin & (self.position == place)):
                m.d.sync += mark.eq(0)
        return marked
