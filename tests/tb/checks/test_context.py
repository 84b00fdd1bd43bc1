"""I12: who may sleep, and where; the order of locks."""

import pytest

from hostmm.machine.lockdep import Atomic
from hostmm.machine.timeline import LockClass, Notification, Row
from hostmm.policies import EMM, V3_7, V9
from shootdown.catalogue.played import play
from shootdown.run.config import RunConfig
from tests.tb.timelines import Scene

MM, VPN = 1, 0x10


def sleeps(scene: Scene, kind: Notification, why: Atomic) -> None:
    """A callback that says that it may sleep where it must not."""
    with scene.path("page_mkclean_one"), scene.notify(kind, MM, VPN):
        scene.row(Row.SLEEP_IN_ATOMIC, tag=why, a=7, b=LockClass.PTL)


def test_sleeping_under_a_spinlock() -> None:
    """By construction under the policies of 2008, a bug under 3.7."""
    for policy, expected in ((V9, True), (V3_7, False)):
        scene = Scene(policy)
        sleeps(scene.at(50), Notification.INVALIDATE_PAGE, Atomic.SPINLOCK | Atomic.RCU)
        (violation,) = scene.violations("I12")
        assert (violation.path, violation.cycle) == ("page_mkclean_one", 50)
        assert violation.expected is expected
        assert (
            "in invalidate_page, in a context of spinlock, rcu (PTL lock 7 held)" in violation.what
        )


def test_sleeping_where_it_is_allowed() -> None:
    """Leaves no row."""
    scene = Scene(V3_7)
    with scene.path("page_mkclean_one"), scene.notify(Notification.RANGE_START, MM, VPN):
        pass
    assert scene.violations("I12") == []


def start(scene: Scene, *kinds: Notification, result: int) -> None:
    """A range start of a subscriber with these methods."""
    scene.subscribe(MM, *kinds)
    with scene.path("mprotect"), scene.notify(Notification.RANGE_START, MM, VPN, result=result):
        pass


def test_who_can_refuse_a_start_has_no_end() -> None:
    """Bug B15; a result under EMM means something else."""
    both = (Notification.RANGE_START, Notification.RANGE_END)
    for policy, kinds, result, broken in (
        (V3_7, both, 1, 1),
        (V3_7, both, 0, 0),
        (V3_7, both[:1], 1, 0),
        (EMM, both, 1, 0),
    ):
        scene = Scene(policy)
        start(scene, *kinds, result=result)
        assert len(scene.violations("I12")) == broken


def test_inverted_order_of_locks() -> None:
    """What only another run would deadlock on."""
    scene = Scene(V3_7)
    with scene.at(60).path("mremap"):
        scene.row(Row.LOCK_INVERSION, tag=LockClass.PTL, a=3, b=4)
    (violation,) = scene.violations("I12")
    assert (violation.cycle, violation.path) == (60, "mremap")
    assert "PTL lock 3 is wanted under lock 4" in violation.what


def why(policy: str, scenario: str, mutant: str | None = None) -> set[str]:
    """What a sleeping subscriber (odp) is told of its contexts; nothing where it is innocent."""
    run = RunConfig(
        policy=policy, subscriber="odp", scenario=scenario, simulator="model", mutant=mutant
    )
    return {
        violation.what.partition("a context of ")[2].partition(" (")[0]
        for violation in play(run).violations
        if violation.invariant == "I12"
    }


@pytest.mark.parametrize("policy", ["v3.7", "v4.13", "v6.6"])
def test_a_correct_subscriber_that_sleeps_is_innocent(policy: str) -> None:
    """Where sleeping is allowed it sleeps; where it must not block it refuses the start, although it has an end."""
    for scenario in ("bug-reap-odp", "bug-zap", "bug-migrate", "bug-reclaim", "bug-exit"):
        assert why(policy, scenario) == set(), scenario


def test_one_that_sleeps_where_it_must_not_is_found() -> None:
    """In a call that must not block, under a spinlock, in an RCU section."""
    assert why("v6.6", "bug-reap-odp", "B44") == {"non_blocking"}
    assert why("v3.7", "bug-migrate", "B13") == {"spinlock"}
    assert why("v2.6.27", "bug-zap") == {"rcu"}
    assert why("seed", "bug-migrate") == {"spinlock, rcu"}
