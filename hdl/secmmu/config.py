"""Validated parameters of the secondary MMU and of the emulator around it."""

import dataclasses
from dataclasses import dataclass

from amaranth.utils import exact_log2

__all__ = ["MUTANTS", "PRESETS", "SWEEP_CYCLES", "EmulatorConfig", "SecmmuConfig"]

SWEEP_CYCLES = 80
"""Cycles behind *invalidated* within which dead TLB entries are cleared; they do not hit meanwhile.

A sweep goes round in 64 at most, and waits for fills and page invalidations.
"""

VPN_BITS_PER_LEVEL = 9
"""Bits of a page number that index one level of a page table."""

MUTANTS = (
    "rtl-no-drain",
    "rtl-no-walk-kill",
    "rtl-no-fill-kill",
    "rtl-no-span-compare",
    "rtl-no-asid-compare",
    "rtl-no-hit-kill",
    "rtl-no-filter-mask",
    "rtl-no-table-kill",
    "rtl-no-epoch-compare",
    "rtl-no-hold",
    "rtl-no-burst-count",
    "rtl-no-time-out",
)
"""Named faults that can be built into the RTL, to show that the checks find them.

``rtl-no-drain``         *drained* is sent together with *invalidated*, uses are not waited for
``rtl-no-walk-kill``     a walk, and its answer, are not killed by an overlapping invalidation: later misses join it
``rtl-no-fill-kill``     a fill on its way into the TLB survives an overlapping invalidation
``rtl-no-span-compare``  a command is compared with the first page of an entry, not with its whole span
``rtl-no-asid-compare``  a command that names an asid is compared with asid 0 instead (its entries survive)
``rtl-no-hit-kill``      a hit is used that an invalidation takes in the very cycle of its decision
``rtl-no-filter-mask``   entries hit until the sweep of an invalidation of many pages has come to them
``rtl-no-table-kill``    the walk cache keeps pointers to tables that an invalidation may have unlinked
``rtl-no-epoch-compare`` a drop-in is not compared with the commands accepted since its epoch
``rtl-no-hold``          held pages are walked for, filled and answered
``rtl-no-burst-count``   a use slot counts the first of its bursts only, and is free when that has ended
``rtl-no-time-out``      a command that is given up is answered DRAINED
"""


