"""I18: what a callback invalidates covers its range."""

from hostmm.machine.timeline import Notification, Row
from hostmm.policies import V3_7, V9
from secmmu.layouts import CommandKind, FrameKind
from tests.tb.timelines import Scene

MM, VPN, PFN, ROOT = 1, 0x10, 0x20, 0x50
LAST = VPN + 7


def walked(scene: Scene) -> None:
    """An address space whose own tables the device walks."""
    scene.row(Row.ALLOC, pfn=ROOT, tag=FrameKind.TABLE.value)
    scene.row(Row.TABLE, mm=MM, pfn=ROOT, tag=1, a=2, vpn=0)
    scene.row(Row.CONTEXT, mm=MM, pfn=ROOT, tag=1, a=MM)


def bracket(scene: Scene, *spans: tuple[int, int]) -> None:
    """A range start over eight pages that sends commands for these."""
    with scene.at(100).path("mprotect"):
        with scene.notify(Notification.RANGE_START, MM, VPN, LAST):
            for tag, (first, last) in enumerate(spans):
                scene.command(MM, first, last, tag=tag)
        with scene.notify(Notification.RANGE_END, MM, VPN, LAST):
            pass


def test_one_command_two_or_a_larger_one() -> None:
    """Exactly the range, in pieces, or a superset."""
    for spans in (
        [(VPN, LAST)],
        [(VPN + 4, LAST), (VPN, VPN + 3)],
        [(VPN - 9, LAST + 9)],
        [(VPN, VPN + 5), (VPN + 3, LAST)],
    ):
        scene = Scene(V9)
        walked(scene)
        bracket(scene, *spans)
        assert scene.violations("I18") == []


def test_a_part_is_left_out() -> None:
    """Bugs B12, B29 and B41: the tail, the head, a hole."""
    for spans, page in (
        ([(VPN, LAST - 1)], LAST),
        ([(VPN + 1, LAST)], VPN),
        ([(VPN, VPN + 1), (VPN + 3, LAST)], VPN + 2),
    ):
        scene = Scene(V9)
        walked(scene)
        bracket(scene, *spans)
        (violation,) = scene.violations("I18")
        assert violation.path == "mprotect"
        assert f"leave out page {page:#x}" in violation.what


def test_a_device_with_tables_of_its_own() -> None:
    """It need not be told of what is not in them, as long as nothing is left."""
    scene = Scene(V9)
    bracket(scene, (VPN, VPN))
    assert scene.violations("I18") == []


def test_everything_at_once() -> None:
    """An asid, or all of them, is more than any range."""
    for kind in (CommandKind.ASID, CommandKind.ALL):
        scene = Scene(V9)
        walked(scene)
        with scene.path("mprotect"), scene.notify(Notification.RANGE_START, MM, VPN, LAST):
            scene.at(100).command(MM, 0, kind=kind)
        assert scene.violations("I18") == []


def test_an_entry_is_left_behind() -> None:
    """No command went there at all; a start that refused has promised nothing."""
    for result, broken in ((0, 1), (1, 0)):
        scene = Scene(V3_7)
        scene.alloc(PFN)
        scene.pte_set(MM, LAST, PFN)
        scene.fill(20, MM, LAST, PFN, entry=3)
        with scene.at(100).path("mprotect"):
            start = scene.notify(Notification.RANGE_START, MM, VPN, LAST, result=result)
            with start:
                scene.at(110)
        found = scene.violations("I18")
        assert len(found) == broken
        assert all("left TLB entry 3 for page 0x17 valid" in v.what for v in found)
