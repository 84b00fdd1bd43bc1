"""The frame sanitizer: a tag for each physical frame, and a look at every memory beat (KASAN, in gates)."""

from typing import Any

from amaranth.hdl import C, ClockSignal, Instance, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from secmmu.emulator.bursts import AccessSignature
from secmmu.emulator.observe import EventSignature
from secmmu.layouts import PAGE_BITS, AccessArg, Event, FrameKind, FrameTagLayout, Verdict

__all__ = ["FrameTags", "Sanitizer", "TagWriteSignature"]

_RIGHTS = 16
_LOOKUPS = 3


class _StoredTagLayout(data.StructLayout):
    """What of a tag is stored: all that has a meaning."""

    def __init__(self) -> None:
        super().__init__({"kind": FrameKind, "read": _RIGHTS, "write": _RIGHTS})


class TagWriteSignature(wiring.Signature):
    """A tag that is set at the next clock edge, seen from the one who sets it.

    Parameters
    ----------
    frame_bits : int
        Width of a frame number.
    """

    def __init__(self, frame_bits: int) -> None:
        super().__init__({"valid": Out(1), "frame": Out(frame_bits), "tag": Out(FrameTagLayout())})


class FrameTags(wiring.Component):
    """The store of the tags, all ``FREE`` at the start; three lookups without a clock and one write.

    Parameters
    ----------
    frames : int
        Number of frames, a power of two.
    external : bool
        True: the Verilog module ``secmmu_sim_tags`` (``sim_memory.v``), which spares the Verilog of
        the emulator one line a frame; False: distributed RAM.

    Members
    -------
    update : In(TagWriteSignature)
        Sets a tag.
    frame_0, frame_1, frame_2 : In(ceil(log2(frames))); tag_0, tag_1, tag_2 : Out(FrameTagLayout)
        The lookups.
    """

    def __init__(self, *, frames: int, external: bool) -> None:
        self._frames = frames
        self._external = external
        self.frame_bits = ceil_log2(frames)
        members: dict[str, Any] = {"update": In(TagWriteSignature(self.frame_bits))}
        for index in range(_LOOKUPS):
            members |= {
                f"frame_{index}": In(self.frame_bits),
                f"tag_{index}": Out(FrameTagLayout()),
            }
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        """Build the store of the chosen kind."""
        m = Module()
        new = Signal(_StoredTagLayout())
        stored = [Signal(_StoredTagLayout(), name=f"stored_{index}") for index in range(_LOOKUPS)]
        for index, tag in enumerate(stored):
            shown = getattr(self, f"tag_{index}")
            m.d.comb += [shown[name].eq(tag[name]) for name, _ in _StoredTagLayout()]
        m.d.comb += [new[name].eq(self.update.tag[name]) for name, _ in _StoredTagLayout()]
        if self._external:
            self._verilog_store(m, new, stored)
        else:
            self._memory_store(m, new, stored)
        return m

    def _verilog_store(self, m: Module, new: data.View, stored: list[data.View]) -> None:
        lookups: dict[str, Any] = {}
        for index, tag in enumerate(stored):
            lookups |= {
                f"i_frame_{index}": getattr(self, f"frame_{index}"),
                f"o_tag_{index}": tag.as_value(),
            }
        m.submodules.store = Instance(
            "secmmu_sim_tags",
            p_FRAMES=self._frames,
            p_FRAME_BITS=self.frame_bits,
            p_TAG_BITS=_StoredTagLayout().size,
            i_clk=ClockSignal(),
            i_write_en=self.update.valid,
            i_write_frame=self.update.frame,
            i_write_tag=new.as_value(),
            **lookups,
        )

    def _memory_store(self, m: Module, new: data.View, stored: list[data.View]) -> None:
        m.submodules.store = store = Memory(shape=_StoredTagLayout(), depth=self._frames, init=[])
        write = store.write_port()
        m.d.comb += [
            write.en.eq(self.update.valid),
            write.addr.eq(self.update.frame),
            write.data.eq(new),
        ]
        for index, tag in enumerate(stored):
            read = store.read_port(domain="comb")
            m.d.comb += [read.addr.eq(getattr(self, f"frame_{index}")), tag.eq(read.data)]


