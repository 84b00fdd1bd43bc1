"""The in-flight table by itself: counts per translation, closing, order per id."""

from typing import Any

from amaranth.sim import Simulator, SimulatorContext

from secmmu.config import SecmmuConfig
from secmmu.datapath.uses import Uses

CONFIG = SecmmuConfig(use_slots=3, id_bits=2, outstanding=32, waiters=4, stalls=2)
SPARE = 3
"""The slot that is for reads alone."""


def run(testbench: Any) -> None:
    """Simulate ``testbench(ctx, uses)``."""
    uses = Uses(CONFIG)

    async def bench(ctx: SimulatorContext) -> None:
        await testbench(ctx, uses)

    simulator = Simulator(uses)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


async def begin(
    ctx: SimulatorContext,
    uses: Uses,
    vpn: int,
    burst_id: int = 0,
    *,
    grain: int = 0,
    asid: int = 1,
    write: int = 0,
    shared: int = 0,
) -> int | None:
    """Bring an access through stage D; return its slot, None when there is none."""
    page = {"vpn": vpn, "asid": asid, "write": write}
    ctx.set(uses.ahead, page)
    ctx.set(uses.advance, 1)
    await ctx.tick()
    ctx.set(uses.advance, 0)
    ctx.set(uses.page, page)
    base = vpn & ~((1 << (0, 4, 9, 18)[grain]) - 1)
    translation = {"vpn": base, "grain": grain, "shared": shared, "asid": asid, "group": asid}
    ctx.set(uses.translation, translation)
    ctx.set(uses.free, (1 << grain) - 1)
    ctx.set(uses.id, burst_id)
    available = uses.matches | uses.room.bit_select(uses.page.write, 1)
    ctx.set(uses.begin, ctx.get(available))
    _, _, taken, slot = await ctx.tick().sample(available, uses.slot)
    ctx.set(uses.begin, 0)
    return slot if taken else None


async def end(ctx: SimulatorContext, uses: Uses, burst_id: int, *, write: int = 0) -> int:
    """End the oldest burst of an id; return the slots in use after it, as they show two cycles later."""
    port = uses.write_end if write else uses.read_end
    ctx.set(port.id, burst_id)
    ctx.set(port.valid, 1)
    await ctx.tick()
    ctx.set(port.valid, 0)
    await ctx.tick()
    _, _, busy = await ctx.tick().sample(uses.busy_next)
    return busy


async def close(ctx: SimulatorContext, uses: Uses, first: int, last: int, **flags: int) -> int:
    """Apply an invalidation for one cycle; return the slots it waits for."""
    kill = {"valid": 1, "asid": 1, "group": 1, "first": first, "last": last, **flags}
    ctx.set(uses.kill, kill)
    _, _, closing = await ctx.tick().sample(uses.closing)
    ctx.set(uses.kill, {"valid": 0})
    return closing


def test_bursts_of_one_translation_share_a_slot_until_it_is_closed() -> None:
    """After an invalidation the same page is counted in another slot."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        assert await begin(ctx, uses, 5) == 0
        assert await begin(ctx, uses, 5, 1, write=1) == 0
        assert await close(ctx, uses, 5, 5) == 0b0001
        assert await begin(ctx, uses, 5, 2) == 1
        assert await end(ctx, uses, 0) == 0b0011
        assert await end(ctx, uses, 1, write=1) == 0b0010
        assert await close(ctx, uses, 5, 5) == 0b0010
        assert await end(ctx, uses, 2) == 0
        assert ctx.get(uses.none)

    run(bench)


def test_an_invalidation_waits_for_overlapping_spans_only() -> None:
    """A page inside a 2 MiB use closes it; the neighbour's use is left alone, so is another asid's."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        await begin(ctx, uses, 517, 0, grain=2)
        await begin(ctx, uses, 5, 1)
        await begin(ctx, uses, 600, 2, asid=2)
        assert await close(ctx, uses, 600, 600) == 0b0001
        assert await close(ctx, uses, 4, 4) == 0
        assert await close(ctx, uses, 600, 600) == 0b0001

    run(bench)


