"""The secondary MMU with the least of everything."""

from secmmu.config import SecmmuConfig
from tests.hdl.mmu_common import mmu_cases

TINY = SecmmuConfig(
    asid_bits=2,
    contexts=4,
    id_bits=1,
    outstanding=2,
    tlb_sets=2,
    tlb_ways=1,
    large_entries=1,
    use_slots=1,
    walks=1,
    walk_cache=1,
    waiters=2,
    stalls=1,
    write_beats=2,
    commands=1,
    filters=1,
    tag_bits=3,
    log=1,
    observe=False,
)
"""The smallest of everything, without observation lanes."""

soak = mmu_cases("mmu_soak_cases", TINY)
