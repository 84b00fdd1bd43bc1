"""I7: no device write is lost when a page is written out."""

from hostmm.machine.timeline import Notification, Row
from tests.tb.timelines import Scene, pte

MM, VPN, PFN, SLOT = 1, 0x10, 0x20, 0x8000
VA = VPN << 12


def mkclean(scene: Scene, *, invp: int, write: tuple[int, int], redirty: bool = False) -> None:
    """page_mkclean at 100, notified at ``invp``, content taken at 200; a device write in between."""
    scene.alloc(PFN)
    scene.fill_page(PFN, 0)
    scene.row(Row.PAGE_DIRTY, pfn=PFN, tag=1, a=1)
    scene.pte_set(MM, VPN, PFN, writable=True)
    scene.fill(20, MM, VPN, PFN, entry=3, writable=True)
    scene.at(90).device_write(write[0], write[1], MM, VA, PFN, 777)
    with scene.path("page_mkclean_one"):
        scene.at(100).pte_clear(MM, VPN, PFN, writable=True)
        scene.at(101).pte_set(MM, VPN, PFN)
        with scene.at(invp).notify(Notification.INVALIDATE_PAGE, MM, VPN):
            scene.command(MM, VPN, killed=(3,), drained=40)
    scene.at(190).row(Row.PAGE_DIRTY, pfn=PFN, tag=0, a=1)
    if redirty:
        scene.at(195).row(Row.PAGE_DIRTY, pfn=PFN, tag=1, a=1)
    scene.at(200).write_out(SLOT, PFN)


def test_write_that_ends_before_the_content_is_taken() -> None:
    """Litmus test L5, kept: the callback waits for the write."""
    scene = Scene()
    mkclean(scene, invp=105, write=(102, 140))
    assert scene.violations() == []


def test_write_that_ends_behind_it() -> None:
    """Litmus test L5, broken: the write is neither in the store nor is the page dirty."""
    scene = Scene()
    mkclean(scene, invp=105, write=(102, 230))
    (violation,) = scene.violations("I7")
    assert (violation.cycle, violation.expected, violation.path) == (200, False, "page_mkclean_one")
    assert "which ended in cycle 230 and left the page clean" in violation.what


def test_page_dirtied_again_is_written_out_once_more() -> None:
    """So nothing is lost."""
    scene = Scene()
    mkclean(scene, invp=105, write=(102, 230), redirty=True)
    assert scene.violations("I7") == []


def test_write_through_a_new_translation() -> None:
    """It has faulted first, which makes the page dirty in its own time."""
    scene = Scene()
    mkclean(scene, invp=105, write=(60, 70))
    scene.at(210).row(
        Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=pte(PFN, writable=True), b=pte(PFN, writable=False)
    )
    scene.fill(220, MM, VPN, PFN, entry=3, writable=True)
    scene.device_write(220, 250, MM, VA, PFN, 888, id=1, tag=2)
    assert scene.violations("I7") == []
