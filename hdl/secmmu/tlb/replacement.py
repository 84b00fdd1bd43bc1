"""Which entry a fill replaces: recent bits, and how long a new entry has to prove itself."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Duel", "touched"]

LEADERS_BITS = 3
SCORE_BITS = 8
TRUST_BITS = 4


def touched(recent: Value, one_hot: Value) -> Value:
    """Return the recent bits after a use of one entry: it alone when otherwise none would be left to replace."""
    after = recent | one_hot
    return Mux(after.all(), one_hot, after)


class Duel(wiring.Component):
    """Decides whether a new entry counts as recent: two policies compete on leader sets (DIP, Qureshi et al. 2007).

    Trusting every new entry is right for a working set that fits, and loses everything on a loop that does not;
    trusting one in 16 keeps most of such a loop. The policy whose leader sets are filled less rules the other sets.

    Parameters
    ----------
    set_bits : int
        Width of a set index.

    Members
    -------
    fills : In(1), index : In(set_bits)
        An entry of this set is filled now.
    trusted : Out(1)
        It counts as recent.
    """

    fills: Signal
    index: Signal
    trusted: Signal

    def __init__(self, set_bits: int) -> None:
        self.set_bits = set_bits
        super().__init__({"fills": In(1), "index": In(set_bits), "trusted": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """Build the counter of fills and the score of the two policies."""
        m = Module()
        bits = min(self.set_bits, LEADERS_BITS)
        leader = self.index[:bits]
        # Middle at first; towards all ones when trusting costs fills.
        score = Signal(SCORE_BITS, init=1 << (SCORE_BITS - 1))
        turn = Signal(TRUST_BITS)
        trusting, doubting = leader == 0, leader == 1
        m.d.comb += self.trusted.eq(
            trusting | (turn == 0) | (~doubting & ~score[-1]),
        )
        with m.If(self.fills):
            m.d.sync += turn.eq(turn + 1)
            with m.If(trusting & ~score.all()):
                m.d.sync += score.eq(score + 1)
            with m.If(doubting & score.any()):
                m.d.sync += score.eq(score - 1)
        return m
