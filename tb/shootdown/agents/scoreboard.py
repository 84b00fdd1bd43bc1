"""The scoreboard: judges every use, fault and completion by the tables as they stood, cycle by cycle."""

from collections import deque
from collections.abc import Callable, Iterator

from secmmu.config import SecmmuConfig
from secmmu.layouts import CommandKind
from shootdown.agents.control import Command, Control, Fault
from shootdown.agents.memory import PhysicalMemory, beat_addresses
from shootdown.agents.monitors import Burst, PortMonitor
from shootdown.agents.translation import Answer, translate

__all__ = ["CONTEXT_ROWS", "Scoreboard", "Use"]

CONTEXT_ROWS = 1 << 60
"""Where the scoreboard's history keeps the context rows: above every physical address, 8 bytes a row."""


class Use:
    """A burst of the device joined with what became of it on the memory side.

    Attributes
    ----------
    device : Burst
        As the device issued it.
    memory : Burst or None
        As it left; None when it was refused.
    answer : Answer or None
        The translation it left with.
    until : int
        Last cycle in which the tables held that translation (up to the use).
    fault : Fault or None
        The report of its refusal.
    reported : bool
        Whether a fault was reported, a stalled one included.
    """

    def __init__(self, device: Burst) -> None:
        self.device = device
        self.memory: Burst | None = None
        self.answer: Answer | None = None
        self.until = -1
        self.fault: Fault | None = None
        self.reported = False

    @property
    def crosses(self) -> bool:
        """Whether the burst leaves its 4 KiB page."""
        burst = self.device
        return (
            len(
                {
                    beat >> 12
                    for beat in beat_addresses(burst.addr, burst.beats, burst.size, burst.burst)
                }
            )
            > 1
        )


