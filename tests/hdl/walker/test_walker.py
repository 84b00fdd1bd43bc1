"""The walker by itself: the cycles it takes, whom it answers what, and what invalidations do to it."""

import random
from dataclasses import replace

import pytest

from secmmu.config import SecmmuConfig
from secmmu.internals import Outcome
from shootdown.agents.translation import (
    PAGE,
    USER_RO,
    USER_RW,
    A,
    Answer,
    D,
    G,
    Tables,
    W,
    leaf,
    napot_leaf,
    pointer,
    translate,
)
from tests.hdl.walker.walker_bench import ROOT, Access, WalkerBench, simulate

CONFIG = SecmmuConfig()
SVADU = SecmmuConfig(svadu=True)
VPN = 3 << 18 | 5 << 9 | 7
TABLES = (ROOT, 0x11, 0x12)
"""Frames of the tables on the way to VPN, from the root on."""
SLOTS = [TABLES[0] * PAGE + 3 * 8, TABLES[1] * PAGE + 5 * 8, TABLES[2] * PAGE + 7 * 8]
"""Addresses of the PTEs on the way."""
FRAME = 0x4_0000


def map_vpn(bench: WalkerBench, level: int = 0, bits: int = USER_RW, frame: int = FRAME) -> None:
    """Write the tables on the way to VPN, with a leaf at ``level``."""
    for at in range(2 - level):
        bench.memory.words[SLOTS[at]] = pointer(TABLES[at + 1])
    bench.memory.words[SLOTS[2 - level]] = leaf(frame, bits)


def page(vpn: int, **fields: int) -> dict[str, int]:
    """Return an invalidation of one page."""
    return {"asid": 1, "first": vpn, "last": vpn, "page": 1, **fields}


@pytest.mark.parametrize("latency", [1, 5])
def test_cycles_of_a_walk(latency: int) -> None:
    """Address two cycles after the request; then two after the data, next address or answer."""

    async def scenario(bench: WalkerBench) -> None:
        map_vpn(bench)
        bench.memory.latency = lambda: latency
        cold, warm = Access(VPN), Access(VPN + 1)
        await bench.run(cold)
        offered = [cold.asked + 2 + i * (latency + 2) for i in range(3)]
        assert bench.offers == [
            (cycle, 0, slot) for cycle, slot in zip(offered, SLOTS, strict=True)
        ]
        assert cold.answered == offered[-1] + latency + 2
        assert [cycle for cycle, _ in bench.fills] == [cold.answered + 1]
        bench.memory.words[SLOTS[2] + 8] = leaf(FRAME + 1)
        await bench.run(warm)
        assert bench.offers[3:] == [(warm.asked + 2, 1, SLOTS[2] + 8)]
        assert warm.answered == warm.asked + 2 + latency + 2
        assert warm.pages == (FRAME + 1, VPN + 1, VPN + 1)

    simulate(scenario, CONFIG)


def test_throughput_with_a_warm_walk_cache() -> None:
    """Eight walks of one read each: at least 8 / (L + 12) a cycle, here with slack, since nothing else takes time."""
    latency, count = 20, 64

    async def scenario(bench: WalkerBench) -> None:
        map_vpn(bench)
        bench.memory.latency = lambda: latency
        for i in range(count):
            bench.memory.words[SLOTS[2] + 8 * (i + 1)] = leaf(FRAME + i)
        await bench.run(Access(VPN))
        accesses = [Access(VPN + 1 + i) for i in range(count)]
        await bench.run(*accesses)
        cycles = accesses[-1].answered - accesses[0].asked
        assert (count - 8) * (latency + 12) >= 8 * (cycles - latency)
        assert len(bench.memory.reads) == 3 + count

    simulate(scenario, replace(CONFIG, walks=8))


def model(bench: WalkerBench, access: Access) -> Answer:
    """Say what the model gives an access now."""
    config = bench.config
    width = config.vpn_bits
    va = (access.vpn - (access.vpn >> width - 1 << width) << 12) & (1 << 64) - 1
    return translate(
        bench.memory.read, ROOT, va, access.write, levels=config.levels, svadu=config.svadu
    )


