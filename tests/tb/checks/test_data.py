"""I4 and I6: every device load returns what its address space may show."""

import pytest

from hostmm.machine.timeline import Notification, Row
from hostmm.policies import SEED, V9, Policy
from tests.tb.timelines import Scene

MM, CHILD, VPN, OLD, NEW = 1, 2, 0x10, 0x20, 0x21
VA = VPN << 12


def scene_of(policy: Policy) -> Scene:
    """Page OLD, full of 7, read-only at VA in parent and child; the device has an entry for it."""
    scene = Scene(policy)
    scene.alloc(OLD, NEW)
    scene.fill_page(OLD, 7)
    scene.pte_set(MM, VPN, OLD)
    scene.pte_set(CHILD, VPN, OLD)
    scene.fill(20, MM, VPN, OLD, entry=3)
    return scene


def cow(scene: Scene, *, in_lock: bool, invp: int) -> None:
    """do_wp_page from 100 on: mapcount at 101, cleared at 105, set at 125, notified at ``invp``."""
    scene.at(95).copy_page(NEW, OLD)
    with scene.path("do_wp_page"):
        scene.at(101).row(Row.MAPCOUNT, pfn=OLD, tag=0, a=1)
        scene.at(105).pte_clear(MM, VPN, OLD)
        if in_lock:
            invalidate(scene, invp)
        scene.at(max(scene.now, 125)).pte_set(MM, VPN, NEW, writable=True)
        if not in_lock:
            invalidate(scene, invp)


def invalidate(scene: Scene, cycle: int) -> None:
    """One invalidate_page callback that waits."""
    with scene.at(cycle).notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.command(MM, VPN, killed=(3,), drained=5)


def test_old_content_is_fine_until_the_new_page_is_stored_to() -> None:
    """Old content is fine until the new page is stored to."""
    scene = scene_of(SEED)
    cow(scene, in_lock=False, invp=200)
    scene.load(130, 150, MM, VA, OLD, (7, 7, 7))
    assert scene.violations() == []


def test_stale_load_behind_a_store_to_the_new_page() -> None:
    """Litmus test L1 under the seed: expected there, and only there."""
    scene = scene_of(SEED)
    scene.at(95).copy_page(NEW, OLD)
    with scene.path("do_wp_page"):
        scene.at(105).pte_clear(MM, VPN, OLD)
        scene.at(125).pte_set(MM, VPN, NEW, writable=True)
        with scene.thread("cpu1"):
            scene.at(140).store(MM, VA + 8, NEW, 1000)
        invalidate(scene, 200)
    scene.load(150, 170, MM, VA, OLD, (7, 7, 7))
    (violation,) = scene.violations()
    assert (violation.invariant, violation.expected) == ("I4", True)
    assert (violation.path, violation.thread, violation.cycle) == ("do_wp_page", "cpu0", 170)
    assert violation.what == (
        "the device read 0x7 at va 0x10008 of mm 1 from frame 0x20, replaced in cycle 125"
    )


@pytest.mark.parametrize("path", ["page_mkclean_one", "try_to_unmap_one"])
def test_stale_load_on_another_path_is_unexpected(path: str) -> None:
    """Stale load on another path is unexpected."""
    scene = scene_of(SEED)
    with scene.path(path):
        scene.at(105).pte_clear(MM, VPN, OLD)
    scene.at(125).pte_set(MM, VPN, NEW, writable=True)
    scene.store(MM, VA, NEW, 1000)
    scene.load(150, 170, MM, VA, OLD, (7,))
    (violation,) = scene.violations("I4")
    assert (violation.path, violation.expected) == (path, False)


def test_load_that_overlaps_the_store_may_see_either() -> None:
    """Load that overlaps the store may see either."""
    for value in (7, 1000):
        scene = scene_of(SEED)
        scene.at(95).copy_page(NEW, OLD)
        with scene.path("do_wp_page"):
            scene.at(105).pte_clear(MM, VPN, OLD)
            scene.at(125).pte_set(MM, VPN, NEW, writable=True)
            invalidate(scene, 126)
        scene.fill(140, MM, VPN, NEW, entry=4)
        scene.at(155).store(MM, VA, NEW, 1000)
        scene.load(150, 170, MM, VA, NEW, (value,))
        assert scene.violations() == []


def test_new_page_must_show_the_store() -> None:
    """New page must show the store."""
    scene = scene_of(V9)
    cow(scene, in_lock=True, invp=106)
    scene.fill(140, MM, VPN, NEW, entry=4)
    scene.at(145).store(MM, VA, NEW, 1000)
    scene.load(150, 170, MM, VA, NEW, (1000, 7))
    assert scene.violations() == []


