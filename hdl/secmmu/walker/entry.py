"""What becomes of a walk when the entry that it waits for comes."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import Outcome
from secmmu.layouts import WORD_BITS, PteLayout, Response
from secmmu.page_numbers import span_last, span_mask
from secmmu.walker.layouts import JudgedLayout, OwnerLayout, ProgressLayout
from secmmu.walker.pte import PteJudge, PteVerdict

__all__ = ["EntryJudge", "failed"]


class EntryJudge(wiring.Component):
    """Judges an entry together with the response that it came with, in the same cycle.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``svadu``, widths.

    Members
    -------
    word : In(64), response : In(2), exclusive : In(1)
        R, and whether its read was exclusive: OKAY then says that memory knows no exclusives, an access fault.
    owner : In(OwnerLayout), progress : In(ProgressLayout)
        Whose walk it is, and how far that is.
    judged : Out(JudgedLayout)
        What becomes of it.
    """

    word: Signal
    response: Signal
    exclusive: Signal
    owner: data.View
    progress: data.View
    judged: data.View

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        self.judge = PteJudge(config)
        super().__init__(
            {
                "word": In(WORD_BITS),
                "response": In(2),
                "exclusive": In(1),
                "owner": In(OwnerLayout(config)),
                "progress": In(ProgressLayout(config)),
                "judged": Out(JudgedLayout(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the judgement of the entry, and the choice."""
        m = Module()
        m.submodules.judge = judge = self.judge
        owner, judged = self.owner, self.judged
        pte, updated = Signal(PteLayout()), Signal(PteLayout())
        fails, updates = Signal(), Signal()
        granted = judge.verdict == PteVerdict.GRANTED
        refused = judge.verdict == PteVerdict.REFUSED
        m.d.comb += [
            pte.eq(self.word),
            updated.eq(pte),
            judge.pte.eq(pte),
            judge.level.eq(self.progress.level),
            judge.write.eq(owner.write),
            fails.eq(
                failed(self.response) | (self.exclusive & (self.response == Response.OKAY)),
            ),
            updates.eq(~fails & (judge.verdict == PteVerdict.UPDATE)),
            judged.goes.eq(~fails & (judge.verdict == PteVerdict.POINTER)),
            judged.repeats.eq(updates & ~self.exclusive),
            judged.stores.eq(updates & self.exclusive),
            judged.over.eq(fails | granted | refused),
            judged.shared.eq(self.progress.shared | pte.g),
            judged.ppn.eq(judge.ppn),
            judged.grain.eq(judge.grain),
            judged.writable.eq(updated.w & updated.d),
            judged.first.eq(owner.vpn & ~span_mask(judge.grain)[: len(owner.vpn)]),
            judged.last.eq(span_last(owner.vpn, judge.grain)),
            judged.pte.eq(updated),
        ]
        if self.config.svadu:
            m.d.comb += [updated.a.eq(1), updated.d.eq(pte.d | owner.write)]
        with m.If(fails):
            m.d.comb += judged.outcome.eq(Outcome.ACCESS_FAULT)
        with m.Elif(refused):
            m.d.comb += judged.outcome.eq(Outcome.PAGE_FAULT)
        return m


def failed(response: Value) -> Value:
    """Return whether a response is SLVERR or DECERR."""
    return (response == Response.SLVERR) | (response == Response.DECERR)
