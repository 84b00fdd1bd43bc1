"""Every encoding that two sides share: page-table entries, MMU streams, link messages, event records.

The hardware, the host model and the bench import these classes; there is no second copy. A link word has
64 bits. A *message* (host to hardware) is one :class:`HeaderLayout` word followed by ``count`` payload words.
A *record* (hardware to host) is :data:`RECORD_WORDS` words laid out as :class:`RecordLayout`.
"""

from amaranth.hdl import unsigned
from amaranth.lib import data, enum

__all__ = [
    "CYCLE_BITS",
    "EPOCH_BITS",
    "GRAIN_SHIFTS",
    "PAGE_BITS",
    "PA_BITS",
    "PPN_BITS",
    "RECORD_WORDS",
    "VA_BITS",
    "VPN_BITS",
    "WORD_BITS",
    "AccessArg",
    "Cause",
    "CommandKind",
    "CommandLayout",
    "CompletionLayout",
    "DescriptorLayout",
    "DropinLayout",
    "DroppedLayout",
    "Event",
    "FaultLayout",
    "FillArg",
    "FrameKind",
    "FrameTagLayout",
    "HeaderLayout",
    "LoadArg",
    "ObservationLayout",
    "Op",
    "Phase",
    "PteLayout",
    "RecordLayout",
    "Response",
    "ResumeLayout",
    "Verdict",
]

WORD_BITS = 64
PAGE_BITS = 12
VA_BITS = 64
GRAIN_SHIFTS = (0, 4, 9, 18, 27, 36)
"""Page-number bits that a leaf of each size (*grain*) leaves free: 4 KiB, 64 KiB (Svnapot), 2 MiB, 1 GiB, 512 GiB, 256 TiB."""
VPN_BITS = VA_BITS - PAGE_BITS
"""Width of a virtual page number on every port: the whole VA above the page offset, sign bits included."""
PPN_BITS = 44
PA_BITS = PPN_BITS + PAGE_BITS
CYCLE_BITS = 64
EPOCH_BITS = 64
"""Width of the count of accepted commands."""
RECORD_WORDS = 4


class PteLayout(data.StructLayout):
    """A page-table entry, 64 bits (RISC-V privileged spec 1.12, 4.4.1, Sv39).

    The kernel's words map onto it: young is ``a``, dirty is ``d``, writable is ``w``. ``rsw`` is software's.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "v": 1,
                "r": 1,
                "w": 1,
                "x": 1,
                "u": 1,
                "g": 1,
                "a": 1,
                "d": 1,
                "rsw": 2,
                "ppn": PPN_BITS,
                "reserved": 7,
                "pbmt": 2,
                "n": 1,
            }
        )


class Cause(enum.Enum, shape=4):
    """Why a translation failed: exception codes of the RISC-V privileged spec, table 3.6."""

    LOAD_ACCESS = 5
    STORE_ACCESS = 7
    LOAD_PAGE = 13
    STORE_PAGE = 15


class Response(enum.Enum, shape=2):
    """AXI4 xRESP."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


# --- the MMU's streams -----------------------------------------------------------------------------------


class CommandKind(enum.Enum, shape=3):
    """Kinds of invalidation command.

    ``PAGE``    the page ``first`` of ``asid``
    ``RANGE``   pages ``first`` to ``last`` of ``asid``, inclusive
    ``ASID``    everything of ``asid``
    ``ALL``     everything
    ``FENCE``   nothing dies; both signals come after those of all earlier commands
    ``RELEASE`` undo the hold that a ``PAGE``, ``RANGE`` or ``ASID`` command of the same span placed
    ``YOUNG``   nothing dies; tell whether the entry of page ``first`` was used since it was filled or last asked for
    ``CONTEXT`` the context row of ``asid`` changed: everything that came of it, globals and non-leaf entries included
    """

    PAGE = 0
    RANGE = 1
    ASID = 2
    ALL = 3
    FENCE = 4
    RELEASE = 5
    YOUNG = 6
    CONTEXT = 7


