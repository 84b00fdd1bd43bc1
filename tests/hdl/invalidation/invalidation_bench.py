"""Drives an invalidation unit one cycle at a time; groups are those of ``tlb_model``."""

from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.invalidation.invalidation import Invalidation
from secmmu.layouts import CommandKind, Phase
from tests.hdl.tlb.tlb_model import GROUPS


@dataclass(frozen=True)
class Answer:
    """A completion, and the cycle in which it was taken."""

    cycle: int
    tag: int
    phase: Phase
    young: int = 0


@dataclass
class InvalidationBench:
    """An invalidation unit whose queue of commands is presented as fast as it takes them.

    Parameters
    ----------
    ctx : SimulatorContext
        Of the running simulation.
    unit : Invalidation
        The unit.
    """

    ctx: SimulatorContext
    unit: Invalidation
    now: int = 0
    queue: deque[dict[str, Any]] = field(default_factory=deque)
    accepted: dict[int, int] = field(default_factory=dict)
    invalidated: list[Answer] = field(default_factory=list)
    drained: list[Answer] = field(default_factory=list)

    def send(self, kind: CommandKind, **fields: int) -> None:
        """Queue a command."""
        self.queue.append({"kind": kind, "asid": 1, **fields})

    async def cycle(self, *, invalidated: bool = True, drained: bool = True) -> None:
        """Run one cycle, in which the answers are taken or not."""
        ctx, unit = self.ctx, self.unit
        ctx.set(unit.command.valid, bool(self.queue))
        if self.queue:
            ctx.set(unit.command.payload, self.queue[0])
        ctx.set(unit.invalidated.ready, invalidated)
        ctx.set(unit.drained.ready, drained)
        if ctx.get(unit.accepted):
            self.accepted[self.queue.popleft().get("tag", 0)] = self.now
        group = GROUPS.get(ctx.get(unit.context_asid), 0)
        taken = (
            (unit.invalidated, invalidated, self.invalidated),
            (unit.drained, drained, self.drained),
        )
        for stream, ready, answers in taken:
            if ready and ctx.get(stream.valid):
                payload = ctx.get(stream.payload)
                answers.append(Answer(self.now, payload.tag, payload.phase, payload.young))
        await ctx.tick()
        ctx.set(unit.group, group)
        self.now += 1

    async def cycles(self, count: int) -> None:
        """Run cycles in which every answer is taken."""
        for _ in range(count):
            await self.cycle()

    def since(self, answers: list[Answer]) -> dict[int, tuple[int, Phase]]:
        """Return, by tag, how many cycles after its acceptance each was answered, and what."""
        return {
            answer.tag: (answer.cycle - self.accepted[answer.tag], answer.phase)
            for answer in answers
        }


def run(
    testbench: Callable[[InvalidationBench], Coroutine[Any, Any, None]], config: SecmmuConfig
) -> None:
    """Simulate ``testbench(bench)``, nothing being in flight."""
    unit = Invalidation(config)

    async def bench(ctx: SimulatorContext) -> None:
        await testbench(InvalidationBench(ctx, unit))

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
