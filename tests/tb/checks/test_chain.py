"""I13, I16 and I20: brackets pair up, release comes first, everybody is told."""

from hostmm.machine.timeline import Notification, Row
from hostmm.mm.pagetable import PTE_A
from hostmm.policies import SEED, V3_7, V6_6, V9
from secmmu.layouts import CommandKind
from tests.tb.timelines import Scene, pte

MM, VPN, PFN = 1, 0x10, 0x20
VA = VPN << 12
LAST_VPN = (1 << 26) - 1


def call(scene: Scene, kind: Notification, last: int = VPN + 3) -> None:
    """One callback that does nothing."""
    with scene.notify(kind, MM, VPN, last):
        pass


def test_a_downgrade_that_nobody_was_told_of() -> None:
    """Fork write-protects by setting the PTE; an upgrade, or a bit of the CPU's own, is nobody's business."""
    writable, read_only = pte(PFN, writable=True), pte(PFN, writable=False)
    for old, new, told, broken in (
        (writable, read_only, False, ["I20"]),
        (writable, read_only, True, []),
        (read_only, writable, False, []),
        (writable, writable & ~PTE_A, False, []),
        (read_only, pte(PFN + 1, writable=False), False, ["I20"]),
    ):
        scene = Scene()
        scene.subscribe(MM)
        with scene.path("fork"):
            if told:
                call(scene, Notification.RANGE_START)
            scene.row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=new, b=old)
            if told:
                call(scene, Notification.RANGE_END)
        assert [violation.invariant for violation in scene.violations("I20")] == broken


def test_pairs_in_one_path() -> None:
    """Two subscribers, two starts, two ends."""
    scene = Scene()
    with scene.path("mprotect"):
        for kind in (Notification.RANGE_START, Notification.RANGE_END):
            call(scene, kind)
            call(scene, kind)
    assert scene.violations("I13") == []


def test_start_without_end() -> None:
    """Bug B7: a path leaves early, as fork did in 2008."""
    for path, expected in (("fork", True), ("mprotect", False)):
        scene = Scene()
        with scene.path(path):
            call(scene, Notification.RANGE_START)
            scene.at(50)
        (violation,) = scene.violations("I13")
        assert (violation.path, violation.cycle, violation.expected) == (path, 50, expected)


def test_each_subscriber_has_its_own_pairs() -> None:
    """The second misses its end; one without a method for it, and one whose start failed, have none to miss."""
    for result, kinds, broken in (
        (0, tuple(Notification), 1),
        (0, (Notification.RANGE_START,), 0),
        (1, (Notification.RANGE_START,), 0),
    ):
        scene = Scene(V3_7)
        scene.subscribe(MM)
        scene.subscribe(MM, *kinds)
        with scene.path("mprotect"):
            call(scene, Notification.RANGE_START)
            with scene.notify(
                Notification.RANGE_START, MM, VPN, VPN + 3, subscriber=2, result=result
            ):
                pass
            call(scene, Notification.RANGE_END)
        assert len(scene.violations("I13")) == broken


def test_registered_inside_a_bracket() -> None:
    """I14: a subscriber sees an end without its start; who has no mm_take_all_locks must live with it."""
    for policy, expected in ((SEED, True), (V3_7, False)):
        scene = Scene(policy)
        with scene.path("mprotect"):
            scene.subscribe(MM)
            call(scene, Notification.RANGE_END)
        (violation,) = scene.violations("I13", "I14")
        assert (violation.invariant, violation.expected) == ("I14", expected)


def test_only_who_has_the_method_is_called() -> None:
    """The second subscriber follows flushes and has no method for range starts."""
    scene = Scene(V3_7)
    scene.subscribe(MM)
    scene.subscribe(MM, Notification.INVALIDATE_RANGE)
    with scene.path("mprotect"):
        call(scene, Notification.RANGE_START)
        call(scene, Notification.RANGE_END)
    assert scene.violations("I20") == []


def test_end_of_another_range() -> None:
    """It pairs with nothing, and leaves the start alone."""
    scene = Scene()
    with scene.path("fork"):
        call(scene, Notification.RANGE_START)
        call(scene, Notification.RANGE_END, last=VPN + 4)
    whats = {v.what.split(" of ")[0] for v in scene.violations("I13")}
    assert whats == {"range end", "1 range start"}


def test_each_of_two_subscribers_is_called() -> None:
    """Twice the same event in one span is two walks of the chain."""
    scene = Scene()
    scene.subscribe(MM)
    scene.subscribe(MM)
    with scene.path("page_mkclean_one"):
        for _ in range(4):
            call(scene, Notification.INVALIDATE_PAGE, VPN)
    assert scene.violations("I20") == []


def test_chain_that_stops_early() -> None:
    """Bug B6: the second subscriber is not told."""
    scene = Scene()
    scene.subscribe(MM)
    scene.subscribe(MM)
    with scene.path("page_mkclean_one"):
        call(scene, Notification.INVALIDATE_PAGE, VPN)
        call(scene, Notification.INVALIDATE_PAGE, VPN)
        scene.at(70)
        call(scene, Notification.INVALIDATE_PAGE, VPN + 1)
    (violation,) = scene.violations("I20")
    assert violation.cycle == 70
    assert "reached 1 of 2 subscribers" in violation.what


def test_cleared_and_nobody_told() -> None:
    """Where the policy notifies, a subscriber is there, and the PTE was present."""
    scene = Scene()
    scene.subscribe(MM)
    with scene.path("try_to_unmap_one"):
        scene.at(40).pte_clear(MM, VPN, PFN)
    (violation,) = scene.violations("I20")
    assert (violation.path, violation.cycle) == ("try_to_unmap_one", 40)


