"""I21: an invalidation too many costs a walk."""

from hostmm.machine.timeline import Notification, Row
from hostmm.mm.pagetable import PTE_A, PTE_D
from hostmm.policies import V9
from shootdown.checks import check, examined
from tests.tb.timelines import Scene, pte

MM, VPN, PFN = 1, 0x10, 0x20
WORD = pte(PFN, writable=True)


def test_a_kill_for_nothing() -> None:
    """Late, and twice: the entry comes back, A and D are where they were."""
    scene = Scene(V9)
    scene.alloc(PFN)
    scene.row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=WORD)
    scene.fill(20, MM, VPN, PFN, entry=3, writable=True)
    for cycle, entries in ((100, (3,)), (120, ())):
        with scene.at(cycle).notify(Notification.INVALIDATE_PAGE, MM, VPN):
            scene.command(MM, VPN, killed=entries)
    scene.fill(140, MM, VPN, PFN, entry=3, writable=True)
    history = scene.history()
    assert check(history) == []
    assert examined(history)["I21"] == 1


def test_a_callback_drops_young_or_dirty() -> None:
    """Only a young query may clear the accessed bit, and nobody the dirty one."""
    page, young = Notification.INVALIDATE_PAGE, Notification.CLEAR_FLUSH_YOUNG
    for kind, bit, broken in (
        (page, PTE_A, 1),
        (page, PTE_D, 1),
        (young, PTE_A, 0),
        (young, PTE_D, 1),
    ):
        scene = Scene(V9)
        scene.alloc(PFN)
        scene.row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=WORD)
        with scene.at(100).notify(kind, MM, VPN):
            scene.row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=WORD & ~bit, b=WORD)
            with scene.thread("cpu1"):
                scene.row(Row.PTE_SET, mm=MM, vpn=VPN + 1, pfn=PFN, a=WORD & ~bit, b=WORD)
        found = scene.violations("I21")
        assert len(found) == broken, (kind, bit)


def test_a_callback_cleans_a_page() -> None:
    """Whoever wrote it is forgotten."""
    scene = Scene(V9)
    with scene.at(100).notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.row(Row.PAGE_DIRTY, pfn=PFN, tag=0, a=1)
    (violation,) = scene.violations("I21")
    assert "cleared the dirty flag of frame 0x20" in violation.what


def test_a_walk_that_a_command_met_hangs() -> None:
    """Its access waits for ever; one that is killed, and starts again, does not."""
    for ends, broken in ((True, 0), (False, 1)):
        scene = Scene(V9)
        scene.walk(95, MM, VPN)
        scene.at(100).command(MM, VPN)
        if ends:
            scene.walk_killed(105, MM, VPN)
        scene.at(500).row(Row.CACHE_FLUSH, mm=MM, vpn=VPN)
        found = scene.violations("I21")
        assert len(found) == broken
        assert all((v.cycle, v.expected) == (100, False) for v in found)
