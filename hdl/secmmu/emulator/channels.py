"""The emulated memory's channels: AXI4 bursts against a latency, one beat a cycle."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from secmmu.axi import Axi4Signature
from secmmu.emulator.bursts import AccessSignature, TimingLayout, jitter_cycles, next_address
from secmmu.emulator.ram import ReadSignature, WriteSignature
from secmmu.layouts import CYCLE_BITS, PA_BITS, WORD_BITS, Response

__all__ = ["BEAT_QUEUE", "BURST_QUEUE", "ReadChannel", "WriteChannel"]

BURST_QUEUE = 32
"""Bursts that one channel (AR of a port, AW) holds before it stops taking more."""
BEAT_QUEUE = 64
"""Write beats that are held until their time comes."""


class _BurstLayout(data.StructLayout):
    """A burst that waits: its address phase and a number of cycles (the due cycle of a read, jitter of a write)."""

    def __init__(self, id_bits: int, user_bits: int, time_bits: int) -> None:
        super().__init__(
            {
                "addr": PA_BITS,
                "len": 8,
                "size": 3,
                "burst": 2,
                "id": id_bits,
                "user": user_bits,
                "lock": 1,
                "time": time_bits,
            }
        )


class ReadChannel(wiring.Component):
    """AR and R of one memory port.

    AR handshaken in cycle ``c``: the first R beat is valid in ``c + read_latency + jitter``, unless
    an earlier burst of the port still has beats to give or the manager holds R back. The next beat
    is valid ``1 + beat_gap`` cycles after the first cycle of the one before, or in the cycle after
    its handshake if that is later. Bursts of a port are answered in order; :data:`BURST_QUEUE` may
    wait. The word of a beat is sampled in the cycle before the one in which the beat is first
    valid. Outside the memory R is DECERR and 0. A read with ARLOCK is exclusive where the port has a monitor.

    Parameters
    ----------
    id_bits, user_bits : int
        Widths of the port's ids and of ARUSER.
    address_bits : int
        Width of a word index of the memory.
    channel : int
        Number of the channel in :func:`jitter_cycles`.
    monitored : bool
        Whether there is an exclusive monitor; without one AxLOCK means nothing, and the answer is OKAY.

    Members
    -------
    port : In(Axi4Signature)
        The read-only port.
    timing : In(TimingLayout), cycle : In(64)
        The registers and the emulated cycle counter.
    read : Out(ReadSignature)
        The storage's read port.
    access : Out(AccessSignature)
        The beat sampled in this cycle.
    exclusive : Out(1)
        It belongs to an exclusive read.
    idle : Out(1)
        1 when nothing is queued, offered or presented.
    """

    def __init__(
        self,
        *,
        id_bits: int,
        user_bits: int,
        address_bits: int,
        channel: int,
        monitored: bool = False,
    ) -> None:
        self._layout = _BurstLayout(id_bits, user_bits, CYCLE_BITS)
        self._monitored = monitored
        self._address_bits = address_bits
        self._channel = channel
        super().__init__(
            {
                "port": In(
                    Axi4Signature(
                        addr_bits=PA_BITS, id_bits=id_bits, user_bits=user_bits, write=False
                    )
                ),
                "timing": In(TimingLayout()),
                "cycle": In(CYCLE_BITS),
                "read": Out(ReadSignature(address_bits)),
                "access": Out(AccessSignature()),
                "exclusive": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build the queue of bursts and what serves its head."""
        m = Module()
        port = self.port
        m.submodules.queue = queue = SyncFIFO(width=self._layout.size, depth=BURST_QUEUE)
        head = Signal(self._layout)
        head_valid = Signal()
        incoming = self._incoming(m)
        # A burst that finds the queue empty is served from the port itself: with latency 1 its
        # first beat is sampled in the very cycle of the AR handshake.
        with m.If(queue.r_rdy):
            m.d.comb += [head.as_value().eq(queue.r_data), head_valid.eq(1)]
        with m.Else():
            m.d.comb += [head.eq(incoming), head_valid.eq(port.arvalid)]
        finished = self._beats(m, head, head_valid)
        m.d.comb += [
            port.arready.eq(queue.w_rdy),
            queue.w_data.eq(incoming),
            queue.w_en.eq(port.arvalid & ~(finished & ~queue.r_rdy)),
            queue.r_en.eq(finished),
            self.idle.eq(~(queue.r_rdy | port.arvalid | port.rvalid)),
        ]
        return m

    def _incoming(self, m: Module) -> data.View:
        """Return the offered burst with the cycle its first beat is due."""
        port = self.port
        count = Signal(30)
        with m.If(port.arvalid & port.arready):
            m.d.sync += count.eq(count + 1)
        incoming = Signal(self._layout)
        jitter = jitter_cycles(self.timing.seed, self._channel, count, self.timing.jitter)
        m.d.comb += [
            incoming.addr.eq(port.araddr),
            incoming.len.eq(port.arlen),
            incoming.size.eq(port.arsize),
            incoming.burst.eq(port.arburst),
            incoming.id.eq(port.arid),
            incoming.user.eq(port.aruser),
            incoming.lock.eq(port.arlock & self._monitored),
            incoming.time.eq(self.cycle + self.timing.read_latency + jitter),
        ]
        return incoming

    def _beats(self, m: Module, head: data.View, head_valid: Signal) -> Signal:
        """Sample and present the beats of the head burst; the result is 1 in the cycle its last is sampled."""
        port = self.port
        beat = Signal(8)
        following = Signal(PA_BITS)
        following_due = Signal(CYCLE_BITS)
        address = Signal(PA_BITS)
        due = Signal(CYCLE_BITS)
        sample = Signal()
        inside = Signal()
        finished = Signal()
        first = beat == 0
        response = Signal(Response)
        m.d.comb += [
            address.eq(Mux(first, head.addr, following)),
            due.eq(Mux(first, head.time, following_due)),
            sample.eq(head_valid & (~port.rvalid | port.rready) & (self.cycle + 1 >= due)),
            inside.eq(address[3 + self._address_bits :] == 0),
            finished.eq(sample & (beat == head.len)),
            self.read.address.eq(address[3:]),
            self.read.en.eq(sample & inside),
            self.access.valid.eq(sample & inside),
            self.access.payload.address.eq(address),
            self.access.payload.asid.eq(head.user),
            self.access.payload.id.eq(head.id),
            self.access.payload.beats.eq(head.len + 1),
            self.exclusive.eq(self.access.valid & head.lock),
            port.rdata.eq(Mux(response == Response.DECERR, 0, self.read.data)),
            port.rresp.eq(response),
        ]
        with m.If(sample):
            m.d.sync += [
                port.rvalid.eq(1),
                port.rid.eq(head.id),
                port.rlast.eq(finished),
                response.eq(_response(inside, head.lock)),
                beat.eq(Mux(finished, 0, beat + 1)),
                following.eq(next_address(address, head.len, head.size, head.burst)),
                following_due.eq(self.cycle + 2 + self.timing.beat_gap),
            ]
        with m.Elif(port.rready):
            m.d.sync += port.rvalid.eq(0)
        return finished


