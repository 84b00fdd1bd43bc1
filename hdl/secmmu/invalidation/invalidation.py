"""The invalidation unit: takes commands, kills, and knows what each command still waits for."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from secmmu.config import SecmmuConfig
from secmmu.internals import GROUP_BITS, HoldLayout, KillLayout, YoungSignature
from secmmu.layouts import (
    EPOCH_BITS,
    CommandKind,
    CommandLayout,
    CompletionLayout,
    Phase,
)
from secmmu.page_numbers import below, is_canonical
from secmmu.picks import encoded, lowest
from secmmu.registers.counters import AGE_BITS, LatencyLayout

__all__ = ["TIMEOUT_BITS", "Invalidation"]

TIMEOUT_BITS = 32


class PendingLayout(data.StructLayout):
    """One command that is accepted and not yet drained.

    ``quiet``    nothing is left that it waits for, as of the cycle before
    ``expired``  its time was up before it was quiet
    ``limited``  it has such a time, and that is at ``deadline``
    ``overdue``  that has passed

    Parameters
    ----------
    config : SecmmuConfig
        ``use_slots``, ``walks``, ``commands``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "active": 1,
                "invalidated": 1,
                "quiet": 1,
                "expired": 1,
                "limited": 1,
                "overdue": 1,
                "slots": config.use_slots + 1,
                "walks": config.walks,
                "behind": config.commands,
                "deadline": TIMEOUT_BITS,
            }
        )