OUTCOMES = {
    None: Outcome.GRANTED,
    13: Outcome.PAGE_FAULT,
    15: Outcome.PAGE_FAULT,
    5: Outcome.ACCESS_FAULT,
    7: Outcome.ACCESS_FAULT,
}


def check(bench: WalkerBench, access: Access) -> None:
    """Compare the answer to an access with the model's."""
    answer = model(bench, access)
    assert access.outcome == OUTCOMES[answer.cause], hex(access.vpn)
    if answer.pa is not None:
        assert access.pages[0] == answer.pa >> 12
        assert access.pages[2] - access.pages[1] == answer.last - answer.first
        assert access.entry.writable or not access.write


def random_tables(bench: WalkerBench, rng: random.Random) -> list[int]:
    """Write tables with leaves of all sizes, good and bad ones; return pages worth a look."""
    levels, width = bench.config.levels, bench.config.vpn_bits
    words = bench.memory.words
    tables = Tables(words.__setitem__, ROOT + 1, levels)
    regions = [rng.getrandbits(width - 18) << 18 for _ in range(3)]
    pages = []
    for _ in range(60):
        level = rng.choice((0, 0, 0, 0, 1, 2, *range(levels)))
        vpn = rng.choice(regions) ^ rng.getrandbits(5) << 9 * level ^ rng.getrandbits(3)
        vpn &= (1 << width) - 1
        slot = tables.slot(ROOT, vpn << 12, level)
        lacking = rng.choice((0, 0, A, D, A | D, W | D, W | A, None))
        bits = rng.getrandbits(8) if lacking is None else USER_RW & ~lacking
        frame = rng.getrandbits(24) << 9 * level & (1 << 44) - 1
        word = leaf(frame, bits)
        if level == 0 and rng.random() < 0.3:
            word = napot_leaf(frame, bits)
        if rng.random() < 0.15:
            word ^= 1 << rng.randrange(64)
        words[slot] = word
        pages.append(vpn ^ rng.getrandbits(9 * level))
    return pages


@pytest.mark.parametrize("svadu", [False, True])
@pytest.mark.parametrize("levels", [3, 4, 5])
def test_random_tables_agree_with_the_model(levels: int, svadu: bool) -> None:
    """Every mode that the build serves, out of order, many at once, on a hesitating bus; A and D in the end too."""
    config = replace(CONFIG, levels=levels, svadu=svadu, walks=5, walk_cache=3)

    async def scenario(bench: WalkerBench) -> None:
        rng = random.Random(levels)
        pages = random_tables(bench, rng)
        memory = bench.memory
        memory.latency = lambda: rng.randint(1, 12)
        memory.ready = lambda: rng.random() < 0.8
        memory.missing = lambda address: address >> 12 > 0x4000
        bench.fill_ready = lambda: rng.random() < 0.5
        before = dict(memory.words)
        accesses = [Access(rng.choice(pages), rng.random() < 0.4) for _ in range(100)]
        await bench.run(*accesses)
        changed = {at: word for at, word in memory.words.items() if before.get(at, 0) != word}
        memory.words = dict(before)
        updates = {}
        for access in accesses:
            check(bench, access)
            update = model(bench, access).update
            if update:
                updates[update[0]] = memory.words[update[0]] = update[1]
        assert changed == updates
        assert bool(updates) == svadu
        assert {access.outcome for access in accesses} >= {Outcome.GRANTED, Outcome.PAGE_FAULT}

    simulate(scenario, config, seed=levels)


def touched_page(bench: WalkerBench, level: int, distance: int, **fields: int) -> dict[str, int]:
    """Return an invalidation of a page in the span of the leaf, after a step of the host that changes the leaf."""
    map_vpn(bench, level, frame=2 * FRAME)
    return page(VPN + distance, **fields)


