"""I11: an upgrade can be seen."""

from hostmm.machine.timeline import Notification, Row
from hostmm.policies import V3_7, V6_6, V9
from shootdown.checks import examined
from tests.tb.timelines import Scene, pte

MM, VPN, PFN = 1, 0x10, 0x20
VA = VPN << 12


def upgraded(scene: Scene) -> None:
    """A page that the device has read-only, made writable at 100."""
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    scene.fill(20, MM, VPN, PFN, entry=3)
    with scene.at(100).path("do_wp_page"):
        old = pte(PFN, writable=False)
        scene.row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=pte(PFN, writable=True), b=old)


def test_one_refusal_and_another_on_its_way() -> None:
    """Then the device walks again."""
    scene = Scene(V6_6)
    upgraded(scene)
    for begin in (90, 110, 130):
        scene.refused(begin, begin + 10, MM, VA, write=True)
    scene.at(145).device_write(150, 160, MM, VA, PFN, 5)
    assert scene.violations("I11") == []


def test_refused_for_ever() -> None:
    """Bug B28: the device keeps the refusal, and nobody tells it; expected before 6.6, of whoever is like that."""
    for policy, expected in ((V3_7, True), (V6_6, False)):
        scene = Scene(policy)
        upgraded(scene)
        for begin in (110, 130, 150, 170):
            scene.refused(begin, begin + 10, MM, VA, write=True)
        (violation,) = scene.violations("I11")
        assert (violation.path, violation.cycle) == ("do_wp_page", 160)
        assert violation.expected is expected


def test_refused_because_callbacks_take_the_page_away() -> None:
    """Reclaim flushes it over and over; a flush that the driver itself makes of what faults excuses nothing."""
    for told, broken in ((True, 0), (False, 1)):
        scene = Scene(V6_6)
        upgraded(scene)
        for begin in (110, 130, 150, 170):
            scene.refused(begin, begin + 10, MM, VA, write=True)
            scene.at(begin + 11)
            if told:
                with scene.notify(Notification.INVALIDATE_RANGE, MM, 0, VPN + 9):
                    scene.command(MM, 0, VPN + 9, tag=begin, killed=(3,))
            else:
                scene.command(MM, VPN, tag=begin, killed=(3,))
        assert len(scene.violations("I11")) == broken


def test_refused_by_the_page_table() -> None:
    """That is no matter of an upgrade."""
    scene = Scene(V9)
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    for begin in (110, 130, 150, 170):
        scene.refused(begin, begin + 10, MM, VA, write=True)
    assert scene.violations("I11") == []


def test_upgrades_under_an_entry_are_counted() -> None:
    """One that the device could have missed."""
    scene = Scene()
    upgraded(scene)
    assert examined(scene.history())["I11"] == 1
