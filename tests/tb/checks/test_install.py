"""I2 and I3: no stale translation is installed or used, none at all inside a bracket."""

import pytest

from hostmm.driver.pack import packer
from hostmm.machine.timeline import Notification, Row
from hostmm.policies import V6_6, V9
from secmmu.config import SWEEP_CYCLES
from secmmu.layouts import CommandKind, Event, FillArg
from tests.tb.timelines import Scene, pte

MM, VPN, PFN = 1, 0x10, 0x20
VA = VPN << 12


def warm(policy=V9) -> Scene:
    """A page that the device has an entry for."""
    scene = Scene(policy)
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    scene.fill(20, MM, VPN, PFN, entry=3)
    return scene


def test_walk_begun_before_the_command_may_not_fill() -> None:
    """Walk begun before the command may not fill."""
    scene = warm()
    with scene.path("do_wp_page"), scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.at(100).command(MM, VPN, tag=5, killed=(3,))
    scene.fill(120, MM, VPN, PFN, entry=4, walked=30)
    (violation,) = scene.violations()
    assert (violation.invariant, violation.path, violation.cycle) == ("I2", "do_wp_page", 120)
    assert "true in cycle 90, before command 5 was accepted in cycle 100" in violation.what


def test_a_large_leaf_may_not_come_from_a_walk_older_than_a_command_for_any_of_its_pages() -> None:
    """A walk for 0x410 is killed by an invalidation of 0x403 where its leaf turns out to span both."""
    for level, broken in ((1, ["I2"]), (0, [])):
        scene = Scene(V9)
        with scene.path("do_wp_page"), scene.notify(Notification.INVALIDATE_PAGE, MM, 0x403):
            scene.at(100).command(MM, 0x403, tag=5)
        scene.fill(120, MM, 0x410, PFN, entry=4, level=level, walked=30)
        assert [violation.invariant for violation in scene.violations("I2")] == broken


def test_walk_begun_behind_the_command_may_fill() -> None:
    """Walk begun behind the command may fill."""
    scene = warm()
    with scene.path("do_wp_page"), scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.at(100).command(MM, VPN, killed=(3,))
    scene.fill(140, MM, VPN, PFN, walked=30)
    scene.use(141, 150, MM, VA, PFN)
    assert scene.violations() == []


def test_killed_walk_is_clean() -> None:
    """Killed walk is clean."""
    scene = warm()
    scene.walk(95, MM, VPN)
    scene.walk_killed(104, MM, VPN)
    with scene.path("do_wp_page"), scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.at(100).command(MM, VPN, killed=(3,), drained=6)
    scene.fill(140, MM, VPN, PFN, walked=10)
    assert scene.violations() == []


def test_fill_in_the_cycle_of_the_command_must_be_killed() -> None:
    """Fill in the cycle of the command must be killed."""
    scene = warm()
    scene.kill(90, 3)
    with scene.path("do_wp_page"), scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.at(100).command(MM, VPN, invalidated=2, drained=3)
    scene.fill(100, MM, VPN, PFN, entry=4, walked=30)
    (violation,) = scene.violations()
    assert "TLB entry 4 (page 0x10 of asid 1) is still valid" in violation.what
    scene = warm()
    scene.kill(90, 3)
    with scene.path("do_wp_page"), scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.at(100).command(MM, VPN, invalidated=2, drained=3)
    scene.fill(100, MM, VPN, PFN, entry=4, walked=30)
    scene.kill(101, 4)
    assert scene.violations() == []


def test_stale_fill_before_invalidated_must_die_again() -> None:
    """The command is applied some cycles behind its handshake, to what went in meanwhile too."""
    assert _fills_again(cleared=104) == 0
    assert _fills_again(cleared=None) == 1


def test_a_dead_entry_is_cleared_within_a_sweep() -> None:
    """It does not hit from *invalidated* on; the sweep comes by later."""
    assert _fills_again(cleared=104 + SWEEP_CYCLES) == 0
    assert _fills_again(cleared=104 + SWEEP_CYCLES + 1) == 1


