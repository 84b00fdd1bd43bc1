"""What the blocks of the walker say to each other, and to the counters and the observer."""

from amaranth.lib import data

from secmmu.config import SecmmuConfig
from secmmu.internals import GRAIN_BITS, GROUP_BITS, EntryLayout, Outcome
from secmmu.layouts import PPN_BITS, WORD_BITS, PteLayout
from secmmu.registers.counters import AGE_BITS
from secmmu.walker.cache import CachedPointerLayout, PlaceLayout

__all__ = [
    "JudgedLayout",
    "LeafLayout",
    "OwnerLayout",
    "PointerLayout",
    "ProgressLayout",
    "StepLayout",
    "WalkEndLayout",
    "WalkEventsLayout",
    "WalkRecordLayout",
]


class WalkEventsLayout(data.StructLayout):
    """What happens in this cycle, for the counters of the same names."""

    def __init__(self) -> None:
        names = (
            "walks",
            "walks_killed",
            "walks_joined",
            "walk_cache_hits",
            "updates",
            "updates_lost",
        )
        super().__init__(dict.fromkeys(names, 1))


class WalkRecordLayout(data.StructLayout):
    """The beginning or the end of a walk, for the observer. ``outcome`` and the leaf ``pte`` are those of an end.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``, ``walks``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "valid": 1,
                "walk": config.walk_bits,
                "vpn": config.vpn_bits,
                "asid": config.asid_bits,
                "write": 1,
                "outcome": Outcome,
                "pte": WORD_BITS,
            }
        )


class OwnerLayout(data.StructLayout):
    """What a walk is for.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``, ``asid_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {"vpn": config.vpn_bits, "asid": config.asid_bits, "group": GROUP_BITS, "write": 1}
        )


class ProgressLayout(data.StructLayout):
    """How far a walk is: the level of the table that it reads, and whether a pointer on the way was global.

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"level": range(config.levels), "shared": 1})


class LeafLayout(data.StructLayout):
    """What a walk found, and whether it was for a write; ``pte`` is there with ``observe``.

    Parameters
    ----------
    config : SecmmuConfig
        All widths, ``observe``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        fields = {"entry": EntryLayout(config), "write": 1}
        super().__init__(fields | ({"pte": WORD_BITS} if config.observe else {}))


class JudgedLayout(data.StructLayout):
    """An entry that was read and judged: a pointer, a leaf, or neither.

    ``goes``    the walk goes on with the table at ``ppn``
    ``repeats`` the leaf is to be read once more, exclusively
    ``stores``  it was: it is to be replaced by ``pte``
    ``over``    none of these: the walk ends with ``outcome``
    ``first``   and ``last``: the pages of the leaf

    Parameters
    ----------
    config : SecmmuConfig
        ``levels``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            dict.fromkeys(("goes", "repeats", "stores", "over", "shared", "writable"), 1)
            | {
                "ppn": PPN_BITS,
                "grain": GRAIN_BITS,
                "first": config.vpn_bits,
                "last": config.vpn_bits,
                "outcome": Outcome,
                "pte": PteLayout(),
            }
        )


class StepLayout(data.StructLayout):
    """One step of a walk: its start, with the root in place of the PTE, or an entry as in :class:`JudgedLayout`.

    ``at``        the walk, one-hot; none where no step is made
    ``found``     the pointer at ``place`` of the walk cache goes before ``ppn``
    ``next``      the level of the table to be read next, if the walk goes on
    ``exclusive`` an exclusive access of this walk is going on
    ``first``     and ``last`` of a start are the page itself

    Parameters
    ----------
    config : SecmmuConfig
        All widths.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            dict.fromkeys(("valid", "start", "found", "exclusive"), 1)
            | {name: field.shape for name, field in JudgedLayout(config)}
            | {
                "walk": config.walk_bits,
                "at": config.walks,
                "owner": OwnerLayout(config),
                "next": range(config.levels),
                "began": AGE_BITS,
                "place": PlaceLayout(config),
            }
        )


class PointerLayout(data.StructLayout):
    """A pointer that a walk found, on its way to the walk cache.

    Parameters
    ----------
    config : SecmmuConfig
        All widths.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "valid": 1,
                "at": config.walks,
                "owner": OwnerLayout(config),
                "level": range(config.levels),
                "pointer": CachedPointerLayout(),
            }
        )


class WalkEndLayout(data.StructLayout):
    """What is told of a walk when it ends; ``pte`` is there with ``observe``.

    Parameters
    ----------
    config : SecmmuConfig
        All widths, ``observe``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        fields = {"walk": config.walk_bits, "owner": OwnerLayout(config), "began": AGE_BITS}
        super().__init__(fields | ({"pte": WORD_BITS} if config.observe else {}))
