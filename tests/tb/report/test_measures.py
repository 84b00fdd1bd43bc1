"""What is measured, on hand-computed samples."""

from hostmm.machine.timeline import LockClass, Notification, Row
from hostmm.policies import SEED, V9
from secmmu.csr import EMULATOR_REGISTERS, REGISTERS
from secmmu.layouts import CommandKind, Event
from shootdown.report.measures import (
    BOTH,
    COUNT,
    MEASURES,
    RTL,
    PathSamples,
    device_counters,
    end_to_end,
    measure,
    page_counters,
    path_samples,
)
from shootdown.report.results import PathResult
from tests.tb.timelines import CYCLE_NS, Scene

MM, VPN, PFN = 1, 0x10, 0x20
VA = VPN << 12


def samples(scene: Scene, path: str) -> PathSamples:
    """The samples of one path."""
    return path_samples(scene.history())[path]


def warm(policy=SEED) -> Scene:
    """A page that the device has an entry for."""
    scene = Scene(policy)
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    scene.fill(20, MM, VPN, PFN, entry=3)
    return scene


def test_classes_and_floor() -> None:
    """No entry: 12 cycles. An idle one: 22. In flight: 35 of which the use takes 30."""
    scene = warm()
    scene.use(290, 330, MM, VA, PFN)
    scene.fill(280, MM, VPN, PFN, entry=4)
    with scene.path("page_mkclean_one"):
        for cycle, vpn, killed, drained in (
            (100, VPN + 9, (), 12),
            (200, VPN, (3,), 22),
            (300, VPN, (4,), 35),
        ):
            with scene.at(cycle).notify(Notification.INVALIDATE_PAGE, MM, vpn):
                scene.command(MM, vpn, killed=killed, drained=drained)
    history = scene.history()
    found = path_samples(history)["page_mkclean_one"]
    assert found.shootdowns == {"none": [12], "idle": [22], "in_flight": [35]}
    assert found.floor_cycles == [30]
    assert found.callback_ns == [130, 230, 360]
    result = measure(history)["page_mkclean_one"]
    assert result.notifications == 3
    assert result.shootdown_cycles.n == 3
    assert result.shootdown_cycles.max == 35
    assert result.shootdown_by_class.idle.p50 == 22
    assert result.clear_to_drained_ns is None
    assert result.unmap_to_free_ns is None


def test_waiting_at_the_port_counts() -> None:
    """Issue is the cycle at the port, not the handshake."""
    scene = warm()
    callback = scene.at(100).notify(Notification.INVALIDATE_PAGE, MM, VPN)
    with scene.path("page_mkclean_one"), callback:
        scene.row(Row.INV_ISSUE, mm=MM, vpn=VPN, tag=1, a=VPN, b=1)
        scene.hardware(107, Event.ACCEPTED, tag=1, arg=CommandKind.PAGE.value, a=VPN, b=VPN)
        scene.hardware(109, Event.INVALIDATED, tag=1)
        scene.hardware(110, Event.DRAINED, tag=1)
        scene.at(120)
    assert samples(scene, "page_mkclean_one").shootdown_cycles == [10]


def test_kinds_are_counted_apart_and_ends_not_at_all() -> None:
    """A range pair is one; its release is no shootdown."""
    scene = warm()
    with scene.path("mprotect"):
        with scene.notify(Notification.RANGE_START, MM, VPN):
            scene.at(100).command(MM, VPN, killed=(3,))
        with scene.notify(Notification.RANGE_END, MM, VPN):
            scene.command(MM, VPN, kind=CommandKind.RELEASE)
    with scene.path("page_referenced_one"):
        for _ in range(2):
            with scene.notify(Notification.CLEAR_FLUSH_YOUNG, MM, VPN):
                pass
    found = path_samples(scene.history())
    assert found["mprotect"].kinds == {"page": 0, "young": 0, "range": 1}
    assert len(found["mprotect"].shootdown_cycles) == 1
    assert found["page_referenced_one"].kinds == {"page": 0, "young": 2, "range": 0}
    assert list(found) == ["page_referenced_one", "mprotect"]


