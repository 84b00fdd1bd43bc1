"""The invalidation unit: takes commands, kills, and knows what each command still waits for."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from secmmu.config import SecmmuConfig
from secmmu.internals import GROUP_BITS, SV39_VPN_BITS, HoldLayout, KillLayout
from secmmu.layouts import VPN_BITS, CommandKind, CommandLayout, CompletionLayout, Phase

__all__ = ["Invalidation"]


class PendingLayout(data.StructLayout):
    """One command that is accepted and not yet drained.

    Parameters
    ----------
    config : SecmmuConfig
        ``tag_bits``, ``use_slots``, ``commands``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "active": 1,
                "refused": 1,
                "invalidated": 1,
                "tag": config.tag_bits,
                "slots": config.use_slots,
                "walk": 1,
                "behind": config.commands,
            }
        )


class Invalidation(wiring.Component):
    """Executes invalidation commands, at most one a cycle.

    ========================  ==================================================================================
    cycle                     what happens
    ========================  ==================================================================================
    handshake                 the command is linearized: what fills, hits or begins now counts as before it
    + 1                       it is applied: ``kill`` (or ``hold``) is up; TLB entries, walks, translations not
                              yet presented die, use slots close and are noted down
    + 2                       ``INVALIDATED`` is offered (later only when ``completion`` is not taken)
    last use handshaken + 2   ``DRAINED`` is offered; at the earliest in cycle + 3
    ========================  ==================================================================================

    ``INVALIDATED`` comes in command order and first; ``DRAINED`` as each command finishes. A ``FENCE`` is
    ``INVALIDATED`` after all earlier commands are, and ``DRAINED`` after all earlier ones are. A command of an
    unknown kind, and a ``RANGE`` or ``RELEASE`` with ``last < first``, is refused. An asid that has no context
    row has no translations, so that its commands wait for nothing and its holds hold nothing.

    Parameters
    ----------
    config : SecmmuConfig
        ``commands``, ``use_slots``, ``tag_bits``, ``mutant``.

    Members
    -------
    command : In(stream of CommandLayout), completion : Out(stream of CompletionLayout)
        The ports of the MMU. No command is taken while ``stop`` is high.
    context_asid : Out, context_en : Out(1), group : In(8)
        The context table: the group of ``context_asid``, one cycle after ``context_en``.
    kill : Out(KillLayout), hold : Out(HoldLayout)
        What is applied in this cycle.
    closing, busy_next : In(use_slots)
        From the in-flight table.
    walk_owed, walk_retired : In(1)
        From the walker.
    tlb_showing : In(1)
        From the TLB: the observer has not seen all kills yet, so nothing is drained.
    stop, clear : In(1)
        Soft reset: take no commands; kill everything in this cycle, without a command.
    accepted : Out(1)
        A command is taken in this cycle.
    idle : Out(1)
        No command is undrained and no completion waits.
    """

    command: stream.Interface
    completion: stream.Interface
    context_asid: Signal
    context_en: Signal
    group: Signal
    kill: data.View
    hold: data.View
    closing: Signal
    busy_next: Signal
    walk_owed: Signal
    walk_retired: Signal
    tlb_showing: Signal
    stop: Signal
    clear: Signal
    accepted: Signal
    idle: Signal

    def __init__(self, config: SecmmuConfig) -> None:
        self.config = config
        super().__init__(
            {
                "command": In(stream.Signature(CommandLayout())),
                "completion": Out(stream.Signature(CompletionLayout())),
                "context_asid": Out(config.asid_bits),
                "context_en": Out(1),
                "group": In(GROUP_BITS),
                "kill": Out(KillLayout(config)),
                "hold": Out(HoldLayout(config)),
                "closing": In(config.use_slots),
                "busy_next": In(config.use_slots),
                "walk_owed": In(1),
                "walk_retired": In(1),
                "tlb_showing": In(1),
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
        pending = [
            Signal(PendingLayout(config), name=f"pending{i}") for i in range(config.commands)
        ]
        active = Signal(config.commands)
        done = Signal(config.commands)
        free = Signal(config.commands)
        refused = self._refuses()
        m.d.comb += [
            active.eq(Cat(row.active for row in pending)),
            free.eq(~active & -(~active)),
            self.command.ready.eq(~active.all() & ~self.stop),
            self.accepted.eq(self.command.valid & self.command.ready),
        ]
        applied = Signal(config.commands)
        m.d.sync += applied.eq(Mux(self.accepted, free, 0))
        self._apply(m, refused)

        for i, row in enumerate(pending):
            m.d.sync += [
                row.slots.eq(row.slots & self.busy_next),
                row.behind.eq(row.behind & active & ~done),
            ]
            with m.If(self.walk_retired):
                m.d.sync += row.walk.eq(0)
            with m.If(applied[i]):
                m.d.sync += [row.slots.eq(self.closing), row.walk.eq(self.walk_owed)]
            with m.If(self.accepted & free[i]):
                fence = self.command.payload.kind == CommandKind.FENCE
                m.d.sync += [
                    row.active.eq(1),
                    row.refused.eq(refused),
                    row.invalidated.eq(0),
                    row.tag.eq(self.command.payload.tag),
                    row.behind.eq(Mux(fence, active & ~done, 0)),
                ]
            with m.If(done[i]):
                m.d.sync += row.active.eq(0)
        self._complete(m, pending, free, done)
        m.d.comb += self.idle.eq(~active.any() & ~self.completion.valid)
        return m

    def _refuses(self) -> Value:
        command = self.command.payload
        spans = (command.kind == CommandKind.RANGE) | (
            (command.kind == CommandKind.RELEASE) & ~command.whole_asid
        )
        known = command.kind.as_value() <= CommandKind.RELEASE.value
        return ~known | (spans & (command.last < command.first))

    def _span(self) -> tuple[Value, Value]:
        """Return the first and last page that the command on the port speaks of, 52 bits each."""
        command = self.command.payload
        single = command.kind == CommandKind.PAGE
        whole = (
            (command.kind == CommandKind.ASID)
            | (command.kind == CommandKind.ALL)
            | ((command.kind == CommandKind.RELEASE) & command.whole_asid)
        )
        ones = (1 << VPN_BITS) - 1
        return Mux(whole, 0, command.first), Mux(
            whole, ones, Mux(single, command.first, command.last)
        )

    def _apply(self, m: Module, refused: Value) -> None:
        """Register the accepted command and apply it in the next cycle."""
        config, command, kill, hold = self.config, self.command.payload, self.kill, self.hold
        first, last = self._span()
        kind = command.kind
        named = (
            (kind == CommandKind.PAGE) | (kind == CommandKind.RANGE) | (kind == CommandKind.ASID)
        )
        everything = kind == CommandKind.ALL
        known = command.asid < config.contexts
        target = Signal(config.asid_bits)
        m.d.comb += [
            target.eq(command.asid),
            self.context_asid.eq(target),
            self.context_en.eq(self.accepted),
        ]
        if config.mutant == "rtl-no-asid-compare":
            with m.If(named):
                m.d.comb += target.eq(0)
        held = Signal(HoldLayout(config))
        killing = Signal(KillLayout(config))
        m.d.sync += [
            killing.valid.eq(self.accepted & ~refused & ((named & known) | everything)),
            held.place.eq(self.accepted & ~refused & named & known & command.hold),
            held.release.eq(self.accepted & ~refused & (kind == CommandKind.RELEASE) & known),
            killing.everything.eq(everything),
            killing.asid.eq(target),
            killing.leaf_only.eq(command.leaf_only),
            killing.first.eq(_clipped(first, outside=1 << (SV39_VPN_BITS - 1))),
            killing.last.eq(_clipped(last, outside=(1 << (SV39_VPN_BITS - 1)) - 1)),
            held.asid.eq(command.asid),
            held.first.eq(first),
            held.last.eq(last),
        ]
        m.d.comb += [
            kill.eq(killing),
            kill.group.eq(self.group),
            hold.eq(held),
            hold.group.eq(self.group),
        ]
        with m.If(self.clear):
            m.d.comb += [
                kill.valid.eq(1),
                kill.everything.eq(1),
                kill.first.eq(0),
                kill.last.eq(-1),
            ]

    def _complete(self, m: Module, pending: list[data.View], free: Signal, done: Signal) -> None:
        """Offer the completions: first those in command order, then drained commands."""
        config = self.config
        number = range(max(2, config.commands))
        m.submodules.order = order = fifo.SyncFIFO(
            width=ceil_log2(len(number)), depth=config.commands
        )
        m.d.comb += [order.w_en.eq(self.accepted), order.w_data.eq(_number(free))]
        ready = Signal(config.commands)
        for i, row in enumerate(pending):
            quiet = ~row.slots.any() & ~row.walk & ~self.tlb_showing
            if config.mutant == "rtl-no-drain":
                quiet = 1
            m.d.comb += ready[i].eq(row.active & row.invalidated & quiet & ~row.behind.any())
        takes = ~self.completion.valid | self.completion.ready
        tags = Array(row.tag for row in pending)
        drained = Signal(config.commands)
        m.d.comb += drained.eq(ready & -ready)
        with m.If(takes):
            m.d.sync += self.completion.valid.eq(order.r_rdy | ready.any())
            with m.If(order.r_rdy):
                refused = Array(row.refused for row in pending)[order.r_data]
                m.d.comb += order.r_en.eq(1)
                m.d.sync += [
                    self.completion.payload.tag.eq(tags[order.r_data]),
                    self.completion.payload.phase.eq(
                        Mux(refused, Phase.REFUSED, Phase.INVALIDATED)
                    ),
                ]
                for i, row in enumerate(pending):
                    with m.If(order.r_data == i):
                        m.d.comb += done[i].eq(refused)
                        m.d.sync += row.invalidated.eq(1)
            with m.Else():
                m.d.comb += done.eq(drained)
                m.d.sync += [
                    self.completion.payload.tag.eq(tags[_number(drained)]),
                    self.completion.payload.phase.eq(Phase.DRAINED),
                ]


def _number(one_hot: Value) -> Value:
    """Return the number of the one bit that is set."""
    width = max(1, (len(one_hot) - 1).bit_length())
    return Cat(
        Cat(one_hot[i] for i in range(len(one_hot)) if i >> bit & 1).any() for bit in range(width)
    )


def _clipped(vpn: Value, *, outside: int) -> Value:
    """Return the 27 bits of a canonical 52-bit page number, and ``outside`` for one that is not canonical."""
    sign = vpn[SV39_VPN_BITS - 1 :]
    return Mux(sign.all() | ~sign.any(), vpn[:SV39_VPN_BITS], outside)
