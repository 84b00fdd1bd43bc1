"""I14 and I15: coming and going."""

from hostmm.machine.timeline import Notification, Row
from hostmm.policies import V2_6_27, V3_7, V9
from secmmu.layouts import CommandKind
from shootdown.checks.expectations import RELEASE
from tests.tb.timelines import Scene

MM, VPN, PFN = 1, 0x10, 0x20
LAST_VPN = (1 << 27) - 1


def page(scene: Scene) -> None:
    """A mapped page."""
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)


def test_maps_a_page_whose_start_it_missed() -> None:
    """Registered while munmap is between its start and the clearing; only who takes all locks can rule that out."""
    for policy, expected in ((V9, True), (V3_7, False)):
        scene = Scene(policy)
        page(scene)
        with scene.at(50).path("unmap_region"):
            with scene.thread("cpu1"):
                scene.at(60).subscribe(MM)
            scene.fill(70, MM, VPN, PFN, entry=3)
            scene.at(80).pte_clear(MM, VPN, PFN)
        (violation,) = scene.violations("I14")
        assert (violation.path, violation.cycle, violation.expected) == (
            "unmap_region",
            80,
            expected,
        )


def test_registered_before_the_pass() -> None:
    """It is told of the start; or it has nothing of the page."""
    scene = Scene(V3_7)
    page(scene)
    scene.subscribe(MM)
    scene.fill(30, MM, VPN, PFN, entry=3)
    with scene.at(50).path("unmap_region"):
        with scene.notify(Notification.RANGE_START, MM, VPN):
            scene.command(MM, VPN, killed=(3,))
        scene.at(80).pte_clear(MM, VPN, PFN)
        with scene.notify(Notification.RANGE_END, MM, VPN):
            pass
    assert scene.violations("I14") == []
    scene = Scene(V9)
    page(scene)
    with scene.at(50).path("unmap_region"):
        scene.subscribe(MM)
        scene.at(80).pte_clear(MM, VPN, PFN)
    assert scene.violations("I14") == []


def release(scene: Scene) -> None:
    """A release that does its work."""
    with scene.notify(Notification.RELEASE, MM, 0, LAST_VPN):
        scene.command(MM, 0, kind=CommandKind.ASID, killed=(3,))


def test_unregistered_behind_its_release() -> None:
    """As it should be."""
    scene = Scene(V3_7)
    scene.subscribe(MM)
    scene.at(100)
    release(scene)
    scene.row(Row.SUBSCRIBE, mm=MM, tag=0, b=1)
    scene.row(Row.UNREGISTERED, mm=MM, b=1)
    assert scene.violations("I15") == []


def test_called_when_it_is_gone() -> None:
    """Bugs B4, B5 and B42: its memory may have been freed."""
    for running in (False, True):
        scene = Scene(V3_7)
        scene.subscribe(MM)
        release(scene)
        with scene.at(100).path("page_mkclean_one"):
            if not running:
                scene.row(Row.UNREGISTERED, mm=MM, b=1)
            with scene.at(110).notify(Notification.INVALIDATE_PAGE, MM, VPN):
                if running:
                    with scene.at(120).thread("cpu1"):
                        scene.row(Row.UNREGISTERED, mm=MM, b=1)
        (violation,) = scene.violations("I15")
        assert violation.cycle == (120 if running else 110)
        assert ("still ran" if running else "began") in violation.what


def test_unregistered_without_a_release() -> None:
    """Unless it has no method for it."""
    for kinds, broken in ((tuple(Notification), 1), ((Notification.RANGE_START,), 0)):
        scene = Scene(V3_7)
        scene.subscribe(MM, *kinds)
        scene.at(100).row(Row.UNREGISTERED, mm=MM, b=1)
        assert len(scene.violations("I15")) == broken


def test_off_the_chain_before_it_is_released() -> None:
    """Bug B3, of 2.6.27: reclaim finds nobody to tell."""
    for policy, expected in ((V2_6_27, True), (V3_7, False)):
        scene = Scene(policy)
        page(scene)
        scene.subscribe(MM)
        scene.fill(30, MM, VPN, PFN, entry=3)
        scene.at(50).row(Row.SUBSCRIBE, mm=MM, tag=0, b=1)
        with scene.at(60).path("try_to_unmap_one"):
            scene.pte_clear(MM, VPN, PFN)
        scene.at(70)
        release(scene)
        (violation,) = scene.violations("I15")
        where = (violation.path, violation.cycle, violation.expected)
        assert where == (RELEASE, 60, expected)
        assert "try_to_unmap_one takes page 0x10 away" in violation.what


def test_a_device_that_is_told_of_nothing_misses_nothing() -> None:
    """One that pins its pages, say."""
    scene = Scene(V2_6_27)
    page(scene)
    scene.subscribe(MM, Notification.RELEASE)
    scene.fill(30, MM, VPN, PFN, entry=3)
    scene.at(50).row(Row.SUBSCRIBE, mm=MM, tag=0, b=1)
    with scene.at(60).path("try_to_unmap_one"):
        scene.pte_clear(MM, VPN, PFN)
    scene.at(70)
    release(scene)
    assert scene.violations("I15") == []


def test_torn_down_under_a_running_release() -> None:
    """An unregistration beside the end of the address space."""
    scene = Scene(V3_7)
    scene.subscribe(MM)
    with scene.thread("cpu1"), scene.at(50).notify(Notification.RELEASE, MM, 0, LAST_VPN):
        with scene.at(60).path("exit_mmap"):
            scene.row(Row.TEARDOWN, mm=MM)
        scene.at(70)
    (violation,) = scene.violations("I15")
    assert violation.cycle == 60


def test_an_object_that_was_freed_is_read() -> None:
    """Bug B42; another one may be freed."""
    for freed, broken in ((7, 1), (8, 0)):
        scene = Scene(V3_7)
        scene.at(10).row(Row.OBJECT, tag=0, a=7)
        scene.at(20).row(Row.OBJECT, tag=1, a=freed)
        scene.at(30).row(Row.OBJECT, tag=0, a=7)
        assert len(scene.violations("I15")) == broken
