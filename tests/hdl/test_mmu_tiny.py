"""The secondary MMU with the least of everything."""

from secmmu.config import SecmmuConfig
from tests.hdl.mmu_common import mmu_cases

TINY = SecmmuConfig(
    asid_bits=2,
    id_bits=1,
    tlb_sets=2,
    tlb_ways=1,
    use_slots=1,
    commands=1,
    filters=1,
    tag_bits=3,
    observe=False,
)
"""The smallest of everything, without observation lanes."""

soak = mmu_cases("mmu_soak_cases", TINY)
