"""I17: page-table pages are freed when nothing leads to them any more, and the sanitizer sees the same."""

from hostmm.machine.timeline import CommandFlag, Row
from hostmm.policies import V6_6
from secmmu.layouts import CommandKind, FrameKind, Verdict
from shootdown.checks import examined
from tests.tb.timelines import Scene

MM, VPN, PFN = 1, 0x410, 0x20
ROOT, MIDDLE, LEAF = 0x50, 0x51, 0x52


def tables(scene: Scene) -> None:
    """An address space that the device walks, with a mapped page."""
    for pfn, level, first in ((ROOT, 2, 0), (MIDDLE, 1, 0), (LEAF, 0, 0x400)):
        scene.row(Row.ALLOC, pfn=pfn, tag=FrameKind.TABLE.value)
        scene.row(Row.TABLE, mm=MM, vpn=first, pfn=pfn, tag=1, a=level)
    scene.row(Row.CONTEXT, mm=MM, pfn=ROOT, tag=1, a=MM)
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)


def unlink(scene: Scene, cycle: int) -> None:
    """The leaf table goes out of the tree (khugepaged)."""
    scene.at(cycle).row(Row.TABLE, mm=MM, vpn=0x400, pfn=LEAF, tag=0, a=0)


def test_freed_behind_a_command_for_tables() -> None:
    """Nothing leads there when it is freed."""
    scene = Scene(V6_6)
    tables(scene)
    scene.fill(20, MM, VPN, PFN, entry=3)
    unlink(scene, 100)
    scene.at(110).command(MM, 0x400, 0x5FF, killed=(3,))
    scene.at(130).free(LEAF)
    history = scene.history()
    assert examined(history)["I17"] == 2
    scene = Scene(V6_6)
    tables(scene)
    scene.fill(20, MM, VPN, PFN, entry=3)
    unlink(scene, 100)
    scene.at(110).command(MM, 0x400, 0x5FF, killed=(3,))
    scene.at(130).free(LEAF)
    assert scene.violations("I17") == []


def test_freed_behind_a_bracket_that_was_over_before_a_walk_came_that_way() -> None:
    """Held or not, what a command took from the walk cache a later walk puts there again."""
    for walked, broken in ((15, 0), (60, 1)):
        scene = Scene(V6_6)
        tables(scene)
        scene.fill(walked, MM, VPN, PFN, entry=3)
        killed = (3,) if walked < 30 else ()
        scene.at(30).command(MM, 0x400, 0x5FF, killed=killed, flags=CommandFlag.HOLD)
        unlink(scene, 100)
        scene.at(130).free(LEAF)
        found = [v.what for v in scene.violations("I17")]
        assert len(found) == broken
        assert all("no command had taken it from the walk cache" in what for what in found)


def test_freed_without_one_or_behind_one_for_leaves() -> None:
    """Bugs B11 and B36: the walk cache still leads there; a table that was never walked is none's business."""
    for walked, flags, broken in (
        (True, None, 1),
        (True, CommandFlag.LEAF_ONLY, 1),
        (False, None, 0),
    ):
        scene = Scene(V6_6)
        tables(scene)
        if walked:
            scene.fill(20, MM, VPN, PFN, entry=3)
        unlink(scene, 100)
        if flags is not None:
            scene.at(110).command(MM, 0x400, 0x5FF, killed=(3,), flags=flags)
        scene.at(130).free(LEAF)
        found = scene.violations("I17")
        assert len(found) == broken
        assert all("no command had taken it from the walk cache" in v.what for v in found)


def test_freed_under_a_walk() -> None:
    """It began before the table was unlinked, and is still reading."""
    scene = Scene(V6_6)
    tables(scene)
    scene.walk(95, MM, VPN)
    unlink(scene, 100)
    scene.at(110).command(MM, 0x400, 0x5FF)
    scene.at(130).free(LEAF)
    scene.walk_killed(140, MM, VPN)
    (violation,) = scene.violations("I17")
    assert "while the walk of page 0x410 that began in cycle 95 ran" in violation.what


def exit_behind_release(scene: Scene) -> None:
    """The whole address space is taken from the device before its tables go."""
    scene.at(100).command(MM, 0, kind=CommandKind.ASID, flags=CommandFlag.HOLD)
    scene.row(Row.CONTEXT, mm=MM, tag=0, a=MM)
    scene.at(120)
    for pfn, level, first in ((LEAF, 0, 0x400), (MIDDLE, 1, 0), (ROOT, 2, 0)):
        scene.row(Row.TABLE, mm=MM, vpn=first, pfn=pfn, tag=0, a=level)
        scene.free(pfn)


def test_at_exit() -> None:
    """The command comes before the tables are unlinked."""
    scene = Scene(V6_6)
    tables(scene)
    scene.fill(20, MM, VPN, PFN, entry=3)
    exit_behind_release(scene)
    assert scene.violations("I17") == []


def test_sanitizer_sees_the_walker_in_a_freed_table() -> None:
    """Both say so: the frame is no table any more."""
    scene = Scene(V6_6)
    tables(scene)
    exit_behind_release(scene)
    scene.violation(150, MM, LEAF << 12, Verdict.TABLE, walker=True)
    (violation,) = scene.violations("I17")
    assert violation.cycle == 150


def test_sanitizer_has_a_wrong_tag() -> None:
    """The timeline has the frame as a table."""
    scene = Scene(V6_6)
    tables(scene)
    scene.violation(50, MM, LEAF << 12, Verdict.TABLE, walker=True)
    whats = [v.what for v in scene.violations("I17")]
    assert any("the timeline did not (it is a page table)" in what for what in whats)


def test_sanitizer_misses_a_walk_in_a_freed_table() -> None:
    """A translation came out of it, so that somebody read it."""
    for reported in (False, True):
        scene = Scene(V6_6)
        tables(scene)
        exit_behind_release(scene)
        scene.fill(150, MM, VPN, PFN, entry=4)
        if reported:
            scene.violation(148, MM, LEAF << 12, Verdict.TABLE, walker=True)
        missed = [v for v in scene.violations("I17") if "the sanitizer did not" in v.what]
        assert len(missed) == (not reported)


def test_moved_to_another_place() -> None:
    """A whole table goes with mremap: its old address must not lead there any more."""
    for told, broken in ((True, 0), (False, 1)):
        scene = Scene(V6_6)
        tables(scene)
        scene.fill(20, MM, VPN, PFN, entry=3)
        if told:
            scene.at(90).command(MM, 0x400, 0x5FF, killed=(3,), flags=CommandFlag.HOLD)
        unlink(scene, 100)
        scene.at(110).row(Row.TABLE, mm=MM, vpn=0x800, pfn=LEAF, tag=1, a=0)
        found = scene.violations("I17")
        assert len(found) == broken
        assert all("was moved although" in v.what for v in found)