def test_a_young_query_is_no_sample_beside_page_invalidations() -> None:
    """try_to_unmap_one under #v9 asks, which drains the page, and then invalidates what is no longer there."""
    scene = warm()
    with scene.path("try_to_unmap_one"):
        with scene.at(100).notify(Notification.CLEAR_FLUSH_YOUNG, MM, VPN):
            scene.command(MM, VPN, killed=(3,), drained=9)
        with scene.at(150).notify(Notification.INVALIDATE_PAGE, MM, VPN):
            scene.command(MM, VPN, drained=3)
    found = samples(scene, "try_to_unmap_one")
    assert found.kinds == {"page": 1, "young": 1, "range": 0}
    assert found.shootdown_cycles == [3]


def test_locks_of_a_path() -> None:
    """The page-table lock is taken inside it, the reverse-map lock around two of them."""
    scene = Scene()
    scene.lock(LockClass.RMAP, 8, waited=70)
    for cycle in (10, 20):
        with scene.at(cycle).path("try_to_unmap_one"):
            scene.lock(LockClass.PTL, 9, waited=5)
            with scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
                scene.at(cycle + 4).unlock(LockClass.PTL, 9, held=40)
    with scene.thread("cpu1"), scene.path("page_mkclean_one"):
        scene.row(Row.PAGE_DIRTY, pfn=PFN)
    scene.at(30).unlock(LockClass.RMAP, 8, held=300)
    found = path_samples(scene.history())
    one = found["try_to_unmap_one"]
    assert [(hold.wait_ns, hold.hold_ns) for hold in one.ptl] == [(5, 40), (5, 40)]
    assert [(hold.wait_ns, hold.hold_ns) for hold in one.rmap] == [(70, 300)]
    assert one.end_to_end_ns == [40, 40]
    assert found["page_mkclean_one"].rmap == []


def test_lock_taken_before_the_path_and_dropped_inside() -> None:
    """do_wp_page is entered with the lock held; what other locks do is not its business."""
    scene = Scene()
    scene.lock(LockClass.PTL, 9)
    scene.at(5)
    with scene.path("do_wp_page"):
        scene.at(7).unlock(LockClass.PTL, 9, held=70)
        scene.lock(LockClass.MMAP, 2)
        scene.unlock(LockClass.MMAP, 2, held=1)
        with scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
            pass
    assert [hold.hold_ns for hold in samples(scene, "do_wp_page").ptl] == [70]


def test_locks_of_the_whole_run() -> None:
    """Holds of notifying passes; waits of everybody, and their sum."""
    scene = Scene()
    with scene.path("zap_pte_range"):
        scene.lock(LockClass.PTL, 9, waited=5)
        with scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
            scene.unlock(LockClass.PTL, 9, held=40)
    scene.lock(LockClass.PTL, 9, waited=600)
    scene.unlock(LockClass.PTL, 9, held=7)
    scene.lock(LockClass.RMAP, 8, waited=70)
    scene.unlock(LockClass.RMAP, 8, held=300)
    found = end_to_end(scene.history())
    assert (found.ptl_hold_ns.n, found.ptl_hold_ns.p50) == (1, 40)
    assert (found.ptl_wait_ns.n, found.ptl_wait_ns.max, found.ptl_waited_ns) == (2, 600, 605)
    assert (found.rmap_hold_ns.p50, found.rmap_wait_ns.p50, found.rmap_waited_ns) == (300, 70, 70)


def test_two_holds_of_one_pass_are_one_sample() -> None:
    """do_wp_page holds the lock shortly, and again around the switch: a pass is their sum, if it notifies."""
    scene = Scene()
    for notifies in (True, False, True):
        with scene.path("do_wp_page"):
            for waited, held in ((3, 30), (4, 700)):
                scene.lock(LockClass.PTL, 9, waited=waited)
                scene.unlock(LockClass.PTL, 9, held=held)
            if notifies:
                with scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
                    pass
    found = samples(scene, "do_wp_page").ptl
    assert [(hold.wait_ns, hold.hold_ns) for hold in found] == [(7, 730), (7, 730)]


