"""A bench with pages of every size in two address spaces, for the cases of the invalidation protocol."""

from collections.abc import Callable
from typing import Any

from secmmu.layouts import CommandKind
from shootdown.agents.control import Command
from shootdown.agents.pins import always, never
from shootdown.agents.translation import PAGE, USER_RW, leaf
from shootdown.cases.mmu_bench import Bench

__all__ = ["BASE", "BIG", "GIB", "KINDS", "MIDDLE", "Mapped", "stalled"]

GIB = 1 << 30
BASE = 0x10_0000_0000
MIDDLE = BASE + 16 * GIB
BIG = BASE + 64 * GIB

KINDS = ("PAGE", "RANGE", "ASID", "ALL")


class Mapped:
    """A bench with pages, a 2 MiB and a 1 GiB leaf in asid 1 and the same addresses in asid 2."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.slots: dict[tuple[int, int], int] = {}
        self.roots: dict[int, int] = {}

    @classmethod
    async def start(cls, dut: Any, name: str) -> "Mapped":
        """Start a bench, fill the tables."""
        self = cls(await Bench(dut, name).start())
        await self.fill()
        return self

    async def fill(self) -> None:
        """Fill the tables and set the contexts."""
        bench = self.bench
        for asid in (1, 2):
            root = self.roots[asid] = await bench.context(asid)
            for page in range(8):
                va = BASE + page * PAGE
                self.slots[asid, va] = bench.map(root, va, 0x5000 * asid + page)
            self.slots[asid, MIDDLE] = bench.map(root, MIDDLE, 0x20_0000 * asid, level=1)
            self.slots[asid, BIG] = bench.map(root, BIG, 0x40_0000 * asid, level=2)

    def change(self, asid: int, va: int, ppn: int, bits: int = USER_RW) -> None:
        """Make the leaf at ``va`` point elsewhere, as the host does before it commands."""
        self.bench.write_word(self.slots[asid, va], leaf(ppn, bits))

    def command(self, kind: str, asid: int, va: int, **flags: Any) -> Command:
        """Queue a command of any kind that covers the page of ``va``."""
        first, last = va >> 12, va >> 12
        if kind == "RANGE":
            first, last = first - 1, last + 1
        return self.bench.send(CommandKind[kind], asid, first, last, **flags)

    async def walks(self) -> int:
        """Read the counter of walks."""
        return await self.bench.counter("mmu.walks")


def stalled(bench: Bench) -> Callable[[], None]:
    """Stop every answer of the memory; returns what lets them go again."""
    bench.data.answers = never

    def resume() -> None:
        bench.data.answers = always

    return resume
