"""What the blocks inside the MMU say to each other: layouts, signatures and the comparison of spans.

An Sv39 address is canonical, so the blocks carry 27-bit virtual page numbers; the order of the 52-bit numbers of
the ports, unsigned, is the order of their low 27 bits. A *span* is a naturally aligned leaf: its first page and
its level (0: 4 KiB, 1: 2 MiB, 2: 1 GiB).
"""

from amaranth.hdl import Cat, Const, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.layouts import PPN_BITS, VA_BITS, VPN_BITS

__all__ = [
    "GROUP_BITS",
    "INDEX_BITS",
    "LEVELS",
    "MODE_BITS",
    "SV39_MODE",
    "SV39_VPN_BITS",
    "AccessLayout",
    "ContextLayout",
    "EndSignature",
    "EntryLayout",
    "FillSignature",
    "HoldCheckSignature",
    "HoldLayout",
    "KillLayout",
    "LookupSignature",
    "Outcome",
    "ReadBeatLayout",
    "RefusalLayout",
    "TranslationLayout",
    "UseLayout",
    "WalkAnswerLayout",
    "WalkRequestLayout",
    "WalkSignature",
    "WriteBeatLayout",
    "WriteResponseLayout",
    "is_killed",
    "killed_asid",
    "sign_extended",
    "span_last",
    "span_mask",
]

LEVELS = 3
INDEX_BITS = 9
"""VPN bits that index one page table."""
SV39_VPN_BITS = LEVELS * INDEX_BITS
SV39_MODE = 8
GROUP_BITS = 8
MODE_BITS = 4
"""Width of the mode of a context: 8 is Sv39, 9 Sv48, 10 Sv57."""


class ContextLayout(data.StructLayout):
    """One row of the context table, as software writes it; with ``stall`` faults await a resume."""

    def __init__(self) -> None:
        super().__init__(
            {
                "root_ppn": PPN_BITS,
                "global_group": GROUP_BITS,
                "stall": 1,
                "_0": 7,
                "mode": MODE_BITS,
            }
        )


class AccessLayout(data.StructLayout):
    """The address beat of a burst, either direction.

    Parameters
    ----------
    config : SecmmuConfig
        ``id_bits`` and ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "addr": VA_BITS,
                "id": config.id_bits,
                "len": 8,
                "size": 3,
                "burst": 2,
                "lock": 1,
                "cache": 4,
                "prot": 3,
                "asid": config.asid_bits,
            }
        )


class TranslationLayout(data.StructLayout):
    """What a translation is for: whose, and which span. ``shared`` is the G bit: the whole group's.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "vpn": SV39_VPN_BITS,
                "level": 2,
                "shared": 1,
                "asid": config.asid_bits,
                "group": GROUP_BITS,
            }
        )


class EntryLayout(data.StructLayout):
    """A TLB entry. Every entry may be read by the device; ``writable`` is W and D of the leaf.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"ppn": PPN_BITS, "writable": 1, "translation": TranslationLayout(config)})


class KillLayout(data.StructLayout):
    """The invalidation that is applied in this cycle, pages ``first`` to ``last`` inclusive.

    ``valid`` is high for one cycle, the cycle after the command's handshake. ``everything`` means every asid.
    A span that holds no canonical page has ``last`` just below ``first`` and so overlaps no span.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "valid": 1,
                "everything": 1,
                "asid": config.asid_bits,
                "group": GROUP_BITS,
                "first": SV39_VPN_BITS,
                "last": SV39_VPN_BITS,
                "leaf_only": 1,
            }
        )


class HoldLayout(data.StructLayout):
    """A hold to place or to release, in the cycle in which its command is applied.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "place": 1,
                "release": 1,
                "asid": config.asid_bits,
                "group": GROUP_BITS,
                "first": VPN_BITS,
                "last": VPN_BITS,
            }
        )


class HoldCheckSignature(wiring.Signature):
    """Question whether a span is held now, seen from the asker; answered in the same cycle.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``.

    Members
    -------
    asid, group, shared, first, last : Out
        The span; ``shared`` asks for holds of any asid of the group as well.
    held : In(1)
        A hold overlaps it.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "asid": Out(config.asid_bits),
                "group": Out(GROUP_BITS),
                "shared": Out(1),
                "first": Out(VPN_BITS),
                "last": Out(VPN_BITS),
                "held": In(1),
            }
        )


class LookupSignature(wiring.Signature):
    """TLB lookup, seen from the asker.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``.

    Members
    -------
    en : Out(1)
        Look up ``asid`` and ``vpn`` now.
    asid, vpn : Out
        The page.
    group : Out(8)
        Global group of that asid, given in the cycle *after* ``en``.
    hit : In(1)
        Valid in the cycle after ``en`` only: an entry translates the page, and is not being killed.
    entry : In(EntryLayout)
        That entry; 0 when there is none.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "en": Out(1),
                "asid": Out(config.asid_bits),
                "vpn": Out(SV39_VPN_BITS),
                "group": Out(GROUP_BITS),
                "hit": In(1),
                "entry": In(EntryLayout(config)),
            }
        )


class FillSignature(wiring.Signature):
    """TLB fill, seen from the walker.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``.

    Members
    -------
    en : Out(1)
        Write ``entry`` now. Only while ``busy`` is low.
    entry : Out(EntryLayout)
        The entry.
    busy : In(1)
        An invalidation has the comparators, or killed entries are still being shown.
    index : In(16)
        Where the entry is written.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {"en": Out(1), "entry": Out(EntryLayout(config)), "busy": In(1), "index": In(16)}
        )


