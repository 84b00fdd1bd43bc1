"""Hardware and host agree on what touched a freed frame."""

from hostmm.machine.timeline import Notification
from hostmm.policies import SEED
from secmmu.layouts import Verdict
from tests.tb.timelines import Scene

MM, VPN, PFN = 1, 0x10, 0x20
VA, PA = VPN << 12, PFN << 12


def freed_at_100(scene: Scene) -> None:
    """A frame whose entry survives its being freed."""
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    scene.fill(20, MM, VPN, PFN, entry=3)
    scene.at(100).free(PFN)


def disagreements(scene: Scene) -> list[str]:
    """What only one side saw."""
    return [v.what for v in scene.violations("I1") if "did not (" in v.what]


def test_both_see_every_beat() -> None:
    """A burst of a freed frame, reported beat for beat."""
    scene = Scene()
    freed_at_100(scene)
    scene.use(110, 130, MM, VA + 16, PFN, beats=2)
    scene.violation(128, MM, PA + 16, Verdict.FREED, beats=2)
    scene.violation(129, MM, PA + 24, Verdict.FREED, beats=2)
    assert disagreements(scene) == []
    assert any("began while that frame was free" in v.what for v in scene.violations("I1"))


def test_sanitizer_misses_a_beat() -> None:
    """The timeline knows better."""
    scene = Scene()
    freed_at_100(scene)
    scene.use(110, 130, MM, VA + 16, PFN, beats=2)
    scene.violation(128, MM, PA + 16, Verdict.FREED, beats=2)
    (what,) = disagreements(scene)
    assert what.startswith("the timeline saw a touch by the read of asid 1")
    assert what.endswith("the sanitizer did not (beats [1])")


def test_sanitizer_reports_an_owned_frame() -> None:
    """It has a wrong tag."""
    scene = Scene()
    freed_at_100(scene)
    scene.use(50, 60, MM, VA, PFN)
    scene.violation(55, MM, PA, Verdict.FREED)
    (what,) = disagreements(scene)
    assert "the sanitizer saw a touch by the read of asid 1" in what
    assert "(the frame was owned)" in what


def test_sanitizer_reports_what_nobody_did() -> None:
    """No use was open there."""
    scene = Scene()
    freed_at_100(scene)
    scene.violation(155, MM, PA, Verdict.FREED)
    assert "(no such use)" in disagreements(scene)[0]


def test_frame_freed_in_the_middle_of_a_burst() -> None:
    """The last beats may be touches, but not the first alone."""
    for beats, fine in (((), True), ((2,), True), ((1, 2), True), ((0,), False), ((0, 2), False)):
        scene = Scene()
        freed_at_100(scene)
        scene.use(90, 110, MM, VA, PFN, beats=3)
        for beat in beats:
            scene.violation(106 + beat, MM, PA + 8 * beat, Verdict.FREED, beats=3)
        assert (not disagreements(scene)) is fine


def test_write_and_read_of_one_id_are_told_apart() -> None:
    """Reports name the direction."""
    scene = Scene()
    freed_at_100(scene)
    scene.use(110, 130, MM, VA, PFN)
    scene.violation(125, MM, PA, Verdict.FREED, write=True)
    assert len(disagreements(scene)) == 2


def downgraded(scene: Scene, path: str) -> None:
    """A page that is gone from the mm since 105."""
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN, writable=True)
    scene.fill(20, MM, VPN, PFN, entry=3, writable=True)
    with scene.path(path):
        scene.at(105).pte_clear(MM, VPN, PFN, writable=True)
        with scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
            scene.command(MM, VPN, killed=(3,))


def test_late_read_and_write_without_the_right() -> None:
    """Blamed on the path that took the right away; nothing excuses it once the callback is over."""
    for path, write, invariant in (
        ("page_mkclean_one", False, "I4"),
        ("page_mkclean_one", True, "I10"),
        ("do_wp_page", False, "I4"),
    ):
        scene = Scene(SEED)
        downgraded(scene, path)
        scene.violation(150, MM, PA, Verdict.RIGHTS, write=write)
        (violation,) = scene.violations()
        assert (violation.invariant, violation.path) == (invariant, path)
        assert (violation.cycle, violation.expected) == (150, False)


def test_touch_of_a_frame_that_somebody_else_got() -> None:
    """It is as bad as a touch of a free one."""
    for verdict in (Verdict.RIGHTS, Verdict.FOREIGN):
        scene = Scene(SEED)
        downgraded(scene, "try_to_unmap_one")
        scene.at(120).free(PFN)
        scene.at(130).alloc(PFN)
        scene.violation(150, MM, PA, verdict)
        (violation,) = scene.violations("I1", "I4", "I10")
        assert (violation.invariant, violation.path) == ("I1", "try_to_unmap_one")


def test_walker_in_a_page_that_is_no_table() -> None:
    """I17 as far as it can be seen."""
    scene = Scene()
    scene.violation(150, MM, PA, Verdict.TABLE, walker=True)
    (violation,) = scene.violations()
    assert (violation.invariant, violation.cycle, violation.expected) == ("I17", 150, False)
