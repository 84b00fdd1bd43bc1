"""Which violations are expected, and of whom: held against docs/contract.md 7."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from hostmm.policies import PATHS, POLICIES, QUIET_PATHS
from hostmm.scenarios import FORBIDDEN, find
from shootdown.catalogue.played import Played, play
from shootdown.checks.expectations import (
    EXPECTED,
    NO_PATH,
    RELEASE,
    REVOKE,
    UNREGISTER,
    Mark,
    cells,
    expectation,
    expected,
    reason,
)
from shootdown.run.config import MODEL, RunConfig

ORDER = ("v9", "seed", "emm", "v2.6.27", "v3.7", "v4.13", "v6.6")
TABLE = {
    ("I1", "B"): "Y Y Y Y Y Y Y",
    ("I1", "A"): "N N N N N Y Y",
    ("I4", "B"): "Y N Y Y N Y Y",
    ("I4", "A"): "N N N N N N N",
    ("I6", "B"): "N N Y Y Y Y Y",
    ("I6", "A"): "N N N N N Y Y",
    ("I7", "B"): "Y Y Y Y Y Y Y",
    ("I8", "B"): "Y Y Y Y Y Y Y",
    ("I9", "B"): "Y N N Y N N N",
    ("I11", "B"): "n/a n/a n/a N N N Y",
}
"""Section 7, by kind of device. 3.7 has I4 as N because of ``__xip_unmap`` (S17), which section 7's row of COW leaves
out, and I9 because of the cluster (S5); zap flushes, and tells an A-type device, when it has unlocked; under 6.6 reclaim does not look at young again on purpose. Section 7 leaves
hugetlbfs out."""
HUGETLB = ("hugetlb_cow", "copy_hugetlb_page_range")


def mark(policy: str, invariant: str, kind: str) -> str:
    """The mark over all paths but those of hugetlbfs: N where any has it."""
    paths = [path for path in POLICIES[policy].points if path not in HUGETLB]
    found = {expectation(policy, invariant, path, kind)[0] for path in paths}
    for one in (Mark.NOT_APPLICABLE, Mark.VIOLATED):
        if one in found:
            return str(one.value)
    return str(Mark.HOLDS.value)


@pytest.mark.parametrize(("invariant", "kind"), TABLE)
def test_section_7(invariant: str, kind: str) -> None:
    """Every policy's mark."""
    assert " ".join(mark(p, invariant, kind) for p in ORDER) == TABLE[invariant, kind]


def test_copy_on_write_is_in_order_but_for_the_seed() -> None:
    """The row of COW, path by path: only the seed for a device that honours brackets, and v3.7 and EMM for another."""
    for kind, broken in (("B", ["seed"]), ("A", ["seed", "emm", "v3.7"])):
        found = [p for p in ORDER if expected(p, "I4", "do_wp_page", kind)]
        assert found == broken


def test_freeing_for_a_device_that_ignores_brackets() -> None:
    """The row of I1: zap until 4.12, the cluster under the seed, everything under EMM."""
    for path, broken in (
        ("unmap_region", ["v9", "seed", "emm", "v2.6.27", "v3.7"]),
        ("try_to_unmap_cluster", ["seed", "emm", "v3.7"]),
        ("try_to_unmap_one", ["emm"]),
    ):
        assert [p for p in ORDER if expected(p, "I1", path, "A")] == broken
        assert not any(expected(p, "I1", path, "B") for p in ORDER)


def test_what_goes_on_when_everybody_has_been_told() -> None:
    """Only a path that tells nobody explains it."""
    assert not expected("seed", "I4", "do_wp_page", "B", lasting=True)
    assert expected("v9", "I10", "mprotect", "A", lasting=True)
    assert not expected("v9", "I10", "mprotect", "B", lasting=True)


def test_huge_pages_of_which_nobody_is_told() -> None:
    """Copied on write until 2.6.34 (S16), write-protected by fork until 3.14; for good."""
    for path, invariant, broken in (
        ("hugetlb_cow", "I4", ["v9", "seed", "emm", "v2.6.27"]),
        ("copy_hugetlb_page_range", "I10", ["v9", "seed", "emm", "v2.6.27", "v3.7"]),
    ):
        assert [p for p in ORDER if expected(p, invariant, path, "B", lasting=True)] == broken


def played(policy: str, subscriber: str, scenario: str) -> Played:
    """A scenario under a policy that breaks something, as it is known to."""
    config = RunConfig(policy=policy, subscriber=subscriber, scenario=scenario, simulator=MODEL)
    found = play(config)
    assert found.violations
    assert all(violation.expected for violation in found.violations)
    return found


@pytest.mark.parametrize(("policy", "scenario"), [("seed", "S16"), ("v3.7", "S5")])
def test_what_the_trial_shows_is_expected(policy: str, scenario: str) -> None:
    """A replay of its runs says so."""
    assert played(policy, "kvm", scenario).forbidden
    assert find(scenario).expected(policy, "kvm") == FORBIDDEN


