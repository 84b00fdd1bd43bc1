"""The register map: one table from which the RTL, the host's accessors, the C header, the RDL and the docs are made."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "BUCKETS",
    "CONTEXT_BASE",
    "CONTEXT_STRIDE",
    "COUNTERS",
    "COUNTER_BASE",
    "DESIGN",
    "EMULATOR_REGISTERS",
    "HISTOGRAMS",
    "HISTOGRAM_BASE",
    "REGISTERS",
    "VERSION",
    "WORD_BYTES",
    "Field",
    "Register",
    "context_register",
]

WORD_BYTES = 8
DESIGN = 0x5ECC
VERSION = 2
"""Of the register map."""
BUCKETS = 16
"""Buckets of a histogram: bucket ``i`` counts latencies of ``2**i`` to ``2**(i+1) - 1`` cycles, the last one all above."""

CONTEXT_BASE = 0x800
CONTEXT_STRIDE = WORD_BYTES
COUNTER_BASE = 0x200
HISTOGRAM_BASE = 0x400


@dataclass(frozen=True)
class Field:
    """Part of a register.

    Parameters
    ----------
    name : str
        Its name, a C identifier.
    low, bits : int
        Its lowest bit and its width.
    doc : str
        What it holds.
    """

    name: str
    low: int
    bits: int
    doc: str

    @property
    def mask(self) -> int:
        """Ones where the field is."""
        return ((1 << self.bits) - 1) << self.low


@dataclass(frozen=True)
class Register:
    """One 64-bit register, or ``count`` of them in a row.

    Parameters
    ----------
    name : str
        Its name; counters are dotted.
    address : int
        Byte address, a multiple of 8.
    access : str
        ``rw``, ``ro`` or ``wo``.
    doc : str
        What it holds.
    fields : tuple of Field
        Its parts; none where the whole word is one number. Bits outside read as 0.
    count : int
        How many follow one another, 8 bytes apart.
    """

    name: str
    address: int
    access: str
    doc: str
    fields: tuple[Field, ...] = ()
    count: int = 1

    def at(self, index: int) -> int:
        """Byte address of the one with number ``index``.

        Raises
        ------
        ValueError
            There is no such register.
        """
        if not 0 <= index < self.count:
            raise ValueError(
                f"index of {self.name} must be from 0 to {self.count - 1}, not {index}"
            )
        return self.address + index * WORD_BYTES

    def pack(self, **values: int) -> int:
        """Return the word whose fields hold ``values``, the others 0.

        Raises
        ------
        ValueError
            There is no such field, or the value does not fit it.
        """
        fields = {field.name: field for field in self.fields}
        word = 0
        for name, value in values.items():
            if name not in fields:
                known = ", ".join(fields) or "none"
                raise ValueError(f"field of {self.name} must be one of {known}, not {name!r}")
            field = fields[name]
            if not 0 <= value < 1 << field.bits:
                limit = (1 << field.bits) - 1
                raise ValueError(f"{self.name}.{name} must be from 0 to {limit}, not {value!r}")
            word |= value << field.low
        return word

    def unpack(self, word: int) -> dict[str, int]:
        """Return the fields of ``word`` by name."""
        return {field.name: (word & field.mask) >> field.low for field in self.fields}


def _table(*rows: Register) -> dict[str, Register]:
    return {row.name: row for row in rows}


COUNTERS: Mapping[str, str] = {
    "mmu.accesses.reads": "read bursts accepted from the device",
    "mmu.accesses.writes": "write bursts accepted from the device",
    "mmu.tlb.hits": "bursts whose first lookup hit",
    "mmu.tlb.misses": "bursts whose first lookup missed",
    "mmu.cycles.stalled": "cycles in which the lookup pipeline stood still",
    "mmu.walks": "walks begun, killed ones included",
    "mmu.walks.killed": "walks killed by an invalidation or kept out by a hold",
    "mmu.walks.joined": "misses that joined a walk already going on",
    "mmu.walk_cache.hits": "walks that began below the root",
    "mmu.updates": "PTEs whose A or D bit the walker set",
    "mmu.updates.lost": "exclusive writes that failed: the PTE had changed, it was read again",
    "mmu.faults": "bursts that met a translation fault, of any cause, stalled ones included",
    "mmu.faults.load_access": "those of cause 5",
    "mmu.faults.store_access": "those of cause 7",
    "mmu.faults.load_page": "those of cause 13",
    "mmu.faults.store_page": "those of cause 15",
    "mmu.faults.stalled": "those that stalled for a resume",
    "mmu.commands": "commands accepted, of any kind, refused ones included",
    "mmu.commands.page": "PAGE commands accepted",
    "mmu.commands.range": "RANGE commands accepted",
    "mmu.commands.asid": "ASID commands accepted",
    "mmu.commands.all": "ALL commands accepted",
    "mmu.commands.fence": "FENCE commands accepted",
    "mmu.commands.release": "RELEASE commands accepted",
    "mmu.commands.young": "YOUNG commands accepted",
    "mmu.commands.context": "CONTEXT commands accepted",
    "mmu.drains": "commands answered DRAINED",
    "mmu.timeouts": "commands answered TIMED_OUT",
    "mmu.filters.overflows": "commands that a superset stood in for because filters ran out",
    "mmu.dropins.taken": "drop-ins taken",
    "mmu.dropins.refused": "drop-ins refused",
}
"""Event counters by name: 64 bits each, from 0, kept over a soft reset."""

_BUCKETS = "register i counts those of 2**i to 2**(i+1) - 1 cycles, the last one all above"

HISTOGRAMS: Mapping[str, str] = {
    "mmu.latency.translation": "accesses, by cycles from the device's address beat to the memory's",
    "mmu.latency.walk": "walks answered, by cycles from their beginning",
    "mmu.latency.shootdown": "commands, by cycles from their handshake to DRAINED or TIMED_OUT",
}
"""Latency histograms by name: :data:`BUCKETS` registers each, 64-bit counts, kept over a soft reset."""

_CONTEXT = Register(
    "context",
    CONTEXT_BASE,
    "rw",
    "the context table, one row per asid; whoever changes a live row sends a CONTEXT command afterwards",
    (
        Field("root_ppn", 0, 44, "frame of the root page table"),
        Field("global_group", 44, 8, "global entries match inside this group; the asid at first"),
        Field("stall", 52, 1, "1: faults wait for a resume, as long as there is room"),
        Field("mode", 60, 4, "0 refuses every access; 8, 9, 10: Sv39, Sv48, Sv57"),
    ),
    count=256,
)

REGISTERS = _table(
    Register(
        "identity",
        0x000,
        "ro",
        "what this is",
        (
            Field("version", 0, 16, f"of the register map: {VERSION}"),
            Field("design", 16, 16, f"{DESIGN:#x}"),
        ),
    ),
    Register(
        "control",
        0x008,
        "rw",
        "control",
        (Field("reset", 0, 1, "soft reset: stops intake, drains, clears, then reads 0 again"),),
    ),
    Register(
        "status",
        0x010,
        "ro",
        "status",
        (Field("idle", 0, 1, "nothing is in flight, walked or waited for"),),
    ),
    Register(
        "features",
        0x018,
        "ro",
        "how this MMU was built",
        (
            Field("levels", 0, 3, "of the deepest page table"),
            Field("svadu", 3, 1, "1: the walker sets A and D"),
            Field("asid_bits", 4, 4, "width of an asid"),
            Field("contexts", 8, 9, "rows of the context table"),
            Field("tlb_entries", 20, 12, "entries of the TLB"),
            Field("walks", 32, 5, "walks at once"),
            Field("use_slots", 40, 7, "translations in flight at once"),
            Field("commands", 48, 5, "commands that may be accepted and not yet drained"),
            Field("stalls", 56, 6, "faults that may await a resume"),
        ),
    ),
    Register(
        "mmu.timeout",
        0x020,
        "rw",
        "when a command that does not drain is given up",
        (Field("cycles", 0, 32, "after its handshake; 0, as after a reset: never"),),
    ),
    Register(
        "mmu.unfence",
        0x028,
        "wo",
        "lets a fenced asid in again; answered SLVERR, without effect, while a use of it is left",
        (Field("asid", 0, 8, "which"),),
    ),
    Register(
        "mmu.fenced",
        0x040,
        "ro",
        "bit a of word w: asid 64 w + a is fenced off after a time-out, its accesses are refused",
        count=4,
    ),
    *(
        Register(name, COUNTER_BASE + WORD_BYTES * index, "ro", doc)
        for index, (name, doc) in enumerate(COUNTERS.items())
    ),
    *(
        Register(
            name,
            HISTOGRAM_BASE + BUCKETS * WORD_BYTES * index,
            "ro",
            f"{doc}; {_BUCKETS}",
            (),
            count=BUCKETS,
        )
        for index, (name, doc) in enumerate(HISTOGRAMS.items())
    ),
    _CONTEXT,
)
"""Registers of the MMU, by name."""


def context_register(asid: int) -> int:
    """Byte address of the context row of ``asid``."""
    return _CONTEXT.at(asid)


EMULATOR_REGISTERS = _table(
    Register(
        "memory.read_latency",
        0x000,
        "rw",
        "cycles from the AR handshake to the first R beat; at least 1",
    ),
    Register(
        "memory.write_latency", 0x008, "rw", "cycles from the last W handshake to B; at least 1"
    ),
    Register(
        "memory.jitter",
        0x010,
        "rw",
        "0: none; else a mask: up to that many cycles more, by transaction number",
    ),
    Register(
        "memory.beat_gap",
        0x018,
        "rw",
        "idle cycles between two beats of a burst: 0 is one beat a cycle",
    ),
    Register("memory.seed", 0x020, "rw", "seed of the jitter"),
    Register("warp", 0x028, "rw", "bit 0: ADVANCE skips cycles in which nothing is busy"),
    Register("cycle", 0x030, "ro", "the emulated cycle counter"),
    Register(
        "dma.bytes", 0x038, "ro", "bytes moved by all engines, both directions, OKAY beats only"
    ),
    Register("dma.pending", 0x040, "ro", "descriptors queued or outstanding, all engines"),
    Register(
        "dma.outstanding", 0x048, "rw", "bursts one engine may have outstanding, 1 to its ids"
    ),
)
"""Registers of the emulator around the MMU, by name (link messages ``CSR_*`` with ``flags`` 1)."""