def _fills_again(*, cleared: int | None) -> int:
    """Count I2 where a fill of an old walk meets a command of cycle 100 that is invalidated in cycle 104."""
    scene = warm()
    scene.kill(90, 3)
    with scene.path("do_wp_page"), scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.at(100).command(MM, VPN, invalidated=4, drained=6)
    scene.fill(102, MM, VPN, PFN, entry=4, walked=30)
    if cleared is not None:
        scene.kill(cleared, 4)
    return len(scene.violations("I2"))


def test_entry_that_survives_its_command() -> None:
    """Entry that survives its command."""
    scene = warm()
    with scene.path("page_mkclean_one"), scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.at(100).command(MM, VPN, tag=9)
    (violation,) = scene.violations()
    assert (violation.invariant, violation.path, violation.cycle) == ("I2", "page_mkclean_one", 101)


def test_large_entry_survives_the_command_for_a_page_inside() -> None:
    """Large entry survives the command for a page inside."""
    scene = Scene()
    scene.alloc(*range(0x200, 0x400))
    scene.pte_set(MM, 0x400, 0x200)
    scene.fill(20, MM, 0x400, 0x200, level=1)
    scene.at(100).command(MM, 0x4F0, kind=CommandKind.PAGE)
    (violation,) = scene.violations("I2", "I24")
    assert violation.invariant == "I24"
    assert "pages 0x400 to 0x5ff" in violation.what


def test_commands_that_name_something_else_leave_an_entry_alone() -> None:
    """Commands that name something else leave an entry alone."""
    scene = warm()
    scene.at(100).command(MM, VPN + 1)
    scene.at(110).command(MM + 1, VPN)
    scene.at(120).command(MM + 1, 0, kind=CommandKind.ASID)
    scene.at(130).command(MM, VPN, kind=CommandKind.FENCE)
    scene.at(140).command(MM, VPN, VPN - 1, phase=Event.REFUSED)
    assert scene.violations() == []


def test_commands_for_an_asid_and_for_all_reach_every_entry() -> None:
    """Commands for an asid and for all reach every entry."""
    for kind in (CommandKind.ASID, CommandKind.ALL):
        scene = warm()
        scene.at(100).command(MM, 0, kind=kind)
        assert len(scene.violations("I2")) == 1


def test_use_begun_with_a_dead_translation() -> None:
    """Use begun with a dead translation."""
    scene = warm()
    with scene.path("do_wp_page"), scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.at(100).command(MM, VPN, tag=5, killed=(3,), invalidated=2, drained=4)
    scene.use(102, 103, MM, VA, PFN, id=1)
    scene.use(103, 115, MM, VA, PFN, id=2)
    whats = [v.what for v in scene.violations("I2")]
    assert len(whats) == 1
    assert "id 2" in whats[0]
    assert "command 5 had invalidated in cycle 102" in whats[0]


def test_use_with_a_translation_replaced_before_its_command() -> None:
    """Use with a translation replaced before its command."""
    scene = warm()
    scene.alloc(PFN + 1)
    scene.pte_set(MM, VPN + 1, PFN + 1)
    scene.fill(50, MM, VPN + 1, PFN + 1, entry=3)
    scene.at(100).command(MM, VPN)
    scene.use(101, 105, MM, VA, PFN)
    assert scene.violations("I2") == []
    scene.use(110, 115, MM, VA, PFN)
    assert len(scene.violations("I2")) == 1


def test_use_of_what_was_never_filled() -> None:
    """Use of what was never filled."""
    scene = warm()
    scene.alloc(0x99)
    scene.use(40, 50, MM, VA, 0x99)
    (violation,) = scene.violations()
    assert "went through a translation that no fill ever gave" in violation.what


def test_write_through_a_read_only_translation() -> None:
    """Write through a read only translation."""
    scene = warm()
    scene.use(40, 50, MM, VA, PFN, write=True)
    assert len(scene.violations("I2")) == 1


