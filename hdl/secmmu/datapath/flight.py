"""An access between the device's port and the memory's: what the blocks of the datapath hand on of it."""

from amaranth.hdl import Value
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from secmmu.config import SecmmuConfig
from secmmu.internals import AccessLayout
from secmmu.registers.counters import AGE_BITS

__all__ = [
    "AnswerSignature",
    "CandidateLayout",
    "DecisionLayout",
    "FlightLayout",
    "Source",
    "Wait",
    "changes_context",
    "place_bits",
]


class Wait(enum.Enum, shape=4):
    """What a waiter waits for: the number of its bit in :class:`~secmmu.datapath.waiting.PlaceLayout`.

    ``FREE``       none is here
    ``PARKED``     to be looked up again: after an older one of its id, or for an output, a slot or its W data
    ``GOING``      it is on its way to stage D
    ``WANT``       a walk is to be asked for
    ``FETCHED``    the same, and it is the next to ask
    ``ASKING``     it is being asked for
    ``WALK``       the answer of a walk
    ``HELD``       a release
    ``REPORT``     its fault is to be reported
    ``REPORTING``  it is being reported
    ``STALLED``    a resume
    ``REFUSE``     to be answered SLVERR
    ``REFUSING``   it is being answered
    """

    FREE = 0
    PARKED = 1
    GOING = 2
    WANT = 3
    ASKING = 4
    WALK = 5
    HELD = 6
    REPORT = 7
    REPORTING = 8
    STALLED = 9
    REFUSE = 10
    REFUSING = 11
    FETCHED = 12


class Source(enum.Enum, shape=2):
    """Where the W data of a write comes from.

    ``DEVICE``  straight from the device
    ``STASH``   it was put by in the write buffer, or will be
    ``TURN``    from the device, when the write is the oldest whose data has not been told where to go
    """

    DEVICE = 0
    STASH = 1
    TURN = 2


class FlightLayout(data.StructLayout):
    """An access of the device, and what its port says of the address.

    ``crosses``    the burst leaves its 4 KiB page
    ``canonical``  for each mode from Sv39 on: the address is canonical there
    ``born``       the clock when it was taken

    Parameters
    ----------
    config : SecmmuConfig
        ``levels`` and what :class:`~secmmu.internals.AccessLayout` takes.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "access": AccessLayout(config),
                "write": 1,
                "crosses": 1,
                "canonical": config.levels - 2,
                "born": AGE_BITS,
            }
        )


class CandidateLayout(data.StructLayout):
    """An access in the lookup pipeline; one that is not ``fresh`` is the waiter ``place``.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters`` and what :class:`FlightLayout` takes.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {"valid": 1, "fresh": 1, "place": place_bits(config), "flight": FlightLayout(config)}
        )


class DecisionLayout(data.StructLayout):
    """What stage D makes of the access that it looks at: of the waiter ``place``, which a ``fresh`` one may become.

    ``ends``      it leaves stage D in this cycle
    ``begins``    its use begins
    ``joins``     it is fresh and becomes a waiter
    ``parks``, ``wants``, ``holds``, ``reports``
                  the next state of a waiter that ``ends`` and does not begin: PARKED, WANT, HELD or REPORT
    ``starved``   it could have begun but for the output or, with ``slotless``, for a use slot

    ``page_fault`` and ``final`` go with ``reports``: the kind of fault, and whether no resume can mend it. ``source``
    and ``stash`` say of a fresh write where its data goes.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "place": place_bits(config),
                "fresh": 1,
                "ends": 1,
                "begins": 1,
                "joins": 1,
                "parks": 1,
                "wants": 1,
                "holds": 1,
                "reports": 1,
                "starved": 1,
                "slotless": 1,
                "page_fault": 1,
                "final": 1,
                "source": Source,
                "stash": stash_bits(config),
            }
        )


class AnswerSignature(wiring.Signature):
    """A waiter whose walk is answered goes straight to stage D, seen from the waiters.

    Parameters
    ----------
    config : SecmmuConfig
        ``waiters``, ``walks`` and what :class:`FlightLayout` takes.

    Members
    -------
    valid : Out(1)
        It is at stage D until ``taken``; the pipeline stands still meanwhile.
    place, walk, flight : Out, same : Out(1)
        The waiter, the number of its walk, the access; walk and direction are those of the one that began last.
    taken : In(1)
        It is decided in this cycle.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "place": Out(place_bits(config)),
                "walk": Out(config.walk_bits),
                "same": Out(1),
                "flight": Out(FlightLayout(config)),
                "taken": In(1),
            }
        )


def place_bits(config: SecmmuConfig) -> int:
    """Return the width of the number of a waiter."""
    return (config.waiters - 1).bit_length()


def stashes(config: SecmmuConfig) -> int:
    """Return how many writes may have their data in the write buffer."""
    return max(2, config.waiters // 2)


def stash_bits(config: SecmmuConfig) -> int:
    """Return the width of the number of such a write."""
    return (stashes(config) - 1).bit_length()


def changes_context(kill: data.View) -> Value:
    """Return whether the context row of the kill's asid, or of every asid, may have changed before it."""
    whole = (kill.first == 0) & kill.last.all()
    return kill.valid & (kill.everything | kill.context | whole)