@pytest.mark.parametrize(
    ("level", "distance", "fields"),
    [
        (0, 0, {}),
        (0, 0, {"leaf_only": 1, "asid": 9}),
        (0, 0, {"everything": 1, "asid": 9, "group": 9, "first": 0, "last": (1 << 27) - 1}),
        (1, 400, {"leaf_only": 1}),
        (2, 513, {"leaf_only": 1, "last": VPN + 9999, "page": 0}),
    ],
)
def test_an_overlapping_invalidation_kills_the_walk_in_every_cycle(
    level: int, distance: int, fields: dict[str, int]
) -> None:
    """Whatever is answered after it, or filled, is of the new leaf."""

    async def scenario(bench: WalkerBench) -> None:
        bench.memory.latency = lambda: 2
        again = 0
        for when in range(1, 4 * (3 - level) + 8):
            map_vpn(bench, level)
            bench.kill = page(VPN, everything=1)
            await bench.step()
            access = Access(VPN)
            bench.ask(access)
            await bench.until(lambda access=access: access.walk is not None)
            begun = bench.cycle
            while bench.cycle < begun + when - 1:
                await bench.step()
            bench.kill = touched_page(bench, level, distance, **fields)
            fills = len(bench.fills)
            killed_at = bench.cycle + 1
            await bench.finish()
            frames = {entry.ppn for cycle, entry in bench.fills[fills:] if cycle > killed_at}
            assert frames <= {2 * FRAME}
            assert access.outcome == Outcome.GRANTED
            if access.answered >= killed_at:
                assert access.entry.ppn == 2 * FRAME
                again += access.tries > 1
            else:
                assert access.entry.ppn == FRAME
            if access.tries > 1:
                assert frames == {2 * FRAME}
        assert again >= 4 * (3 - level)

    simulate(scenario, CONFIG)


@pytest.mark.parametrize("fields", [{"asid": 9, "group": 9}, {"asid": 9, "keep_global": 1}])
def test_another_invalidation_leaves_the_walk_alone(fields: dict[str, int]) -> None:
    """Another's, or one that spares what is shared; nothing is owed to it, no pointer is lost."""

    async def scenario(bench: WalkerBench) -> None:
        map_vpn(bench)
        for when in range(12):
            bench.kill = page(VPN, everything=1)
            await bench.step()
            access = Access(VPN)
            bench.ask(access)
            for _ in range(when):
                await bench.step()
            bench.kill = page(VPN, **fields)
            await bench.finish()
            assert (access.outcome, access.tries, bench.owed) == (Outcome.GRANTED, 1, set())
            # Killed pointers and leaf: all three levels again; nothing was owed, so nothing has settled.
            assert len(bench.memory.reads) == 3 * (when + 1)
        assert bench.settled_at == -1

    simulate(scenario, CONFIG)


def test_an_unlinked_table_is_not_read_once_its_walks_have_settled() -> None:
    """I17, in every cycle of a neighbour's walk: after the settling no read of the table is offered or answered."""

    async def scenario(bench: WalkerBench) -> None:
        bench.memory.latency = lambda: 3
        other, owed = 0x13, 0
        for when in range(22):
            map_vpn(bench)
            bench.kill = page(VPN, everything=1)
            await bench.step()
            bench.ask(Access(VPN))
            for _ in range(when):
                await bench.step()
            bench.memory.words[SLOTS[1]] = pointer(other)
            bench.memory.words[other * PAGE + 7 * 8] = leaf(FRAME)
            # Software names another page of the table: VPN itself stays as it was.
            bench.kill = page(VPN + 1)
            await bench.step()
            owed += bool(bench.owed)
            await bench.until(lambda: not bench.owed)
            freed_at = bench.cycle
            await bench.finish()
            await bench.run(Access(VPN + 2), Access(VPN, write=True))
            late = [
                at for cycle, _, at in bench.offers if cycle >= freed_at and at >> 12 == TABLES[2]
            ]
            assert not late, f"killed {when} cycles after the request"
        assert owed > 8

    simulate(scenario, CONFIG)


