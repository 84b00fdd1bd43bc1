"""I23: an asid changes hands empty."""

from hostmm.driver.pack import packer
from hostmm.machine.timeline import Row
from hostmm.policies import V9
from secmmu.layouts import CommandKind, Event, FillArg
from shootdown.checks import check, examined
from tests.tb.timelines import Scene, pte

OLD, NEW, ASID, VPN, PFN = 1, 2, 5, 0x10, 0x20
VA = VPN << 12


def given(scene: Scene, mm: int, cycle: int) -> None:
    """The asid stands for an address space."""
    scene.at(cycle).row(Row.CONTEXT, mm=mm, pfn=0x50 + mm, tag=1, a=ASID)


def used(scene: Scene) -> None:
    """The old address space has an entry and a use in flight from 90 on."""
    scene.alloc(PFN)
    scene.pte_set(OLD, VPN, PFN)
    given(scene, OLD, 10)
    scene.fill(20, ASID, VPN, PFN, entry=3)


def test_flushed_before_it_is_given_away() -> None:
    """As it should be; the new address space fills the same entry."""
    scene = Scene(V9)
    used(scene)
    scene.use(90, 101, ASID, VA, PFN)
    scene.at(100).command(ASID, 0, kind=CommandKind.ASID, killed=(3,))
    given(scene, NEW, 120)
    scene.alloc(PFN + 1)
    scene.pte_set(NEW, VPN, PFN + 1)
    scene.fill(140, ASID, VPN, PFN + 1, entry=3)
    history = scene.history()
    assert check(history) == []
    assert examined(history)["I23"] == 1


def test_an_entry_a_use_or_a_walk_comes_along() -> None:
    """Bug B34, and generations that wrap without a flush."""
    scene = Scene(V9)
    used(scene)
    given(scene, NEW, 120)
    scene.use(110, 130, ASID, VA, PFN)
    scene.fill(125, ASID, VPN + 1, PFN, entry=4, walked=10)
    whats = [v.what for v in scene.violations("I23")]
    assert len(whats) == 3
    assert any("while TLB entry 3 still holds page 0x10 of the old one" in what for what in whats)
    assert any("TLB entry 4 is filled by a walk from before" in what for what in whats)
    assert any("is in flight" in what for what in whats)


def test_a_drop_in_comes_along() -> None:
    """What the driver offered for the old address space is filled for the new one; what it offers later is as it should be."""
    for offered, broken in ((90, 1), (130, 0)):
        scene = Scene(V9)
        given(scene, OLD, 10)
        if offered > 120:
            given(scene, NEW, 120)
        scene.at(offered).row(Row.DROP_IN, mm=ASID, vpn=VPN, pfn=PFN, tag=1)
        if offered < 120:
            given(scene, NEW, 120)
        arg, word = packer(FillArg())(asid=ASID, entry=3, level=0), pte(PFN, writable=False)
        scene.hardware(140, Event.FILL, arg=arg, a=VPN, b=word)
        scene.hardware(140, Event.DROPPED, tag=1, arg=1)
        whats = [v.what for v in scene.violations("I23")]
        assert len(whats) == broken
        assert all("TLB entry 3 is filled by a drop-in from before" in what for what in whats)


def test_given_to_the_same_again() -> None:
    """Nothing changes hands."""
    scene = Scene(V9)
    used(scene)
    given(scene, OLD, 120)
    assert scene.violations("I23") == []