def _require(condition: bool, what: str, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{what} must be {rule}, not {value!r}")


def _power_of_two(value: int) -> bool:
    return isinstance(value, int) and value > 0 and value & (value - 1) == 0


_RANGES = {
    "levels": (3, 5),
    "asid_bits": (1, 8),
    "id_bits": (1, 8),
    "tlb_ways": (1, 8),
    "large_entries": (1, 64),
    "use_slots": (1, 64),
    "walks": (1, 16),
    "walk_cache": (1, 16),
    "waiters": (2, 64),
    "stalls": (0, 32),
    "commands": (1, 16),
    "filters": (1, 16),
    "tag_bits": (1, 16),
    "log": (1, 64),
}
"""Least and greatest value of each plain integer parameter."""

_POWERS_OF_TWO = {"contexts": (2, 256), "outstanding": (1, 1024), "write_beats": (2, 256)}
"""The same of those that must be powers of two."""


@dataclass(frozen=True, kw_only=True)
class SecmmuConfig:
    """Parameters of one secondary MMU; as they are by default, a small one for simulation.

    Parameters
    ----------
    levels : int
        Deepest page table: 3 serves Sv39, 4 Sv48 too, 5 Sv57 too.
    svadu : bool
        Whether the walker sets A and D itself (Svadu); otherwise a PTE that lacks them faults (Svade).
    asid_bits : int
        Width of an address-space id, 1 to 8.
    contexts : int
        Rows of the context table, one per asid from 0: a power of two, 2 to ``2**asid_bits``. Higher asids are refused.
    id_bits : int
        Width of AxID on the device side and on the memory side, 1 to 8.
    outstanding : int
        Bursts on the memory side in each direction, a power of two from 1 to 1024, shared out evenly among the ids.
    tlb_sets, tlb_ways : int
        Block RAM that holds 4 KiB entries: sets a power of two from 2 to 256, ways 1 to 8. No sets: none.
    large_entries : int
        Fully associative entries for the other sizes, and for 4 KiB where ``tlb_sets`` is 0. 1 to 64.
    use_slots : int
        Translations that may be in flight at once, 1 to 64.
    walks : int
        Walks at once, 1 to 16, not more than ``waiters``.
    walk_cache : int
        Non-leaf entries kept of each level, 1 to 16.
    waiters : int
        Accesses that may wait for a walk, a hold, older ones of their id or a resume. 2 to 64.
    stalls : int
        Faults that may await a resume, 0 to half of ``waiters``.
    write_beats : int
        Beats of W kept for writes that wait, a power of two from 2 to 256.
    commands : int
        Invalidation commands that may be accepted and not yet drained, 1 to 16.
    filters : int
        Spans being swept, and spans held, 1 to 16 each; when they run out a superset is taken.
    tag_bits : int
        Width of the opaque tag of a command, 1 to 16.
    log : int
        Commands that a drop-in is compared with, 1 to 64.
    observe : bool
        Whether the observation lanes exist.
    mutant : str or None
        One of :data:`MUTANTS`: a fault built in on purpose.
    """

    levels: int = 3
    svadu: bool = False
    asid_bits: int = 4
    contexts: int = 16
    id_bits: int = 4
    outstanding: int = 128
    tlb_sets: int = 16
    tlb_ways: int = 4
    large_entries: int = 8
    use_slots: int = 16
    walks: int = 4
    walk_cache: int = 4
    waiters: int = 16
    stalls: int = 8
    write_beats: int = 32
    commands: int = 8
    filters: int = 8
    tag_bits: int = 16
    log: int = 16
    observe: bool = True
    mutant: str | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            self._check(name, low, high)
        for name, (low, high) in _POWERS_OF_TWO.items():
            self._check(name, low, high, power_of_two=True)
        if self.tlb_sets != 0:
            self._check("tlb_sets", 2, 256, power_of_two=True)
        for name, other, limit in (
            ("contexts", "2**asid_bits", 1 << self.asid_bits),
            ("walks", "waiters", self.waiters),
            ("stalls", "half of waiters", self.waiters // 2),
        ):
            value = getattr(self, name)
            _require(value <= limit, name, f"at most {other}, which is {limit}", value)
        _require(
            self.mutant is None or self.mutant in MUTANTS,
            "mutant",
            f"one of {', '.join(MUTANTS)}",
            self.mutant,
        )

    def _check(self, name: str, low: int, high: int, *, power_of_two: bool = False) -> None:
        value = getattr(self, name)
        kind = "a power of two" if power_of_two else "an integer"
        fits = isinstance(value, int) and low <= value <= high
        fits = fits and (not power_of_two or _power_of_two(value))
        _require(fits, name, f"{kind} from {low} to {high}", value)

    @property
    def vpn_bits(self) -> int:
        """Width of a virtual page number inside: the page-table indices, without the sign extension."""
        return VPN_BITS_PER_LEVEL * self.levels

    @property
    def tlb_entries(self) -> int:
        """Entries of the TLB. Their indices: the block RAM first (set * ways + way), then the associative ones."""
        return self.tlb_sets * self.tlb_ways + self.large_entries

    @property
    def set_bits(self) -> int:
        """Width of a TLB set index; 0 without block RAM."""
        return exact_log2(self.tlb_sets) if self.tlb_sets else 0

    @property
    def context_bits(self) -> int:
        """Width of the number of a context row."""
        return exact_log2(self.contexts)

    @property
    def walk_bits(self) -> int:
        """Width of the number of a walk, which is the id of its reads and writes; at least 1."""
        return max(1, (self.walks - 1).bit_length())

    @property
    def outstanding_per_id(self) -> int:
        """Bursts of one id on the memory side in each direction."""
        return max(1, self.outstanding >> self.id_bits)

    @property
    def lookup_latency(self) -> int:
        """Cycles from the lookup of an access to its decision."""
        return 3 if self.tlb_sets else 1


PRESETS = {
    "tiny": SecmmuConfig(
        id_bits=3,
        outstanding=16,
        tlb_sets=0,
        large_entries=16,
        use_slots=4,
        walks=4,
        walk_cache=1,
        waiters=5,
        stalls=1,
        write_beats=16,
        commands=5,
        filters=2,
        tag_bits=8,
        log=2,
        observe=False,
    ),
    "default": SecmmuConfig(
        svadu=True,
        asid_bits=8,
        contexts=64,
        tlb_sets=256,
        large_entries=16,
        walks=8,
        observe=False,
    ),
    "test": SecmmuConfig(),
}
"""Ready configurations: beside a small SoC; for throughput; for simulation."""


@dataclass(frozen=True, kw_only=True)
class EmulatorConfig:
    """Parameters of the FPGA top: the MMU and what stands around it.

    Parameters
    ----------
    mmu : SecmmuConfig
        The MMU in the slot.
    engines : int
        DMA engines, 2 to 4. Engine ``e`` owns the AXI ids whose top bits equal ``e``.
    descriptors : int
        Descriptors queued per engine, a power of two from 2 to 256.
    memory_bytes : int
        Size of the emulated memory, a power of two, at least 64 KiB.
    external_memory : bool
        True: the memory is the simulation's Verilog module behind an Instance; False: block RAM.
    clock_hz : int
        The emulated clock that reports convert cycles with.
    """

    mmu: SecmmuConfig = dataclasses.field(default_factory=SecmmuConfig)
    engines: int = 2
    descriptors: int = 64
    memory_bytes: int = 128 << 20
    external_memory: bool = True
    clock_hz: int = 100_000_000

    def __post_init__(self) -> None:
        _require(self.engines in (2, 3, 4), "engines", "an integer from 2 to 4", self.engines)
        _require(
            _power_of_two(self.descriptors) and 2 <= self.descriptors <= 256,
            "descriptors",
            "a power of two from 2 to 256",
            self.descriptors,
        )
        _require(
            _power_of_two(self.memory_bytes) and self.memory_bytes >= 64 << 10,
            "memory_bytes",
            "a power of two, at least 65536",
            self.memory_bytes,
        )
        _require(self.clock_hz > 0, "clock_hz", "positive", self.clock_hz)
        # A frame tag has one right per asid in 16 bits.
        _require(
            self.mmu.asid_bits <= 4,
            "mmu.asid_bits",
            "at most 4 in the emulator",
            self.mmu.asid_bits,
        )
        _require(
            self.mmu.id_bits > self.engine_bits,
            "mmu.id_bits",
            "wider than the engine number",
            self.mmu.id_bits,
        )

    @property
    def frames(self) -> int:
        """4 KiB frames of the emulated memory."""
        return self.memory_bytes >> 12

    @property
    def engine_bits(self) -> int:
        """Bits of AxID that name the engine (its top bits)."""
        return (self.engines - 1).bit_length()

    @property
    def outstanding(self) -> int:
        """Bursts one engine may have outstanding: one per AXI id of its own."""
        return 1 << (self.mmu.id_bits - self.engine_bits)