def test_misses_of_a_page_share_a_walk() -> None:
    """Also with an answer that stands; but a write only where it may write, and none of before an invalidation."""

    async def scenario(bench: WalkerBench) -> None:
        map_vpn(bench)
        bench.memory.latency = lambda: 6
        accesses = [Access(VPN), Access(VPN), Access(VPN + 1), Access(VPN)]
        bench.memory.words[SLOTS[2] + 8] = leaf(FRAME + 1, USER_RO)
        await bench.run(*accesses)
        first, second, other, last = accesses
        assert first.walk == second.walk == last.walk != other.walk
        reads = len(bench.memory.reads)
        late, late_write = Access(VPN), Access(VPN, write=True)
        await bench.run(late, late_write)
        assert (late.walk, late.answered, late_write.walk) == (
            first.walk,
            late.asked + 1,
            first.walk,
        )
        assert len(bench.memory.reads) == reads
        refused = Access(VPN + 1, write=True)
        await bench.run(refused)
        assert (refused.outcome, refused.walk == other.walk) == (Outcome.PAGE_FAULT, False)
        assert len(bench.memory.reads) == reads + 1
        bench.young = True
        await bench.step()
        bench.young = False
        asked = Access(VPN)
        await bench.run(asked)
        assert len(bench.memory.reads) == reads + 2
        before = Access(VPN + 3)
        bench.ask(before)
        await bench.until(lambda: before.walk is not None)
        bench.memory.words[SLOTS[2] + 24] = leaf(FRAME + 3)
        bench.kill = page(VPN + 3)
        await bench.step()
        await bench.step()
        after = Access(VPN + 3)
        await bench.run(after)
        assert (before.tries, after.tries) == (2, 1)
        assert after.entry.ppn == before.entry.ppn == FRAME + 3

    simulate(scenario, CONFIG)


def test_a_read_that_joined_a_write_is_not_refused_with_it() -> None:
    """A page that may be read only: the fault is the write's."""

    async def scenario(bench: WalkerBench) -> None:
        map_vpn(bench, bits=USER_RO)
        write, read = Access(VPN, write=True), Access(VPN)
        await bench.run(write, read)
        assert (write.outcome, read.outcome) == (Outcome.PAGE_FAULT, Outcome.GRANTED)
        assert (read.tries, read.entry.writable) == (2, 0)

    simulate(scenario, CONFIG)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_holds_are_asked_for_the_page_and_for_the_span(level: int) -> None:
    """A held page is not walked for; a leaf that reaches into a hold is not answered, nor filled."""

    async def scenario(bench: WalkerBench) -> None:
        map_vpn(bench, level, frame=FRAME)
        held = VPN + (300 if level else 0)
        bench.held = lambda first, last: first <= held <= last
        access = Access(VPN)
        bench.ask(access)
        for _ in range(40):
            await bench.step()
        assert (bench.fills, access.outcome) == ([], None)
        assert access.tries > 1
        assert bool(bench.memory.reads) == bool(level)
        bench.held = lambda _first, _last: False
        await bench.finish()
        assert (access.outcome, len(bench.fills)) == (Outcome.GRANTED, 1)

    simulate(scenario, CONFIG)


def test_a_hold_keeps_faults_back_too() -> None:
    """Placed, with its invalidation, in each cycle of a walk, beside whose announcement none begins; the page is unmapped under it."""

    async def scenario(bench: WalkerBench) -> None:
        bench.memory.latency = lambda: 2
        for _ in range(3):
            await bench.step()
        for when in range(16):
            map_vpn(bench)
            access = Access(VPN)
            bench.ask(access)
            for _ in range(when):
                await bench.step()
            bench.memory.words[SLOTS[2]] = 0
            bench.kill = page(VPN)
            placed = bench.cycle + 1
            await bench.step()
            assert access.asked != placed - 1
            bench.held = lambda first, last: first <= VPN <= last
            for _ in range(24):
                await bench.step()
            assert access.outcome is None or access.answered < placed
            assert access.outcome != Outcome.PAGE_FAULT
            bench.held = lambda _first, _last: False
            await bench.finish()
            late = access.answered > placed
            assert access.outcome == (Outcome.PAGE_FAULT if late else Outcome.GRANTED)

    simulate(scenario, CONFIG)


