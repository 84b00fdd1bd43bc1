"""I1: unmapping a range leaves nothing of it behind."""

import pytest

from hostmm.machine.timeline import Notification
from hostmm.policies import V6_6
from tests.tb.timelines import Scene, pte

MM, VPN, PFN = 1, 0x10, 0x20


def scene_of(*, mapped: bool = True) -> Scene:
    """A page, which somebody listens for."""
    scene = Scene(V6_6)
    scene.subscribe(MM)
    if mapped:
        scene.pte_set(MM, VPN, PFN)
    return scene


def left(scene: Scene) -> list[str]:
    """What is said to be left behind."""
    return [v.what for v in scene.violations("I1") if "mapped as it was" in v.what]


def bracket(scene: Scene, kind: Notification) -> None:
    """One end of the bracket of two pages."""
    with scene.notify(kind, MM, VPN, VPN + 1):
        pass


@pytest.mark.parametrize("clears", [True, False])
def test_a_page_that_stays_mapped(clears: bool) -> None:
    """Nobody touched it."""
    scene = scene_of()
    with scene.at(50).path("zap_page_range"):
        bracket(scene, Notification.RANGE_START)
        if clears:
            scene.pte_clear(MM, VPN, PFN)
        bracket(scene, Notification.RANGE_END)
    scene.at(60).pte_set(MM, VPN, PFN, old=0 if clears else pte(PFN, writable=False))
    assert len(left(scene)) == (not clears)


@pytest.mark.parametrize("back", [PFN, PFN + 1, None])
def test_a_page_that_is_nowhere_for_a_moment(back: int | None) -> None:
    """Another pass takes it away and puts it back (58ceeb6bec86); another frame, or none, would be fine."""
    scene = scene_of()
    with scene.at(40).path("madvise_free_single_vma"):
        scene.pte_clear(MM, VPN, PFN)
        with scene.thread("cpu1"), scene.at(50).path("zap_page_range"):
            bracket(scene, Notification.RANGE_START)
            bracket(scene, Notification.RANGE_END)
        if back is not None:
            scene.at(60).pte_set(MM, VPN, back)
    assert len(left(scene)) == (back == PFN)


def test_a_page_that_was_gone_and_came_back() -> None:
    """Reclaim took it, a fault brought it again: when the zap looked there was nothing."""
    scene = scene_of()
    with scene.at(40).path("zap_page_range"):
        bracket(scene, Notification.RANGE_START)
        with scene.thread("cpu1"):
            with scene.at(50).path("try_to_unmap_one"):
                scene.pte_clear(MM, VPN, PFN)
            scene.at(60).pte_set(MM, VPN, PFN)
        bracket(scene.at(70), Notification.RANGE_END)
    assert left(scene) == []


def test_a_page_that_was_not_there() -> None:
    """It came later."""
    scene = scene_of(mapped=False)
    with scene.at(40).path("unmap_region"):
        bracket(scene, Notification.RANGE_START)
        bracket(scene, Notification.RANGE_END)
    scene.at(60).pte_set(MM, VPN, PFN)
    assert left(scene) == []
