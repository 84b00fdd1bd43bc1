"""The judgement of one page-table entry, as the RISC-V privileged spec words it."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.enum import EnumView
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import INDEX_BITS
from secmmu.layouts import PPN_BITS, PteLayout

__all__ = ["PteJudge", "PteVerdict"]

NAPOT_BITS = 4
NAPOT_64K = 0b1000
"""Low PPN bits of the only size that Svnapot defines."""


class PteVerdict(enum.Enum, shape=2):
    """What an entry is to an access.

    ``POINTER`` the next level's table
    ``GRANTED`` a leaf that allows it
    ``UPDATE``  a leaf that allows it once A, or D for a write, is set (Svadu)
    ``REFUSED`` a page fault
    """

    POINTER = 0
    GRANTED = 1
    UPDATE = 2
    REFUSED = 3


class PteJudge(wiring.Component):
    """Judges an entry found at a level, in the same cycle (privileged spec 1.12, 4.3.2, 4.4.1; Svnapot 1.0).

    Devices access as user-mode data accesses do: U and R are needed (W without R is reserved), X grants nothing.
    Svpbmt is not implemented, so PBMT must be 0.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``svadu``.

    Members
    -------
    pte : In(PteLayout), level : In(range(levels)), write : In(1)
        The entry, the level of its table (0 holds 4 KiB leaves), and whether the access is a write.
    verdict : Out(PteVerdict)
        What it is.
    grain : Out(3)
        Of a leaf: its size, an index into :data:`secmmu.layouts.GRAIN_SHIFTS`.
    ppn : Out(44)
        Of a leaf: its first frame; of a pointer: the table.
    """

    pte: data.View
    level: Signal
    write: Signal
    verdict: "EnumView[PteVerdict]"
    grain: Signal
    ppn: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "pte": In(PteLayout()),
                "level": In(range(config.levels)),
                "write": In(1),
                "verdict": Out(PteVerdict),
                "grain": Out(3),
                "ppn": Out(PPN_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the checks side by side."""
        m = Module()
        pte, level = self.pte, self.level
        last = Signal()
        leaf = Signal()
        malformed = Signal()
        refused = Signal()
        unset = Signal()
        inside = Cat(
            (level > above).replicate(INDEX_BITS) for above in range(self.config.levels - 1)
        )
        odd_napot = ~last | (pte.ppn[:NAPOT_BITS] != NAPOT_64K)
        m.d.comb += [
            last.eq(level == 0),
            leaf.eq(pte.r | pte.x),
            malformed.eq(
                ~pte.v | (pte.w & ~pte.r) | pte.reserved.any() | pte.pbmt.any() | (pte.n & ~leaf)
            ),
            unset.eq(~pte.a | (self.write & ~pte.d)),
            self.grain.eq(Mux(last, pte.n, level + 1)),
            self.ppn.eq(pte.ppn & ~Mux(leaf & pte.n, Const(NAPOT_64K, PPN_BITS), 0)),
        ]
        with m.If(leaf):
            misaligned = (pte.ppn[: len(inside)] & inside).any() | (pte.n & odd_napot)
            forbidden = ~pte.u | ~pte.r | (self.write & ~pte.w)
            m.d.comb += refused.eq(malformed | forbidden | misaligned)
        with m.Else():
            m.d.comb += refused.eq(malformed | pte.d | pte.a | pte.u | last)
        with m.If(refused):
            m.d.comb += self.verdict.eq(PteVerdict.REFUSED)
        with m.Elif(~leaf):
            m.d.comb += self.verdict.eq(PteVerdict.POINTER)
        with m.Elif(unset):
            lacking = PteVerdict.UPDATE if self.config.svadu else PteVerdict.REFUSED
            m.d.comb += self.verdict.eq(lacking)
        with m.Else():
            m.d.comb += self.verdict.eq(PteVerdict.GRANTED)
        return m
