"""The rules of AXI that proofs assert and assume, on traces that keep and break them."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from secmmu.axi import Axi4Signature, Burst
from shootdown.formal.rules import ReadLedger, WriteLedger, stays, within_page


def play(rules, trace):
    """Return, for each cycle of ``trace`` (a dict of the port's members), what ``rules(m, port)`` says."""
    m = Module()
    port = Axi4Signature(addr_bits=16, id_bits=1, user_bits=1).create()
    holds, clocked = Signal(), Signal()
    m.d.comb += holds.eq(rules(m, port))
    # Also for a rule without registers.
    m.d.sync += clocked.eq(1)
    said = []

    async def drive(ctx):
        before = {}
        for cycle in trace:
            for name in before:
                ctx.set(getattr(port, name), 0)
            for name, value in cycle.items():
                ctx.set(getattr(port, name), value)
            before = cycle
            said.append(ctx.get(holds))
            await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    return said


AR = {"arvalid": 1, "arready": 1}
R = {"rvalid": 1, "rready": 1}
AW = {"awvalid": 1, "awready": 1}
W = {"wvalid": 1, "wready": 1}
B = {"bvalid": 1, "bready": 1}


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        ([{"arvalid": 1, "araddr": 8}, {"arvalid": 1, "araddr": 8}], [1, 1]),
        ([{"arvalid": 1, "araddr": 8}, {"arvalid": 1, "araddr": 16}], [1, 0]),
        ([{"arvalid": 1}, {}], [1, 0]),
        ([{"arvalid": 1, "arready": 1}, {}], [1, 1]),
    ],
    ids=["waits", "changes", "is taken back", "is taken"],
)
def test_what_is_offered_stays(trace, said):
    def rules(m, port):
        return stays(m, port.arvalid, port.arready, port.araddr)

    assert play(rules, trace) == said


@pytest.mark.parametrize(
    ("burst", "address", "length", "size", "within"),
    [
        (Burst.INCR, 0xFF8, 0, 3, 1),
        (Burst.INCR, 0xFF8, 1, 3, 0),
        (Burst.INCR, 0xFFE, 1, 1, 0),
        (Burst.INCR, 0x801, 255, 3, 1),
        (Burst.INCR, 0x808, 255, 3, 0),
        (Burst.WRAP, 0xFF8, 1, 3, 1),
        (Burst.FIXED, 0xFF8, 1, 3, 1),
        (Burst.INCR, 0, 0, 4, 0),
    ],
)
def test_a_burst_stays_in_its_page(burst, address, length, size, within):
    cycle = {"arburst": burst.value, "araddr": address, "arlen": length, "arsize": size}
    assert play(lambda _m, port: within_page(port, "ar"), [cycle]) == [within]


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        ([R], [0]),
        ([AR, R | {"rlast": 1}, R | {"rlast": 1}], [1, 1, 0]),
        ([AR | {"arlen": 1}, R | {"rlast": 1}], [1, 0]),
        ([AR | {"arlen": 1}, R, R | {"rlast": 1}], [1, 1, 1]),
        ([AR | {"arlen": 1}, AR, R, R | {"rlast": 1}, R | {"rlast": 1}], [1, 1, 1, 1, 1]),
        ([AR | {"arlen": 1}, AR | {"arid": 1}, R | {"rid": 1, "rlast": 1}, R], [1, 1, 1, 1]),
        ([AR, R | {"rid": 1, "rlast": 1}], [1, 0]),
    ],
)
def test_a_read_beat_is_owed_and_the_last_where_it_must_be(trace, said):
    def rules(m, port):
        ledger = ReadLedger(m, port, depth=2)
        return ledger.allows(port) & ledger.fits

    assert play(rules, trace) == said


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        ([W | {"wlast": 1}], [0]),
        ([AW | W | {"wlast": 1}, B], [1, 1]),
        ([{"awvalid": 1}, {"awvalid": 1} | W | {"wlast": 1}, B], [1, 1, 0]),
        ([AW, B], [1, 0]),
        ([AW | {"awlen": 1}, W, {"bvalid": 1}, W | {"wlast": 1}, B], [1, 1, 0, 1, 1]),
        ([AW | {"awlen": 1}, W | {"wlast": 1}], [1, 0]),
        ([AW, AW | {"awid": 1}, W | {"wlast": 1}, B | {"bid": 1}], [1, 1, 1, 0]),
    ],
)
def test_a_write_has_its_data_in_order_and_is_answered_after_it(trace, said):
    def rules(m, port):
        ledger = WriteLedger(m, port, depth=2)
        return ledger.allows_data(port) & ledger.allows_answer(port) & ledger.fits

    assert play(rules, trace) == said