class Scoreboard:
    """Judges by the rules of the invalidation protocol.

    A translation is *allowed* in cycle ``c`` when the tables held it at some cycle from ``L`` to ``c``, where ``L``
    is the last linearization point (command handshake; for a hold, the handshake of its release) of the commands
    that overlap its whole span and were *invalidated* before ``c``. While a held span is invalidated and not
    released, nothing is allowed.

    Parameters
    ----------
    memory : PhysicalMemory
        Page tables and data, with their history; context rows at :data:`CONTEXT_ROWS`.
    device, out : PortMonitor
        The device port and the memory port.
    control : Control
        Commands, completions, faults.
    clock : callable
        Gives the cycle number of the edge now being served.
    config : SecmmuConfig
        What the MMU can do: ``levels``, ``svadu``.

    Attributes
    ----------
    uses : list of Use
        All of them.
    fenced : set of int
        Asids that a case knows to be fenced off: access faults of theirs are right.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        device: PortMonitor,
        out: PortMonitor,
        control: Control,
        clock: Callable[[], int],
        config: SecmmuConfig,
    ) -> None:
        self._config = config
        self._memory = memory
        self._control = control
        self._clock = clock
        self._waiting: dict[tuple[bool, int], deque[Use]] = {}
        self._by_memory: dict[int, Use] = {}
        self._by_device: dict[int, Use] = {}
        self._faults_seen = 0
        self.uses: list[Use] = []
        self.fenced: set[int] = set()
        self._drain_checked: set[int] = set()
        self._ended: list[Burst] = []
        device.on_begin = self._device_begin
        device.on_end = self._ended.append
        out.on_begin = self._memory_begin

    def reset(self) -> None:
        """Forget every use."""
        for store in (
            self._waiting,
            self._by_memory,
            self._by_device,
            self.uses,
            self._drain_checked,
            self._ended,
            self.fenced,
        ):
            store.clear()
        self._faults_seen = 0

    # --- what the tables allow -------------------------------------------------------------------------

    def _answer_at(self, cycle: int, asid: int, va: int, write: bool) -> Answer:
        row = self._memory.read_at(CONTEXT_ROWS + 8 * asid, cycle) or 0
        levels = (row >> 60) - 5
        if not 3 <= levels <= self._config.levels:
            return Answer(None, 7 if write else 5, va >> 12, va >> 12)
        return translate(
            lambda address: self._memory.read_at(address, cycle),
            row & (1 << 44) - 1,
            va,
            write,
            levels=levels,
            svadu=self._config.svadu,
        )

    def _versions(self, asid: int, va: int, write: bool) -> Iterator[tuple[int, Answer]]:
        """Yield (last cycle in which it stood, translation), newest first."""
        now = self._clock()
        yield now, self._answer_at(now, asid, va, write)
        for change in reversed(self._memory.changes):
            yield change, self._answer_at(change - 1, asid, va, write)

    def _barrier(self, asid: int, answer: Answer, since: int) -> int | None:
        """Give the last linearization point before ``since`` that binds ``answer``; None while it is held."""
        now, barrier = self._clock(), -1
        for command in self._control.commands:
            if (
                command.invalidated is None
                or command.invalidated >= since
                or command.accepted is None
            ):
                continue
            if not command.covers(asid, answer.first, answer.last):
                continue
            barrier = max(barrier, command.accepted)
            if command.hold:
                release = command.released
                if release is None or release.accepted is None or release.accepted >= now:
                    return None
                barrier = max(barrier, release.accepted)
        return barrier

    def _judge(self, use: Use, since: int, fits: Callable[[Answer], bool], what: str) -> None:
        """Find the translation that an event of now used, and insist that it was allowed.

        Commands *invalidated* before cycle ``since`` bind it.

        Raises
        ------
        AssertionError
            ``held:``, ``stale use:`` or ``wrong address:``.
        """
        asid, va, write = use.device.asid, use.device.addr, use.device.write
        stale = False
        for until, answer in self._versions(asid, va, write):
            if not fits(answer):
                continue
            barrier = self._barrier(asid, answer, since)
            assert barrier is not None, f"held: {what} in cycle {self._clock()} inside a hold"
            if until >= barrier:
                use.answer, use.until = answer, until
                return
            stale = True
        now = self._answer_at(self._clock(), asid, va, write)
        expected = f"pa {now.pa:#x}" if now.pa is not None else f"cause {now.cause}"
        kind = "stale use" if stale else "wrong address"
        raise AssertionError(f"{kind}: {what} in cycle {self._clock()}; the tables say {expected}")

    # --- events ----------------------------------------------------------------------------------------

    def _device_begin(self, burst: Burst) -> None:
        use = Use(burst)
        self.uses.append(use)
        self._by_device[id(burst)] = use
        self._waiting.setdefault((burst.write, burst.id), deque()).append(use)

    def _memory_begin(self, burst: Burst) -> None:
        use = self._match(burst)
        device = use.device
        assert burst.asid == device.asid, f"wrong asid: {burst} for {device}"
        assert not use.crosses, f"crossing: {burst} must not leave its page"
        assert not burst.write or not burst.cache & 1, (
            f"bufferable: {burst} has AWCACHE {burst.cache:#x}"
        )
        use.memory = burst
        self._by_memory[id(burst)] = use
        what = f"{burst} for va {device.addr:#x}"
        self._judge(use, self._clock(), lambda answer: answer.pa == burst.addr, what)

    def _match(self, burst: Burst) -> Use:
        """Find the access of the device that left as ``burst``: ids stay in order, refused accesses never leave."""
        queue = self._waiting.get((burst.write, burst.id), deque())
        same = ("beats", "size", "burst")
        fitting = [
            use
            for use in queue
            if use.device.end is None
            and use.device.addr & 0xFFF == burst.addr & 0xFFF
            and all(getattr(use.device, name) == getattr(burst, name) for name in same)
        ]
        assert fitting, f"invented: {burst} belongs to no access of the device"
        found = next((use for use in fitting if self._leads_to(use.device, burst.addr)), fitting[0])
        while queue.popleft() is not found:
            pass
        return found

    def _leads_to(self, device: Burst, pa: int) -> bool:
        versions = self._versions(device.asid, device.addr, device.write)
        return any(answer.pa == pa for _, answer in versions)

    def _device_end(self, burst: Burst) -> None:
        use = self._by_device[id(burst)]
        memory = use.memory
        if memory is None:
            assert all(response == 2 for response in burst.responses), (
                f"invented answer: {burst} answered {burst.responses} but nothing was asked of the memory"
            )
            return
        ended = memory.end is not None
        if burst.write and self._is_broken(burst, memory):
            return
        assert ended or not burst.write, f"early answer: {burst} before the memory's B"
        assert burst.responses == memory.responses, (
            f"response: {burst} got {burst.responses}, not {memory.responses}"
        )
        if burst.write:
            assert burst.data == memory.data, (
                f"data: {burst} sent {burst.data}, memory got {memory.data}"
            )
        else:
            assert burst.words == memory.words, (
                f"data: {burst} got {burst.words}, memory gave {memory.words}"
            )

    def _is_broken(self, burst: Burst, memory: Burst) -> bool:
        """Say whether a time-out ended this write: SLVERR, and beats without strobes where its data was missing."""
        if not any(command.timed_out is not None for command in self._control.commands):
            return False
        given = [got for got, want in zip(memory.data, burst.data, strict=False) if got == want]
        rest = memory.data[len(given) :]
        return (
            burst.responses == [2]
            and bool(rest)
            and memory.end is not None
            and all(strobes == 0 for _, strobes in rest)
        )

    def step(self) -> None:
        """Judge faults and completions of this edge; after the monitors, the control agent included."""
        for burst in self._ended:
            self._device_end(burst)
        self._ended.clear()
        for fault in self._control.faults[self._faults_seen :]:
            self._judge_fault(fault)
        self._faults_seen = len(self._control.faults)
        for command in self._control.commands:
            if command.drained is not None and id(command) not in self._drain_checked:
                self._drain_checked.add(id(command))
                self._judge_drained(command)

    def _judge_fault(self, fault: Fault) -> None:
        what = (
            f"fault of asid {fault.asid} va {fault.va:#x} write {fault.write} cause {fault.cause}"
        )
        for use in self.uses:
            burst = use.device
            named = (burst.addr, burst.asid, burst.id, burst.write) == (
                fault.va,
                fault.asid,
                fault.id,
                bool(fault.write),
            )
            if named and use.memory is None and use.fault is None:
                break
        else:
            raise AssertionError(f"invented: {what} in cycle {fault.cycle} belongs to no access")
        if not fault.stalled:
            use.fault = fault
        use.reported = True
        if fault.asid in self.fenced and fault.cause in (5, 7):
            return
        if not use.crosses:
            # A fault decided before the command may be reported after it; an access made after it may not.
            since = use.device.accepted or fault.cycle
            self._judge(use, since, lambda answer: answer.cause == fault.cause, what)

    def _judge_drained(self, command: Command) -> None:
        """Insist that every use the command closes has ended (design: *drained* only after the last R or B)."""
        accepted, drained = command.accepted or 0, command.drained or 0
        for use in self.uses:
            burst, answer = use.memory, use.answer
            if burst is None or answer is None:
                continue
            if burst.begin > accepted and use.until >= accepted:
                continue
            if command.covers(burst.asid, answer.first, answer.last):
                late = burst.end is None or burst.end > drained
                assert not late, (
                    f"drained early: {command} in cycle {drained} before the last beat of {burst}"
                )

    def check_end(self) -> None:
        """Insist that refused accesses were reported and that completions kept the order of the fences."""
        for use in self.uses:
            if use.memory is None and use.device.end is not None and not use.crosses:
                assert use.reported, f"unreported: {use.device} was refused without a fault report"
        commands = self._control.commands
        for at, fence in enumerate(commands):
            if fence.kind is not CommandKind.FENCE:
                continue
            for earlier in commands[:at]:
                if earlier.refused is None:
                    late = (earlier.invalidated or 0) > (fence.invalidated or 0)
                    late |= (earlier.drained or 0) > (fence.drained or 0)
                    assert not late, f"fence: {fence} completed before {earlier}"
