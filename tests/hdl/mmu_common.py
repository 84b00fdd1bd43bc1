"""What the tests of the secondary MMU share: its configurations and how its cases learn of them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from secmmu.config import SecmmuConfig
from shootdown.cases.mmu_bench import CONFIG_VARIABLE
from shootdown.cases.mmu_translation_cases import VECTORS_VARIABLE
from shootdown.simulators.designs import secmmu_design
from shootdown.simulators.simulate import Simulator
from tests.rtl import RtlCases

__all__ = ["DEFAULT", "SMALL", "environment", "mmu_cases"]

SMALL = SecmmuConfig(
    asid_bits=2,
    contexts=4,
    id_bits=2,
    outstanding=16,
    tlb_sets=4,
    tlb_ways=2,
    large_entries=4,
    use_slots=4,
    walks=2,
    walk_cache=2,
    waiters=8,
    stalls=2,
    write_beats=16,
    commands=4,
    filters=2,
)
DEFAULT = SecmmuConfig(svadu=True)


def environment(config: SecmmuConfig) -> dict[str, str]:
    """Make the environment of the cases for an MMU of ``config``."""
    vectors = Path(__file__).parents[1] / "vectors"
    fields = json.dumps(dataclasses.asdict(config))
    return {CONFIG_VARIABLE: fields, VECTORS_VARIABLE: str(vectors)}


def mmu_cases(
    module: str,
    config: SecmmuConfig,
    *,
    simulators: tuple[Simulator, ...] = ("verilator",),
    env: Mapping[str, str] | None = None,
    timeout_s: float = 120.0,
    long: bool = False,
) -> RtlCases:
    """Make the pytest items of a case module for an MMU of ``config``; ``long`` ones on a model compiled to run fast."""
    return RtlCases(
        lambda: dataclasses.replace(secmmu_design(config), long=long),
        f"shootdown.cases.{module}",
        simulators=simulators,
        env={**environment(config), **(env or {})},
        timeout_s=timeout_s,
        apart=long,
    )
