"""The secondary MMU in simulation: the full list on Verilator, a smoke subset on Icarus too."""

import os

from shootdown.cases.mmu_sweep_cases import STRIDE_VARIABLE
from tests.hdl.mmu_common import DEFAULT, SMALL, mmu_cases

translation = mmu_cases("mmu_translation_cases", SMALL)
axi = mmu_cases("mmu_axi_cases", SMALL)
invalidation = mmu_cases("mmu_invalidation_cases", SMALL)
hold = mmu_cases("mmu_hold_cases", SMALL)
command = mmu_cases("mmu_command_cases", SMALL)
fault = mmu_cases("mmu_fault_cases", SMALL)
STRIDE = {STRIDE_VARIABLE: os.environ.get(STRIDE_VARIABLE, "49")}
WHOLE = STRIDE[STRIDE_VARIABLE] == "1"
"""Every offset is tried, as ``make sweep`` does; otherwise every 48th with a memory of 20 cycles."""
SWEEP_SECONDS = 7_200.0 if WHOLE else 600.0

sweep = mmu_cases("mmu_sweep_cases", SMALL, env=STRIDE, timeout_s=SWEEP_SECONDS, long=WHOLE)
update = mmu_cases("mmu_update_cases", DEFAULT, env=STRIDE, timeout_s=SWEEP_SECONDS, long=WHOLE)

seeded = mmu_cases("mmu_seeded_cases", SMALL)
soak = mmu_cases("mmu_soak_cases", SMALL)
vip = mmu_cases("mmu_vip_cases", SMALL)
smoke = mmu_cases("mmu_smoke_cases", SMALL, simulators=("verilator", "icarus"))

translation_default = mmu_cases("mmu_translation_cases", DEFAULT)
axi_default = mmu_cases("mmu_axi_cases", DEFAULT)
invalidation_default = mmu_cases("mmu_invalidation_cases", DEFAULT)
hold_default = mmu_cases("mmu_hold_cases", DEFAULT)
command_default = mmu_cases("mmu_command_cases", DEFAULT)
soak_default = mmu_cases("mmu_soak_cases", DEFAULT)
