"""I9: young neither lost nor stolen."""

from hostmm.machine.timeline import LockClass, Notification, Row
from hostmm.mm.pagetable import PTE_A, migration_entry
from hostmm.policies import SEED, V9, Policy
from tests.tb.timelines import Scene, pte

MM, VPN, PFN = 1, 0x10, 0x20
VA = VPN << 12
YOUNG = pte(PFN, writable=False)
OLD = YOUNG & ~PTE_A


def mapped(policy: Policy = V9) -> Scene:
    """A page that the device has an entry for, young no more."""
    scene = Scene(policy)
    scene.alloc(PFN)
    scene.row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=YOUNG)
    scene.fill(20, MM, VPN, PFN, entry=3)
    scene.at(30).row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=OLD, b=YOUNG)
    return scene


def asked(scene: Scene, result: int = 0) -> None:
    """The device is asked, outside every pass that would have to act on it."""
    with scene.notify(Notification.CLEAR_FLUSH_YOUNG, MM, VPN, result=result):
        scene.command(MM, VPN, killed=(3,))


def unmap(scene: Scene, cycle: int, *, path: str = "try_to_unmap_one", word: int = OLD) -> None:
    """Reclaim takes the lock and clears the PTE."""
    with scene.at(cycle).path(path):
        scene.lock(LockClass.PTL, 5)
        scene.at(cycle + 5).row(Row.PTE_CLEAR, mm=MM, vpn=VPN, pfn=PFN, a=word)
        scene.unlock(LockClass.PTL, 5, held=1)


def test_asked_before_it_is_unmapped() -> None:
    """Nobody used the page since."""
    scene = mapped()
    scene.use(40, 45, MM, VA, PFN)
    scene.at(50)
    asked(scene)
    unmap(scene, 100)
    assert scene.violations("I9") == []


def test_the_device_used_it_since_it_was_asked() -> None:
    """Review notes S4 and S5 for a device with an accessed bit of its own; expected of the seed."""
    for policy, path, expected in (
        (V9, "try_to_unmap_one", False),
        (SEED, "try_to_unmap_one", True),
        (SEED, "try_to_unmap_cluster", True),
    ):
        scene = mapped(policy)
        scene.at(50)
        asked(scene)
        scene.fill(60, MM, VPN, PFN, entry=3)
        scene.use(70, 75, MM, VA, PFN)
        unmap(scene, 100, path=path)
        (violation,) = scene.violations("I9")
        assert (violation.path, violation.cycle, violation.expected) == (path, 105, expected)
        assert "began in cycle 70, after anybody asked" in violation.what


def test_a_device_that_nobody_ever_asked() -> None:
    """Its use counts from the mapping on."""
    scene = mapped()
    scene.use(40, 45, MM, VA, PFN)
    unmap(scene, 100)
    assert len(scene.violations("I9")) == 1


def test_too_late_for_any_question() -> None:
    """A use, or an accessed bit, that comes while the lock is held."""
    scene = mapped()
    scene.use(102, 103, MM, VA, PFN)
    with scene.path("try_to_unmap_one"):
        scene.at(100).lock(LockClass.PTL, 5)
        scene.at(101).row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=YOUNG, b=OLD)
        scene.at(105).row(Row.PTE_CLEAR, mm=MM, vpn=VPN, pfn=PFN, a=YOUNG)
    assert scene.violations("I9") == []


def test_the_accessed_bit_is_set_when_the_page_goes() -> None:
    """A CPU used it before the lock was taken."""
    scene = mapped()
    scene.at(60).row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=YOUNG, b=OLD)
    unmap(scene, 100, word=YOUNG)
    (violation,) = scene.violations("I9")
    assert "accessed bit had been set since cycle 60" in violation.what


def test_a_sign_of_use_that_the_answer_leaves_out() -> None:
    """The CPU's bit, or the device's answer."""
    for device in (False, True):
        for result, broken in ((1, 0), (0, 1)):
            scene = mapped()
            scene.at(60).row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=YOUNG, b=OLD)
            with scene.at(70).path("page_referenced_one", result=result):
                scene.lock(LockClass.PTL, 5)
                if device:
                    asked(scene, result=1)
                else:
                    scene.row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=OLD, b=YOUNG)
            found = scene.violations("I9")
            assert len(found) == broken, (device, result)
            assert all("the answer is that it was not" in v.what for v in found)


def test_found_young_and_unmapped_all_the_same() -> None:
    """The look under the lock is for nothing."""
    scene = mapped()
    with scene.at(70).path("try_to_unmap_one"):
        scene.lock(LockClass.PTL, 5)
        asked(scene, result=1)
        scene.at(90).row(Row.PTE_CLEAR, mm=MM, vpn=VPN, pfn=PFN, a=OLD)
    (violation,) = scene.violations("I9")
    assert (violation.cycle, violation.path) == (90, "try_to_unmap_one")


def test_an_answer_about_another_page() -> None:
    """Review note S11: the query comes behind the unlock, where the address has got another frame."""
    for moved, broken in ((False, 0), (True, 1)):
        scene = mapped()
        with scene.at(70).path("page_referenced_one", result=1):
            scene.lock(LockClass.PTL, 5)
            scene.unlock(LockClass.PTL, 5, held=1)
            if moved:
                with scene.thread("cpu1"), scene.path("do_wp_page"):
                    scene.at(71).pte_set(MM, VPN, PFN + 1, old=OLD)
            scene.at(75)
            asked(scene, result=1)
        found = scene.violations("I9")
        assert len(found) == broken
        assert all("is about another frame" in v.what for v in found)


def test_a_device_that_cannot_tell() -> None:
    """An interval notifier has no method to ask: its uses count for nothing."""
    for kinds, broken in (((Notification.RANGE_START,), 0), (tuple(Notification), 1)):
        scene = mapped()
        scene.subscribe(MM, *kinds)
        scene.use(40, 45, MM, VA, PFN)
        unmap(scene, 100)
        assert len(scene.violations("I9")) == broken


def test_a_device_that_has_gone_cannot_be_asked() -> None:
    """Its subscriber left the chain, with exit_mmap or without, before reclaim took the lock; or only after that."""
    for cycle, broken in ((60, 0), (103, 1)):
        scene = mapped()
        number = scene.subscribe(MM)
        scene.use(40, 45, MM, VA, PFN)
        with scene.at(100 if broken else cycle).path("try_to_unmap_one"):
            if not broken:
                scene.row(Row.SUBSCRIBE, mm=MM, tag=0, b=number)
            scene.at(100).lock(LockClass.PTL, 5)
            if broken:
                scene.at(cycle).row(Row.SUBSCRIBE, mm=MM, tag=0, b=number)
            scene.at(105).row(Row.PTE_CLEAR, mm=MM, vpn=VPN, pfn=PFN, a=OLD)
            scene.unlock(LockClass.PTL, 5, held=1)
        assert len(scene.violations("I9")) == broken


def test_migration_decides_nothing() -> None:
    """It unmaps by the same path, whatever the page is used for."""
    scene = mapped()
    scene.use(40, 45, MM, VA, PFN)
    with scene.at(100).path("try_to_unmap_one"):
        scene.lock(LockClass.PTL, 5)
        scene.row(Row.PTE_CLEAR, mm=MM, vpn=VPN, pfn=PFN, a=OLD)
        scene.row(Row.PTE_SET, mm=MM, vpn=VPN, a=migration_entry(PFN, write=False))
    assert scene.violations("I9") == []
