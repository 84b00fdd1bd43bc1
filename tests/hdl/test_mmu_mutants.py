"""Each fault that can be built into the MMU makes the case fail that was written for it, with the message of its rule.

On Icarus Verilog, which compiles at once: the cases are short. :mod:`tests.hdl.test_mmu` runs them on the sound MMU.
"""

import dataclasses
from pathlib import Path

import pytest

from secmmu.config import MUTANTS
from shootdown.simulators import simulate
from shootdown.simulators.designs import secmmu_design
from tests.hdl import test_mmu
from tests.hdl.mmu_common import SMALL, environment
from tests.rtl import RtlCases

SEEDED = "mmu_seeded_cases"
INVALIDATION = "mmu_invalidation_cases"
CASES = {
    "rtl-no-drain": ("mmu_smoke_cases", "shoots_down_a_page_in_use", "drained early"),
    "rtl-no-walk-kill": (INVALIDATION, "freed_tables_are_read_no_more", "stale use"),
    "rtl-no-fill-kill": (SEEDED, "a_page_command_beside_a_fill", "stale use"),
    "rtl-no-span-compare": (INVALIDATION, "whole_spans_are_compared", "stale use"),
    "rtl-no-asid-compare": (INVALIDATION, "kills_what_it_names/kind=PAGE", "stale use"),
    "rtl-no-hit-kill": (SEEDED, "a_command_beside_a_lone_hit", "drained early"),
    "rtl-no-filter-mask": (SEEDED, "commands_of_every_kind_among_hits", "stale use"),
    "rtl-no-table-kill": (INVALIDATION, "freed_tables_are_read_no_more", "stale use"),
    "rtl-no-epoch-compare": (SEEDED, "a_drop_in_of_an_older_epoch", "stale use"),
    "rtl-no-hold": ("mmu_hold_cases", "a_hold_keeps_walks_out/kind=PAGE", "held"),
    "rtl-no-burst-count": (SEEDED, "drained_waits_for_every_burst_of_a_page", "drained early"),
    "rtl-no-time-out": (
        "mmu_fault_cases",
        "a_write_that_never_ends_is_ended/given=0",
        "drained early",
    ),
}
"""Mutant: case module, case, start of the scoreboard's message."""


def run(mutant: str, module: str, case: str, out: Path) -> simulate.CaseResult:
    """Run one case on the small MMU with ``mutant`` built in."""
    config = dataclasses.replace(SMALL, mutant=mutant)
    (result,) = simulate.run(
        simulate.build(secmmu_design(config), "icarus"),
        f"shootdown.cases.{module}",
        cases=[case],
        seed=1,
        env=environment(config),
        out=out,
        timeout_s=120.0,
    )
    return result


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_is_caught(mutant: str, tmp_path: Path) -> None:
    """The mutant fails the case, and the message names the rule and the cycle."""
    result = run(mutant, *CASES[mutant][:2], tmp_path)
    assert not result.passed
    assert f"AssertionError: {CASES[mutant][2]}:" in result.message, result.message
    assert "in cycle " in result.message


def test_every_mutant_has_a_case_that_the_sound_mmu_runs() -> None:
    """No mutant is forgotten, and none is found by a case that nobody else runs."""
    assert sorted(CASES) == sorted(MUTANTS)
    run_there = {cases.module for cases in vars(test_mmu).values() if isinstance(cases, RtlCases)}
    assert {f"shootdown.cases.{module}" for module, _, _ in CASES.values()} <= run_there
