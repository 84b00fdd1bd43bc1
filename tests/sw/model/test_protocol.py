"""The model's newer protocol: drop-ins and their epochs, stalled faults, young, contexts, globals, time-outs, walks."""

import pytest

from hostmm.driver.link import message
from hostmm.driver.pack import packer, unpacker
from secmmu.csr import CONTEXT_BASE, EMULATOR_REGISTERS, REGISTERS
from secmmu.layouts import (
    AccessArg,
    Cause,
    CommandKind,
    DropinLayout,
    Event,
    Op,
    RecordLayout,
    Response,
    ResumeLayout,
)
from tests.sw.model.test_model import FRAME, LEAF, PTE, ROOT, TABLE, VA, Bench, words

DROPIN = packer(DropinLayout())
RESUME = packer(ResumeLayout())
RECORD = unpacker(RecordLayout())
ARG = unpacker(AccessArg())
VPN = VA >> 12
STALL = 1 << 52


class StallBench(Bench):
    """A model whose asid 1 has no leaf mapped, and stalls."""

    def __init__(self):
        super().__init__(v=0)
        self.context(ROOT | 8 << 60 | STALL)

    def context(self, word):
        self.out += message(Op.CSR_WRITE, (word,), arg=CONTEXT_BASE + 8)

    def drop_in(self, *, epoch, pfn=FRAME, tag=5, vpn=VPN, grain=0, **leaf):
        pte = PTE(**LEAF | leaf, ppn=pfn)
        value = DROPIN(asid=1, grain=grain, tag=tag, vpn=vpn, pte=pte, epoch=epoch)
        self.out += message(Op.DROPIN, words(value, 4))

    def resume(self, place, retry):
        self.out += message(Op.RESUME, (RESUME(place=place, retry=retry),))

    def stalled(self, **access):
        """Fault once; returns (place, epoch)."""
        self.dma(**access)
        records = self.advance(self.model.clock.cycle + 1000)
        (row,) = records.of(Event.FAULT)
        head = RECORD(int(row[0]))
        assert ARG(head["arg"])["stalled"] == 1
        assert not len(records.of(Event.DMA_DONE))
        return head["tag"], int(row[3])

    def taken(self):
        (row,) = self.advance(self.model.clock.cycle + 100).of(Event.DROPPED)
        return RECORD(int(row[0]))["arg"]


def test_a_stalled_access_goes_on_with_the_entry_that_was_dropped_in():
    bench = StallBench()
    place, epoch = bench.stalled(write=1, data=7)
    bench.drop_in(epoch=epoch)
    bench.resume(place, 1)
    records = bench.advance(5000)
    assert RECORD(int(records.of(Event.DROPPED)[0][0])) == {
        "kind": Event.DROPPED.value,
        "source": 0,
        "tag": 5,
        "arg": 1,
        "cycle": 0,
        "a": 0,
        "b": 0,
    }
    assert len(records.of(Event.FILL)) == 1
    assert records.code(Event.DMA_DONE) == Response.OKAY.value
    assert bench.model.memory[FRAME << 9] == 7


def test_an_aborted_access_is_refused_and_a_place_without_one_changes_nothing():
    bench = StallBench()
    place, _ = bench.stalled()
    bench.resume(place + 2, 0)
    assert not len(bench.advance(2000).of(Event.DMA_DONE))
    bench.resume(place, 0)
    records = bench.advance(3000)
    assert records.code(Event.DMA_DONE) == Response.SLVERR.value
    assert not len(records.of(Event.FAULT))


def test_a_stalled_access_lets_others_pass():
    bench = StallBench()
    bench.stalled()
    bench.out += message(Op.CSR_WRITE, (ROOT | 8 << 60,), arg=CONTEXT_BASE + 8)
    bench.dma(tag=2)
    assert bench.advance(3000).code(Event.DMA_DONE) == Response.SLVERR.value


@pytest.mark.parametrize(
    ("kind", "span", "taken"),
    [
        (CommandKind.PAGE, {}, 0),
        (CommandKind.RANGE, {"first": VPN - 1, "last": VPN + 1}, 0),
        (CommandKind.ASID, {}, 0),
        (CommandKind.ALL, {}, 0),
        (CommandKind.CONTEXT, {}, 0),
        (CommandKind.PAGE, {"first": VPN + 1}, 1),
        (CommandKind.FENCE, {}, 1),
        (CommandKind.YOUNG, {}, 1),
    ],
)
def test_a_drop_in_is_refused_if_its_page_was_invalidated_since_the_miss(kind, span, taken):
    bench = StallBench()
    _, epoch = bench.stalled()
    bench.command(kind, **span)
    bench.drop_in(epoch=epoch)
    assert bench.taken() == taken
    bench.drop_in(epoch=epoch + 1)
    assert bench.taken() == 1