class CommandLayout(data.StructLayout):
    """An invalidation command; also the three payload words of :attr:`Op.COMMAND`.

    ``hold`` leaves a filter behind: no walk of the span fills or is answered until the matching ``RELEASE``,
    whose ``first`` and ``last`` (or ``asid`` alone where ``whole_asid``) equal the command's.
    ``leaf_only`` promises that only leaf PTEs changed. ``whole_asid`` marks a ``RELEASE`` of an ``ASID`` hold.
    ``keep_global`` spares global entries, and other asids of the group with them.
    An empty range (``last < first``) is refused: it completes at once with :attr:`Phase.REFUSED`.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "kind": CommandKind,
                "hold": 1,
                "leaf_only": 1,
                "whole_asid": 1,
                "keep_global": 1,
                "_0": 1,
                "asid": 8,
                "tag": 16,
                "_1": 32,
                "first": VPN_BITS,
                "_2": 12,
                "last": VPN_BITS,
                "_3": 12,
            }
        )


class Phase(enum.Enum, shape=2):
    """What a completion says of the command with its tag (docs/secmmu.md, points 2, 3 and 8)."""

    INVALIDATED = 0
    DRAINED = 1
    REFUSED = 2
    TIMED_OUT = 3


class CompletionLayout(data.StructLayout):
    """One completion.

    Each command is answered twice: ``INVALIDATED``, or ``REFUSED`` alone, on the stream ``invalidated``; then
    ``DRAINED`` or ``TIMED_OUT`` on the stream ``drained``, in the same cycle or later. ``young`` answers a
    ``YOUNG`` command, with ``INVALIDATED``.
    """

    def __init__(self) -> None:
        super().__init__({"tag": 16, "phase": Phase, "young": 1})


class FaultLayout(data.StructLayout):
    """A fault report; ``va`` is the first byte of the burst.

    Where ``stalled`` is 0 the access is answered SLVERR. Where it is 1 the access waits in ``place`` for a
    :class:`ResumeLayout`. ``epoch`` counts the commands accepted, and the soft resets ended, before the miss:
    a drop-in carries it back.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "va": VA_BITS,
                "asid": 8,
                "id": 8,
                "write": 1,
                "cause": Cause,
                "stalled": 1,
                "place": 8,
                "epoch": EPOCH_BITS,
            }
        )


class ResumeLayout(data.StructLayout):
    """What becomes of a stalled access: ``retry`` 1 translates it again, 0 answers it SLVERR.

    One that names no stalled ``place`` does nothing.
    """

    def __init__(self) -> None:
        super().__init__({"place": 8, "retry": 1, "_0": 55})


