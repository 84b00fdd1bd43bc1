"""Validated parameters of the secondary MMU and of the emulator around it."""

import dataclasses
from dataclasses import dataclass

from amaranth.utils import exact_log2

__all__ = ["MUTANTS", "EmulatorConfig", "SecmmuConfig"]

MUTANTS = (
    "rtl-no-drain",
    "rtl-no-walk-kill",
    "rtl-no-fill-kill",
    "rtl-no-span-compare",
    "rtl-no-asid-compare",
)
"""Named faults that can be built into the RTL, to show that the checks find them.

``rtl-no-drain``        *drained* is sent together with *invalidated*, uses are not waited for
``rtl-no-walk-kill``    a walk in progress is not killed by an overlapping invalidation: its fill goes in
``rtl-no-fill-kill``    a fill in the very cycle of an overlapping invalidation survives it
``rtl-no-span-compare`` a command is compared with the first page of an entry, not with its whole span
``rtl-no-asid-compare`` a command that names an asid is compared with asid 0 instead (its entries survive)
"""


def _require(condition: bool, what: str, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{what} must be {rule}, not {value!r}")


def _power_of_two(value: int) -> bool:
    return isinstance(value, int) and value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class SecmmuConfig:
    """Parameters of one secondary MMU.

    Parameters
    ----------
    asid_bits : int
        Width of an address-space id, 1 to 8. The context table has one row per asid.
    id_bits : int
        Width of AxID on the device side and on the memory side, 1 to 8.
    tlb_sets, tlb_ways : int
        Geometry of the TLB; sets a power of two, at least 2; ways 1 to 8.
    use_slots : int
        Translations that may be in flight at once, 1 to 64.
    commands : int
        Invalidation commands that may be accepted and not yet drained, 1 to 16.
    filters : int
        Held ranges kept apart; when they run out the whole asid is held. 1 to 16.
    tag_bits : int
        Width of the opaque tag of a command, 1 to 16.
    observe : bool
        Whether the observation lanes exist.
    mutant : str or None
        One of :data:`MUTANTS`: a fault built in on purpose.
    """

    asid_bits: int = 4
    id_bits: int = 4
    tlb_sets: int = 16
    tlb_ways: int = 4
    use_slots: int = 16
    commands: int = 8
    filters: int = 8
    tag_bits: int = 16
    observe: bool = True
    mutant: str | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("asid_bits", 1, 8),
            ("id_bits", 1, 8),
            ("tlb_ways", 1, 8),
            ("use_slots", 1, 64),
            ("commands", 1, 16),
            ("filters", 1, 16),
            ("tag_bits", 1, 16),
        ):
            value = getattr(self, name)
            _require(
                isinstance(value, int) and low <= value <= high,
                name,
                f"an integer from {low} to {high}",
                value,
            )
        _require(
            _power_of_two(self.tlb_sets) and 2 <= self.tlb_sets <= 256,
            "tlb_sets",
            "a power of two from 2 to 256",
            self.tlb_sets,
        )
        _require(
            self.mutant is None or self.mutant in MUTANTS,
            "mutant",
            f"one of {', '.join(MUTANTS)}",
            self.mutant,
        )

    @property
    def tlb_entries(self) -> int:
        """Entries of the TLB."""
        return self.tlb_sets * self.tlb_ways

    @property
    def set_bits(self) -> int:
        """Width of a TLB set index."""
        return exact_log2(self.tlb_sets)

    @property
    def contexts(self) -> int:
        """Rows of the context table: one per asid."""
        return 1 << self.asid_bits


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
