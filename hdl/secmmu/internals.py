"""What the blocks inside the MMU say to each other: layouts, signatures and the comparison of spans.

A canonical address is known by its page-table indices, so the blocks carry virtual page numbers of ``config.vpn_bits``
bits; the order of the 52-bit numbers of the ports, unsigned, is the order of their low bits. A *span* is a naturally
aligned leaf: its first page and its *grain*, an index into :data:`~secmmu.layouts.GRAIN_SHIFTS`.
"""

from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.layouts import PPN_BITS, VA_BITS, WORD_BITS
from secmmu.page_numbers import free_bits

__all__ = [
    "GRAIN_BITS",
    "GROUP_BITS",
    "INDEX_BITS",
    "MODE_BITS",
    "SV39_MODE",
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
    "SharingLayout",
    "TranslationLayout",
    "UseLayout",
    "WalkAnswerLayout",
    "WalkRequestLayout",
    "WalkSignature",
    "WriteBeatLayout",
    "WriteResponseLayout",
    "YoungSignature",
]

INDEX_BITS = 9
"""VPN bits that index one page table."""
GRAIN_BITS = 3
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
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "vpn": config.vpn_bits,
                "grain": GRAIN_BITS,
                "shared": 1,
                "asid": config.asid_bits,
                "group": GROUP_BITS,
            }
        )


class EntryLayout(data.StructLayout):
    """A TLB entry: every one may be read by the device, ``writable`` is W and D of the leaf.

    ``ppn`` is aligned to the grain: the low bits of the page number come from the access.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"ppn": PPN_BITS, "writable": 1, "translation": TranslationLayout(config)})


class KillLayout(data.StructLayout):
    """The invalidation that is applied in this cycle, pages ``first`` to ``last`` inclusive.

    ``valid`` is high for one cycle, two cycles after the command's handshake. A span that holds no canonical page has
    ``last`` just below ``first`` and so overlaps no span.

    ``everything``   every asid
    ``keep_global``  translations that are ``shared`` live, whoever's; never with ``everything`` or ``context``
    ``context``      whatever came of the asid's context row: non-leaf entries whatever ``leaf_only`` says
    ``leaf_only``    non-leaf entries of the walk cache live
    ``page``         ``first`` equals ``last``

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "valid": 1,
                "everything": 1,
                "keep_global": 1,
                "context": 1,
                "leaf_only": 1,
                "page": 1,
                "asid": config.asid_bits,
                "group": GROUP_BITS,
                "first": config.vpn_bits,
                "last": config.vpn_bits,
            }
        )


class SharingLayout(data.StructLayout):
    """Something that is said of an asid's own entries, and of those that its group shares."""

    def __init__(self) -> None:
        super().__init__({"own": 1, "shared": 1})


class HoldLayout(data.StructLayout):
    """A hold to place or to release, in the cycle in which its command is applied; the span as in KillLayout.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "place": 1,
                "release": 1,
                "asid": config.asid_bits,
                "group": GROUP_BITS,
                "first": config.vpn_bits,
                "last": config.vpn_bits,
            }
        )


class HoldCheckSignature(wiring.Signature):
    """Question whether a span is held now, seen from the asker; answered in the same cycle.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.

    Members
    -------
    asid, group, shared, first, last : Out
        The span; ``shared`` asks for holds of any asid of the group as well.
    held : In(1)
        A hold overlaps it. A hold that is placed in this cycle shows in the next.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "asid": Out(config.asid_bits),
                "group": Out(GROUP_BITS),
                "shared": Out(1),
                "first": Out(config.vpn_bits),
                "last": Out(config.vpn_bits),
                "held": In(1),
            }
        )


class YoungSignature(wiring.Signature):
    """Test and clear of used bits, seen from the asker.

    Members
    -------
    ask : Out(1)
        The kill's ``asid``, ``group`` and ``first`` name a page whose entries are asked about; its ``valid`` is low.
    answered : In(1)
        One cycle for each question, in order, at most three cycles after it.
    used : In(1)
        With ``answered``: an entry of the page hit since it was filled or last asked about.
    """

    def __init__(self) -> None:
        super().__init__({"ask": Out(1), "answered": In(1), "used": In(1)})


class LookupSignature(wiring.Signature):
    """TLB lookup, seen from the asker, who moves it on: LL = ``config.lookup_latency`` cycles of ``advance`` long.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``, ``lookup_latency``.

    Members
    -------
    advance : Out(1)
        Every stage passes its access on at the end of this cycle; while low, all stand still.
    en, asid, vpn : Out, group : Out(8)
        The page to look up and the global group of the asid, taken with ``advance``.
    hit : In(1)
        Of the access that was taken LL advances ago, for as long as it stands there: an entry translates the page, and
        no invalidation applied in an earlier cycle took it.
    entry : In(EntryLayout), free : In
        That entry, and which :func:`~secmmu.page_numbers.pieces` of the page number its span leaves free: the same as
        its grain, but there earlier in the cycle. Meaningless when there is none.
    dies : In(1)
        The invalidation applied in this cycle takes ``entry``: it must not be used any more.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "advance": Out(1),
                "en": Out(1),
                "asid": Out(config.asid_bits),
                "vpn": Out(config.vpn_bits),
                "group": Out(GROUP_BITS),
                "hit": In(1),
                "entry": In(EntryLayout(config)),
                "free": In(free_bits(config.vpn_bits)),
                "dies": In(1),
            }
        )


class FillSignature(wiring.Signature):
    """TLB fill, seen from the one who fills.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``, ``observe``.

    Members
    -------
    en : Out(1)
        Take ``entry`` when ``ready``. It does not depend on ``ready``, and may be withdrawn.
    entry : Out(EntryLayout)
        The entry. The TLB drops it when an invalidation of a later cycle overlaps it.
    ready : In(1)
        It is taken in this cycle, in which no invalidation is applied. The TLB may still not keep it.
    pte : Out(64)
        With ``observe``: the leaf.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        members = {"en": Out(1), "entry": Out(EntryLayout(config)), "ready": In(1)}
        if config.observe:
            members |= {"pte": Out(WORD_BITS)}
        super().__init__(members)


class Outcome(enum.Enum, shape=3):
    """How a walk ended.

    ``GRANTED``       ``entry`` translates the page, and lets it be written when the walk was for a write
    ``PAGE_FAULT``    the tables refuse what the walk was for: a write, if it was for one
    ``ACCESS_FAULT``  a table cannot be read or updated
    ``HELD``          the page, or the leaf found, reaches into a held range: look up again after a release
    ``AGAIN``         an invalidation overlapped it: look up again
    """

    GRANTED = 0
    PAGE_FAULT = 1
    ACCESS_FAULT = 2
    HELD = 3
    AGAIN = 4


class WalkRequestLayout(data.StructLayout):
    """A page to walk for; ``write`` asks for a page that may be written.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
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
    be replaced. The answer may be taken in each cycle in which the number's bit in ``answered`` is high and no
    invalidation is applied; from the cycle after an overlapping one on it is ``AGAIN``. A read may have joined a
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
    number : In
        With the handshake: the walk.
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