class DropinLayout(data.StructLayout):
    """A software-filled entry; also the four payload words of :attr:`Op.DROPIN`.

    ``pte`` is a leaf PTE of ``grain`` for page ``vpn``, judged as the walker would. It is refused when a command
    that overlaps it was accepted since ``epoch``, when ``epoch`` is older than the log, or inside a hold.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "asid": 8,
                "grain": 3,
                "_0": 5,
                "tag": 16,
                "_1": 32,
                "vpn": VPN_BITS,
                "_2": 12,
                "pte": PteLayout(),
                "epoch": EPOCH_BITS,
            }
        )


class DroppedLayout(data.StructLayout):
    """The answer to a drop-in: ``taken`` 0 means refused, the entry is not there."""

    def __init__(self) -> None:
        super().__init__({"tag": 16, "taken": 1})


class ObservationLayout(data.StructLayout):
    """What one observation lane shows: ``kind`` is an :class:`Event`; ``arg``, ``a``, ``b`` as in the record."""

    def __init__(self) -> None:
        super().__init__({"kind": Event, "arg": 32, "a": WORD_BITS, "b": WORD_BITS})


# --- the link --------------------------------------------------------------------------------------------


class Op(enum.Enum, shape=8):
    """Link messages, host to hardware. Each is performed before the next is taken.

    All but ``ADVANCE`` take no emulated time, except that ``COMMAND``, ``DESCRIPTOR``, ``DROPIN`` and ``RESUME`` run the clock
    until their stream takes them (one cycle when it is ready) and ``CSR_*`` until the bus answers.

    ==============  =====================================  =====================================================
    message         payload words                          effect
    ==============  =====================================  =====================================================
    ``NOP``         none                                   none
    ``MEM_WRITE``   address, data ...                      store consecutive 64-bit words
    ``MEM_READ``    address                                read ``arg`` words: ``READ_DATA`` records
    ``MEM_COPY``    destination, source                    copy ``arg`` words (ascending)
    ``MEM_FILL``    destination, value                     store ``value`` in ``arg`` words
    ``MEM_SWAP``    address, value                         exchange; old word in a ``SWAPPED`` record
    ``MEM_CAS``     address, expected, value               compare-exchange; old word in a ``SWAPPED`` record
    ``CSR_WRITE``   data                                   write register ``arg`` (``flags`` 0: MMU, 1: emulator)
    ``CSR_READ``    none                                   read it: a ``CSR_DATA`` record
    ``COMMAND``     CommandLayout (3 words)                present an invalidation command; ``ACCEPTED`` record
    ``DESCRIPTOR``  DescriptorLayout (3 words)             queue a DMA burst
    ``TAG``         frame number, FrameTagLayout           set the sanitizer's tag of a frame
    ``ADVANCE``     cycle                                  run until the cycle counter equals ``cycle``, or until a
                                                           record whose kind's bit is set in ``arg`` is stored, or
                                                           was since the last ADVANCE with a non-zero ``arg`` ended;
                                                           ends with an ``ADVANCED`` record
    ``DROPIN``      DropinLayout (4 words)                 offer a drop-in; later a ``DROPPED`` record
    ``RESUME``      ResumeLayout (1 word)                  resume a stalled access
    ==============  =====================================  =====================================================
    """

    NOP = 0
    MEM_WRITE = 1
    MEM_READ = 2
    MEM_COPY = 3
    MEM_FILL = 4
    MEM_SWAP = 5
    MEM_CAS = 6
    CSR_WRITE = 7
    CSR_READ = 8
    COMMAND = 9
    DESCRIPTOR = 10
    TAG = 11
    ADVANCE = 12
    DROPIN = 13
    RESUME = 14


class HeaderLayout(data.StructLayout):
    """First word of every message; ``count`` payload words follow."""

    def __init__(self) -> None:
        super().__init__({"op": Op, "flags": 8, "count": 16, "arg": 32})


class DescriptorLayout(data.StructLayout):
    """One DMA burst, three words. ``beats`` 1 to 16 of 8 bytes, INCR, must not cross 4 KiB.

    A write stores ``data + beat`` in beat 0, 1, ...: with host-chosen ``data`` every store is a unique version.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "engine": 8,
                "asid": 8,
                "tag": 16,
                "beats": 8,
                "write": 1,
                "_0": 23,
                "va": VA_BITS,
                "data": WORD_BITS,
            }
        )


class FrameKind(enum.Enum, shape=2):
    """What a physical frame is, for the sanitizer."""

    FREE = 0
    USER = 1
    TABLE = 2
    RESERVED = 3


class FrameTagLayout(data.StructLayout):
    """The sanitizer's tag of one frame; bit ``asid`` of ``read`` / ``write`` grants that asid the right."""

    def __init__(self) -> None:
        super().__init__({"kind": FrameKind, "_0": 14, "read": 16, "write": 16, "_1": 16})


class Verdict(enum.Enum, shape=3):
    """What the sanitizer found in one memory beat.

    ``FREED``    the device touched a free frame
    ``RIGHTS``   the device read or wrote a user frame without the right
    ``FOREIGN``  the device touched a page table or a reserved frame
    ``TABLE``    the walker read something that is not a page table
    """

    FREED = 0
    RIGHTS = 1
    FOREIGN = 2
    TABLE = 3