@pytest.mark.parametrize(("policy", "in_lock"), [(V9, True), (SEED, False)])
def test_private_data_of_a_sharer(policy: Policy, in_lock: bool) -> None:
    """Litmus test L3: the child reuses the page in place as soon as the parent's mapcount is gone."""
    scene = scene_of(policy)
    scene.at(95).copy_page(NEW, OLD)
    with scene.path("do_wp_page"):
        scene.at(101).row(Row.MAPCOUNT, pfn=OLD, tag=0, a=1)
        scene.at(105).pte_clear(MM, VPN, OLD)
        with scene.thread("child"):
            scene.at(110).pte_set(CHILD, VPN, OLD, writable=True)
            scene.store(CHILD, VA, OLD, 5555)
        if in_lock:
            invalidate(scene, 150)
        scene.at(160).pte_set(MM, VPN, NEW, writable=True)
        if not in_lock:
            invalidate(scene, 170)
    scene.load(112, 130, MM, VA, OLD, (5555,))
    (violation,) = scene.violations()
    assert (violation.invariant, violation.path, violation.expected) == ("I6", "do_wp_page", True)
    assert "private data that mm 2 (child, cycle 110) stored in frame 0x20" in violation.what


def test_sharers_store_to_a_shared_page_is_no_secret() -> None:
    """Reclaim unmaps a file page here; the other address space goes on storing to it."""
    scene = scene_of(SEED)
    with scene.path("try_to_unmap_one"):
        scene.at(101).row(Row.MAPCOUNT, pfn=OLD, tag=0, a=1)
        scene.at(105).pte_clear(MM, VPN, OLD)
        scene.at(110).store(CHILD, VA, OLD, 5555)
        invalidate(scene, 150)
    scene.load(112, 130, MM, VA, OLD, (5555,))
    assert scene.violations("I4", "I6") == []


def test_value_from_nowhere() -> None:
    """Value from nowhere."""
    scene = scene_of(SEED)
    scene.load(30, 50, MM, VA, OLD, (7, 0xBAD))
    (violation,) = scene.violations()
    assert (violation.invariant, violation.expected, violation.path) == ("I4", False, "-")
    assert "0xbad at va 0x10008" in violation.what
    assert "corrupted data" in violation.what


def test_value_of_a_frame_that_was_never_mapped_there() -> None:
    """Value of a frame that was never mapped there."""
    scene = scene_of(SEED)
    scene.fill_page(NEW, 9)
    scene.fill(25, MM, VPN, NEW, entry=3)
    scene.load(30, 50, MM, VA, NEW, (9,))
    (violation,) = scene.violations("I4")
    assert not violation.expected
    assert "which was never mapped there" in violation.what


def test_device_write_shows_from_its_first_to_its_last_cycle() -> None:
    """Device write shows from its first to its last cycle."""
    for value, begin, fine in ((7, 40, True), (500, 40, True), (7, 70, False), (500, 70, True)):
        scene = Scene()
        scene.alloc(OLD)
        scene.fill_page(OLD, 7)
        scene.pte_set(MM, VPN, OLD, writable=True)
        scene.fill(20, MM, VPN, OLD, writable=True)
        scene.device_write(30, 60, MM, VA, OLD, 499, beats=2, id=1, tag=2)
        scene.load(begin, begin + 9, MM, VA + 8, OLD, (value,))
        assert bool(scene.violations()) is not fine


def test_copies_carry_what_the_source_held_then() -> None:
    """Swapped out, stored to since, swapped in elsewhere: the copy keeps what was taken."""
    scene = scene_of(SEED)
    slot = 0x8000
    scene.at(40).store(MM, VA, OLD, 111)
    scene.at(50).copy_page(slot, OLD)
    scene.at(60).store(MM, VA, OLD, 222)
    scene.at(70).copy_page(NEW, slot)
    with scene.path("try_to_unmap_one"):
        scene.at(75).pte_clear(MM, VPN, OLD)
        invalidate(scene, 76)
    scene.at(90).pte_set(MM, VPN, NEW, writable=True)
    scene.fill(100, MM, VPN, NEW, entry=5)
    scene.load(110, 120, MM, VA, NEW, (111, 7))
    assert scene.violations("I4", "I6") == []
    scene.load(130, 140, MM, VA, NEW, (222,))
    assert "corrupted data" in scene.violations("I4")[0].what


def test_remapped_page_is_its_own_again() -> None:
    """Mprotect and page_mkclean clear a PTE and set the same page: nothing is stale."""
    scene = scene_of(V9)
    with scene.path("page_mkclean_one"):
        scene.at(40).pte_clear(MM, VPN, OLD, writable=True)
        invalidate(scene, 41)
        scene.at(60).pte_set(MM, VPN, OLD)
    scene.fill(70, MM, VPN, OLD, entry=2)
    scene.at(75).store(CHILD, VA, OLD, 99)
    scene.load(80, 90, MM, VA, OLD, (99,))
    assert scene.violations() == []
