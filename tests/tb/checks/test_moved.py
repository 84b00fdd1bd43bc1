"""I25 and I26: migration, and mremap."""

import pytest

from hostmm.machine.timeline import LockClass, Notification, Row
from hostmm.policies import V3_7, V4_13, V6_6
from tests.tb.timelines import Scene

MM, VPN, NEW_VPN, PFN, NEW_PFN = 1, 0x10, 0x30, 0x20, 0x21
VA = VPN << 12


MIGRATIONS = (
    "unmap_and_move",
    "migrate_vma",
    "collapse_huge_page",
    "migrate_misplaced_transhuge_page",
)


def migrate(
    scene: Scene, *, write_end: int, store: int | None = None, path: str = "unmap_and_move"
) -> None:
    """A page is unmapped at 100, copied at 150 and freed at 200."""
    scene.alloc(PFN, NEW_PFN)
    scene.fill_page(PFN, 0)
    scene.pte_set(MM, VPN, PFN, writable=True)
    scene.fill(20, MM, VPN, PFN, entry=3, writable=True)
    scene.at(80).device_write(85, write_end, MM, VA, PFN, 7)
    with scene.at(100).path(path, result=1):
        scene.pte_clear(MM, VPN, PFN, writable=True)
        if store is not None:
            with scene.thread("cpu1"):
                scene.at(store).store(MM, VA, PFN, 9)
        scene.at(150).copy_page(NEW_PFN, PFN)
        scene.at(160).pte_set(MM, VPN, NEW_PFN, writable=True)
        scene.at(200).free(PFN)


def test_copied_behind_the_last_writer() -> None:
    """The device's write ends before the copy; another path may copy what is still written."""
    scene = Scene(V6_6)
    migrate(scene, write_end=140, store=120)
    assert scene.violations("I25") == []
    scene = Scene(V6_6)
    scene.alloc(PFN, NEW_PFN)
    with scene.path("do_wp_page"):
        scene.copy_page(NEW_PFN, PFN)
    scene.at(10).store(MM, VA, PFN, 9)
    assert scene.violations("I25") == []


@pytest.mark.parametrize("path", MIGRATIONS)
def test_copied_under_a_device_write(path: str) -> None:
    """It is lost: the copy has what was there before."""
    scene = Scene(V6_6)
    migrate(scene, write_end=170, path=path)
    (violation,) = scene.violations("I25")
    assert (violation.path, violation.cycle) == (path, 150)
    assert "in flight" in violation.what


@pytest.mark.parametrize("moved", [0, 1])
def test_a_copy_that_was_made_in_vain(moved: int) -> None:
    """A huge page that somebody holds stays where it is, and may be written again."""
    scene = Scene(V4_13)
    scene.alloc(PFN, NEW_PFN)
    with scene.path("migrate_misplaced_transhuge_page", result=moved):
        scene.at(150).copy_page(NEW_PFN, PFN)
    scene.at(155).store(MM, VA, PFN, 9)
    assert len(scene.violations("I25")) == moved


def test_a_cpu_stores_behind_the_copy() -> None:
    """Into the old page."""
    scene = Scene(V6_6)
    scene.alloc(PFN, NEW_PFN)
    with scene.path("unmap_and_move"):
        scene.at(150).copy_page(NEW_PFN, PFN)
    scene.at(155).store(MM, VA, PFN, 9)
    (violation,) = scene.violations("I25")
    assert violation.cycle == 155


def move(scene: Scene, *, flushed: int, told: bool = True) -> None:
    """A page moves at 100; the CPUs' TLBs are flushed at ``flushed``; the new place's lock is dropped at 120."""
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    scene.fill(20, MM, VPN, PFN, entry=3)

    def flush() -> None:
        scene.row(Row.CPU_FLUSH, mm=MM, vpn=VPN, a=VPN)

    with scene.at(80).path("mremap"):
        if told:
            with scene.notify(Notification.RANGE_START, MM, VPN):
                scene.command(MM, VPN, killed=(3,))
        scene.lock(LockClass.PTL, 1)
        scene.at(100).pte_clear(MM, VPN, PFN)
        scene.at(101).pte_set(MM, NEW_VPN, PFN)
        if flushed < 120:
            scene.at(flushed)
            flush()
        scene.at(120).unlock(LockClass.PTL, 2, held=20)
        scene.unlock(LockClass.PTL, 1, held=20)
        if flushed > 120:
            scene.at(flushed)
            flush()


def test_flushed_before_the_lock_is_dropped() -> None:
    """Since eb66ae030829; the device has been told before."""
    scene = Scene(V6_6)
    move(scene, flushed=110)
    assert scene.violations("I26") == []


def test_flushed_behind_it() -> None:
    """Bug B21, of 3.7."""
    for policy, expected in ((V3_7, True), (V6_6, False)):
        scene = Scene(policy)
        move(scene, flushed=130)
        (violation,) = scene.violations("I26")
        assert (violation.path, violation.cycle, violation.expected) == ("mremap", 120, expected)


def test_the_device_is_not_told() -> None:
    """It has the page at its old address when the new one can be changed."""
    scene = Scene(V6_6)
    scene.use(90, 125, MM, VA, PFN)
    move(scene, flushed=110, told=False)
    whats = [v.what for v in scene.violations("I26")]
    assert len(whats) == 2
    assert any("TLB entry 3 has it" in what for what in whats)
    assert any("is in flight" in what for what in whats)
