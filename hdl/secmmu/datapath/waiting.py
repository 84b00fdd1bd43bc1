"""What the parts of the wait buffer know of each waiter."""

from collections.abc import Iterable, Sequence

from amaranth.hdl import Cat, Module, Value
from amaranth.lib import data

from secmmu.config import SecmmuConfig
from secmmu.datapath.flight import Source, Wait, place_bits, stash_bits

__all__ = [
    "READ",
    "WRITE",
    "Moves",
    "PlaceLayout",
    "StashedLayout",
    "WriteRefusalLayout",
    "is_in",
    "waiting",
]

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

    ``waits``     the bit of its :class:`~secmmu.datapath.flight.Wait` alone
    ``behind``    the older waiter of the same direction and id that it waits for, one-hot, none when there is none
    ``youngest``  the youngest of its direction and id
    ``supplied``  its W data may go to the memory now
    ``refers``    the walk whose answer it awaits, one-hot; ``walk`` is its number
    ``released``  a hold was released meanwhile
    ``barred``    an asid was fenced off since it was looked up
    ``able``      it waited, one cycle ago, for nothing but the answer

    The others are as in :class:`~secmmu.datapath.flight.DecisionLayout`. What a free place has of an access is that
    of the last lookup.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``, ``walks``, ``id_bits``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "waits": len(Wait),
                "write": 1,
                "id": config.id_bits,
                "behind": config.waiters,
                "youngest": 1,
                "starved": 1,
                "slotless": 1,
                "page_fault": 1,
                "final": 1,
                "may_stall": 1,
                "source": Source,
                "stash": stash_bits(config),
                "turn": place_bits(config) + 1,
                "supplied": 1,
                "refers": config.walks,
                "walk": config.walk_bits,
                "released": 1,
                "barred": 1,
                "able": 1,
            }
        )


class Moves:
    """How a waiter comes from one state to the next: what sends it there, state by state."""

    def __init__(self) -> None:
        self._moves: list[tuple[Wait, Value, Wait]] = []

    def add(self, source: Wait, when: Value, target: Wait) -> None:
        """From ``source`` it goes to ``target`` ``when`` this is; no two of one source are at once."""
        self._moves.append((source, when, target))

    def make(self, m: Module, waits: Value) -> None:
        """Drive the register of the state."""
        following = []
        for state in Wait:
            stays = waits[state.value] & ~_any(
                when for source, when, _ in self._moves if source is state
            )
            comes = _any(
                waits[source.value] & when
                for source, when, target in self._moves
                if target is state
            )
            following.append(stays | comes)
        m.d.sync += waits.eq(Cat(following))


def _any(bits: Iterable[Value]) -> Value:
    return Cat(bits).any()


def is_in(place: data.View, *states: Wait) -> Value:
    """Return whether a waiter is in one of ``states``."""
    return Cat(place.waits[state.value] for state in states).any()


def waiting(places: Sequence[data.View], state: Wait) -> Value:
    """Return the set of waiters in ``state``."""
    return Cat(is_in(place, state) for place in places)