class Event(enum.Enum, shape=8):
    """Record kinds, below 32 so that an ``ADVANCE`` can name them in its stop mask.

    ================  ====================================  ========================  =======================
    kind              arg                                   a                         b
    ================  ====================================  ========================  =======================
    ``ADVANCED``      1 when an event ended it, else 0      free-running clock count  0
    ``READ_DATA``     index of the first word               word                      next word (0 past end)
    ``SWAPPED``       0                                     address                   old word
    ``CSR_DATA``      register                              0                         value
    ``ACCEPTED``      command kind (low 3 bits)             first vpn                 last vpn
    ``INVALIDATED``   1 when young                          0                         0
    ``DRAINED``       0                                     0                         0
    ``REFUSED``       0                                     0                         0
    ``FAULT``         AccessArg (``code``: Cause)           va                        epoch
    ``DMA_DONE``      AccessArg (``code``: Response)        va                        cycle the engine issued it
    ``LOAD``          LoadArg                               word                      next word (0 past end)
    ``VIOLATION``     AccessArg (``code``: Verdict)         physical address          frame tag
    ``WALK``          AccessArg (``id``: walk)              vpn                       0
    ``FILL``          FillArg                               vpn of the entry          PTE
    ``WALK_KILLED``   AccessArg (``id``: walk)              vpn                       0
    ``KILL``          index of the bitmap's bit 0           0                         bitmap of TLB entries cleared
    ``USE_BEGIN``     AccessArg (``code``: 0)               va                        physical address
    ``USE_END``       AccessArg (``code``: Response)        0                         0
    ``TIMED_OUT``     0                                     0                         0
    ``DROPPED``       1 when taken                          0                         0
    ``WALKED``        AccessArg (``id``: walk)              vpn                       leaf PTE
    ``WALK_REFUSED``  AccessArg (``id``: walk, Cause)       vpn                       0
    ================  ====================================  ========================  =======================

    ``tag`` is the command's for ACCEPTED to REFUSED, the descriptor's for DMA_DONE and LOAD, otherwise 0.
    ``source`` is the engine for DMA_DONE and LOAD; 1 for a VIOLATION of the walker, 0 for one of the device.
    Uses on the memory side end in order per (write, id): a USE_END closes the oldest open USE_BEGIN of its pair.
    WALK ... exactly one of WALKED / WALK_REFUSED / WALK_KILLED follows, and the walk's number is free again; several
    accesses may wait for one walk. A translation may be used from its WALKED on; FILL says that it is in the TLB too,
    replacing whatever entry stood at its index. An entry no longer hits from the cycle on in which an overlapping
    command is applied; KILL says when it was cleared. A FAULT whose ``stalled`` is 1 awaits its RESUME; its place is
    the record's ``tag``.
    """

    ADVANCED = 0
    READ_DATA = 1
    SWAPPED = 2
    CSR_DATA = 3
    ACCEPTED = 4
    INVALIDATED = 5
    DRAINED = 6
    REFUSED = 7
    FAULT = 8
    DMA_DONE = 9
    LOAD = 10
    VIOLATION = 11
    WALK = 12
    FILL = 13
    WALK_KILLED = 14
    KILL = 15
    USE_BEGIN = 16
    USE_END = 17
    TIMED_OUT = 18
    DROPPED = 19
    WALKED = 20
    WALK_REFUSED = 21


class RecordLayout(data.StructLayout):
    """One record, hardware to host, 256 bits. ``cycle`` is the emulated cycle in which it happened."""

    def __init__(self) -> None:
        super().__init__(
            {
                "kind": Event,
                "source": 8,
                "tag": 16,
                "arg": 32,
                "cycle": CYCLE_BITS,
                "a": WORD_BITS,
                "b": WORD_BITS,
            }
        )


class AccessArg(data.StructLayout):
    """``arg`` of a record about one access: ``beats`` is its length, ``code`` a Cause, Response or Verdict."""

    def __init__(self) -> None:
        super().__init__(
            {
                "asid": 8,
                "id": 8,
                "write": 1,
                "code": 4,
                "beats": 9,
                "stalled": 1,
                "_0": unsigned(1),
            }
        )


class FillArg(data.StructLayout):
    """``arg`` of a FILL: ``entry`` is the TLB index; ``level`` 0 is 4 KiB, 1 is 2 MiB, 2 is 1 GiB."""

    def __init__(self) -> None:
        super().__init__({"asid": 8, "entry": 16, "level": 3, "_0": 5})


class LoadArg(data.StructLayout):
    """``arg`` of a LOAD: ``beat`` is the first beat in it, ``count`` how many (1 or 2)."""

    def __init__(self) -> None:
        super().__init__({"asid": 8, "id": 8, "beat": 8, "count": 2, "_0": 6})