class QueuedLayout(data.StructLayout):
    """A command whose first answer is due: its row, whether it is refused, whether the TLB is asked about it.

    Parameters
    ----------
    config : SecmmuConfig
        ``commands``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"row": _row_bits(config), "refused": 1, "asks": 1})


class Invalidation(wiring.Component):
    """Executes invalidation commands, at most one a cycle.

    ===========================  ===============================================================================
    cycle                        what happens
    ===========================  ===============================================================================
    handshake                    the command is taken
    + 1                          it is compared ahead: ``coming`` (or ``asks``) is up
    + 2                          it is applied: ``kill`` (or ``hold``, or ``young``) is up; TLB entries, walks,
                                 translations not yet presented die, use slots close and are noted down; what
                                 fills, hits or begins before this cycle counts as before the command
    + 3                          ``INVALIDATED`` is offered; of a YOUNG command when the TLB has answered, at the
                                 latest in + 6; later only behind others that are not taken
    ``busy_next`` falls, + 1     ``DRAINED`` is offered; at the earliest in the cycle after ``INVALIDATED`` is taken
    ===========================  ===============================================================================

    ``INVALIDATED`` comes in command order; ``DRAINED`` as each command finishes, of several the lowest row first. A
    ``FENCE`` is ``DRAINED`` after all earlier ones are. A ``RANGE`` or ``RELEASE`` with ``last < first`` is refused.
    An asid that has no context row has no translations, so that its commands wait for nothing and hold nothing; nor
    has a span without a canonical page.

    Parameters
    ----------
    config : SecmmuConfig
        ``commands``, ``contexts``, ``use_slots``, ``walks``, widths, ``mutant``.

    Members
    -------
    command : In(stream of CommandLayout)
        Commands. None is taken while ``stop`` is high.
    invalidated, drained : Out(stream of CompletionLayout)
        Their answers.
    context_asid : Out, context_en : Out(1), group : In(8)
        The context table: the group of ``context_asid``, one cycle after ``context_en``.
    coming : Out(KillLayout), asks : Out(1)
        What ``kill`` is in the next cycle; the next ``young`` asks, about the first page of that.
    hold : Out(HoldLayout)
        What is placed or released in the next cycle.
    kill : Out(KillLayout), young : Out(YoungSignature)
        What is applied in this cycle.
    applied : Out(1), epoch : Out(64)
        A command, of any kind, or the end of a soft reset is applied in this cycle; how many there were before this
        cycle.
    closing, busy_next : In(use_slots + 1)
        Slots that the kill of this cycle overlaps and that are in use after it; slots in use after this cycle.
    owed, settled : In(walks)
        Walks for whose end the kill of this cycle must wait; walks that end in this cycle, whether owed or not.
    now : In(AGE_BITS), latency : Out(LatencyLayout)
        The clock that latencies are measured with; a command is answered DRAINED or TIMED_OUT in this cycle.
    timed_out : Out(1)
        It is TIMED_OUT.
    timeout : In(32)
        Cycles after its handshake at which a command is overdue, to be given up in the next; 0 means never.
    broken : Out(use_slots + 1), stuck : Out(walks)
        Slots, and walks, for which a command gave up waiting in this cycle.
    stop, clear : In(1)
        Soft reset: take no commands; kill everything in the cycle after the next, without a command.
    accepted : Out(1)
        A command is taken in this cycle.
    idle : Out(1)
        No command is undrained.
    """

    command: stream.Interface
    invalidated: stream.Interface
    drained: stream.Interface
    context_asid: Signal
    context_en: Signal
    group: Signal
    coming: data.View
    asks: Signal
    kill: data.View
    hold: data.View
    young: wiring.PureInterface
    applied: Signal
    epoch: Signal
    closing: Signal
    busy_next: Signal
    owed: Signal
    settled: Signal
    now: Signal
    latency: data.View
    timed_out: Signal
    timeout: Signal
    broken: Signal
    stuck: Signal
    stop: Signal
    clear: Signal
    accepted: Signal
    idle: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        # The walker is slow to know that a walk ends.
        self._settled = Signal(config.walks)
        self._clock = Signal(TIMEOUT_BITS)
        slots = config.use_slots + 1
        super().__init__(
            {
                "command": In(stream.Signature(CommandLayout())),
                "invalidated": Out(stream.Signature(CompletionLayout())),
                "drained": Out(stream.Signature(CompletionLayout())),
                "context_asid": Out(config.context_bits),
                "context_en": Out(1),
                "group": In(GROUP_BITS),
                "coming": Out(KillLayout(config)),
                "asks": Out(1),
                "kill": Out(KillLayout(config)),
                "hold": Out(HoldLayout(config)),
                "young": Out(YoungSignature()),
                "applied": Out(1),
                "epoch": Out(EPOCH_BITS),
                "closing": In(slots),
                "busy_next": In(slots),
                "owed": In(config.walks),
                "settled": In(config.walks),
                "now": In(AGE_BITS),
                "latency": Out(LatencyLayout()),
                "timed_out": Out(1),
                "timeout": In(TIMEOUT_BITS),
                "broken": Out(slots),
                "stuck": Out(config.walks),
                "stop": In(1),
                "clear": In(1),
                "accepted": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build acceptance, the cycle of application, the pending commands and the completions."""
        m = Module()
        config = self.config
        rows = [Signal(PendingLayout(config), name=f"pending{i}") for i in range(config.commands)]
        active, free = Signal(config.commands), Signal(config.commands)
        done = Signal(config.commands)
        m.d.comb += [
            active.eq(Cat(row.active for row in rows)),
            free.eq(lowest(m, ~active)),
            self.command.ready.eq(~active.all() & ~self.stop),
            self.accepted.eq(self.command.valid & self.command.ready),
            self.idle.eq(~active.any()),
        ]
        with m.If(self.accepted | self.clear):
            m.d.sync += self.epoch.eq(self.epoch + 1)
        compared, applied = Signal(config.commands), Signal(config.commands)
        cleared = Signal()
        m.d.sync += [
            compared.eq(Mux(self.accepted, free, 0)),
            applied.eq(compared),
            cleared.eq(self.clear),
            self.applied.eq(compared.any() | cleared),
        ]
        queued = self._apply(m)
        m.d.comb += queued.row.eq(encoded(applied))
        tags, stamps = self._note(m, free)
        refused = self._invalidate(m, rows, applied.any(), queued, tags)
        m.d.comb += done.eq(refused | self._drain(m, rows, tags, stamps))
        given_up: Value = Const(0)
        m.d.sync += [self._settled.eq(self.settled), self._clock.eq(self._clock + 1)]
        for i, row in enumerate(rows):
            given_up |= self._wait(m, row, applied[i], active)
            with m.If(done[i]):
                m.d.sync += row.active.eq(0)
            with m.If(self.accepted & free[i]):
                fence = self.command.payload.kind == CommandKind.FENCE
                m.d.sync += [
                    row.active.eq(1),
                    row.invalidated.eq(0),
                    row.expired.eq(0),
                    row.overdue.eq(0),
                    row.limited.eq(self.timeout.any()),
                    row.deadline.eq(self._clock + self.timeout),
                    row.behind.eq(Mux(fence, active, 0)),
                    # Until it is applied it waits for nothing, though its time may be up already.
                    row.slots.eq(0),
                    row.walks.eq(0),
                    row.quiet.eq(1),
                ]
        m.d.comb += Cat(self.broken, self.stuck).eq(given_up)
        return m

    def _apply(self, m: Module) -> data.View:
        """Register the accepted command, show it, then apply it; return what is to be answered first.

        Whether there is anything to do takes long to see: it joins what the command would do a cycle later.
        """
        config, command, coming = self.config, self.command.payload, self.coming
        kind, kinds = command.kind, CommandKind
        named = (kind == kinds.PAGE) | (kind == kinds.RANGE) | (kind == kinds.ASID)
        everything, context = kind == kinds.ALL, kind == kinds.CONTEXT
        spans = (kind == kinds.RANGE) | ((kind == kinds.RELEASE) & ~command.whole_asid)
        target = Signal(config.asid_bits)
        m.d.comb += target.eq(command.asid)
        if config.mutant == "rtl-no-asid-compare":
            with m.If(named):
                m.d.comb += target.eq(0)
        first, last, exists = self._span()
        queued, refused, known = Signal(QueuedLayout(config)), Signal(), Signal()
        works, there = Signal(), Signal()
        killing, held = Signal(KillLayout(config)), Signal(HoldLayout(config))
        m.d.sync += [
            refused.eq(spans & below(command.last, command.first)),
            known.eq(there),
            killing.valid.eq(self.accepted & (named | context | everything)),
            killing.everything.eq(everything),
            killing.keep_global.eq(command.keep_global & named),
            killing.context.eq(context),
            killing.leaf_only.eq(command.leaf_only & ~context),
            killing.page.eq(kind == kinds.PAGE),
            killing.asid.eq(target),
            killing.first.eq(first),
            killing.last.eq(last),
            held.place.eq(self.accepted & named & command.hold),
            held.release.eq(self.accepted & (kind == kinds.RELEASE)),
            held.asid.eq(command.asid),
            self.asks.eq(self.accepted & (kind == kinds.YOUNG) & there),
            self.kill.eq(coming),
            self.young.ask.eq(self.asks),
            queued.refused.eq(refused),
        ]
        m.d.comb += [
            self.context_asid.eq(target),
            self.context_en.eq(self.accepted),
            there.eq(exists & (command.asid < config.contexts)),
            works.eq(known & ~refused),
            coming.eq(killing),
            coming.valid.eq(killing.valid & (killing.everything | works)),
            coming.group.eq(self.group),
            self.hold.eq(held),
            self.hold.place.eq(held.place & works),
            self.hold.release.eq(held.release & works),
            self.hold.group.eq(self.group),
            self.hold.first.eq(killing.first),
            self.hold.last.eq(killing.last),
            queued.asks.eq(self.young.ask),
        ]
        with m.If(self.clear):
            m.d.sync += [killing.valid.eq(1), killing.everything.eq(1), killing.page.eq(0)]
            m.d.sync += [killing.keep_global.eq(0), killing.first.eq(0), killing.last.eq(-1)]
        return queued

    def _span(self) -> tuple[Value, Value, Value]:
        """Return the first and last page that the command on the port speaks of, and whether there is any.

        The span is clipped to the canonical pages; of a span without any the last is just below the first.
        """
        config, command = self.config, self.command.payload
        kind, kinds = command.kind, CommandKind
        single = (kind == kinds.PAGE) | (kind == kinds.YOUNG)
        whole = (
            (kind == kinds.ASID)
            | (kind == kinds.ALL)
            | (kind == kinds.CONTEXT)
            | ((kind == kinds.RELEASE) & command.whole_asid)
        )
        bits = config.vpn_bits
        lowest_negative = 1 << (bits - 1)
        low, high = is_canonical(command.first, config), is_canonical(command.last, config)
        end = Mux(single, command.first[:bits], command.last[:bits])
        ends = Mux(single, low, high)
        first = Mux(low, command.first[:bits], lowest_negative)
        last = Mux(ends, end, lowest_negative - 1)
        return Mux(whole, 0, first), Mux(whole, (1 << bits) - 1, last), whole | low | ends

    def _note(self, m: Module, free: Signal) -> tuple[memory.Memory, memory.Memory]:
        """Keep the tags of the pending commands, and when they were accepted."""
        config = self.config
        tags = memory.Memory(shape=config.tag_bits, depth=config.commands, init=[])
        stamps = memory.Memory(shape=AGE_BITS, depth=config.commands, init=[])
        m.submodules.tags, m.submodules.stamps = tags, stamps
        for notes, value in ((tags, self.command.payload.tag), (stamps, self.now)):
            port = notes.write_port()
            m.d.comb += [
                port.en.eq(self.accepted),
                port.addr.eq(encoded(free)),
                port.data.eq(value),
            ]
        return tags, stamps

    def _invalidate(
        self,
        m: Module,
        rows: list[data.View],
        applied: Value,
        queued: data.View,
        tags: memory.Memory,
    ) -> Signal:
        """Give the first answers, in order of the commands; return the command that this ends, one-hot."""
        config, stream_out = self.config, self.invalidated
        layout = QueuedLayout(config)
        m.submodules.order = order = fifo.SyncFIFO(width=layout.size, depth=config.commands)
        m.submodules.answers = answers = fifo.SyncFIFO(width=1, depth=config.commands)
        head = data.View(layout, order.r_data)
        tag = tags.read_port(domain="comb")
        taken = stream_out.valid & stream_out.ready
        m.d.comb += [
            order.w_en.eq(applied),
            order.w_data.eq(queued),
            order.r_en.eq(taken),
            answers.w_en.eq(self.young.answered),
            answers.w_data.eq(self.young.used),
            answers.r_en.eq(taken & head.asks),
            tag.addr.eq(head.row),
            stream_out.valid.eq(order.r_rdy & (~head.asks | answers.r_rdy)),
            stream_out.payload.tag.eq(tag.data),
            stream_out.payload.phase.eq(Mux(head.refused, Phase.REFUSED, Phase.INVALIDATED)),
            stream_out.payload.young.eq(head.asks & answers.r_data),
        ]
        ended = Signal(config.commands)
        for i, row in enumerate(rows):
            with m.If(taken & (head.row == i)):
                m.d.sync += row.invalidated.eq(1)
                m.d.comb += ended[i].eq(head.refused)
        return ended

    def _wait(self, m: Module, row: data.View, applied: Value, others: Value) -> Value:
        """Follow what one command waits for; return the slots and walks that it gives up in this cycle."""
        slots, walks = row.slots & self.busy_next, row.walks & ~self._settled
        behind = row.behind & others
        quiet = ~slots.any() & ~walks.any() & ~behind.any()
        if self.config.mutant == "rtl-no-drain":
            quiet = Const(1)
        m.d.sync += [
            row.slots.eq(Mux(applied, self.closing, slots)),
            row.walks.eq(Mux(applied, self.owed, walks)),
            row.behind.eq(behind),
            row.quiet.eq(quiet),
        ]
        m.d.sync += row.overdue.eq(
            row.overdue | (row.limited & (row.deadline == self._clock)),
        )
        expires = row.active & row.overdue & ~row.quiet & ~row.expired
        with m.If(expires):
            m.d.sync += row.expired.eq(1)
        return Mux(expires, Cat(slots, walks), 0)

    def _drain(
        self, m: Module, rows: list[data.View], tags: memory.Memory, stamps: memory.Memory
    ) -> Signal:
        """Give the second answers; return the command that this ends, one-hot."""
        config, drained = self.config, self.drained
        ready, offered, chosen = (
            Signal(config.commands),
            Signal(config.commands),
            Signal(config.commands),
        )
        tag, stamp = tags.read_port(domain="comb"), stamps.read_port(domain="comb")
        expired = Cat(row.expired for row in rows)
        ended, timed_out = Signal(config.commands), Signal()
        if config.mutant != "rtl-no-time-out":
            m.d.comb += timed_out.eq((chosen & expired).any())
        m.d.comb += [
            ready.eq(Cat(row.active & row.invalidated & (row.quiet | row.expired) for row in rows)),
            # What is offered stays until it is taken.
            chosen.eq(Mux(offered.any(), offered, lowest(m, ready))),
            tag.addr.eq(encoded(chosen)),
            stamp.addr.eq(tag.addr),
            drained.valid.eq(ready.any()),
            drained.payload.tag.eq(tag.data),
            drained.payload.phase.eq(Mux(timed_out, Phase.TIMED_OUT, Phase.DRAINED)),
            self.timed_out.eq(self.latency.valid & timed_out),
            ended.eq(Mux(drained.ready, chosen, 0)),
            self.latency.valid.eq(drained.valid & drained.ready),
            self.latency.began.eq(stamp.data),
        ]
        m.d.sync += offered.eq(Mux(drained.ready, 0, chosen))
        return ended


def _row_bits(config: SecmmuConfig) -> int:
    return max(1, ceil_log2(config.commands))
