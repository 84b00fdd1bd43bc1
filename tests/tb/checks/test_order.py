"""I5: litmus test L2, told by hand."""

import pytest

from hostmm.machine.timeline import LockClass, Notification, Row
from hostmm.policies import SEED, V9
from shootdown.checks import check, examined
from tests.tb.timelines import PAGE, Scene

MM = 1
A, B = 0x10, 0x20
OLD_A, OLD_B, NEW_A, NEW_B = 0x30, 0x31, 0x32, 0x33
LOCK = 7


def copied(scene: Scene, vpn: int, old: int, new: int) -> None:
    """COW: the new page is set, writable, and nobody has been told."""
    with scene.path("do_wp_page"):
        scene.pte_clear(MM, vpn, old)
        scene.pte_set(MM, vpn, new, writable=True)


def litmus(scene: Scene, *, edge: str, stale: int) -> None:
    """C2 stores A and C3 stores B; the device reads B, then A as it stands in frame ``stale``.

    ``edge`` is how C3 knows of A: it loads it, it takes a lock that C2 gave back, or not at all.
    """
    scene.alloc(OLD_A, OLD_B, NEW_A, NEW_B)
    for vpn, pfn, entry in ((A, OLD_A, 3), (B, OLD_B, 4)):
        scene.fill_page(pfn, 0)
        scene.pte_set(MM, vpn, pfn)
        scene.fill(20 + entry, MM, vpn, pfn, entry=entry)
    scene.at(50)
    for new in (NEW_A, NEW_B):
        scene.fill_page(new, 0)
    scene.at(60)
    copied(scene, A, OLD_A, NEW_A)
    copied(scene, B, OLD_B, NEW_B)
    with scene.at(70).thread("C2"):
        scene.lock(LockClass.MMAP, LOCK)
        scene.store(MM, A * PAGE, NEW_A, 101)
        scene.unlock(LockClass.MMAP, LOCK, held=1)
    with scene.at(80).thread("C3"):
        if edge == "lock":
            scene.lock(LockClass.MMAP, LOCK)
        elif edge == "load":
            scene.row(Row.LOAD, mm=MM, vpn=A, pfn=NEW_A, a=NEW_A * PAGE)
        scene.store(MM, B * PAGE, NEW_B, 102)
    with scene.at(90).path("do_wp_page"), scene.notify(Notification.INVALIDATE_PAGE, MM, B):
        scene.command(MM, B, killed=(4,))
    scene.fill(110, MM, B, NEW_B, entry=4, writable=True)
    scene.load(120, 130, MM, B * PAGE, NEW_B, (102,))
    scene.load(140, 150, MM, A * PAGE, stale, (0 if stale == OLD_A else 101,), tag=2)


@pytest.mark.parametrize("edge", ["lock", "load"])
def test_the_forbidden_outcome(edge: str) -> None:
    """The device has seen B, which was stored by who had seen A; it is the seed's by construction, and v9's not."""
    for policy, expected in ((SEED, True), (V9, False)):
        scene = Scene(policy)
        litmus(scene, edge=edge, stale=OLD_A)
        (violation,) = scene.violations("I5")
        assert (violation.path, violation.cycle) == ("do_wp_page", 150)
        assert violation.expected is expected
        assert "what C2 stored there in cycle 70 had happened before that load" in violation.what


def test_without_an_edge_it_is_not_forbidden() -> None:
    """I4 still is broken: one location is enough for that."""
    scene = Scene()
    litmus(scene, edge="none", stale=OLD_A)
    assert {violation.invariant for violation in scene.violations("I4", "I5")} == {"I4"}


def test_the_allowed_outcome() -> None:
    """The device reads the new page; the load is known to be ordered behind the store."""
    scene = Scene()
    litmus(scene, edge="load", stale=NEW_A)
    history = scene.history()
    assert {v.invariant for v in check(history)} & {"I4", "I5"} == set()
    assert examined(history)["I5"] == 1


def test_loads_that_overlap_are_not_ordered() -> None:
    """The second was issued before the first had ended, so that it may have been performed before."""
    scene = Scene()
    litmus(scene, edge="load", stale=NEW_A)
    scene.load(118, 129, MM, A * PAGE, OLD_A, (0,), tag=3, id=1)
    assert {violation.invariant for violation in scene.violations("I4", "I5")} == {"I4"}