@pytest.mark.parametrize("config", [CONFIG, SVADU])
def test_who_asks_after_a_release_is_not_told_of_the_hold(config: SecmmuConfig) -> None:
    """Nobody would release it: in each cycle of a walk, of which the leaf is found held, perhaps, just before."""

    async def scenario(bench: WalkerBench) -> None:
        told = 0
        for when in range(20):
            map_vpn(bench, 1, bits=USER_RW & ~A if config.svadu else USER_RW)
            bench.kill = page(VPN, everything=1)
            await bench.step()
            release = bench.cycle + when
            # Another page of the leaf's 2 MiB is held.
            bench.held = lambda first, last, release=release: (
                first != last and bench.cycle <= release
            )
            first, second = Access(VPN), Access(VPN)
            bench.ask(first)
            await bench.until(lambda release=release: bench.cycle > release)
            bench.ask(second)
            await bench.finish()
            assert second.tries == 1, f"released {when} cycles after the request"
            told += first.tries > 1
        assert told > 8

    simulate(scenario, config)


def test_a_pointer_makes_what_is_below_it_global() -> None:
    """Through the walk cache as well."""

    async def scenario(bench: WalkerBench) -> None:
        map_vpn(bench)
        bench.memory.words[SLOTS[0]] |= G
        bench.memory.words[SLOTS[2] + 8] = leaf(FRAME + 1)
        first, second = Access(VPN), Access(VPN + 1)
        await bench.run(first)
        await bench.run(second)
        assert len(bench.memory.reads) == 4
        for access in (first, second):
            span = access.entry.translation
            assert (span.shared, span.asid, span.group) == (1, 1, 5)

    simulate(scenario, CONFIG)


@pytest.mark.parametrize("write", [False, True])
def test_a_lost_update_reads_again_and_keeps_what_the_cpu_wrote(write: bool) -> None:
    """Svadu: a store between the exclusive read and the exclusive write, in each cycle of them."""

    async def scenario(bench: WalkerBench) -> None:
        memory = bench.memory
        memory.latency = lambda: 3
        lost = 0
        for when in range(32):
            map_vpn(bench, bits=USER_RW & ~A & ~D)
            bench.kill = page(VPN, everything=1)
            await bench.step()
            access = Access(VPN, write)
            bench.ask(access)
            for _ in range(when):
                await bench.step()
            memory.store(SLOTS[2], memory.words[SLOTS[2]] & ~leaf(-1, 0) | leaf(3 * FRAME, 0))
            await bench.finish()
            assert memory.words[SLOTS[2]] >> 10 == 3 * FRAME, "the store was lost"
            assert access.outcome == Outcome.GRANTED
            done = [exclusive for _, _, exclusive in memory.writes]
            lost += not all(done)
            memory.writes.clear()
            assert memory.words[SLOTS[2]] & (A | D) == (A | D if write else A)
        assert lost > 3

    simulate(scenario, SVADU)


@pytest.mark.parametrize("write", [False, True])
def test_a_memory_without_exclusives_is_an_access_fault(write: bool) -> None:
    """OKAY to an exclusive read; nothing is written."""

    async def scenario(bench: WalkerBench) -> None:
        map_vpn(bench, bits=USER_RW & ~A)
        bench.memory.exclusive = False
        access = Access(VPN, write)
        await bench.run(access)
        assert (access.outcome, bench.memory.writes) == (Outcome.ACCESS_FAULT, [])

    simulate(scenario, SVADU)


def test_a_refused_update_is_an_access_fault() -> None:
    """The table can be read but not written; the walker goes on working."""

    async def scenario(bench: WalkerBench) -> None:
        map_vpn(bench, bits=USER_RW & ~A)
        memory = bench.memory
        access = Access(VPN)
        bench.ask(access)
        await bench.until(lambda: bool(memory.monitors))
        memory.missing = lambda _address: True
        await bench.finish()
        assert access.outcome == Outcome.ACCESS_FAULT
        memory.missing = lambda _address: False
        later = Access(VPN)
        await bench.run(later)
        assert later.outcome == Outcome.GRANTED

    simulate(scenario, SVADU)


def test_what_the_mutant_breaks() -> None:
    """``rtl-no-walk-kill``: the walk in progress goes in."""

    async def scenario(bench: WalkerBench) -> None:
        map_vpn(bench)
        access = Access(VPN)
        bench.ask(access)
        await bench.until(lambda: len(bench.memory.reads) == 3)
        bench.kill = touched_page(bench, 0, 0)
        await bench.finish()
        assert access.entry.ppn == FRAME

    simulate(scenario, replace(CONFIG, mutant="rtl-no-walk-kill"))