def test_clear_to_drained() -> None:
    """Late call: 100 to 125. Bracket: drained before, so 0. Never notified: no sample, but it clears."""
    scene = warm()
    with scene.path("try_to_unmap_one"):
        scene.at(100).pte_clear(MM, VPN, PFN)
        with scene.at(115).notify(Notification.INVALIDATE_PAGE, MM, VPN):
            scene.command(MM, VPN, killed=(3,), drained=10)
    with scene.path("unmap_region"):
        with scene.at(200).notify(Notification.RANGE_START, MM, VPN, VPN + 7):
            scene.command(MM, VPN, VPN + 7, drained=3)
        scene.at(220).pte_clear(MM, VPN + 2, PFN)
    with scene.path("do_wp_page"):
        scene.at(240).pte_clear(MM, VPN, PFN)
    found = path_samples(scene.history())
    assert found["try_to_unmap_one"].clear_to_drained_ns == [25 * CYCLE_NS]
    assert found["unmap_region"].clear_to_drained_ns == [0]
    assert found["do_wp_page"].clear_to_drained_ns == []
    assert found["do_wp_page"].clears == 1


def test_unmap_to_free_of_zap() -> None:
    """Freed in the same instance; a page that lives on in the page cache gives no sample."""
    scene = warm()
    scene.alloc(PFN + 1)
    with scene.path("unmap_region"):
        scene.at(100).pte_clear(MM, VPN, PFN)
        scene.pte_clear(MM, VPN + 1, PFN + 1)
        scene.at(130).free(PFN)
    scene.at(500).free(PFN + 1)
    assert samples(scene, "unmap_region").unmap_to_free_ns == [300]


def test_unmap_to_free_of_reclaim_leaves_io_out() -> None:
    """Unmapped at 100, written from 110 to 900, freed at 905: 100 ns and 50 ns count."""
    scene = warm()
    with scene.path("try_to_unmap_one"):
        scene.at(100).pte_clear(MM, VPN, PFN)
    scene.at(110).write_out(0x8000, PFN)
    scene.at(900).row(Row.RECLAIMED, pfn=PFN)
    scene.at(905).free(PFN)
    assert samples(scene, "try_to_unmap_one").unmap_to_free_ns == [150]


def test_page_mapped_again_is_not_freed_by_the_first_unmap() -> None:
    """Swapped back in, freed by somebody else's exit."""
    scene = warm()
    with scene.path("try_to_unmap_one"):
        scene.at(100).pte_clear(MM, VPN, PFN)
        scene.at(110).pte_set(MM, VPN, PFN)
    scene.at(900).row(Row.RECLAIMED, pfn=PFN)
    scene.free(PFN)
    assert samples(scene, "try_to_unmap_one").unmap_to_free_ns == []


def test_device_counters_by_records() -> None:
    """Two bursts that walked, one hit, one fault; bytes of the good ones."""
    scene = warm()
    scene.load(24, 40, MM, VA, PFN, (0, 0))
    scene.load(44, 60, MM, VA, PFN, (0, 0, 0), tag=2)
    scene.walk(70, MM, VPN + 1)
    scene.fault(80, MM, (VPN + 1) << 12)
    counters = device_counters(scene.history())
    assert (counters.accesses, counters.tlb_hits, counters.walks) == (3, 1, 2)
    assert (counters.faults, counters.bytes) == (1, 40)


def test_device_counters_by_registers() -> None:
    """The hardware's own, where they were read."""
    names = [*REGISTERS, *EMULATOR_REGISTERS]
    counters = device_counters(Scene().history(), {name: i for i, name in enumerate(names)})
    reads, writes = names.index("mmu.accesses.reads"), names.index("mmu.accesses.writes")
    assert counters.accesses == reads + writes
    assert counters.tlb_hits == names.index("mmu.tlb.hits")
    assert counters.bytes == names.index("dma.bytes")


def test_page_counters() -> None:
    """Allocated, freed, reclaimed, written back."""
    scene = Scene()
    scene.alloc(1, 2, 3)
    scene.free(2)
    scene.row(Row.RECLAIMED, pfn=3)
    scene.row(Row.WRITEBACK, pfn=3)
    scene.free(3)
    counters = page_counters(scene.history())
    assert (counters.allocated, counters.freed) == (3, 2)
    assert (counters.reclaimed, counters.written_back) == (1, 1)


def test_every_measure_is_labelled() -> None:
    """Nothing is reported without saying where it comes from."""
    assert set(PathResult.__struct_fields__) - {"kinds"} == set(MEASURES) - {"violations"}
    assert {measure.label for measure in MEASURES.values()} == {RTL, BOTH, COUNT}
    assert MEASURES["shootdown_cycles"].label == RTL


def test_nothing_happened() -> None:
    """An empty run measures nothing."""
    history = Scene(V9).history()
    assert measure(history) == {}
    assert device_counters(history).accesses == 0