class Outcome(enum.Enum, shape=3):
    """How a walk ended.

    ``GRANTED``       ``entry`` translates the page, and lets it be written when the walk was for a write
    ``PAGE_FAULT``    the tables refuse what the walk was for: a write, if it was for one
    ``ACCESS_FAULT``  a table cannot be read or updated
    ``HELD``          the leaf found reaches into a held range: look up again after a release
    ``AGAIN``         an invalidation overlapped it: look up again
    """

    GRANTED = 0
    PAGE_FAULT = 1
    ACCESS_FAULT = 2
    HELD = 3
    AGAIN = 4


class WalkRequestLayout(data.StructLayout):
    """A page to walk for; ``write`` asks for a page that may be written. ``beats`` and ``id`` are for the observer.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``, ``id_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "vpn": config.vpn_bits,
                "asid": config.asid_bits,
                "group": GROUP_BITS,
                "root_ppn": PPN_BITS,
                "mode": MODE_BITS,
                "write": 1,
                "id": config.id_bits,
                "beats": 9,
            }
        )


class WalkAnswerLayout(data.StructLayout):
    """How a walk ended; ``entry`` is meaningful where ``outcome`` is ``GRANTED``.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"outcome": Outcome, "write": 1, "entry": EntryLayout(config)})


class WalkSignature(wiring.Signature):
    """The door to the walker, seen from the datapath.

    A request is given the number of its walk, a new one or one that it joins. From the next cycle on, until it has
    taken the answer, the asker keeps the bit of that number in ``referred`` high: a walk to which nothing refers may
    be replaced. The answer may be taken in each cycle in which the number's bit in ``answered`` is high; that bit
    drops in the very cycle of an overlapping invalidation, and comes back with ``AGAIN``. A read may have joined a
    walk for a write (``answer.write``): a fault of that speaks for writes only, the read looks up again.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``, ``id_bits``, ``walks``.

    Members
    -------
    request : Out(stream of WalkRequestLayout)
        The page; its mode is one of Sv39 up to what ``levels`` allows. The context must still be as in ``request``:
        one that was read before an invalidation of kind CONTEXT is not walked with.
    held : In(1)
        With the handshake: the page is inside a held range, there is no walk.
    number : In
        With the handshake, unless ``held``: the walk.
    referred : Out(walks)
        Walks whose answers are still awaited.
    answered : In(walks)
        Walks whose answers stand.
    select : Out, answer : In(WalkAnswerLayout)
        The answer of one walk, in the same cycle.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "request": Out(stream.Signature(WalkRequestLayout(config))),
                "held": In(1),
                "number": In(config.walk_bits),
                "referred": Out(config.walks),
                "answered": In(config.walks),
                "select": Out(config.walk_bits),
                "answer": In(WalkAnswerLayout(config)),
            }
        )


class UseLayout(data.StructLayout):
    """A burst about to be presented on the memory side.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``, ``id_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"translation": TranslationLayout(config), "id": config.id_bits, "len": 8})


class EndSignature(wiring.Signature):
    """End of a burst on the memory side, seen from the bus.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``, ``id_bits``.

    Members
    -------
    valid : Out(1)
        The last R beat, or the B, of the oldest burst of ``id`` is handshaken in this cycle.
    id : Out
        Its AXI id.
    asid, len : In
        Of that burst; meaningful with ``valid``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {"valid": Out(1), "id": Out(config.id_bits), "asid": In(config.asid_bits), "len": In(8)}
        )


class RefusalLayout(data.StructLayout):
    """A burst to be answered SLVERR.

    Parameters
    ----------
    config : SecmmuConfig
        ``id_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"id": config.id_bits, "len": 8})


class ReadBeatLayout(data.StructLayout):
    """One beat of R.

    Parameters
    ----------
    config : SecmmuConfig
        ``id_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"id": config.id_bits, "data": 64, "resp": 2, "last": 1})


class WriteBeatLayout(data.StructLayout):
    """One beat of W."""

    def __init__(self) -> None:
        super().__init__({"data": 64, "strb": 8, "last": 1})


class WriteResponseLayout(data.StructLayout):
    """One B.

    Parameters
    ----------
    config : SecmmuConfig
        ``id_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"id": config.id_bits, "resp": 2})


def sign_extended(vpn: Value) -> Value:
    """Return the 52-bit page number of a canonical 27-bit one."""
    return Cat(vpn, vpn[-1].replicate(VPN_BITS - SV39_VPN_BITS))


def span_last(vpn: Value, level: Value) -> Value:
    """Return the last page of the span that begins at (or holds) ``vpn``."""
    return (vpn | span_mask(level))[: len(vpn)]


def span_mask(level: Value) -> Value:
    """Return the page number bits that a span of ``level`` leaves free, as wide as a physical page number."""
    # Full width, so that its complement keeps the upper bits of what it is applied to.
    return Cat(
        level.any().replicate(INDEX_BITS),
        level[1].replicate(INDEX_BITS),
        Const(0, PPN_BITS - 2 * INDEX_BITS),
    )


def killed_asid(kill: data.View, *, asid: Value, group: Value, shared: Value) -> Value:
    """Return whether ``kill`` speaks of this address space: its own asid, or a global page of its group."""
    named = (kill.asid == asid) | (shared & (kill.group == group))
    return kill.valid & (kill.everything | named)


def is_killed(kill: data.View, translation: data.View, config: SecmmuConfig) -> Value:
    """Return whether ``kill`` overlaps ``translation``, whole spans compared (docs/secmmu.md, point 4)."""
    last = span_last(translation.vpn, translation.level)
    if config.mutant == "rtl-no-span-compare":
        last = translation.vpn
    asid = killed_asid(
        kill, asid=translation.asid, group=translation.group, shared=translation.shared
    )
    return asid & (translation.vpn <= kill.last) & (last >= kill.first)
