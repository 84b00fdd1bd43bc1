"""Sets A and D in a PTE (Svadu): an exclusive read, a look, an exclusive write."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.layouts import WORD_BITS, Response
from secmmu.walker.reads import WordLayout

__all__ = ["PteUpdate"]


class PteUpdate(wiring.Component):
    """The one exclusive access that may be going on, from its read to the answer to its write.

    Nothing is written but what was just read exclusively, with A or D set: a store of a CPU between the two makes the
    write fail, so that it is never lost.

    Parameters
    ----------
    config : SecmmuConfig
        ``walks``, ``asid_bits``.

    Members
    -------
    locking : In(1), locker : In, word : In(WordLayout)
        The exclusive read of this word begins for this walk.
    locked : Out(1), walk : Out
        An exclusive access is going on, for this walk.
    store : In(1), pte : In(64)
        Its read gave an entry that is to be replaced by this one.
    release : In(1)
        The access is over.
    answered : Out(1), response : Out(Response)
        The write was answered; until ``release``.
    address, beat : Out(stream)
        The write's address (WordLayout) and its data.
    reply : In(stream of 2 bits)
        BRESP.
    """

    locking: Signal
    locker: Signal
    word: data.View
    locked: Signal
    walk: Signal
    store: Signal
    pte: Signal
    release: Signal
    answered: Signal
    response: Signal
    address: stream.Interface
    beat: stream.Interface
    reply: stream.Interface

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "locking": In(1),
                "locker": In(config.walk_bits),
                "word": In(WordLayout(config)),
                "locked": Out(1),
                "walk": Out(config.walk_bits),
                "store": In(1),
                "pte": In(WORD_BITS),
                "release": In(1),
                "answered": Out(1),
                "response": Out(Response),
                "address": Out(stream.Signature(WordLayout(config))),
                "beat": Out(stream.Signature(WORD_BITS)),
                "reply": In(stream.Signature(2)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the registers of the access."""
        m = Module()
        m.d.comb += self.reply.ready.eq(1)
        with m.If(self.release):
            m.d.sync += [self.locked.eq(0), self.answered.eq(0)]
        with m.If(self.locking):
            m.d.sync += [
                self.locked.eq(1),
                self.walk.eq(self.locker),
                self.address.payload.eq(self.word),
            ]
        with m.If(self.address.ready):
            m.d.sync += self.address.valid.eq(0)
        with m.If(self.beat.ready):
            m.d.sync += self.beat.valid.eq(0)
        with m.If(self.store):
            m.d.sync += [
                self.address.valid.eq(1),
                self.beat.valid.eq(1),
                self.beat.payload.eq(self.pte),
            ]
        with m.If(self.reply.valid):
            m.d.sync += [self.answered.eq(1), self.response.eq(self.reply.payload)]
        return m