@pytest.mark.parametrize(("others", "taken"), [(16, 1), (17, 0)])
def test_an_epoch_older_than_the_log_is_refused(others, taken):
    bench = StallBench()
    _, epoch = bench.stalled()
    for _ in range(others):
        bench.command(CommandKind.PAGE, first=VPN + 9)
    bench.drop_in(epoch=epoch)
    assert bench.taken() == taken


def test_a_drop_in_is_refused_inside_a_hold():
    bench = StallBench()
    bench.command(CommandKind.RANGE, hold=1)
    bench.drop_in(epoch=1)
    assert bench.taken() == 0
    bench.command(CommandKind.RELEASE)
    bench.drop_in(epoch=2)
    assert bench.taken() == 1


@pytest.mark.parametrize(
    ("leaf", "grain"),
    [({"v": 0}, 0), ({"r": 0}, 0), ({"reserved": 1}, 0), ({"r": 0, "x": 0, "w": 0}, 0), ({}, 2)],
)
def test_a_drop_in_that_a_walk_would_refuse_is_refused(leaf, grain):
    bench = StallBench()
    bench.drop_in(epoch=0, grain=grain, pfn=FRAME + 1, **leaf)
    assert bench.taken() == 0


def test_young_answers_once_for_each_use():
    bench = Bench()
    answers = []
    for used in (False, True, False):
        if used:
            bench.dma()
            bench.advance(bench.model.clock.cycle + 1000)
        bench.command(CommandKind.YOUNG)
        records = bench.advance(bench.model.clock.cycle + 1000)
        answers.append(RECORD(int(records.of(Event.INVALIDATED)[0][0]))["arg"])
        assert len(records.of(Event.DRAINED)) == 1
        assert not len(records.of(Event.KILL))
    assert answers == [0, 1, 0]


@pytest.mark.parametrize(("kind", "misses"), [(CommandKind.ASID, 0), (CommandKind.CONTEXT, 1)])
def test_keep_global_spares_globals_but_not_from_a_changed_context(kind, misses):
    bench = Bench(g=1)
    bench.dma()
    bench.advance(1000)
    bench.command(kind, keep_global=1)
    bench.dma(tag=2)
    assert len(bench.advance().of(Event.WALK)) == misses


def test_a_walk_ends_with_its_number():
    bench = Bench()
    bench.dma()
    records = bench.advance(1000)
    (walk,), (walked,) = records.of(Event.WALK), records.of(Event.WALKED)
    assert int(walk[0]) >> 32 == int(walked[0]) >> 32
    assert int(walked[3]) == PTE(**LEAF, ppn=FRAME)
    bench.write(TABLE << 12, 0)
    bench.command(CommandKind.PAGE)
    bench.dma(write=1)
    records = bench.advance()
    (refused,) = records.of(Event.WALK_REFUSED)
    assert ARG(int(refused[0]) >> 32)["code"] == Cause.STORE_PAGE.value
    assert int(refused[1]) == records.cycle(Event.FAULT)


def test_a_command_gives_up_on_a_use_that_lasts_and_the_asid_is_fenced():
    bench = Bench()
    bench.out += message(Op.CSR_WRITE, (200,), arg=REGISTERS["mmu.timeout"].address)
    bench.dma()
    bench.advance(1000)
    latency = EMULATOR_REGISTERS["memory.read_latency"].address
    bench.out += message(Op.CSR_WRITE, (5000,), flags=1, arg=latency)
    bench.dma(tag=2)
    bench.advance(1010)
    bench.command(CommandKind.PAGE)
    records = bench.advance(2000)
    accepted = records.cycle(Event.ACCEPTED)
    assert records.cycle(Event.TIMED_OUT) == accepted + 200
    assert not len(records.of(Event.DRAINED))
    bench.out += message(Op.CSR_WRITE, (1,), arg=REGISTERS["mmu.unfence"].address)
    bench.dma(tag=3)
    records = bench.advance(3000)
    assert records.code(Event.FAULT) == Cause.LOAD_ACCESS.value, "its use has not ended"
    bench.advance(9000)
    bench.out += message(Op.CSR_WRITE, (1,), arg=REGISTERS["mmu.unfence"].address)
    bench.out += message(Op.CSR_WRITE, (20,), flags=1, arg=latency)
    bench.dma(tag=4)
    assert bench.advance().code(Event.DMA_DONE) == Response.OKAY.value
