"""I19: completion means performed."""

import itertools

from hostmm.machine.timeline import Notification, Row
from secmmu.layouts import CommandKind, Event
from tests.tb.timelines import Scene

MM, VPN, PFN = 1, 0x10, 0x20
VA = VPN << 12


def warm() -> Scene:
    """A page that the device has an entry for."""
    scene = Scene()
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    scene.fill(20, MM, VPN, PFN, entry=3)
    return scene


def test_drained_behind_the_last_use() -> None:
    """A use that ends in the cycle of *drained* is over."""
    scene = warm()
    scene.use(95, 130, MM, VA, PFN)
    with scene.path("try_to_unmap_one"), scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.at(100).command(MM, VPN, killed=(3,), drained=30)
    assert scene.violations() == []


def test_drained_before_a_use_ends() -> None:
    """Uses begun before the handshake, and ones that slipped in before *invalidated*."""
    for begin in (95, 100, 101):
        scene = warm()
        scene.use(begin, 130, MM, VA, PFN)
        with scene.path("try_to_unmap_one"):
            scene.at(100).command(MM, VPN, tag=4, killed=(3,), invalidated=2, drained=5)
        (violation,) = scene.violations()
        assert (violation.invariant, violation.path) == ("I19", "try_to_unmap_one")
        assert violation.cycle == 105
        assert "command 4 drained in cycle 105" in violation.what
        assert violation.what.endswith("ended in cycle 130")


def test_use_of_the_new_translation_need_not_end() -> None:
    """What walked behind the command is not its concern."""
    scene = warm()
    scene.fill(110, MM, VPN, PFN, entry=4)
    scene.use(111, 200, MM, VA, PFN)
    with scene.path("do_wp_page"), scene.notify(Notification.INVALIDATE_PAGE, MM, VPN):
        scene.at(100).command(MM, VPN, killed=(3,), drained=20)
    assert scene.violations() == []


def test_callback_that_does_not_wait() -> None:
    """It returns before *drained*, with a use in flight and without."""
    kinds = (Notification.INVALIDATE_PAGE, Notification.INVALIDATE_RANGE)
    for in_flight, kind in itertools.product((False, True), kinds):
        scene = warm()
        if in_flight:
            scene.use(95, 130, MM, VA, PFN)
        with scene.path("page_mkclean_one"), scene.notify(kind, MM, VPN):
            scene.at(100).command(MM, VPN, tag=4, killed=(3,), drained=35)
            scene.at(102)
        whats = [v.what for v in scene.violations("I19")]
        assert "returned before its command 4 had drained" in whats[0]
        assert len(whats) == 1 + in_flight
        assert all("returned while" in what for what in whats[1:])


def test_callback_that_issues_nothing() -> None:
    """Every use in flight is then one too many; a young query may leave it alone."""
    for kind, broken in (
        (Notification.INVALIDATE_PAGE, 1),
        (Notification.RANGE_START, 1),
        (Notification.CLEAR_FLUSH_YOUNG, 0),
    ):
        scene = warm()
        scene.use(95, 130, MM, VA, PFN)
        scene.at(100)
        with scene.path("mprotect"), scene.notify(kind, MM, VPN):
            scene.at(110)
        assert len(scene.violations("I19")) == broken


def test_refused_command_never_drains() -> None:
    """An empty range completes as refused; nothing is late."""
    scene = warm()
    with scene.path("mprotect"), scene.notify(Notification.RANGE_START, MM, VPN + 9):
        scene.at(100).command(MM, VPN + 9, VPN + 8, phase=Event.REFUSED)
    with scene.path("mprotect"), scene.notify(Notification.RANGE_END, MM, VPN + 9):
        pass
    assert scene.violations("I19", "I2") == []


def test_answers_and_commands_match_one_to_one() -> None:
    """An answer that nobody asked for, a command that is never answered, and one answered backwards."""
    scene = Scene()
    scene.hardware(50, Event.DRAINED, tag=77)
    scene.at(100).row(Row.INV_ISSUE, mm=1, vpn=5, tag=3, a=5)
    scene.hardware(100, Event.ACCEPTED, tag=3, arg=CommandKind.PAGE.value, a=5, b=5)
    whats = [violation.what for violation in scene.violations("I19")]
    assert whats == ["an answer with tag 77 answers no command", "command 3 never drained"]
    scene.hardware(110, Event.DRAINED, tag=3)
    (_, violation) = scene.violations("I19")
    assert violation.what == "command 3 drained before it was invalidated"
