"""What each host step costs: one table, with sources; reports mark what follows from it as *cost table*."""

from dataclasses import dataclass, field
from functools import cached_property

__all__ = ["COSTS", "Cost", "CostTable"]

_X86_FAULT = "x86 fault cost, linux-mm list 2026: reuse 420 ns, 4 KiB COW copy 1,500 ns in all"
_LATR = "LATR (ASPLOS 2018): a CPU shootdown takes about 6 us at 16 cores"
_ASSUMED = "assumed; order of magnitude of a few uncontended cache accesses"
_PCIE = "assumed; half of a PCIe MMIO round trip of about 0.8 us"


@dataclass(frozen=True)
class Cost:
    """One row: ``ns`` nanoseconds, and where the figure comes from."""

    ns: int
    source: str


COSTS: dict[str, Cost] = {
    "fault_entry": Cost(220, _X86_FAULT),
    "fault_exit": Cost(120, _X86_FAULT),
    "vma_lookup": Cost(40, _ASSUMED),
    "pte_read": Cost(5, _ASSUMED),
    "pte_write": Cost(10, _ASSUMED),
    "pte_clear": Cost(15, _ASSUMED),
    "walk_tables": Cost(30, _ASSUMED),
    "alloc_page": Cost(80, _ASSUMED),
    "free_page": Cost(60, _ASSUMED),
    "zero_page": Cost(150, "4 KiB at about 27 GB/s"),
    "copy_page": Cost(700, _X86_FAULT),
    "lock": Cost(20, _ASSUMED),
    "unlock": Cost(10, _ASSUMED),
    "unlocked": Cost(0, "no work: the place behind an unlock where a scenario may stop a thread"),
    "refcount": Cost(10, _ASSUMED),
    "rmap": Cost(25, _ASSUMED),
    "lru": Cost(30, _ASSUMED),
    "page_cache": Cost(60, _ASSUMED),
    "flush_cache": Cost(0, "nothing to do on a physically tagged cache"),
    "flush_local": Cost(100, "invlpg, about 100 ns"),
    "flush_ipi": Cost(500, _LATR),
    "flush_ipi_per_cpu": Cost(350, _LATR),
    "notifier_call": Cost(20, _ASSUMED),
    "link": Cost(400, _PCIE),
    "page_mkwrite": Cost(300, "assumed; a file system that has the block already"),
    "mmio_write": Cost(20, "assumed; an uncached posted store"),
    "syscall": Cost(150, _ASSUMED),
    "io_submit": Cost(2_000, "assumed; a block-layer submission"),
    "io_wait": Cost(20_000, "assumed; an NVMe write"),
    "io_read": Cost(20_000, "assumed; an NVMe read, the device's own cache hit"),
    "cpu_access": Cost(2, _ASSUMED),
    "preemption": Cost(4_000, "assumed; a short interrupt"),
    "instructions_per_us": Cost(
        1_000, "assumed; one instruction a ns: here instructions in 1 us, not a time"
    ),
}
"""Cost of each named step."""


@dataclass(frozen=True)
class CostTable:
    """The costs of one run.

    Parameters
    ----------
    scale_link, scale_ipi : float
        Factors on the link's and the IPIs' costs, for sensitivity runs (1/4, 1, 4).
    """

    scale_link: float = 1.0
    scale_ipi: float = 1.0
    costs: dict[str, Cost] = field(default_factory=lambda: COSTS)

    def ns(self, name: str) -> int:
        """Nanoseconds of the step ``name``, scaled."""
        return self._scaled[name]

    @cached_property
    def _scaled(self) -> dict[str, int]:
        return {name: round(cost.ns * self._factor(name)) for name, cost in self.costs.items()}

    def _factor(self, name: str) -> float:
        if name == "link":
            return self.scale_link
        return self.scale_ipi if name.startswith("flush_ipi") else 1

    def flush_tlb_ns(self, cpus: int) -> int:
        """Cost of flushing one translation on the ``cpus`` CPUs that run the address space."""
        others = max(cpus - 1, 0)
        return self.ns("flush_local") + (
            self.ns("flush_ipi") + others * self.ns("flush_ipi_per_cpu") if others else 0
        )
