"""I22: faults and callbacks come to an end."""

from hostmm.machine.timeline import Notification, Row
from hostmm.policies import V9
from shootdown.checks.progress import MOST_COMMANDS, MOST_NS
from tests.tb.timelines import CYCLE_NS, Scene

MM, VPN, PFN = 1, 0x10, 0x20
VA = VPN << 12


def retries(scene: Scene, count: int) -> None:
    """An access that is refused so often, one every 20 cycles from 110 on."""
    for number in range(count):
        scene.refused(110 + 20 * number, 120 + 20 * number, MM, VA)


def test_as_often_as_the_page_changed() -> None:
    """Twice the page is mapped and unmapped again before the device gets to it."""
    scene = Scene(V9)
    retries(scene, 6)
    for cycle in (125, 165):
        scene.at(cycle).pte_set(MM, VPN, PFN)
        scene.at(cycle + 15).pte_clear(MM, VPN, PFN)
    assert scene.violations("I22") == []


def test_again_and_again() -> None:
    """Nothing changed, and nothing gets any further; it is told once, and a success in between starts anew."""
    scene = Scene(V9)
    retries(scene, 7)
    (violation,) = scene.violations("I22")
    assert violation.cycle == 180
    assert "refused 4 times, while its page changed 0 times" in violation.what
    scene = Scene(V9)
    retries(scene, 3)
    scene.load(170, 175, MM, VA, PFN, (0,))
    scene.refused(180, 185, MM, VA)
    assert scene.violations("I22") == []


def test_a_fault_that_is_never_handled() -> None:
    """Bug B7: it waits for a range end that does not come."""
    for handled, broken in ((True, 0), (False, 1)):
        scene = Scene(V9)
        row = {"mm": MM, "vpn": VPN, "tag": 1}
        scene.at(50).row(Row.FAULT_BEGIN, **row)
        if handled:
            scene.row(Row.FAULT_END, **row)
        assert len(scene.violations("I22")) == broken


def test_commands_page_by_page() -> None:
    """Bug B31: a command for each page of a huge range."""
    for count, broken in ((MOST_COMMANDS, 0), (MOST_COMMANDS + 1, 1)):
        scene = Scene(V9)
        with scene.at(100).notify(Notification.RANGE_START, MM, VPN, VPN + count):
            for number in range(count):
                scene.row(Row.INV_ISSUE, mm=MM, vpn=VPN, tag=number, a=VPN, b=1)
        assert len(scene.violations("I22")) == broken


def test_a_callback_that_takes_too_long_or_for_ever() -> None:
    """Bugs B32 and B44."""
    for cycles, broken in ((MOST_NS // CYCLE_NS, 0), (MOST_NS // CYCLE_NS + 1, 1)):
        scene = Scene(V9)
        with scene.notify(Notification.RANGE_START, MM, VPN):
            scene.at(cycles)
        assert len(scene.violations("I22")) == broken
    scene = Scene(V9)
    row = {"mm": MM, "vpn": VPN, "tag": Notification.RANGE_START, "a": VPN, "b": 1, "c": 1}
    scene.row(Row.NOTIFY_BEGIN, **row)
    (violation,) = scene.violations("I22")
    assert violation.what.endswith("never returned")