def _response(inside: Value, exclusive: Value) -> Value:
    """Return the response to a beat."""
    done = Mux(exclusive, Response.EXOKAY.value, Response.OKAY.value)
    return Mux(inside, done, Response.DECERR.value)


class _BeatLayout(data.StructLayout):
    """A write beat that waits for the cycle ``due`` in which it is stored."""

    def __init__(self, id_bits: int, user_bits: int) -> None:
        super().__init__(
            {
                "addr": PA_BITS,
                "data": WORD_BITS,
                "strobe": WORD_BITS // 8,
                "last": 1,
                "len": 8,
                "id": id_bits,
                "user": user_bits,
                "lock": 1,
                "due": CYCLE_BITS,
            }
        )


class WriteChannel(wiring.Component):
    """AW, W and B of a port.

    A W beat is taken from the cycle after its AW handshake on. Taken in cycle ``c``, it is stored
    in ``c + write_latency - 1 + jitter``, one beat a cycle and in order; B is valid in the cycle
    after the store of the last beat, that is exactly ``write_latency + jitter`` cycles after the
    last W handshake unless an earlier burst with more jitter, or a manager that holds B back, is in
    the way. Until then nothing of the beat is to be seen. :data:`BURST_QUEUE` bursts and
    :data:`BEAT_QUEUE` beats may wait. Outside the memory nothing is stored and B is DECERR. An exclusive write is
    stored, and answered EXOKAY, where the monitor allows it; otherwise the answer is OKAY.

    Parameters
    ----------
    id_bits, user_bits : int
        Widths of the port's ids and of AWUSER.
    address_bits : int
        Width of a word index of the memory.
    channel : int
        Number of the channel in :func:`jitter_cycles`.
    monitored : bool
        As for :class:`ReadChannel`.

    Members
    -------
    port : In(Axi4Signature)
        The port; AR and R are not used here.
    blocked : In(1)
        The storage's write port is taken in this cycle.
    exclusive : Out(1), allowed : In(1)
        A beat of an exclusive write would be stored in this cycle, and whether it may be.
    timing : In(TimingLayout), cycle : In(64)
        The registers and the emulated cycle counter.
    write : Out(WriteSignature)
        The storage's write port.
    access : Out(AccessSignature)
        The beat stored in this cycle, if it has any strobe.
    idle : Out(1)
        1 when nothing is queued, offered or presented.
    """

    def __init__(
        self,
        *,
        id_bits: int,
        user_bits: int,
        address_bits: int,
        channel: int,
        monitored: bool = False,
    ) -> None:
        self._monitored = monitored
        self._burst_layout = _BurstLayout(id_bits, user_bits, 16)
        self._beat_layout = _BeatLayout(id_bits, user_bits)
        self._address_bits = address_bits
        self._channel = channel
        super().__init__(
            {
                "port": In(Axi4Signature(addr_bits=PA_BITS, id_bits=id_bits, user_bits=user_bits)),
                "timing": In(TimingLayout()),
                "cycle": In(CYCLE_BITS),
                "write": Out(WriteSignature(address_bits)),
                "access": Out(AccessSignature()),
                "blocked": In(1),
                "exclusive": Out(1),
                "allowed": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Build the queues of bursts and of beats and what stores their head."""
        m = Module()
        port = self.port
        m.submodules.bursts = bursts = SyncFIFO(width=self._burst_layout.size, depth=BURST_QUEUE)
        m.submodules.beats = beats = SyncFIFO(width=self._beat_layout.size, depth=BEAT_QUEUE)
        self._take_burst(m, bursts)
        incoming, offered = self._take_beat(m, bursts, beats)
        head = Signal(self._beat_layout)
        head_valid = Signal()
        # As in ReadChannel: with latency 1 a beat is stored in the cycle of its handshake, past the
        # queue.
        with m.If(beats.r_rdy):
            m.d.comb += [head.as_value().eq(beats.r_data), head_valid.eq(1)]
        with m.Else():
            m.d.comb += [head.eq(incoming), head_valid.eq(offered)]
        stored = self._store(m, head, head_valid)
        m.d.comb += [
            beats.w_data.eq(incoming),
            beats.w_en.eq(offered & ~(stored & ~beats.r_rdy)),
            beats.r_en.eq(stored),
            self.idle.eq(~(bursts.r_rdy | beats.r_rdy | port.awvalid | port.wvalid | port.bvalid)),
        ]
        return m

    def _take_burst(self, m: Module, bursts: SyncFIFO) -> None:
        port = self.port
        count = Signal(30)
        with m.If(port.awvalid & port.awready):
            m.d.sync += count.eq(count + 1)
        burst = Signal(self._burst_layout)
        m.d.comb += [
            burst.addr.eq(port.awaddr),
            burst.len.eq(port.awlen),
            burst.size.eq(port.awsize),
            burst.burst.eq(port.awburst),
            burst.id.eq(port.awid),
            burst.user.eq(port.awuser),
            burst.lock.eq(port.awlock & self._monitored),
            burst.time.eq(
                jitter_cycles(self.timing.seed, self._channel, count, self.timing.jitter)
            ),
            bursts.w_data.eq(burst),
            bursts.w_en.eq(port.awvalid),
            port.awready.eq(bursts.w_rdy),
        ]

    def _take_beat(self, m: Module, bursts: SyncFIFO, beats: SyncFIFO) -> tuple[data.View, Signal]:
        """Return the W beat handshaken in this cycle, with address and due cycle, and whether there is one."""
        port = self.port
        burst = data.View(self._burst_layout, bursts.r_data)
        beat = Signal(8)
        following = Signal(PA_BITS)
        incoming = Signal(self._beat_layout)
        offered = Signal()
        m.d.comb += [
            port.wready.eq(bursts.r_rdy & beats.w_rdy),
            offered.eq(port.wvalid & port.wready),
            incoming.addr.eq(Mux(beat == 0, burst.addr, following)),
            incoming.data.eq(port.wdata),
            incoming.strobe.eq(port.wstrb),
            incoming.last.eq(beat == burst.len),
            incoming.len.eq(burst.len),
            incoming.id.eq(burst.id),
            incoming.user.eq(burst.user),
            incoming.lock.eq(burst.lock),
            incoming.due.eq(self.cycle + self.timing.write_latency - 1 + burst.time),
            bursts.r_en.eq(offered & incoming.last),
        ]
        with m.If(offered):
            m.d.sync += [
                beat.eq(Mux(incoming.last, 0, beat + 1)),
                following.eq(next_address(incoming.addr, burst.len, burst.size, burst.burst)),
            ]
        return incoming, offered

    def _store(self, m: Module, head: data.View, head_valid: Signal) -> Signal:
        """Store the head beat when it is due; the result is 1 in that cycle. B follows the last one."""
        port = self.port
        stored = Signal()
        inside = Signal()
        failed = Signal()
        lost = Signal()
        losing = head.lock & ~self.allowed
        ready = ~self.blocked & (~head.last | ~port.bvalid | port.bready)
        m.d.comb += [
            stored.eq(head_valid & (self.cycle >= head.due) & ready),
            inside.eq(head.addr[3 + self._address_bits :] == 0),
            self.exclusive.eq(stored & inside & head.lock),
            self.write.en.eq(stored & inside & ~losing),
            self.write.address.eq(head.addr[3:]),
            self.write.data.eq(head.data),
            self.write.strobe.eq(head.strobe),
            self.access.valid.eq(self.write.en & head.strobe.any()),
            self.access.payload.address.eq(head.addr),
            self.access.payload.asid.eq(head.user),
            self.access.payload.id.eq(head.id),
            self.access.payload.beats.eq(head.len + 1),
        ]
        with m.If(stored):
            m.d.sync += [
                failed.eq((failed | ~inside) & ~head.last),
                lost.eq((lost | losing) & ~head.last),
            ]
        with m.If(stored & head.last):
            m.d.sync += [
                port.bvalid.eq(1),
                port.bid.eq(head.id),
                port.bresp.eq(_response(inside & ~failed, head.lock & ~losing & ~lost)),
            ]
        with m.Elif(port.bready):
            m.d.sync += port.bvalid.eq(0)
        return stored
