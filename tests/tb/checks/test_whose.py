"""Whose a violation is: what one kind of device is excused for excuses no other in the same run."""

from pathlib import Path

import pytest

from hostmm.machine.timeline import Notification, Row
from hostmm.policies import EMM
from shootdown.catalogue.played import play
from shootdown.checks.violation import Finding, Whose, judge
from shootdown.history import History
from shootdown.run.config import MODEL, RunConfig
from tests.tb.timelines import Scene

MM, VPN, PFN = 1, 0x10, 0x20
ASIDS = (10, 11)
TWO_KINDS = """title: two kinds of device, one of which does not hear of munmap
mm P: 2 cpus
page p: anon
device D: P
device E: P sva-a

| C0          | D      | E      |
|-------------|--------|--------|
| store p = 1 |        |        |
|             | load p |        |
|             |        | load p |
| munmap p    |        |        |

forbidden: any invariant
"""


@pytest.mark.parametrize("policy", ["v9", "v3.7"])
def test_a_run_with_two_kinds_of_device(policy: str, tmp_path: Path) -> None:
    """The one that follows flushes may keep the page; the other's driver forgot its TLB (B19), and may not."""
    script = tmp_path / "two.litmus"
    script.write_text(TWO_KINDS)
    config = RunConfig(policy=policy, scenario=str(script), simulator=MODEL, subscriber="kvm")
    found = [v for v in play(config).violations if v.invariant == "I1"]
    assert [(v.expected, v.kinds) for v in found] == [(True, "A")]
    faulty = RunConfig(
        policy=policy, scenario=str(script), simulator=MODEL, subscriber="kvm", mutant="B19"
    )
    found = [v for v in play(faulty).violations if v.invariant == "I1"]
    assert {(v.expected, v.kinds) for v in found} == {(True, "A"), (False, "B")}


def two_kinds() -> History:
    """An address space with a device of each kind, one entry, one use, one walk and one burst for each."""
    scene = Scene(EMM)
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    told = (Notification.RANGE_START, Notification.INVALIDATE_PAGE)
    for number, (asid, kind) in enumerate(zip(ASIDS, told, strict=True), 1):
        scene.row(Row.CONTEXT, mm=MM, tag=1, a=asid, c=100 + number)
        scene.row(Row.SUBSCRIBE, mm=MM, tag=1, a=1 << kind, b=number, c=100 + number)
        scene.fill(30 + number, asid, VPN, PFN, entry=number)
        scene.load(40 + number, 60 + number, asid, VPN << 12, PFN, (0,), id=number, tag=number)
    for number, kind in enumerate(told, 1):
        with scene.at(100 + number).notify(kind, MM, VPN, subscriber=number):
            pass
    return scene.history()


def things(history: History, place: int) -> list[Whose]:
    """What belongs to the device that came as number ``place``."""
    lists = (history.entries, history.walks, history.uses, history.bursts)
    more = (history.callbacks, history.subscriptions)
    return [found[place] for found in (*lists, *more)]


@pytest.mark.parametrize(("place", "kind"), [(0, "B"), (1, "A")])
def test_what_a_finding_is_of_says_whose_it_is(place: int, kind: str) -> None:
    """Under EMM a device that ignores brackets is excused for munmap, one that honours them is not."""
    history = two_kinds()
    for of in things(history, place):
        found = judge(history, Finding("I1", "unmap_region", 70, "cpu0", "x", of))
        assert (found.kinds, found.expected) == (kind, kind == "A")


def test_what_is_nobodys_can_be_anybodys() -> None:
    """A page that a path left behind, say: it is excused where anybody's is."""
    history = two_kinds()
    found = judge(history, Finding("I1", "unmap_region", 70, "cpu0", "x"))
    assert (found.kinds, found.expected) == ("AB", True)


def test_a_run_without_subscribers_is_judged_as_one_with_brackets() -> None:
    """Hand-made timelines, and runs of the memory side alone."""
    history = Scene(EMM).history()
    found = judge(history, Finding("I1", "unmap_region", 70, "cpu0", "x"))
    assert (found.kinds, found.expected) == ("B", False)
