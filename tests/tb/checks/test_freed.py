"""I1: no freed page is reachable."""

from hostmm.machine.timeline import Notification
from secmmu.layouts import Event
from tests.tb.timelines import Scene

MM, VPN, PFN = 1, 0x10, 0x20
VA = VPN << 12


def warm() -> Scene:
    """A page that the device has a writable entry for."""
    scene = Scene()
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN, writable=True)
    scene.fill(20, MM, VPN, PFN, entry=3, writable=True)
    return scene


def unmap(scene: Scene, cycle: int, *, drained: int | None = 2) -> None:
    """Clear the PTE, invalidate, wait."""
    scene.at(cycle).pte_clear(MM, VPN, PFN, writable=True)
    with scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.command(MM, VPN, killed=(3,), drained=drained)


def test_free_behind_drained_is_clean() -> None:
    """Free behind drained is clean."""
    scene = warm()
    scene.use(30, 101, MM, VA, PFN)
    with scene.path("try_to_unmap_one"):
        unmap(scene, 100)
        scene.at(110).free(PFN)
    assert scene.violations("I1", "I2", "I19") == []


def test_entry_still_valid_at_free() -> None:
    """Entry still valid at free."""
    scene = warm()
    with scene.path("unmap_region"):
        scene.at(100).pte_clear(MM, VPN, PFN, writable=True)
        scene.free(PFN)
    (violation,) = scene.violations("I1")
    assert (violation.path, violation.cycle, violation.thread) == ("unmap_region", 100, "cpu0")
    assert not violation.expected
    assert "TLB entry 3 still maps page 0x10 of asid 1" in violation.what


def test_large_entry_still_valid_at_free_of_a_page_inside() -> None:
    """Large entry still valid at free of a page inside."""
    scene = Scene()
    scene.alloc(0x200, 0x2F0)
    scene.pte_set(MM, 0x400, 0x200)
    scene.fill(20, MM, 0x4F0, 0x200, level=1)
    scene.at(100).free(0x2F0)
    assert "page 0x400" in scene.violations("I1")[0].what


def test_use_in_flight_at_free() -> None:
    """Use in flight at free."""
    scene = warm()
    scene.use(95, 140, MM, VA, PFN, write=True)
    scene.at(90).pte_clear(MM, VPN, PFN, writable=True)
    scene.kill(92, 3)
    scene.at(100).free(PFN)
    assert [v.what for v in scene.violations("I1")] == [
        "frame 0x20 was freed while the write of asid 1 id 0 at va 0x10000 (frame 0x20) was in flight"
    ]


def test_freed_before_the_command_drained() -> None:
    """Freed before the command drained."""
    scene = warm()
    with scene.path("try_to_unmap_one"):
        scene.at(100).pte_clear(MM, VPN, PFN)
        with scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
            scene.command(MM, VPN, tag=7, killed=(3,), invalidated=1, drained=None)
            scene.hardware(150, Event.DRAINED, tag=7)
        scene.at(110).free(PFN)
    whats = [v.what for v in scene.violations("I1")]
    assert whats == ["frame 0x20 was freed before command 7 for page 0x10 of mm 1 had drained"]


def test_freed_before_the_command_was_issued() -> None:
    """Freed before the command was issued."""
    scene = warm()
    scene.kill(90, 3)
    with scene.path("try_to_unmap_one"):
        scene.at(100).pte_clear(MM, VPN, PFN)
        scene.free(PFN)
        with scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
            scene.at(120).command(MM, VPN)
    assert len(scene.violations("I1")) == 1


def test_another_paths_command_for_the_same_address_does_not_matter() -> None:
    """Another paths command for the same address does not matter."""
    scene = warm()
    with scene.path("do_wp_page"):
        unmap(scene, 100)
        scene.at(110).free(PFN)
    young = scene.notify(Notification.CLEAR_FLUSH_YOUNG, MM, VPN)
    with scene.thread("kswapd"), scene.path("page_referenced_one"), young:
        scene.at(109).command(MM, VPN, drained=30)
    assert scene.violations("I1") == []


def test_fill_with_a_frame_freed_since_its_walk_began() -> None:
    """Fill with a frame freed since its walk began."""
    scene = warm()
    scene.kill(90, 3)
    scene.fill(120, MM, VPN, PFN, walked=40)
    scene.at(100).free(PFN)
    scene.at(105).alloc(PFN)
    (violation,) = scene.violations("I1")
    assert violation.cycle == 120
    assert "by a walk begun in cycle 80" in violation.what


def test_fill_with_a_frame_that_was_mapped_there_anew() -> None:
    """Fill with a frame that was mapped there anew."""
    scene = warm()
    scene.kill(90, 3)
    scene.fill(120, MM, VPN, PFN, walked=40)
    scene.at(100).free(PFN)
    scene.at(105).alloc(PFN)
    scene.at(110).pte_set(MM, VPN, PFN)
    assert scene.violations("I1") == []


def test_use_of_a_free_frame() -> None:
    """Use of a free frame."""
    scene = warm()
    scene.kill(90, 3)
    scene.at(100).free(PFN)
    scene.use(120, 130, MM, VA, PFN)
    assert any("began while that frame was free" in v.what for v in scene.violations("I1"))