def test_an_upgrade_that_is_not_forwarded_costs_faults_without_end() -> None:
    """I11, and with it I22, until 6.5."""
    assert set(played("v4.13", "ats", "race-clean").broken) == {"I11", "I22"}
    assert not expected("v4.13", "I22", NO_PATH, "B")
    assert not expected("v6.6", "I22", NO_PATH, "A")


def test_a_table_of_the_kernels_own() -> None:
    """B36 is in every kernel here."""
    assert played("v6.6", "sva-a", "bug-kernel-table").broken == ["I17"]
    assert all(expected(p, "I17", "pmd_free_pte_page", "AB") for p in ORDER)
    assert not any(expected(p, "I17", "exit_mmap", "AB") for p in ORDER)


def test_a_device_that_waits_for_an_end_that_never_comes() -> None:
    """The hang is the fault of who left the bracket open (B7)."""
    assert set(played("v9", "sva", "bug-fork-fails").broken) == {"I13", "I22"}


@pytest.mark.parametrize("policy", ["v9", "seed", "emm", "v2.6.27"])
def test_a_subscriber_that_is_off_the_chain_and_not_released(policy: str) -> None:
    """B3 is in every kernel until 3.5, and the same run is clean from 3.7 on; nothing else of exit is excused."""
    found = played(policy, "kvm", "bug-exit-reclaim")
    assert {(v.invariant, v.path) for v in found.violations} == {("I1", RELEASE)}
    assert not expected(policy, "I1", "exit_mmap", "B")
    config = RunConfig(
        policy="v3.7", subscriber="kvm", scenario="bug-exit-reclaim", simulator=MODEL
    )
    assert play(config).violations == []
    faulty = replace(config, policy="v3.7", mutant="B3")
    assert {v.expected for v in play(faulty).violations} == {False}


@pytest.mark.parametrize("policy", ["v9", "v2.6.27", "v3.7", "v4.13"])
def test_raw_frames_that_their_driver_takes_back(policy: str) -> None:
    """B27 is in every kernel until 5.18, for a device that follows flushes; nothing else of munmap is excused."""
    found = played(policy, "sva-a", "bug-revoke")
    assert {(v.invariant, v.path) for v in found.violations} == {("I1", REVOKE)}
    assert not expected(policy, "I1", REVOKE, "B")
    assert not expected("v4.13", "I1", "unmap_region", "A")
    faulty = RunConfig(
        policy="v6.6", subscriber="sva-a", scenario="bug-revoke", simulator=MODEL, mutant="B27"
    )
    assert {v.expected for v in play(faulty).violations} == {False}


@pytest.mark.parametrize("policy", ["v9", "seed"])
def test_a_driver_that_leaves_while_its_address_space_ends(policy: str) -> None:
    """Until #v10 unregistration returns while the release that exit has begun still runs; from 2.6.27 on it waits."""
    found = played(policy, "sva", "bug-exit-unbind")
    assert [(v.invariant, v.path) for v in found.violations] == [("I15", UNREGISTER)]
    assert not expected(policy, "I15", "page_mkclean_one", "B")
    for later in ("v2.6.27", "v3.7"):
        config = RunConfig(policy=later, scenario="bug-exit-unbind", simulator=MODEL)
        assert play(config).violations == []


ZAPPED = """title: a page that is being dropped is written anew before the flush
mm P: 2 cpus
page p: anon
device D: P

| C0                                                | C1          | D          |
|---------------------------------------------------|-------------|------------|
| store p = 1                                       |             |            |
|                                                   |             | load p     |
| dontneed p; stalls after unlock of zap_page_range |             |            |
|                                                   | store p = 2 |            |
|                                                   |             | r = load p |
| go on                                             |             |            |

forbidden: r == 1
"""


@pytest.mark.parametrize("policy", ["v4.13", "v6.6"])
def test_a_page_that_is_written_anew_before_its_zap_has_flushed(
    policy: str, tmp_path: Path
) -> None:
    """A bracket keeps the device out; one that follows flushes reads what was there, for that long."""
    script = tmp_path / "zapped.litmus"
    script.write_text(ZAPPED)
    assert played(policy, "sva-a", str(script)).broken == ["I4"]
    config = RunConfig(policy=policy, scenario=str(script), simulator=MODEL)
    assert play(config).violations == []


def test_a_path_that_the_kernel_does_not_have() -> None:
    """It is neither kept nor broken."""
    found, why = expectation("v6.6", "I4", "__xip_unmap", "B")
    assert found is Mark.NOT_APPLICABLE
    assert "no path __xip_unmap" in why


def test_every_cell_has_its_reason() -> None:
    """The report quotes it."""
    for cell in EXPECTED:
        assert cell.policy in POLICIES
        assert cell.invariant in {f"I{number}" for number in range(1, 27)}
        assert set(cell.paths) <= {*PATHS, *QUIET_PATHS, NO_PATH, RELEASE, REVOKE, UNREGISTER}
        assert set(cell.kinds) <= set("ABP")
        assert len(cell.why) > 20
        assert cell in cells(cell.policy, cell.kinds)
    assert reason("v9", "I4", "do_wp_page", "B") is None
    assert reason("seed", "I4", "do_wp_page", "B") is not None