def test_who_was_only_asked_for_a_sign_of_use_was_not_told() -> None:
    """The page is gone, and the callback before that says nothing of it."""
    for kind, broken in ((Notification.CLEAR_FLUSH_YOUNG, 1), (Notification.INVALIDATE_PAGE, 0)):
        scene = Scene(V9)
        scene.subscribe(MM)
        with scene.path("try_to_unmap_one"):
            call(scene, kind, VPN)
            scene.at(40).pte_clear(MM, VPN, PFN)
        assert len(scene.violations("I20")) == broken


def test_who_leaves_before_the_late_call() -> None:
    """Exit has released it, and taken it off the chain, when reclaim comes to its call."""
    for inside, broken in ((True, 0), (False, 1)):
        scene = Scene(V3_7)
        number = scene.subscribe(MM)
        leave = {"mm": MM, "tag": 0, "b": number}
        with scene.path("try_to_unmap_one"):
            scene.at(40).pte_clear(MM, VPN, PFN)
            if inside:
                scene.at(50).row(Row.SUBSCRIBE, **leave)
            scene.at(60)
        if not inside:
            scene.at(70).row(Row.SUBSCRIBE, **leave)
        assert len(scene.violations("I20")) == broken


def test_cleared_and_nobody_to_tell() -> None:
    """Neither without subscribers, nor outside the notifying paths, nor of a swap entry."""
    scene = Scene()
    with scene.path("try_to_unmap_one"):
        scene.pte_clear(MM, VPN, PFN)
    scene.subscribe(MM)
    with scene.path("exit_mmap"):
        scene.pte_clear(MM, VPN, PFN)
    with scene.path("unmap_region"):
        scene.row(Row.PTE_CLEAR, mm=MM, vpn=VPN, pfn=0, a=0b010)
    assert scene.violations("I20") == []


def test_cow_without_a_page() -> None:
    """Review note S1 is a matter of I4 under the seed; v9 has to notify."""
    for policy, broken in ((SEED, 0), (V9, 1)):
        scene = Scene(policy)
        scene.subscribe(MM)
        with scene.path("do_wp_page"):
            scene.pte_clear(MM, VPN, PFN)
        assert len(scene.violations("I20")) == broken


def bound(scene: Scene) -> None:
    """A subscribed mm with a page that the device has an entry for."""
    scene.subscribe(MM)
    scene.alloc(PFN)
    scene.pte_set(MM, VPN, PFN)
    scene.fill(20, MM, VPN, PFN, entry=3)


def release(scene: Scene) -> None:
    """A release that invalidates and waits."""
    with scene.notify(Notification.RELEASE, MM, 0, LAST_VPN):
        scene.command(MM, 0, kind=CommandKind.ASID, killed=(3,))


def test_release_then_tear_down() -> None:
    """As it should be."""
    scene = Scene()
    bound(scene)
    with scene.at(100).path("exit_mmap"):
        release(scene)
        scene.at(120).row(Row.TEARDOWN, mm=MM)
    assert scene.violations() == []


def test_tear_down_without_release() -> None:
    """The entry is still there, and comes back, and is used."""
    scene = Scene()
    bound(scene)
    scene.use(115, 130, MM, VA, PFN)
    scene.fill(150, MM, VPN, PFN, entry=4)
    scene.use(160, 170, MM, VA, PFN, id=1)
    with scene.path("exit_mmap"):
        scene.at(120).row(Row.TEARDOWN, mm=MM)
        scene.at(125)
        release(scene)
    whats = [v.what for v in scene.violations("I16")]
    assert len(whats) == 5
    assert any("before the release of its subscriber 1 has returned" in what for what in whats)
    assert any("still holds its page 0x10" in what for what in whats)
    assert any("was filled for mm 1 after its release" in what for what in whats)
    assert sum("was in flight" in what or "began" in what for what in whats) == 2


def test_tear_down_of_a_process_without_a_device() -> None:
    """There is nothing to release."""
    scene = Scene()
    scene.at(120).row(Row.TEARDOWN, mm=9)
    assert scene.violations() == []


def test_a_page_that_stands_again() -> None:
    """A large leaf is split: the same frame is back, unless with less, or because another pass has put it there."""
    whole, less = pte(PFN, writable=True), pte(PFN, writable=False)
    for word, inside, broken in ((whole, True, 0), (less, True, 1), (whole, False, 1)):
        scene = Scene(V3_7)
        scene.subscribe(MM)
        with scene.path("try_to_unmap_one"):
            scene.at(40).pte_clear(MM, VPN, PFN, writable=True)
            if inside:
                scene.at(41).row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=word)
        if not inside:
            scene.at(42).row(Row.PTE_SET, mm=MM, vpn=VPN, pfn=PFN, a=word)
        assert len(scene.violations("I20")) == broken


def test_who_refused_a_start_gets_no_end() -> None:
    """The others do; a walk of the ends that leaves one of them out is I20."""
    for ends, broken in ((2, 0), (1, 1)):
        scene = Scene(V6_6)
        subscribers = [scene.subscribe(MM) for _ in range(3)]
        with scene.at(50).path("zap_page_range"):
            for subscriber in subscribers:
                refuses = int(subscriber == subscribers[-1])
                with scene.notify(
                    Notification.RANGE_START, MM, VPN, subscriber=subscriber, result=refuses
                ):
                    pass
            for subscriber in subscribers[:ends]:
                with scene.notify(Notification.RANGE_END, MM, VPN, subscriber=subscriber):
                    pass
        assert len(scene.violations("I20")) == broken
