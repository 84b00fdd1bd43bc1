"""The register map: one table from which the RTL, the host's accessors and the docs are made."""

from dataclasses import dataclass

__all__ = [
    "CONTEXT_BASE",
    "CONTEXT_STRIDE",
    "EMULATOR_REGISTERS",
    "REGISTERS",
    "Register",
    "context_register",
]


@dataclass(frozen=True)
class Register:
    """One 64-bit register.

    Parameters
    ----------
    name : str
        Its name; counters are dotted.
    address : int
        Byte address, a multiple of 8.
    access : str
        ``rw`` or ``ro``.
    doc : str
        What it holds.
    """

    name: str
    address: int
    access: str
    doc: str


def _table(*rows: Register) -> dict[str, Register]:
    return {row.name: row for row in rows}


REGISTERS = _table(
    Register("identity", 0x000, "ro", "0x5ecc_0001: this IP, register map version 1"),
    Register(
        "control",
        0x008,
        "rw",
        "bit 0: soft reset; stops intake, drains, clears, then reads 0 again",
    ),
    Register("status", 0x010, "ro", "bit 0: idle, nothing in flight, walked or waited for"),
    Register("mmu.accesses.reads", 0x020, "ro", "read bursts accepted from the device"),
    Register("mmu.accesses.writes", 0x028, "ro", "write bursts accepted from the device"),
    Register("mmu.tlb.hits", 0x030, "ro", "bursts whose first lookup hit"),
    Register("mmu.tlb.misses", 0x038, "ro", "bursts whose first lookup missed"),
    Register("mmu.walks", 0x040, "ro", "walks begun, killed ones included"),
    Register(
        "mmu.walks.killed", 0x048, "ro", "walks killed by an invalidation or kept out by a hold"
    ),
    Register("mmu.faults", 0x050, "ro", "bursts answered with a translation fault"),
    Register(
        "mmu.commands", 0x058, "ro", "invalidation commands accepted, fences and releases included"
    ),
    Register(
        "mmu.filters.overflows",
        0x060,
        "ro",
        "holds that took the whole asid because filters ran out",
    ),
    Register(
        "mmu.timeout",
        0x068,
        "rw",
        "cycles after which a command that waits for a use ends as TIMED_OUT; 0: never",
    ),
)
"""Registers of the MMU, by name. The context table follows at :data:`CONTEXT_BASE`."""

CONTEXT_BASE = 0x800
CONTEXT_STRIDE = 8


def context_register(asid: int) -> int:
    """Byte address of the context row of ``asid``: root_ppn [43:0], global_group [51:44], stall [52], mode [63:60].

    ``mode`` is satp's: 0 refuses every access (access fault), 8 is Sv39. Where ``stall`` is 1, an access that faults
    waits for its RESUME; where it is 0, it is answered SLVERR. Software that changes a live row sends CONTEXT
    afterwards.
    """
    return CONTEXT_BASE + asid * CONTEXT_STRIDE


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
