"""What the parts of the wait buffer know of each waiter."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Value
from amaranth.lib import data

from secmmu.config import SecmmuConfig
from secmmu.datapath.flight import Source, Wait, place_bits, stash_bits

__all__ = ["READ", "WRITE", "PlaceLayout", "StashedLayout", "WriteRefusalLayout", "waiting"]

READ, WRITE = 0, 1


class StashedLayout(data.StructLayout):
    """The whole data of a write is in the write buffer now.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"valid": 1, "stash": stash_bits(config)})


class WriteRefusalLayout(data.StructLayout):
    """A write to be answered SLVERR, and where its data is.

    Parameters
    ----------
    config : SecmmuConfig
        ``id_bits``, ``waiters``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__({"id": config.id_bits, "source": Source, "stash": stash_bits(config)})


class PlaceLayout(data.StructLayout):
    """The registers of one waiter.

    ``behind_valid``  the waiter ``behind`` is older and of the same direction and id
    ``youngest``      the youngest of its direction and id
    ``supplied``      its W data may go to the memory now
    ``refers``        it awaits the answer of ``walk``
    ``released``      a hold was released meanwhile
    ``barred``        an asid was fenced off since it was looked up
    ``able``          it waited, one cycle ago, for nothing but the answer

    The others are as in :class:`~secmmu.datapath.flight.DecisionLayout`.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``, ``walks``, ``id_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        places = place_bits(config)
        super().__init__(
            {
                "state": Wait,
                "write": 1,
                "id": config.id_bits,
                "behind_valid": 1,
                "behind": places,
                "youngest": 1,
                "starved": 1,
                "slotless": 1,
                "page_fault": 1,
                "final": 1,
                "may_stall": 1,
                "source": Source,
                "stash": stash_bits(config),
                "turn": places + 1,
                "supplied": 1,
                "refers": 1,
                "walk": config.walk_bits,
                "released": 1,
                "barred": 1,
                "able": 1,
            }
        )


def waiting(places: Sequence[data.View], state: Wait) -> Value:
    """Return the set of waiters in ``state``."""
    return Cat(place.state == state for place in places)
