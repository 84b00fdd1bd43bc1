"""I10: no write through a right that is gone, and one verdict of timeline and sanitizer."""

from collections.abc import Sequence

from hostmm.machine.timeline import LockClass, Notification, Row
from hostmm.policies import SEED, V6_6
from secmmu.layouts import Verdict
from tests.tb.timelines import Scene, pte

MM, VPN, PFN = 1, 0x10, 0x20
VA, PA = VPN << 12, PFN << 12


def downgrade(scene: Scene, *, told: bool = True) -> None:
    """Clean a page at 100: the PTE loses W and D, the callback has returned at 120."""
    mapped(scene)
    with scene.path("page_mkclean_one"):
        clean(scene)
        if told:
            with scene.at(105).notify(Notification.INVALIDATE_PAGE, MM, VPN):
                scene.command(MM, VPN, killed=(3,), drained=14)
        scene.lock(LockClass.PTL, 5)


def mapped(scene: Scene) -> None:
    """Map a page that the device has an entry for."""
    scene.alloc(PFN)
    scene.fill_page(PFN, 0)
    scene.pte_set(MM, VPN, PFN, writable=True)
    scene.fill(20, MM, VPN, PFN, entry=3, writable=True)


def clean(scene: Scene) -> None:
    """Write-protect it at 100."""
    old = pte(PFN, writable=True)
    scene.at(100).row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=pte(PFN, writable=False), b=old)


def write(
    scene: Scene, begin: int, end: int, *, reported: Sequence[int] = (), beats: int = 2
) -> None:
    """A device write, and the beats of it that the sanitizer objects to."""
    scene.use(begin, end, MM, VA, PFN, write=True, beats=beats)
    for beat in reported:
        scene.violation(
            end - beats + beat, MM, PA + 8 * beat, Verdict.RIGHTS, write=True, beats=beats
        )


def whats(scene: Scene) -> list[str]:
    """What I10 has to say that is not the sanitizer's own report."""
    return [v.what for v in scene.violations("I10") if "no longer its own" not in v.what]


def test_writes_before_the_callback_has_returned() -> None:
    """Through the old permission, and legal."""
    scene = Scene(SEED)
    downgrade(scene)
    write(scene, 90, 99)
    write(scene, 102, 115)
    assert whats(scene) == []


def test_a_write_while_the_callback_waits_for_its_own_lock() -> None:
    """A driver's mutex is taken inside; only what its caller does next says that it has returned."""
    for begin, broken in ((107, 0), (131, 1)):
        scene = Scene(SEED)
        mapped(scene)
        with scene.path("page_mkclean_one"):
            clean(scene)
            with scene.at(105).notify(Notification.INVALIDATE_PAGE, MM, VPN):
                scene.lock(LockClass.DRIVER, 7)
                scene.at(110).command(MM, VPN, killed=(3,), drained=10)
                scene.unlock(LockClass.DRIVER, 7, held=15)
            scene.lock(LockClass.PTL, 5)
        write(scene, begin, begin + 2)
        assert len([what for what in whats(scene) if "had returned" in what]) == broken


def test_a_path_that_is_part_of_another() -> None:
    """Of what fork takes the flush behind it tells, which copies of all mappings have in common."""
    for told, broken in ((True, 0), (False, 1)):
        scene = Scene(V6_6)
        scene.subscribe(MM, Notification.INVALIDATE_RANGE)
        with scene.path("dup_mmap"):
            downgrade(scene, told=False)
            write(scene, 130, 140)
            scene.at(150)
            if told:
                with scene.notify(Notification.INVALIDATE_RANGE, MM, 0, VPN + 9):
                    scene.command(MM, 0, VPN + 9, killed=(3,))
            scene.at(160)
        if not told:
            write(scene, 170, 180)
        assert len([what for what in whats(scene) if "told nobody" in what]) == broken


def test_a_write_behind_it() -> None:
    """Both sides see it, and say so; nothing excuses it."""
    scene = Scene(SEED)
    downgrade(scene)
    write(scene, 130, 140, reported=(0, 1))
    found = scene.violations("I10")
    (own,) = (v for v in found if "had returned" in v.what)
    assert (own.path, own.cycle, own.expected) == ("page_mkclean_one", 130, False)
    assert len(found) == 3


def test_the_sanitizer_misses_it() -> None:
    """Wholly, or a beat of it."""
    for reported in ((), (1,)):
        scene = Scene(SEED)
        downgrade(scene)
        write(scene, 130, 140, reported=reported)
        (only,) = (what for what in whats(scene) if "did not (" in what)
        assert only.startswith("the timeline saw a forbidden write of asid 1")
        assert only.endswith(f"({len(reported)} of 2 beats)")


def test_the_sanitizer_sees_one_that_is_none() -> None:
    """Before the downgrade, and where the frame has become writable again."""
    for begin, again in ((50, False), (150, True)):
        scene = Scene(SEED)
        downgrade(scene)
        if again:
            scene.at(140).pte_set(MM, VPN, PFN, writable=True, old=pte(PFN, writable=False))
        write(scene, begin, begin + 10, reported=(0, 1))
        (what,) = whats(scene)
        assert what.startswith("the sanitizer saw a forbidden write")
        assert what.endswith("(the right was there)")


def test_a_write_while_the_right_goes_or_comes() -> None:
    """Some beats may be wrong; nobody can tell which from the outside."""
    for begin, end, again in ((110, 130, False), (130, 150, True)):
        for reported in ((), (1,)):
            scene = Scene(SEED)
            downgrade(scene)
            if again:
                scene.at(140).pte_set(MM, VPN, PFN, writable=True, old=pte(PFN, writable=False))
            write(scene, begin, end, reported=reported)
            assert whats(scene) == []


def test_nobody_was_told() -> None:
    """Then the right is gone when the path returns, and the sanitizer does not know (B9)."""
    scene = Scene(SEED)
    scene.subscribe(MM)
    downgrade(scene, told=False)
    write(scene, 130, 140)
    assert {v.invariant for v in scene.violations("I10", "I20")} == {"I10", "I20"}


def test_writable_at_another_page() -> None:
    """The frame is still the address space's own."""
    scene = Scene(SEED)
    scene.pte_set(MM, VPN + 1, PFN, writable=True)
    downgrade(scene)
    write(scene, 130, 140)
    assert whats(scene) == []