def test_a_slot_spans_all_translations_of_its_bursts() -> None:
    """A 4 KiB use joined by one of the 2 MiB page around it waits for both; alone again it is small again."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        assert await begin(ctx, uses, 517) == 0
        assert await begin(ctx, uses, 517, 1, grain=2) == 0
        assert await end(ctx, uses, 0) == 1
        assert await end(ctx, uses, 1) == 0
        assert await begin(ctx, uses, 517) == 0
        assert await close(ctx, uses, 600, 600) == 0
        assert await begin(ctx, uses, 517, 1, grain=2) == 0
        assert await close(ctx, uses, 600, 600) == 1

    run(bench)


def test_globals_are_spared_where_the_command_says_so() -> None:
    """A slot with uses of both kinds is waited for as long as one of them is not global."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        assert await begin(ctx, uses, 5, shared=1) == 0
        assert await close(ctx, uses, 5, 5, keep_global=1) == 0
        assert await begin(ctx, uses, 5, 1) == 0
        assert await close(ctx, uses, 5, 5, keep_global=1) == 1

    run(bench)


def test_another_page_follows_at_once_and_the_same_page_joins() -> None:
    """The page that begins in stage D is not among the slots yet when the next is compared with them."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        slots = []
        pages = [7, 7, 8, 7, 8]
        for at, vpn in enumerate(pages):
            page = {"vpn": vpn, "asid": 1}
            ctx.set(uses.ahead, page)
            ctx.set(uses.advance, 1)
            if at:
                _, _, slot = await ctx.tick().sample(uses.slot)
                slots.append(slot)
            else:
                await ctx.tick()
            ctx.set(uses.page, page)
            ctx.set(uses.translation, {"vpn": vpn, "asid": 1})
            ctx.set(uses.begin, 1)
        assert slots == [0, 0, 1, 0]

    run(bench)


def test_the_last_slot_is_for_reads_alone() -> None:
    """Writes to new pages find no slot when the others are taken; a read does."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        assert [await begin(ctx, uses, vpn, vpn, write=1) for vpn in range(4)] == [0, 1, 2, None]
        assert ctx.get(uses.room) == 0b01
        assert await begin(ctx, uses, 9) == SPARE
        assert await begin(ctx, uses, 10, 1) is None
        assert await begin(ctx, uses, 9, 0, write=1) is None
        await end(ctx, uses, 0, write=1)
        assert await begin(ctx, uses, 9, 0, write=1) == 0

    run(bench)


def test_bursts_of_an_id_end_in_order() -> None:
    """The ends of one id free the slots in the order in which its bursts began."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        for vpn in (5, 6, 7):
            await begin(ctx, uses, vpn, 1)
        assert [await end(ctx, uses, 1) for _ in range(3)] == [0b110, 0b100, 0]
        assert not ctx.get(uses.read_outstanding)

    run(bench)


def test_broken_uses_name_their_asids_one_after_the_other() -> None:
    """Each asid is fenced once; whether a use of an asid is left can be asked."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        await begin(ctx, uses, 5, asid=2)
        await begin(ctx, uses, 6, asid=3)
        ctx.set(uses.asked, 2)
        assert ctx.get(uses.left)
        ctx.set(uses.broken, 0b011)
        await ctx.tick()
        ctx.set(uses.broken, 0)
        named = []
        for _ in range(3):
            _, _, valid, asid = await ctx.tick().sample(uses.fence.valid, uses.fence.asid)
            named.append(asid if valid else None)
        assert named == [2, 3, None]
        await end(ctx, uses, 0)
        assert not ctx.get(uses.left)

    run(bench)


def test_a_broken_slot_is_not_taken_again_before_its_asid_was_named() -> None:
    """The third of three ends, and comes free, while the first two are named."""

    async def bench(ctx: SimulatorContext, uses: Uses) -> None:
        for at in range(3):
            await begin(ctx, uses, 5 + at, at, asid=2 + at)
        ctx.set(uses.read_end.id, 2)
        ctx.set(uses.read_end.valid, 1)
        await ctx.tick()
        ctx.set(uses.read_end.valid, 0)
        ctx.set(uses.broken, 0b111)
        await ctx.tick()
        ctx.set(uses.broken, 0)
        named = [ctx.get(uses.fence.asid)]
        # Comes to stage D in the first cycle in which the third slot is in use no more.
        assert await begin(ctx, uses, 9, 3, asid=6) == SPARE
        for _ in range(2):
            named.append(ctx.get(uses.fence.asid) if ctx.get(uses.fence.valid) else None)
            await ctx.tick()
        assert named == [2, 4, None]
        assert await begin(ctx, uses, 10, 3, asid=7) == 2

    run(bench)
