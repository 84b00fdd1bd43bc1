"""The walk cache: what it finds, what it replaces, what an invalidation takes."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.walker.cache import WalkCache

CONFIG = SecmmuConfig(levels=4, walk_cache=3)
VPN = 2 << 27 | 3 << 18 | 5 << 9 | 7


class Cache:
    """Drives a walk cache."""

    def __init__(self, ctx: SimulatorContext, cache: WalkCache) -> None:
        self.ctx, self.cache = ctx, cache

    async def insert(
        self, vpn: int, level: int, ppn: int, asid: int = 1, *, pure: bool = True
    ) -> None:
        """Keep a pointer to a table of ``level``."""
        ctx, cache = self.ctx, self.cache
        ctx.set(cache.key, {"vpn": vpn, "asid": asid})
        pointer = {"ppn": ppn, "shared": ppn & 1}
        fields = {"level": level, "group": 5, "pointer": pointer}
        ctx.set(cache.insert, {"valid": 1, "pure": int(pure), **fields})
        await ctx.tick()
        ctx.set(cache.insert.valid, 0)

    async def find(self, vpn: int, asid: int = 1) -> tuple[int, int] | None:
        """Look a page up: level and frame of its deepest table."""
        ctx, cache = self.ctx, self.cache
        ctx.set(cache.key, {"vpn": vpn, "asid": asid})
        if not ctx.get(cache.found):
            await ctx.tick()
            return None
        level = ctx.get(cache.place.level)
        ctx.set(cache.read.as_value(), ctx.get(cache.place.as_value()))
        await ctx.tick()
        ppn = ctx.get(cache.pointer.ppn)
        assert ctx.get(cache.pointer.shared) == ppn & 1
        return level, ppn

    async def kill(self, **fields: int) -> None:
        """Announce an invalidation; it is applied in this cycle from then on."""
        self.ctx.set(self.cache.coming, {"valid": 1, "group": 9, **fields})
        await self.ctx.tick()
        self.ctx.set(self.cache.coming, {})


def run(scenario: Callable[[Cache], Any]) -> None:
    """Simulate ``await scenario(cache)``."""
    cache = WalkCache(CONFIG)

    async def testbench(ctx: SimulatorContext) -> None:
        await scenario(Cache(ctx, cache))

    simulator = Simulator(cache)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def test_the_deepest_table_is_found() -> None:
    """Of the page's own path and asid."""

    async def scenario(cache: Cache) -> None:
        for level, ppn in ((2, 0x12), (1, 0x11), (0, 0x10)):
            await cache.insert(VPN, level, ppn)
            assert await cache.find(VPN) == (level, ppn)
        assert await cache.find(VPN ^ 1) == (0, 0x10)
        assert await cache.find(VPN ^ 1 << 9) == (1, 0x11)
        assert await cache.find(VPN ^ 1 << 18) == (2, 0x12)
        assert await cache.find(VPN ^ 1 << 27) is None
        assert await cache.find(VPN, asid=2) is None

    run(scenario)


def test_the_oldest_is_replaced_and_none_is_kept_twice() -> None:
    """A pointer that is there already is written over in its place."""

    async def scenario(cache: Cache) -> None:
        for i in range(3):
            await cache.insert(VPN + (i << 9), 0, 0x20 + i)
        for _ in range(5):
            await cache.insert(VPN + (1 << 9), 0, 0x30)
        assert [await cache.find(VPN + (i << 9)) for i in range(3)] == [
            (0, 0x20),
            (0, 0x30),
            (0, 0x22),
        ]
        await cache.insert(VPN + (3 << 9), 0, 0x23)
        found = [await cache.find(VPN + (i << 9)) for i in range(4)]
        assert found == [None, (0, 0x30), (0, 0x22), (0, 0x23)]
        await cache.insert(VPN + (3 << 9), 0, 0x33, pure=False)
        assert await cache.find(VPN + (3 << 9)) is None

    run(scenario)


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"asid": 1, "first": VPN, "last": VPN}, []),
        ({"asid": 1, "first": VPN + 1, "last": VPN + 1}, []),
        ({"asid": 1, "first": VPN + 512, "last": VPN + 512}, [0]),
        ({"asid": 1, "first": VPN - 1024, "last": VPN - 512}, [0]),
        ({"asid": 1, "first": VPN + (1 << 18), "last": (1 << 36) - 1}, [0, 1]),
        ({"asid": 1, "first": VPN, "last": VPN, "leaf_only": 1}, [0, 1, 2]),
        ({"asid": 1, "first": 0, "last": (1 << 36) - 1, "leaf_only": 1, "context": 1}, []),
        ({"asid": 2, "first": VPN, "last": VPN}, [0, 1, 2]),
        ({"asid": 2, "group": 5, "first": VPN, "last": VPN}, []),
        ({"asid": 2, "group": 5, "first": VPN, "last": VPN, "keep_global": 1}, [0, 1, 2]),
        ({"everything": 1, "first": 0, "last": (1 << 36) - 1}, []),
    ],
)
def test_an_invalidation_takes_what_it_overlaps(fields: dict[str, int], left: list[int]) -> None:
    """In its very cycle already; all other tables of the path are left."""

    async def scenario(cache: Cache) -> None:
        for level in range(3):
            await cache.insert(VPN, level, 0x10 + level)
        deepest = (left[0], 0x10 + left[0]) if left else None
        await cache.kill(**fields)
        assert await cache.find(VPN) == deepest
        for level in range(3):
            there = level in left
            probe = VPN ^ (1 << 9 * level if level else 0)
            assert (await cache.find(probe) == (level, 0x10 + level)) == there

    run(scenario)


def test_what_is_found_is_what_was_inserted() -> None:
    """A random run against a dictionary; clear forgets all."""

    async def scenario(cache: Cache) -> None:
        rng = random.Random(1)
        kept: dict[tuple[int, int, int], int] = {}
        hits = 0
        for step in range(400):
            vpn, asid = VPN ^ rng.getrandbits(2) << 9 ^ rng.getrandbits(1) << 18, rng.randrange(2)
            kind = rng.random()
            if kind < 0.4:
                level = rng.randrange(3)
                kept[level, vpn >> 9 * (level + 1), asid] = step
                await cache.insert(vpn, level, step, asid)
            elif kind < 0.9:
                found = await cache.find(vpn, asid)
                hits += found is not None
                if found is not None:
                    assert kept[found[0], vpn >> 9 * (found[0] + 1), asid] == found[1]
            else:
                await cache.kill(asid=asid, first=vpn, last=vpn)
                assert await cache.find(vpn, asid) is None
                for level in range(3):
                    kept.pop((level, vpn >> 9 * (level + 1), asid), None)
        assert hits > 50
        await cache.insert(VPN, 0, 1)
        cache.ctx.set(cache.cache.clear, 1)
        await cache.ctx.tick()
        cache.ctx.set(cache.cache.clear, 0)
        assert await cache.find(VPN) is None

    run(scenario)
