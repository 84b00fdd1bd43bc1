"""Software-filled entries, and the log of invalidations that tells which of them come too late."""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from secmmu.block_ram import BlockRam
from secmmu.config import SecmmuConfig
from secmmu.internals import (
    GROUP_BITS,
    EntryLayout,
    FillSignature,
    HoldCheckSignature,
    KillLayout,
)
from secmmu.kills import is_killed
from secmmu.layouts import EPOCH_BITS, DropinLayout, DroppedLayout
from secmmu.page_numbers import is_canonical, span_last, span_mask
from secmmu.walker.pte import PteJudge, PteVerdict

__all__ = ["Dropin"]


class Dropin(wiring.Component):
    """Takes drop-ins, one at a time, and fills them into the TLB when nothing has invalidated them since their epoch.

    The commands accepted since the epoch are read from a log, one a cycle, the oldest first; when none is left it is
    offered to the TLB, which takes nothing beside an invalidation. An epoch older than the log, or of the future, is
    refused; so is a PTE that the walker would not grant to a read, one that is no leaf of the grain, a page that no
    address has, an asid without a context row, and a span that is held. What is taken may die the next moment: that is
    no refusal.

    ==========  ==============================================================================================
    state       meaning
    ==========  ==============================================================================================
    ``Idle``    a drop-in is taken
    ``Scan``    it is judged, compared with the log, and offered to the TLB
    ``Answer``  it is answered
    ==========  ==============================================================================================

    Parameters
    ----------
    config : SecmmuConfig
        ``log``, ``contexts``, ``levels``, widths, ``observe``.

    Members
    -------
    dropin : In(stream of DropinLayout), dropped : Out(stream of DroppedLayout)
        Drop-ins and their answers. None is taken while ``stop`` is high.
    context_asid : Out, context_en : Out(1), group : In(8)
        The context table: the group of ``context_asid``, one cycle after ``context_en`` and until the next.
    kill : In(KillLayout), applied : In(1), epoch : In(64)
        From the invalidation unit.
    hold : Out(HoldCheckSignature)
        The question whether the span is held.
    fill : Out(FillSignature)
        The TLB.
    stop : In(1), idle : Out(1)
        Soft reset: take no drop-ins; none is going on.
    """

    dropin: stream.Interface
    dropped: stream.Interface
    context_asid: Signal
    context_en: Signal
    group: Signal
    kill: data.View
    applied: Signal
    epoch: Signal
    hold: wiring.PureInterface
    fill: wiring.PureInterface
    stop: Signal
    idle: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        # The oldest command is read two cycles after the handshake.
        self.index_bits = ceil_log2(config.log + 2)
        super().__init__(
            {
                "dropin": In(stream.Signature(DropinLayout())),
                "dropped": Out(stream.Signature(DroppedLayout())),
                "context_asid": Out(config.context_bits),
                "context_en": Out(1),
                "group": In(GROUP_BITS),
                "kill": In(KillLayout(config)),
                "applied": In(1),
                "epoch": In(EPOCH_BITS),
                "hold": Out(HoldCheckSignature(config)),
                "fill": Out(FillSignature(config)),
                "stop": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the state machine around one drop-in."""
        m = Module()
        subject = Signal(DropinLayout())
        stale, filled = Signal(), Signal()
        entry, granted = self._judge(m, subject)
        scanning = Signal()
        current, overlapped = self._compare(m, entry, scanning)
        taken = self.dropin.valid & self.dropin.ready
        with m.FSM() as fsm:
            with m.State("Idle"):
                m.d.comb += [self.dropin.ready.eq(~self.stop), self.context_en.eq(taken)]
                m.d.sync += [subject.eq(self.dropin.payload), stale.eq(0), filled.eq(0)]
                with m.If(taken):
                    m.next = "Scan"
            with m.State("Scan"):
                m.d.comb += scanning.eq(1)
                m.d.sync += stale.eq(stale | ~granted | overlapped | self.hold.held)
                # A hold of the cycle before comes with a command that is still to be compared.
                m.d.comb += self.fill.en.eq(current & ~stale)
                with m.If(stale):
                    m.next = "Answer"
                with m.Elif(self.fill.en & self.fill.ready):
                    m.d.sync += filled.eq(1)
                    m.next = "Answer"
            with m.State("Answer"):
                m.d.comb += self.dropped.valid.eq(1)
                with m.If(self.dropped.ready):
                    m.next = "Idle"
        m.d.comb += [
            self.idle.eq(fsm.ongoing("Idle")),
            self.context_asid.eq(self.dropin.payload.asid),
            self.dropped.payload.tag.eq(subject.tag),
            self.dropped.payload.taken.eq(filled),
            self.fill.entry.eq(entry),
        ]
        if self.config.observe:
            m.d.comb += self.fill.pte.eq(subject.pte)
        return m

    def _judge(self, m: Module, subject: data.View) -> tuple[data.View, Signal]:
        """Return the entry that a drop-in would make, and whether its PTE grants it; ask whether it is held."""
        config, pte = self.config, subject.pte
        m.submodules.judge = judge = PteJudge(config)
        entry, granted = Signal(EntryLayout(config)), Signal()
        translation = entry.translation
        # 4 KiB and 64 KiB leaves stand in the same table.
        level = Mux(subject.grain.any(), subject.grain - 1, 0)
        m.d.comb += [
            judge.pte.eq(pte),
            judge.level.eq(level),
            granted.eq(
                (judge.verdict == PteVerdict.GRANTED)
                & (judge.grain == subject.grain)
                & (level < config.levels)
                & (subject.asid < config.contexts)
                & is_canonical(subject.vpn, config)
            ),
            entry.ppn.eq(judge.ppn),
            entry.writable.eq(pte.w & pte.d),
            translation.vpn.eq(subject.vpn & ~span_mask(subject.grain)),
            translation.grain.eq(subject.grain),
            translation.shared.eq(pte.g),
            translation.asid.eq(subject.asid),
            translation.group.eq(self.group),
            self.hold.asid.eq(translation.asid),
            self.hold.group.eq(translation.group),
            self.hold.shared.eq(translation.shared),
            self.hold.first.eq(translation.vpn),
            self.hold.last.eq(span_last(translation.vpn, translation.grain)),
        ]
        return entry, granted

    def _compare(self, m: Module, entry: data.View, scanning: Signal) -> tuple[Value, Value]:
        """Compare the entry with the log; return whether all of it was compared, and whether some overlaps it.

        A command that is applied in this cycle is left for the next.
        """
        config = self.config
        # One bit more than an epoch: what is of the future is very old.
        age = Signal(EPOCH_BITS + 1)
        left, old = Signal(range(config.log + 2)), Signal()
        next_index = Signal(self.index_bits)
        beginning, reading, comparing = Signal(), Signal(), Signal()
        logged = Signal(KillLayout(config))
        m.d.comb += [reading.eq(scanning & ~beginning & left.any()), old.eq(age > config.log)]
        m.d.sync += [
            beginning.eq(self.context_en),
            age.eq(self.epoch - self.dropin.payload.epoch),
            comparing.eq(reading),
            logged.eq(self._log(m, next_index)),
        ]
        with m.If(self.context_en):
            m.d.sync += next_index.eq(self.dropin.payload.epoch)
        with m.Elif(reading):
            m.d.sync += next_index.eq(next_index + 1)
        with m.If(beginning):
            # What is applied in this cycle was accepted before the drop-in, and is counted.
            m.d.sync += left.eq(Mux(old, 0, age))
        with m.Else():
            m.d.sync += left.eq(left + self.applied - reading)
        compared, overlapped = Signal(), Signal()
        m.d.sync += compared.eq(comparing)
        hit: Value = compared & is_killed(logged, entry.translation, config)
        if config.mutant == "rtl-no-epoch-compare":
            hit = Const(0)
        m.d.comb += overlapped.eq(hit | (beginning & old))
        return ~(beginning | reading | comparing | compared), overlapped

    def _log(self, m: Module, index: Value) -> data.View:
        """Keep the last commands in block RAM; return the one that had this number in the cycle before."""
        config = self.config
        m.submodules.log = log = BlockRam(
            KillLayout(config), depth=1 << self.index_bits, observe=config.observe
        )
        tail = Signal(self.index_bits)
        with m.If(self.applied):
            m.d.sync += tail.eq(tail + 1)
        m.d.comb += [
            log.write.eq(self.applied),
            log.write_place.eq(tail),
            log.item.eq(self.kill),
            log.read.eq(1),
            log.read_place.eq(index),
        ]
        return log.shown