def test_fill_without_a_walk() -> None:
    """Fill without a walk."""
    scene = Scene()
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    scene.fill(20, MM, VPN, PFN)
    scene.fill(30, MM, VPN, PFN, entry=1)
    assert scene.violations() == []
    scene = Scene()
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    scene.fill(20, MM, VPN, PFN)
    scene.walk_killed(19, MM, VPN)
    assert "although nothing walked for it" in scene.violations("I2")[0].what


def bracket(scene: Scene) -> None:
    """A range start at 100 and its end at 200."""
    with scene.path("change_protection"):
        with scene.notify(Notification.RANGE_START, MM, VPN, VPN + 4):
            scene.at(100).command(MM, VPN, VPN + 4, killed=(3,))
        scene.at(200)
        with scene.notify(Notification.RANGE_END, MM, VPN, VPN + 4):
            scene.command(MM, VPN, VPN + 4, tag=2, kind=CommandKind.RELEASE)


def test_fill_inside_a_bracket() -> None:
    """Fill inside a bracket."""
    scene = warm()
    bracket(scene)
    scene.fill(150, MM, VPN, PFN, entry=5)
    (violation,) = scene.violations("I3")
    assert (violation.path, violation.cycle, violation.expected) == (
        "change_protection",
        150,
        False,
    )
    assert "between range start and range end of pages 0x10 to 0x14" in violation.what


def test_fills_beside_and_behind_a_bracket() -> None:
    """Fills beside and behind a bracket."""
    scene = warm()
    scene.alloc(0x30)
    scene.pte_set(MM, VPN + 5, 0x30)
    bracket(scene)
    scene.fill(150, MM, VPN + 5, 0x30, entry=5)
    scene.fill(220, MM, VPN, PFN, entry=6)
    assert scene.violations() == []


@pytest.mark.parametrize("refuses", [1, 2])
def test_a_start_that_was_refused_opens_no_bracket(refuses: int) -> None:
    """The other subscriber's end is its own, whichever of the two was asked first."""
    scene = Scene(V6_6)
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    with scene.path("zap_page_range"):
        for number in (scene.subscribe(MM), scene.subscribe(MM)):
            result = int(number == refuses)
            with scene.at(100).notify(
                Notification.RANGE_START, MM, VPN, subscriber=number, result=result
            ):
                pass
        with scene.at(150).notify(Notification.RANGE_END, MM, VPN, subscriber=3 - refuses):
            pass
    scene.fill(200, MM, VPN, PFN)
    assert scene.violations("I3") == []


RTL_ORDER = (("DROPPED", 1, 1), ("FILL", 4), ("DROPPED", 2, 1), ("FILL", 5))
MODEL_ORDER = (("FILL", 4), ("DROPPED", 1, 1), ("FILL", 5), ("DROPPED", 2, 1))
REFUSED_ONE = (("DROPPED", 1, 0), ("DROPPED", 2, 1), ("FILL", 5))
TWO_FILLS_OF_ONE = (("DROPPED", 1, 0), ("DROPPED", 2, 1), ("FILL", 4), ("FILL", 5))


@pytest.mark.parametrize(
    ("order", "broken"),
    [(RTL_ORDER, 0), (MODEL_ORDER, 0), (REFUSED_ONE, 0), (TWO_FILLS_OF_ONE, 1)],
)
def test_each_fill_is_of_a_drop_in_of_its_own(
    order: tuple[tuple[str, int] | tuple[str, int, int], ...], broken: int
) -> None:
    """Two faults of one page are dropped in before the first entry is in the TLB."""
    scene = Scene(V9)
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    for tag in (1, 2):
        scene.at(50 + tag).row(Row.DROP_IN, mm=MM, vpn=VPN, pfn=PFN, tag=tag)
    for cycle, (kind, number, *taken) in enumerate(order, start=60):
        if kind == "FILL":
            arg = packer(FillArg())(asid=MM, entry=number)
            scene.hardware(cycle, Event.FILL, arg=arg, a=VPN, b=pte(PFN, writable=False))
        else:
            scene.hardware(cycle, Event.DROPPED, tag=number, arg=taken[0])
    assert len(scene.violations("I2")) == broken