class Sanitizer(wiring.Component):
    """Compares every memory beat with the tag of its frame and reports what must not be, in that very cycle.

    Read beats are checked when they are sampled, write beats (with any strobe) when they are
    stored. A frame that is ``TABLE`` belongs to the walker alone; the walker may touch nothing else.

    Parameters
    ----------
    frames : int
        Number of frames, a power of two.
    external : bool
        See :class:`FrameTags`.

    Members
    -------
    update : In(TagWriteSignature)
        Sets a tag; meant for a clock in which the emulated part stands still.
    read, write, walk : In(AccessSignature)
        The beats of this cycle, all inside the memory.
    read_violation, write_violation, walk_violation : Out(EventSignature)
        ``VIOLATION`` events of this cycle.
    """

    def __init__(self, *, frames: int, external: bool) -> None:
        self._tags = FrameTags(frames=frames, external=external)
        members: dict[str, Any] = {"update": In(TagWriteSignature(self._tags.frame_bits))}
        for name in ("read", "write", "walk"):
            members |= {name: In(AccessSignature()), f"{name}_violation": Out(EventSignature())}
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        """Build the lookups and the three comparisons."""
        m = Module()
        m.submodules.tags = tags = self._tags
        wiring.connect(m, wiring.flipped(self.update), tags.update)
        for index, name in enumerate(("read", "write", "walk")):
            access = getattr(self, name)
            tag = getattr(tags, f"tag_{index}")
            m.d.comb += getattr(tags, f"frame_{index}").eq(access.payload.address[PAGE_BITS:])
            guilty = Signal(name=f"{name}_guilty")
            verdict = Signal(Verdict, name=f"{name}_verdict")
            walker = C(1) if name == "walk" else access.payload.walker
            with m.If(walker):
                m.d.comb += [guilty.eq(tag.kind != FrameKind.TABLE), verdict.eq(Verdict.TABLE)]
            if name != "walk":
                right = getattr(tag, name).bit_select(access.payload.asid[:4], 1)
                with m.Else():
                    self._judge(m, tag, right, guilty, verdict)
            self._report(m, name, access, tag, guilty, verdict)
            m.d.comb += getattr(self, f"{name}_violation").payload.source.eq(walker)
        return m

    @staticmethod
    def _judge(m: Module, tag: data.View, right: Any, guilty: Signal, verdict: Any) -> None:
        """Judge a beat of the device."""
        with m.Switch(tag.kind):
            with m.Case(FrameKind.FREE):
                m.d.comb += [guilty.eq(1), verdict.eq(Verdict.FREED)]
            with m.Case(FrameKind.USER):
                m.d.comb += [guilty.eq(~right), verdict.eq(Verdict.RIGHTS)]
            with m.Default():
                m.d.comb += [guilty.eq(1), verdict.eq(Verdict.FOREIGN)]

    def _report(
        self, m: Module, name: str, access: Any, tag: data.View, guilty: Signal, verdict: Any
    ) -> None:
        lane = getattr(self, f"{name}_violation")
        arg = Signal(AccessArg(), name=f"{name}_arg")
        m.d.comb += [
            arg.asid.eq(access.payload.asid),
            arg.id.eq(access.payload.id),
            arg.write.eq(name == "write"),
            arg.code.eq(verdict),
            arg.beats.eq(access.payload.beats),
            lane.valid.eq(access.valid & guilty),
            lane.payload.kind.eq(Event.VIOLATION),
            lane.payload.arg.eq(arg),
            lane.payload.a.eq(access.payload.address),
            lane.payload.b.eq(tag),
        ]
